# SPDX-License-Identifier: Apache-2.0
"""What computes a frame: every runtime gives the plain network's maps, and compiles once. Graphs are cached."""

from __future__ import annotations

import json
import logging
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from vlt_ros.networks import SYSTEMS, DeviceError, build_network, load_network, runtimes, save_network
from vlt_ros.networks.artefacts import cache_folder, cached, fingerprint
from vlt_ros.networks.export import ExportError, export
from vlt_ros.networks.runtimes import RUNTIMES, CompiledNetwork, RuntimeUnavailable, available, prepare

PHRASES = ["the red mug", "the second person from the left", "it"]
DEVICE = "cuda:0" if torch.cuda.is_available() else "cpu"


def moves(maps, others) -> float:
    """Largest difference of two results, over all maps."""
    return max((a.float().cpu() - b.float().cpu()).abs().max().item() for a, b in zip(maps, others, strict=True))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vlt_ros"


@pytest.fixture(scope="module")
def plain(build):
    """One joint layer, and names: enough for every part."""
    return build(depth=2, fused_layers=(2,), naming_layers=1, text_depth=1)


@pytest.fixture(scope="module")
def written(plain, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_network(plain, path)
    return path


def answers(network, crops, batch=1):
    """Maps of a batch with a template, and by text alone with names."""
    template, search = (crop.to(network.device, network.backbone.norm.weight.dtype) for crop in crops(batch))
    with torch.inference_mode():
        words, phrase = network.encode_text(PHRASES[:batch]), network.encode_phrase(PHRASES[:batch])
        return (*network.track(search, network.encode_template(template), words),
                *network.ground(search, words, phrase))


@pytest.fixture(autouse=True)
def quick_compile(monkeypatch):
    """Torch's tracing of a frame without its C++ compiler, which takes half a minute on a CPU."""
    if DEVICE == "cpu":
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


def prepared(plain, runtime, device="cpu", precision="fp32", beside=None):
    return prepare(deepcopy(plain), runtime, device, precision, beside)


# every runtime --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_maps_are_the_plain_networks(runtime, plain, crops):
    device = "cpu" if runtime in ("openvino", "onnxruntime") else DEVICE
    if reason := available(runtime, device):
        pytest.skip(reason)
    network = prepared(plain, runtime, device)
    assert (network.name, network.runtime, network.precision) == ("pjvlt_tiny", runtime, "fp32")
    eager = prepared(plain, "eager")
    for batch in (1, 3):
        got, expected = answers(network, crops, batch), answers(eager, crops, batch)
        assert [g.shape for g in got] == [e.shape for e in expected]
        assert all(g.dtype == torch.float32 for g in got)
        assert moves(got, expected) < 1e-4
    template, search = crops()
    with torch.inference_mode():
        maps = [eager(template, search, [phrase]) for phrase in PHRASES[:2]] + [eager(template, crops(seed=1)[1],
                                                                                      PHRASES[:1])]
    assert moves(maps[0], maps[1]) > 1e-3 < moves(maps[0], maps[2])


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("system", [name for name in SYSTEMS if name != "pjvlt"])
def test_every_system_has_a_graph(system, runtime, randomise, crops):
    """With an open batch; OSTrack's drops search tokens."""
    if reason := available(runtime):
        pytest.skip(reason)
    config = next(c for c in SYSTEMS[system].CONFIGS if c.name.endswith("_tiny"))
    if system == "ostrack":
        config = replace(config, elimination_layers=(2,), keep_ratio=0.7)
    torch.manual_seed(0)
    plain = randomise(build_network(config)).eval()
    network = prepared(plain, runtime)
    for batch in (1, 2):
        template, search = crops(batch)
        with torch.inference_mode():
            expected = plain(template, search, PHRASES[:batch])
            got = network.track(search, network.encode_template(template), network.encode_text(PHRASES[:batch]))
            assert moves(got, expected) < 1e-4
            assert moves(expected, plain(template, crops(batch, seed=1)[1], PHRASES[:batch])) > 1e-3


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime", "compile"])
def test_a_new_command_or_target_compiles_nothing(runtime, plain, crops, monkeypatch):
    if reason := available(runtime):
        pytest.skip(reason)
    network, eager = prepared(plain, runtime), prepared(plain, "eager")
    answers(network, crops)
    for name in ("openvino_model", "onnx_bytes", "OpenVINOFrame", "OnnxFrame", "FrameGraph"):
        monkeypatch.setattr(runtimes, name, None)
    seen = []
    for seed, sentence in enumerate(("", "it", "the tall woman who walks behind the second car from the left")):
        template, search = crops(seed=seed)
        with torch.inference_mode(), torch.compiler.set_stance("fail_on_recompile"):
            got = network.track(search, network.encode_template(template), network.encode_text([sentence]))
            assert moves(got, eager(template, search, [sentence])) < 1e-4
        seen.append(got)
    assert moves(seen[0], seen[1]) > 1e-3 < moves(seen[1], seen[2])


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_cuda_graphs_in_every_precision(precision, plain, crops):
    if reason := available("cudagraphs", DEVICE):
        pytest.skip(reason)
    network = prepared(plain, "cudagraphs", DEVICE, precision)
    eager, tolerance = prepared(plain, "eager", DEVICE, precision), {"fp32": 1e-4, "fp16": 0.02, "bf16": 0.1}[precision]
    for _ in range(2):
        assert moves(answers(network, crops), answers(eager, crops)) < tolerance
        network.to("cpu")
        network.to(DEVICE)    # what was captured is captured anew


def test_bf16_by_openvino_is_asked_for_and_not_the_default(plain, crops):
    if reason := available("openvino"):
        pytest.skip(reason)
    exact = answers(prepared(plain, "eager"), crops)
    rounded = moves(answers(prepared(plain, "openvino", precision="bf16"), crops), exact)
    assert moves(answers(prepared(plain, "openvino"), crops), exact) < 1e-4 and rounded < 0.2
    if runtimes.fast_bf16(torch.device("cpu")):
        assert rounded > 1e-4


# which ----------------------------------------------------------------------------------------------------
def test_auto(plain, monkeypatch):
    cpu = torch.device("cpu")
    assert runtimes.choose(plain, cpu, "auto") == "eager"          # done before another runtime is called
    monkeypatch.setattr(runtimes, "WORTHWHILE", 0)
    best = "folded" if available("openvino") else "openvino"
    assert [runtimes.choose(plain, cpu, precision) for precision in ("auto", "fp32", "fp16")] == [best, best, "folded"]
    assert runtimes.choose(plain, torch.device("cuda:0"), "auto") == "folded"
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None)
    assert runtimes.choose(plain, cpu, "auto") == "folded"
    assert available("openvino") == "the package openvino is missing: pip install openvino"
    with pytest.raises(RuntimeUnavailable, match="package onnxruntime is missing"):
        prepared(plain, "onnxruntime")


