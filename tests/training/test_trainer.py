# SPDX-License-Identifier: Apache-2.0
"""The training loop on made-up samples: it learns, goes on where it was, and leaves frozen layers alone."""

from __future__ import annotations

import json
import math
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from vlt_ros.networks import CONFIGS, PJVLT, SYSTEMS, WeightsError, decode, load_network, save_network
from vlt_ros.training.losses import giou
from vlt_ros.training.trainer import (
    Averaged,
    Trainer,
    TrainingConfig,
    TrainingError,
    collate,
    learning_rate_factor,
    parameter_groups,
    read_config,
    train,
)

PAIRS = 8
COLOURS = ((220, 40, 40), (40, 200, 60), (50, 70, 230), (230, 210, 50))
NAMES = ("red", "green", "blue", "yellow")


def pair(index: int) -> SimpleNamespace:
    """One of eight pairs: a coloured rectangle on noise, in the template's middle, anywhere in the search."""
    rng = np.random.default_rng(index)
    colour, name = COLOURS[index % 4], NAMES[index % 4]
    template, search = (rng.integers(60, 140, (size, size, 3), np.uint8) for size in (28, 56))
    template[8:20, 8:20] = colour
    w, h = rng.integers(10, 22, 2)
    x, y = rng.integers(0, 56 - w), rng.integers(0, 56 - h)
    search[y:y + h, x:x + w] = colour
    box = np.array([(x + w / 2) / 56, (y + h / 2) / 56, w / 56, h / 56], np.float32)
    return SimpleNamespace(template=template, search=search, template_blank=index == 7, box=box,
                           text=f"the {name} box", present=True, kind="pair")


class Pairs:
    """In place of the sample generator. Past ``broken_at`` it raises, as a killed run ends."""

    broken_at = math.inf
    asked: list[int] = []

    def __init__(self, data, assets, *, template_size, search_size, split, **options):
        if data == "nowhere":
            raise FileNotFoundError("folder nowhere is missing: give data in the configuration")
        assert (template_size, search_size) == (28, 56)
        self.split = split

    def sample(self, index):
        if self.split == "train":
            Pairs.asked.append(index)
            if index >= Pairs.broken_at:
                raise KeyboardInterrupt
        return pair(index % PAIRS)


@pytest.fixture(autouse=True)
def pairs(monkeypatch):
    module = ModuleType("vlt_ros.training.samples")
    module.SampleGenerator = Pairs
    monkeypatch.setitem(sys.modules, "vlt_ros.training.samples", module)
    monkeypatch.setattr(Pairs, "asked", [])
    monkeypatch.setattr(Pairs, "broken_at", math.inf)


TINY = {"model": "pjvlt_tiny", "start": "random", "loaders": 0, "precision": "fp32", "device": "cpu",
        "batch_size": 4, "steps": 6, "warmup_steps": 2, "validate_every": 3, "save_every": 2,
        "validation_samples": 4}


@pytest.fixture
def configuration(tmp_path):
    """configuration(**changes): path of a YAML file."""
    def configuration(**changes):
        path = tmp_path / "train.yaml"
        path.write_text(yaml.safe_dump(TINY | changes))
        return path

    return configuration


# configuration --------------------------------------------------------------------------------------------
def test_configuration_is_read(configuration):
    config = read_config(configuration(lr_new=1, notes={"why": "a test"}, mix={"still": 0.5}))
    assert config.steps == 6 and config.lr_new == 1.0 and type(config.lr_new) is float
    assert config.mix == {"still": 0.5} and config.ema == TrainingConfig().ema


