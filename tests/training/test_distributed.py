# SPDX-License-Identifier: Apache-2.0
"""Two real processes (Gloo) against one on the same global batches: the same sums, losses, weights and files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import yaml
from small_tree import write_tree
from torch import nn

from vlt_ros.networks import CONFIGS, PJVLT, Contrast, Matching
from vlt_ros.networks.head import CentreHead, Maps
from vlt_ros.training import distributed
from vlt_ros.training.alignment import alignment_losses
from vlt_ros.training.losses import tracking_loss
from vlt_ros.training.trainer import Samples, Trainer, TrainingConfig, TrainingError, read_config, train


# the sums, in two processes -------------------------------------------------------------------------------
def batch_of_eight():
    """Inputs of a head and what is there; the second half holds one target, the first four."""
    generator = torch.Generator().manual_seed(0)
    grids = 3 + torch.randn(8, 16, 6, 6, generator=generator)
    boxes = torch.rand(8, 4, generator=generator) * 0.4 + 0.2
    return grids, boxes, torch.tensor([True] * 4 + [False, True, False, False])


def head_and_loss(head, grids, boxes, present):
    maps = Maps(*head(grids))
    loss, parts = tracking_loss(maps, boxes, present, distributed.total)
    loss.backward()
    distributed.sum_gradients(head.parameters())
    return {name: float(distributed.total(value)) for name, value in parts.items()}


def terms_and_losses(part: slice):
    """A contrast and a dense matching of eight samples, of which not all take part, and the features' gradients."""
    generator = torch.Generator().manual_seed(1)
    features = [torch.randn(8, *shape, generator=generator)[part].requires_grad_() for shape in ((6,), (6,), (36, 6))]
    first, second, tokens = features
    _, boxes, present = (values[part] for values in batch_of_eight())
    made_of = {"search": present, "language": torch.tensor([True, False, True, True, False, True, True, True])[part]}
    terms = {"pairs": Contrast(first, second, ("search", "language"), 0.5), "dense": Matching(tokens, second, 0.5)}
    losses = alignment_losses(terms, boxes, made_of)
    sum(losses.values()).backward()
    return ({name: float(distributed.total(value.detach())) for name, value in losses.items()},
            [tensor.grad for tensor in features])


def head_of(norm: bool):
    torch.manual_seed(0)
    head = CentreHead(16, 16).train()
    if norm:
        distributed.use_global_batch_norm(head)
    return head