def test_what_is_not_to_be_had_is_one_clear_error(written):
    for options, part in (({"runtime": "tensorflow"}, "not one of auto, eager"),
                          ({"runtime": "folded", "precision": "int8"}, "computes in fp32, bf16, fp16, not in int8"),
                          ({"runtime": "cudagraphs"}, "need a CUDA device")):
        with pytest.raises(DeviceError, match=part):
            load_network(written, device="cpu", **options)


def test_lists_of_runtimes_agree():
    from vlt_ros import cli

    assert tuple(cli.RUNTIMES[1:]) == tuple(RUNTIMES) and cli.RUNTIMES[0] == "auto"


# the cache ------------------------------------------------------------------------------------------------
@pytest.fixture
def entry(cache):
    """entry(): a cached text, and how often it was made."""
    made = []

    def entry(key="key"):
        return cached(key, lambda: made.append(key) or f"made {len(made)}",
                      lambda text, folder: (folder / "a.txt").write_text(text),
                      lambda folder: (folder / "a.txt").read_text())

    return entry


def test_cache_keeps_and_finds(entry, cache):
    assert [entry(), entry(), entry("other"), entry()] == ["made 1", "made 1", "made 2", "made 1"]
    assert cache == cache_folder() and sorted(p.name for p in cache.iterdir()) == ["key", "other"]


@pytest.mark.parametrize("damage", [
    lambda folder: (folder / "a.txt").write_text("made up"), lambda folder: (folder / "a.txt").unlink(),
    lambda folder: (folder / "manifest.json").write_text("{"), lambda folder: (folder / "manifest.json").unlink(),
    lambda folder: (folder / "b.txt").write_text("more")])
def test_what_is_damaged_is_made_anew(damage, entry, cache, caplog):
    entry()
    damage(cache / "key")
    assert entry() == "made 2" and "made anew" in caplog.text
    assert entry() == "made 2"


def test_cache_that_cannot_be_written_is_no_failure(entry, cache, caplog):
    cache.parent.mkdir()
    cache.write_text("a file where the folder would be")
    with caplog.at_level(logging.INFO):
        assert [entry(), entry()] == ["made 1", "made 2"]
    assert "not kept" in caplog.text


def test_cache_is_bounded(entry, cache):
    for i in range(20):
        entry(str(i))
    assert len(list(cache.iterdir())) == 12 and (cache / "19").is_dir() and not (cache / "0").exists()


