# SPDX-License-Identifier: Apache-2.0
"""Several targets at once: what each alone would be, in one batch, and what comes and goes beside the main one."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch

from vlt_ros.networks import SYSTEMS, build_network
from vlt_ros.networks.runtimes import prepare
from vlt_ros.tracker import CommandError, State, Targets, Tracker, TrackerSettings

TEXTS = ("the red mug", "the second person from the left in a long coat", "it")
BOXES = ((30.0, 30.0, 30.0, 20.0), (60.0, 20.0, 24.0, 40.0), (10.0, 50.0, 30.0, 30.0))
# Trusts every answer of a random network, so that boxes move and nothing is lost.
TRUSTING = TrackerSettings(track_threshold=0.0, lost_threshold=0.0)


def frames(count: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, 90, 120, 3), np.uint8))


def listening(network):
    """Counts the crops of every call of a network."""
    calls = []

    def counted(name, right):
        def call(search, *rest):
            calls.append((name, len(search)))
            return right(search, *rest)
        return call

    for name in ("track", "ground"):
        setattr(network, name, counted(name, getattr(network, name)))
    return calls


def made(network, settings=TRUSTING, starts=tuple(zip(TEXTS, BOXES, strict=True)), most=8) -> Targets:
    """Targets started on one frame: the first is the main one."""
    targets = Targets(Tracker(network, settings), most)
    for start, (text, box) in zip((targets.main.start, *[targets.add] * 9), starts, strict=False):
        start(text, *(() if box is None else (frames(1)[0], box)))
    return targets


def alone(network, settings, starts, pictures) -> list:
    """For each start what a tracker alone says of every picture."""
    said = []
    for text, box in starts:
        tracker = Tracker(network, settings)
        tracker.start(text, *(() if box is None else (frames(1)[0], box)))
        said.append([tracker.track(picture) for picture in pictures])
    return said


def largest(together, apart) -> float:
    """Largest difference of boxes [px] and confidences; states, texts and the time last seen must be the same."""
    worst = 0.0
    for one, other in zip(together, apart, strict=True):
        assert (one.state, one.text, one.last_seen) == (other.state, other.text, other.last_seen)
        worst = max(worst, abs(one.confidence - other.confidence), *np.abs(np.subtract(one.box or 0, other.box or 0)
                                                                          ).ravel())
    return worst


@pytest.fixture(scope="module", params=["pjvlt", "allinone", "satracker", "lgtrack", "folded", "openvino"])
def network(request):
    """Every system that listens, as it is written; PJVLT in other runtimes too, whose words have other shapes."""
    runtime = request.param if request.param in ("folded", "openvino") else "eager"
    system = request.param if runtime == "eager" else "pjvlt"
    config = next(c for c in SYSTEMS[system].CONFIGS if c.name.endswith("_tiny"))
    torch.manual_seed(0)
    plain = build_network(config).eval().requires_grad_(False)
    for parameter in plain.parameters():
        parameter += 0.15 * torch.randn_like(parameter)
    if runtime == "openvino":
        pytest.importorskip("openvino")
    return prepare(plain, runtime, precision="fp32")


def test_three_at_once_are_what_three_trackers_say(network, tmp_path, monkeypatch):
    network = deepcopy(network) if network.runtime != "openvino" else network
    starts, pictures = tuple(zip(TEXTS, BOXES, strict=True)), frames(4, seed=1)
    apart = alone(network, TRUSTING, starts, pictures)
    # What is compared moves with the picture, the sentence and the box.
    for other in ([(TEXTS[1], BOXES[0])], [(TEXTS[0], BOXES[1])]):
        assert max(abs(a.box[0] - b.box[0]) + abs(a.confidence - b.confidence) for a, b in zip(
            alone(network, TRUSTING, other, pictures)[0], apart[0], strict=True)) > 1e-3
    assert abs(apart[0][0].box[0] - apart[0][1].box[0]) > 0.1
    targets, calls = made(network), listening(network)
    together = [targets.track(picture) for picture in pictures]
    assert calls == [("track", 3)] * len(pictures)
    for i in range(3):
        assert largest([said[i] for said in together], apart[i]) < 2e-3
    assert [target.target_id for target in together[-1]] == [1, 2, 3] and targets.others == together[-1][1:]


def test_one_is_the_tracker_alone_bit_for_bit(tiny):
    starts, pictures = ((TEXTS[0], BOXES[0]),), frames(4, seed=1)
    targets = made(tiny, starts=starts)
    assert [targets.track(picture) for picture in pictures] == [
        [target] for target in alone(tiny, TRUSTING, starts, pictures)[0]]