@pytest.mark.parametrize("content, words", [
    ("steps: [", "YAML"), ("- 1\n- 2", "unknown fields"), ("just words", "unknown fields"),
    ("stepps: 3", "'stepps'"), ("steps: many", "steps must be int"), ("steps: 3.5", "steps must be int"),
    ("steps: true", "steps must be int"), ("lr_new: fast", "lr_new must be float"),
    ("freeze_separate: 1", "freeze_separate must be bool"), ("model: 3", "model must be str"),
    ("notes: none", "notes must be dict"), ("\x00", "YAML"),
    ("model: pjvlt_z", "'pjvlt_z' is unknown"), ("precision: int8", "'int8'"), ("steps: 0", "steps"),
    ("batch_size: 0", "batch_size"), ("ema: 1.0", "ema"), ("decay_from: 1.5", "decay_from"),
    ("save_every: 0", "save_every"), ("validate_every: -1", "validate_every"), ("loaders: -1", "loaders"),
    ("schedule: linear", "'linear'"), ("start: files", "start_vision and start_text"),
    ("start_vision: vit.pth", "belong to start: files"), ("start_text: 3", "start_text must be str"),
    ("lr_new: .nan", "lr_new"), ("lr_pretrained: -1.0", "lr_pretrained"), ("clip_norm: .inf", "clip_norm")])