def test_graph_comes_from_the_cache_until_weights_or_version_change(build, plain, crops, cache, monkeypatch):
    if reason := available("openvino"):
        pytest.skip(reason)
    exact = answers(prepared(plain, "eager"), crops)
    made, convert = [], runtimes.openvino_model
    monkeypatch.setattr(runtimes, "openvino_model", lambda graph: made.append(1) or convert(graph))
    for count in (1, 1):
        assert moves(answers(prepared(plain, "openvino"), crops), exact) < 1e-4 and len(made) == count
    assert json.loads(next(cache.glob("*/manifest.json")).read_text()).keys() == {"frame.bin", "frame.xml"}
    weights = next(cache.glob("*/frame.bin"))
    weights.write_bytes(weights.read_bytes()[:-100])
    assert moves(answers(prepared(plain, "openvino"), crops), exact) < 1e-4 and len(made) == 2
    changed = deepcopy(plain)
    with torch.no_grad():
        changed.box_head.conv5_size.bias += 0.5
    assert fingerprint(changed) != fingerprint(plain)
    assert moves(answers(prepared(changed, "openvino"), crops), exact) > 1e-2 and len(made) == 3
    monkeypatch.setattr(runtimes, "code_version", lambda *packages: "another version")
    prepared(plain, "openvino")
    assert len(made) == 4


# files ----------------------------------------------------------------------------------------------------
def test_onnx_file_is_what_somebody_elses_runtime_computes(plain, crops, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    export(deepcopy(plain), tmp_path / "net.onnx", "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()][:3] == ["search", "template", "words_0"]
    folded = prepared(plain, "folded")
    template, search = crops(2)
    with torch.inference_mode():
        inputs = (search, folded.encode_template(template),
                  *runtimes.flat(runtimes.padded_words(folded, PHRASES[:2])))
        expected = folded.track(search, inputs[1], folded.encode_text(PHRASES[:2]))
    got = session.run(["score", "offset", "size"],
                      {i.name: t.numpy() for i, t in zip(session.get_inputs(), inputs, strict=True)})
    assert moves([torch.from_numpy(g) for g in got], expected) < 1e-4


def test_export_says_what_is_wrong(plain, tmp_path):
    with pytest.raises(ExportError, match="does not end in .onnx"):
        export(deepcopy(plain), tmp_path / "net.xml", "onnx")
    with pytest.raises(ExportError, match="int8 is made for openvino"):
        export(deepcopy(plain), tmp_path / "net.onnx", "onnx", lambda network: [])


def test_int8_is_calibrated_on_frames_and_belongs_to_its_weights(plain, written, crops, tmp_path, caplog):
    pytest.importorskip("nncf")
    with pytest.raises(DeviceError, match="vlt export WEIGHTS --format openvino --precision int8"):
        load_network(written, device="cpu", runtime="openvino", precision="int8")

    def frames(network):
        graph = runtimes.FrameGraph(network)
        with torch.no_grad():
            return [{name: tensor.numpy().copy() for name, tensor in zip(graph.input_names(), (
                crops(seed=seed)[1], network.encode_template(crops(seed=seed)[0]),
                *runtimes.flat(runtimes.padded_words(network, [PHRASES[seed % 3]]))), strict=True)}
                    for seed in range(6)]

    path = tmp_path / "net.safetensors"
    path.write_bytes(written.read_bytes())
    export(load_network(path, device="cpu", precision="fp32"), tmp_path / "net.int8.xml", "openvino", frames)
    network = load_network(path, device="cpu", runtime="openvino", precision="int8")
    assert isinstance(network, CompiledNetwork) and network.precision == "int8"
    exact = answers(load_network(path, device="cpu", precision="fp32"), crops)
    assert 1e-4 < moves(answers(network, crops), exact) < 0.2
    assert load_network(path, device="cpu", runtime="openvino").precision in ("fp32", "bf16"), "only when asked for"
    # Beside other weights it is of no use: said.
    changed = load_network(path, device="cpu", precision="fp32")
    with torch.no_grad():
        changed.box_head.conv5_size.bias += 0.5
    save_network(changed, path)
    with pytest.raises(DeviceError, match="made from other weights"):
        load_network(path, device="cpu", runtime="openvino", precision="int8")
    assert load_network(path, device="cpu", runtime="openvino").precision in ("fp32", "bf16")
    (tmp_path / "net.int8.xml").write_text("no graph")
    with pytest.raises(DeviceError, match="cannot be used"):
        load_network(path, device="cpu", runtime="openvino", precision="int8")