def _two_heads(rank: int, meeting: str, out: str) -> None:
    """One of two processes: its half of the batch through a head with, and one without, the batch's statistics."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    assert distributed.rank() == rank and distributed.world_size() == 2
    part = slice(4 * rank, 4 * rank + 4)
    results = {}
    for norm in (True, False):
        head = head_of(norm)
        parts = head_and_loss(head, *(values[part] for values in batch_of_eight()))
        results[norm] = {"parts": parts, "grads": {n: p.grad for n, p in head.named_parameters()},
                         "state": head.state_dict()}
    results["terms"] = terms_and_losses(part)
    other = nn.Linear(2, 2)
    nn.init.constant_(other.weight, rank + 1.0)
    distributed.broadcast(other)
    results["broadcast"] = other.weight.detach()
    results["gathered"] = distributed.gather([rank] * (rank + 1))
    torch.save(results, Path(out) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_losses_gradients_and_statistics_of_two_processes_are_those_of_one(tmp_path):
    torch.multiprocessing.spawn(_two_heads, (str(tmp_path / "meeting"), str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    head = head_of(False)
    parts = head_and_loss(head, *batch_of_eight())
    own = first[True]
    assert own["parts"] == second[True]["parts"] == pytest.approx(parts, rel=1e-5)
    assert parts["focal"] > 0.1 and parts["giou"] > 0.1
    largest = {name: float(p.grad.abs().max()) for name, p in head.named_parameters()}
    for name, parameter in head.named_parameters():
        assert torch.equal(own["grads"][name], second[True]["grads"][name]), name      # nobody drifts apart
        torch.testing.assert_close(own["grads"][name], parameter.grad, rtol=1e-3, atol=2e-5)
    assert sum(value > 1e-2 for name, value in largest.items()) > 10
    state = head.state_dict()
    for name, tensor in own["state"].items():
        torch.testing.assert_close(tensor, state[name], rtol=1e-5, atol=1e-6)
    # With each process's own statistics the same comparison fails by far: it can tell.
    worst = max(float((first[False]["grads"][n] - p.grad).abs().max()) for n, p in head.named_parameters())
    assert worst > 1e-2
    # The contrast is over the samples of both, and each process has its own features' part of the whole gradient.
    losses, gradients = terms_and_losses(slice(0, 8))
    assert first["terms"][0] == second["terms"][0] == pytest.approx(losses, rel=1e-5) and min(losses.values()) > 0.1
    for whole, *parts in zip(gradients, first["terms"][1], second["terms"][1], strict=True):
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-6)
        assert whole.abs().max() > 1e-3
    assert torch.equal(first["broadcast"], second["broadcast"]) and first["broadcast"][0, 0] == 1
    assert first["gathered"] == second["gathered"] == [0, 1, 1]


def test_one_process_needs_nothing_of_it():
    values = torch.ones(2, requires_grad=True)
    assert distributed.total(values) is values and distributed.gather([1]) == [1]
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    head, plain = head_of(True), head_of(False)
    grids = batch_of_eight()[0]
    for mode in (True, False):
        for a, b in zip(head.train(mode)(grids), plain.train(mode)(grids), strict=True):
            assert torch.equal(a, b)
    assert head.state_dict().keys() == plain.state_dict().keys()


def test_parts_of_a_batch_make_the_batch():
    class Numbers:
        def sample(self, index):
            return index

    whole = [Samples(Numbers(), 6, 2, 3)[i] for i in range(18)]
    assert whole == list(range(12, 30)) and len(Samples(Numbers(), 6, 2, 3)) == 18
    parts = [Samples(Numbers(), 6, 2, 3, rank, 3) for rank in range(3)]
    assert [len(part) for part in parts] == [6, 6, 6]
    assert [part[k] for step in range(3) for part in parts for k in (2 * step, 2 * step + 1)] == whole


def test_what_does_not_fit_the_processes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    with pytest.raises(TrainingError, match="batch_size 16 .* multiple of their number, 3"):
        Trainer(TrainingConfig(model="pjvlt_tiny", start="random", device="cpu"), tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="cuda:0 is one GPU for all"):
        Trainer(TrainingConfig(model="pjvlt_tiny", start="random", device="cuda:0", batch_size=3), tmp_path)


# whole runs -----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def configuration(tmp_path_factory):
    """configuration(name, **changes): path of a YAML file on a small data tree."""
    root = tmp_path_factory.mktemp("distributed")
    data, assets = write_tree(root)

    def configuration(name: str, **changes) -> Path:
        path = root / f"{name}.yaml"
        path.write_text(yaml.safe_dump({
            "model": "pjvlt_tiny", "start": "random", "data": str(data), "assets": str(assets), "loaders": 0,
            "precision": "fp32", "device": "cpu", "batch_size": 8, "steps": 6, "warmup_steps": 0, "lr_new": 5e-3,
            "freeze_separate": False, "ema": 0.5, "validate_every": 3, "save_every": 100,
            "validation_samples": 10} | changes))
        return path

    return configuration


def train_smoothly(path: Path, out: Path) -> None:
    """A run whose AdamW has an epsilon of 1e-3.

    With the usual 1e-8 its first steps are the gradient's sign: where a gradient is zero but for rounding (a bias
    before a normalisation, say) they are of full size in a direction that the order of a sum decides.
    """
    trainer = Trainer(read_config(path), out)
    for group in trainer.optimiser.param_groups:
        group["eps"] = 1e-3
    trainer.run()


def _train(rank: int, meeting: str, path: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    train_smoothly(Path(path), Path(out))
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_train_to_the_weights_of_one(configuration, tmp_path):
    """Dropout, gate noise, BatchNorm, uneven absent targets, clipping, average, validation, files: all at once.

    Tolerance 5e-5 absolute and relative on every weight and statistic after six steps at a rate of 2e-2, which move
    most tensors by 1e-3 and more: what float32 sums in another order amount to.
    """
    assert CONFIGS["pjvlt_tiny"].gumbel_noise and not CONFIGS["pjvlt_tiny"].frozen_minilm
    path = configuration("equal", lr_new=2e-2)
    torch.multiprocessing.spawn(_train, (str(tmp_path / "meeting"), str(path), str(tmp_path / "two")), nprocs=2)
    train_smoothly(path, tmp_path / "one")
    files = [sorted(file.name for file in (tmp_path / name).iterdir()) for name in ("one", "two")]
    assert files[0] == files[1] and len(list((tmp_path / "two" / "tensorboard").iterdir())) == 1

    torch.manual_seed(0)
    start = PJVLT(CONFIGS["pjvlt_tiny"]).state_dict()
    one, two = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("one", "two"))
    moved, apart = {}, {}
    for kind in ("network", "averaged"):
        for name, tensor in one[kind].items():
            moved[kind, name] = float((tensor - start[name]).abs().max())
            apart[kind, name] = float(((tensor - two[kind][name]).abs() / (1 + tensor.abs())).max())
    worst = sorted(apart.items(), key=lambda item: -item[1])[:5]
    assert worst[0][1] < 5e-5, worst
    assert sum(value > 1e-3 for value in moved.values()) > 0.8 * len(moved), sorted(moved.values())
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    validations = [[line["validation"] for line in lines(tmp_path / name) if "validation" in line]
                   for name in ("one", "two")]
    assert len(validations[0]) == len(validations[1]) == 2
    for a, b in zip(*validations, strict=True):
        assert a == pytest.approx(b, abs=1e-3)


# the command under torchrun -------------------------------------------------------------------------------
def torchrun(configuration: Path, out: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1",
               "--nproc-per-node", "2", "-m", "vlt_ros.cli", "train", str(configuration), "--out", str(out), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "loss.jsonl").read_text().splitlines()]


def losses(out: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in lines(out) if "loss" in line}


@pytest.mark.timeout(600)
def test_stopped_by_sigterm_and_resumed_under_torchrun_equals_an_unbroken_run(configuration, tmp_path):
    """Bit for bit, loaders in processes of their own. The stop may come at any step."""
    path = configuration("stopped", steps=30, loaders=1, validate_every=30)
    finish(torchrun(path, tmp_path / "whole"))
    process = torchrun(path, tmp_path / "broken")
    while process.poll() is None and not (tmp_path / "broken" / "loss.jsonl").is_file():
        time.sleep(0.1)
    while process.poll() is None and not losses(tmp_path / "broken"):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode != 0 and "stopped by SIGTERM after step" in output, output
    state = torch.load(tmp_path / "broken" / "checkpoint.pt", weights_only=True)
    assert 0 < state["step"] < 30 and max(losses(tmp_path / "broken")) == state["step"]
    finish(torchrun(path, tmp_path / "broken", "--resume"))
    whole, broken = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "broken"))
    for kind in ("network", "averaged"):
        for name, tensor in whole[kind].items():
            assert torch.equal(tensor, broken[kind][name]), name
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    assert list(losses(tmp_path / "broken")) == list(range(1, 31))
    # And one process follows the same curve, as far as AdamW lets rounding stay small.
    train(configuration("first", steps=4), tmp_path / "one")
    first = losses(tmp_path / "one")
    assert [losses(tmp_path / "whole")[step] for step in first] == pytest.approx(list(first.values()), rel=0.02)


def test_sigterm_in_one_process_saves_after_the_step(configuration, tmp_path, monkeypatch):
    from vlt_ros.training.trainer import TrainingStopped

    path = configuration("alone")
    step = Trainer.train_step

    def interrupted(self, batch):
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch)

    monkeypatch.setattr(Trainer, "train_step", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingStopped, match=r"after step 3 of 6: .*checkpoint\.pt is saved, --resume"):
        train(path, tmp_path / "out")
    assert signal.getsignal(signal.SIGTERM) is before
    assert torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)["step"] == 3
    monkeypatch.setattr(Trainer, "train_step", step)
    train(path, tmp_path / "out", resume=True)
    train(path, tmp_path / "whole")
    assert losses(tmp_path / "out") == losses(tmp_path / "whole")


def test_same_seed_same_curve(configuration, tmp_path):
    """The command line from a clean start, loaders and all: two runs write the same numbers, another seed others."""
    from click.testing import CliRunner

    from vlt_ros.cli import main

    for name, seed, loaders in (("first", 5, 0), ("again", 5, 1), ("other", 6, 0)):
        path = configuration(name, seed=seed, steps=4, loaders=loaders, validate_every=2)
        result = CliRunner().invoke(main, ["train", str(path), "--out", str(tmp_path / name)])
        assert result.exit_code == 0, result.output
    first, again, other = ([{k: v for k, v in line.items() if k != "minutes"} for line in lines(tmp_path / name)]
                           for name in ("first", "again", "other"))
    assert first == again and len(first) == 6
    assert all(a["loss"] != b["loss"] for a, b in zip(first, other, strict=True) if "loss" in a)