def test_configuration_errors(content, words, tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text(content)
    with pytest.raises(TrainingError) as error:
        read_config(path)
    assert words in str(error.value)
    assert isinstance(error.value, ValueError)


def test_configuration_that_cannot_be_read(tmp_path):
    with pytest.raises(TrainingError, match=r"no\.yaml is missing"):
        read_config(tmp_path / "no.yaml")
    with pytest.raises(TrainingError, match="cannot be read"):
        read_config(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\xd8steps")
    with pytest.raises(TrainingError, match="YAML"):
        read_config(tmp_path / "binary.yaml")


def test_shipped_configurations_are_valid():
    from pathlib import Path

    folder = Path(__file__).resolve().parents[2] / "config"
    files = sorted(folder.glob("train_*.yaml"))
    assert files
    for file in files:
        assert read_config(file).steps > 0


def test_missing_data_and_weights_are_one_line(configuration, tmp_path):
    with pytest.raises(TrainingError, match="folder nowhere is missing"):
        train(configuration(data="nowhere"), tmp_path / "out")
    with pytest.raises(WeightsError, match=r"none\.safetensors is missing"):
        train(configuration(start=str(tmp_path / "none.safetensors")), tmp_path / "out")


# the loop's parts -----------------------------------------------------------------------------------------
def test_learning_rate_rises_stays_and_falls():
    config = TrainingConfig(steps=100, warmup_steps=10, decay_from=0.4)
    factors = [learning_rate_factor(step, config) for step in range(101)]
    assert factors[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert set(factors[10:40]) == {1.0}
    assert all(a > b for a, b in zip(factors[40:], factors[41:], strict=False))
    assert factors[70] == pytest.approx(0.505) and factors[100] == pytest.approx(0.01)
    paper = TrainingConfig(steps=300, warmup_steps=0, schedule="step", decay_from=0.8)
    assert [learning_rate_factor(epoch, paper) for epoch in (0, 239, 240, 299)] == [1.0, 1.0, 0.1, 0.1]
    shortest = TrainingConfig(steps=1, warmup_steps=0, decay_from=1)
    assert all(0 < learning_rate_factor(step, shortest) <= 1 for step in range(3))


def test_batch_is_the_samples():
    samples = [pair(k) for k in range(8)]
    batch = collate(samples)
    assert batch.template.shape == (8, 3, 28, 28) and batch.search.shape == (8, 3, 56, 56)
    assert batch.template.dtype == batch.search.dtype == torch.uint8 and batch.boxes.dtype == torch.float32
    for k, sample in enumerate(samples):
        assert np.array_equal(batch.search[k].permute(1, 2, 0).numpy(), sample.search)
        assert batch.boxes[k].tolist() == sample.box.tolist()
    assert batch.blank.tolist() == [False] * 7 + [True] and batch.present.all()
    assert batch.sentences == [s.text for s in samples] and batch.kinds == ["pair"] * 8


def test_parameter_groups_hold_every_trainable_parameter_once():
    torch.manual_seed(0)
    network = PJVLT(CONFIGS["pjvlt_tiny"])
    rates = {"lr_new": 1.0, "lr_pretrained": 0.1, "weight_decay": 0.5}
    config = TrainingConfig(**TINY | {"start": "dinov2"} | rates)
    groups = parameter_groups(network, config)
    rate = {id(p): g for g in groups for p in g["params"]}
    assert sum(len(g["params"]) for g in groups) == len(rate)
    frozen = []
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            frozen.append(name)
            assert id(parameter) not in rate
            continue
        group = rate[id(parameter)]
        slow = name.startswith(("backbone.", "text."))
        assert group["base_lr"] == (0.1 if slow else 1.0), name
        assert group["weight_decay"] == (0.5 if parameter.ndim > 1 else 0), name
    # pjvlt_tiny has one separate layer.
    assert {".".join(n.split(".")[:3]) if "blocks" in n else n for n in frozen} == {
        "backbone.blocks.0", "backbone.patch_embed.proj.weight", "backbone.patch_embed.proj.bias",
        "backbone.pos_embed_z", "backbone.pos_embed_x"}
    free = PJVLT(CONFIGS["pjvlt_tiny"])
    parameter_groups(free, TrainingConfig(**TINY | {"freeze_separate": False}))
    assert all(p.requires_grad for p in free.parameters())


def test_averaged_weights_follow_slowly():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    network[0].bias.requires_grad_(False)
    start = {k: v.clone() for k, v in network.state_dict().items()}
    averaged = Averaged(network, decay=0.9)
    expected, mean = start["0.weight"].clone(), start["1.running_mean"].clone()
    for update in range(1, 200):
        with torch.no_grad():
            for name, tensor in network.state_dict().items():
                if tensor.is_floating_point():
                    tensor.copy_(start[name] + update)
        averaged.update(network)
        decay = min(0.9, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * (start["0.weight"] + update)
        mean = decay * mean + (1 - decay) * (start["1.running_mean"] + update)
    state = averaged.network.state_dict()
    torch.testing.assert_close(state["0.weight"], expected)
    torch.testing.assert_close(state["1.running_mean"], mean)
    assert torch.equal(state["0.bias"], start["0.bias"])            # frozen: left as it was
    assert not averaged.network.training and not any(p.requires_grad for p in averaged.network.parameters())


TERMS = {"all_in_one": ["search_language", "search_template", "template_language"],
         "satracker": ["matching_2", "matching_3"], "lgtrack": ["alignment"]}


# whole runs -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("system", SYSTEMS)
def test_overfits_eight_pairs(system, tmp_path):
    """Every system by its whole objective: what it trains beside the boxes falls too."""
    config = TrainingConfig(**TINY | {
        "model": f"{system}_tiny", "steps": 160, "batch_size": 8, "lr_new": 1e-2, "warmup_steps": 10, "ema": 0.9,
        "decay_from": 0.5, "validation_samples": 8})
    trainer = Trainer(config, tmp_path)
    batch = collate([pair(k) for k in range(PAIRS)])
    steps = [trainer.train_step(batch) for _ in range(config.steps)]
    boxes = [part["focal"] + 2 * part["giou"] + 5 * part["l1"] for part in steps]
    assert boxes[-1] < 0.25 * boxes[0]
    terms = sorted(set(steps[0]) - {"loss", "focal", "giou", "l1", "norm", "lr"})
    assert terms == TERMS.get(system, [])
    for name in terms:
        assert min(part[name] for part in steps[-20:]) < 0.9 * steps[0][name], name
    scores = trainer.validate()
    assert scores["overlap/pair"] > 0.7 and scores["hit/pair"] == 1 and scores["confidence/present"] > 0.5
    # Through the door of the tracker: exported, loaded, decoded.
    network = load_network(trainer.export(), device="cpu", precision="fp32")
    from vlt_ros.networks.preprocess import normalise

    with torch.inference_mode():
        maps = network(normalise(batch.template), normalise(batch.search), batch.sentences, batch.blank)
        boxes, _ = decode(maps)
    assert giou(boxes, batch.boxes).mean() > 0.7


def contents(path):
    """Tensors and metadata of a weights file; the order of its header's entries is left to chance."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118 (no dict)


def state(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def equal(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def losses(folder):
    lines = [json.loads(line) for line in (folder / "loss.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


@pytest.mark.parametrize("broken_at", [4 * 3 + 1, 4 * 4, 4 * 5 + 3])
def test_killed_and_resumed_run_equals_an_unbroken_one(broken_at, configuration, tmp_path):
    """Bit for bit, noise of the gates and dropout included."""
    path = configuration()
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    weights = train(path, whole)
    assert Pairs.asked == list(range(24))
    Pairs.broken_at = broken_at
    with pytest.raises(KeyboardInterrupt):
        train(path, broken)
    step = state(broken)["step"]
    assert step == broken_at // 4 // 2 * 2                  # save_every = 2
    with pytest.raises(TrainingError, match="holds a run already"):
        train(path, broken)
    Pairs.broken_at, Pairs.asked = math.inf, []
    torch.manual_seed(99)                                   # another process would have other numbers too
    again = train(path, broken, resume=True)
    assert Pairs.asked == list(range(4 * step, 24))
    assert equal(state(whole), state(broken))
    assert equal(contents(again), contents(weights))
    assert losses(broken) == losses(whole) and set(losses(whole)) == set(range(1, 7))
    # The runs did move: another seed ends elsewhere.
    other = train(configuration(seed=1), tmp_path / "other")
    assert not equal(contents(other)[0], contents(weights)[0])


def test_a_stop_while_saving_leaves_the_last_checkpoint(configuration, tmp_path, monkeypatch):
    out = tmp_path / "out"
    train(configuration(), out)
    kept = (out / "checkpoint.pt").read_bytes()
    trainer = Trainer(read_config(configuration()), out)

    def torn(content, path):
        path.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(KeyboardInterrupt):
        trainer.save()
    assert (out / "checkpoint.pt").read_bytes() == kept


def test_resume_errors(configuration, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(TrainingError, match="nothing to resume"):
        train(configuration(), out, resume=True)
    weights = contents(train(configuration(), out))
    with pytest.raises(TrainingError, match="other lr_new, seed|other seed, lr_new"):
        train(configuration(seed=4, lr_new=0.1), out, resume=True)
    # A finished run is only exported again; how often to save is no difference.
    Pairs.asked.clear()
    assert equal(contents(train(configuration(save_every=5), out, resume=True)), weights) and not Pairs.asked
    (out / "checkpoint.pt").write_bytes(b"broken")
    with pytest.raises(TrainingError, match="unreadable"):
        train(configuration(), out, resume=True)


def test_frozen_layers_stay_exactly_as_they_were(tmp_path):
    """And everything that is not frozen moves."""
    torch.manual_seed(0)
    network = PJVLT(CONFIGS["pjvlt_tiny"])
    start = tmp_path / "start.safetensors"
    save_network(network, start)
    config = TrainingConfig(**TINY | {"start": str(start), "steps": 3})
    trainer = Trainer(config, tmp_path / "out")
    before = {k: v.clone() for k, v in trainer.network.state_dict().items()}
    batch = collate([pair(k) for k in range(4, 8)])
    for _ in range(3):
        trainer.train_step(batch)
    frozen = ("backbone.patch_embed", "backbone.blocks.0.", "backbone.pos_embed_")
    dead = ("key.bias", "theta_k.bias", "theta_q.bias")     # no gradient reaches these, see test_pjvlt.py
    for copy in (trainer.network, trainer.averaged.network):
        for name, tensor in copy.state_dict().items():
            if name.startswith(frozen):
                assert torch.equal(tensor, before[name]), name
            elif tensor.is_floating_point() and not name.endswith(dead):
                assert not torch.equal(tensor, before[name]), name
    exported = load_network(trainer.export(), device="cpu", precision="fp32").state_dict()
    started = load_network(start, device="cpu", precision="fp32").state_dict()
    assert all(torch.equal(exported[n], started[n]) for n in exported if n.startswith(frozen))


def test_frozen_text_tower_is_not_trained(tmp_path, monkeypatch):
    from dataclasses import replace

    frozen = replace(CONFIGS["pjvlt_tiny"], text_dim=384, text_depth=6, text_heads=12, frozen_minilm=True)
    monkeypatch.setitem(CONFIGS, "pjvlt_tiny", frozen)
    trainer = Trainer(TrainingConfig(**TINY), tmp_path)
    before = {k: v.clone() for k, v in trainer.network.text.state_dict().items()}
    trainer.train_step(collate([pair(k) for k in range(4)]))
    assert all(torch.equal(v, before[k]) for k, v in trainer.network.text.state_dict().items())
    assert all(p.grad is None for p in trainer.network.text.parameters())
    trainer.save()
    assert not any(name.startswith("text.") for name in state(tmp_path)["network"])


def test_exported_weights_load_and_say_what_they_are(configuration, tmp_path):
    from safetensors import safe_open

    path = train(configuration(notes={"data": "eight pairs", "year": 2024}), tmp_path / "out")
    assert path == tmp_path / "out" / "pjvlt_tiny.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["steps"] == "6" and metadata["seed"] == "0"
    assert metadata["data"] == "eight pairs" and metadata["year"] == "2024"
    assert load_network(path, model="pjvlt_tiny", device="cpu").name == "pjvlt_tiny"
    validations = [json.loads(line) for line in (tmp_path / "out" / "loss.jsonl").read_text().splitlines()
                   if "validation" in line]
    assert [line["step"] for line in validations] == [3, 6]
    assert set(validations[0]["validation"]) == {"overlap/pair", "hit/pair", "confidence/present"}


def test_validation_tells_present_from_absent(tmp_path):
    trainer = Trainer(TrainingConfig(**TINY | {"validation_samples": 6}), tmp_path)
    samples = [pair(k) for k in range(6)]
    for k in (1, 4):
        samples[k].present, samples[k].kind = False, "absent"
    trainer.heldout = SimpleNamespace(sample=samples.__getitem__)
    before = torch.get_rng_state()
    scores = trainer.validate()
    assert set(scores) == {"overlap/pair", "hit/pair", "confidence/present", "confidence/absent"}
    assert all(0 <= v <= 1 for v in scores.values())
    assert scores == trainer.validate()
    assert torch.equal(before, torch.get_rng_state())       # how often it is done does not change a run


def test_loss_that_is_not_finite_stops_the_run(tmp_path):
    trainer = Trainer(TrainingConfig(**TINY), tmp_path)
    batch = collate([pair(k) for k in range(4)])
    with torch.no_grad():
        trainer.network.box_head.conv5_offset.bias[0] = float("nan")
    before = {k: v.detach().clone().nan_to_num() for k, v in trainer.network.named_parameters()}
    with pytest.raises(TrainingError, match=r"nan at step 0: lower lr_new"):
        trainer.train_step(batch)
    assert all(torch.equal(v.nan_to_num(), before[k]) for k, v in trainer.network.named_parameters())


def test_loader_processes_give_the_same_samples_in_the_same_order(configuration, tmp_path):
    """Every sample is known by its index, so the number of processes changes nothing."""
    alone = train(configuration(steps=3), tmp_path / "alone")
    helped = train(configuration(steps=3, loaders=2), tmp_path / "helped")
    assert losses(tmp_path / "alone") == losses(tmp_path / "helped")
    assert equal(contents(alone), contents(helped))


def test_bf16_trains_and_keeps_the_weights_in_fp32(tmp_path):
    trainer = Trainer(TrainingConfig(**TINY | {"precision": "bf16"}), tmp_path)
    batch = collate([pair(k) for k in range(4)])
    parts = [trainer.train_step(batch) for _ in range(2)]
    assert all(math.isfinite(v) for p in parts for v in p.values())
    assert {p.dtype for p in trainer.network.parameters()} == {torch.float32}
    assert all(math.isfinite(v) for v in trainer.validate().values())
