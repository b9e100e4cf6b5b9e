# SPDX-License-Identifier: Apache-2.0
"""Several targets at once: what each alone would be, in one batch, and what comes and goes beside the main one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vlt_ros.networks import SYSTEMS, build_network
from vlt_ros.networks.runtimes import prepare
from vlt_ros.tracker import CommandError, Following, State, Targets, Tracker, TrackerSettings

TEXTS = ("the red mug", "the second person from the left in a long coat", "it")
BOXES = ((30.0, 30.0, 30.0, 20.0), (60.0, 20.0, 24.0, 40.0), (10.0, 50.0, 30.0, 30.0))
# Trusts every answer of a random network, so that boxes move and nothing is lost.
TRUSTING = TrackerSettings(track_threshold=0.0, lost_threshold=0.0)
# A random network sees boxes no better with their sentences: follow with them untried.
AS_TOLD = Following(extent_share=0.0)


def frames(count: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, 90, 120, 3), np.uint8))


def listening(network, monkeypatch):
    """The crops of every call of a network from now on."""
    calls = []

    def counted(name, right):
        def call(search, *rest):
            calls.append((name, len(search)))
            return right(search, *rest)
        return call

    for name in ("track", "ground"):
        monkeypatch.setattr(network, name, counted(name, getattr(network, name)), raising=False)
    return calls


STARTS = tuple(zip(TEXTS, BOXES, strict=True))


def made(network, settings=TRUSTING, starts=STARTS, most=8) -> Targets:
    """Targets started on one frame: the first is the main one."""
    targets = Targets(Tracker(network, settings, AS_TOLD), most)
    for start, (text, box) in zip((targets.main.start, *[targets.add] * 9), starts, strict=False):
        start(text, *(() if box is None else (frames(1)[0], box)))
    return targets


def alone(network, settings, starts, pictures) -> list:
    """For each start what a tracker alone says of every picture."""
    said = []
    for text, box in starts:
        tracker = Tracker(network, settings, AS_TOLD)
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


@pytest.fixture(scope="module", params=["pjvlt", "all_in_one", "satracker", "lgtrack", "folded", "openvino"])
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


def test_three_at_once_are_what_three_trackers_say(network, monkeypatch):
    starts, pictures = STARTS, frames(4, seed=1)
    apart = alone(network, TRUSTING, starts, pictures)
    # What is compared moves with the picture, the sentence and the box.
    for other in ([(TEXTS[1], BOXES[0])], [(TEXTS[0], BOXES[1])]):
        assert max(abs(a.box[0] - b.box[0]) + abs(a.confidence - b.confidence) for a, b in zip(
            alone(network, TRUSTING, other, pictures)[0], apart[0], strict=True)) > 1e-3
    assert abs(apart[0][0].box[0] - apart[0][1].box[0]) > 0.1
    targets, calls = made(network), listening(network, monkeypatch)
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


def test_searches_share_a_call_too_and_each_finds_its_own(tiny, monkeypatch):
    """By text alone: two ground, one tracks, each as if it were alone, for as many frames as a sweep has."""
    searching = TrackerSettings(track_threshold=0.3, lost_threshold=0.0)
    starts = ((TEXTS[0], None), (TEXTS[1], BOXES[1]), (TEXTS[2], None))
    pictures = frames(6, seed=2)
    apart = alone(tiny, searching, starts, pictures)
    assert {target.state for target in apart[0]} >= {State.SEARCHING}
    assert apart[0][0].confidence != pytest.approx(apart[2][0].confidence, abs=1e-4)        # the sentence matters
    targets, calls = made(tiny, searching, starts), listening(tiny, monkeypatch)
    together = [targets.track(picture) for picture in pictures]
    assert calls[:2] == [("ground", 2), ("track", 1)]
    for i in range(3):
        assert largest([said[i] for said in together], apart[i]) < 2e-3


def test_recognition_is_each_targets_own(monkeypatch):
    from dataclasses import replace

    from vlt_ros.networks import CONFIGS

    torch.manual_seed(0)
    plain = build_network(replace(CONFIGS["pjvlt_tiny"], recognition=8)).eval().requires_grad_(False)
    for parameter in plain.parameters():
        parameter += 0.15 * torch.randn_like(parameter)
    plain.recognition.weights.copy_(torch.tensor([1.0, 4.0, 4.0, -6.0]))
    network = prepare(plain, "eager", precision="fp32")
    starts, pictures = STARTS, frames(3, seed=1)
    apart = alone(network, TRUSTING, starts, pictures)
    assert len({round(said[0].confidence, 3) for said in apart}) == 3
    targets = made(network)
    together = [targets.track(picture) for picture in pictures]
    for i in range(3):
        assert largest([said[i] for said in together], apart[i]) < 2e-3


# what comes and goes --------------------------------------------------------------------------------------
def test_targets_are_added_and_removed_by_their_ids(tiny):
    targets = made(tiny)
    first, second, third = targets.track(frames(1)[0])
    added = targets.add("the blue cup")
    assert (added.target_id, added.state, added.text) == (4, State.SEARCHING, "the blue cup")
    targets.remove(second.target_id)
    assert [target.target_id for target in targets.others] == [third.target_id, 4]
    # The main one takes its commands as ever, and ids are never given twice.
    assert targets.main.start("the mug").target_id == 5
    with pytest.raises(CommandError, match=r"no target has the id 2: there is 5, 3, 4"):
        targets.remove(2)
    targets.remove(5)
    assert targets.main.target.state is State.IDLE and len(targets.others) == 2
    assert [target.target_id for target in targets.track(frames(1)[0])] == [5, 3, 4]
    targets.remove()
    assert targets.others == [] and len(targets.track(frames(1)[0])) == 1
    with pytest.raises(CommandError, match="no target has the id 5: there is none"):
        targets.remove(5)
    targets.remove()        # nothing to remove is no error


def test_beyond_the_most_and_bad_commands_are_refused_and_change_nothing(tiny):
    targets = made(tiny, most=3)
    before = targets.track(frames(1)[0])
    with pytest.raises(CommandError, match="at most 3 targets are followed"):
        targets.add("one more")
    targets.remove(3)
    for bad, match in ((("",), "needs a text or a box"), (("a\x07b",), "control character"),
                       (("x", frames(1)[0], (0, 0, float("nan"), 4)), "NaN"), (("x", None, BOXES[0]), "frame")):
        with pytest.raises(CommandError, match=match):
            targets.add(*bad)
    assert [targets.main.target, *targets.others] == before[:2]


def test_settings_and_jumps_of_time_are_for_all(tiny):
    targets = made(tiny, starts=((TEXTS[0], BOXES[0]), (TEXTS[1], BOXES[1]), ("", BOXES[2])))
    targets.settings = TrackerSettings(track_threshold=1.0, lost_threshold=0.0)
    assert {target.state for target in targets.track(frames(1)[0])} == {State.UNCERTAIN}
    targets.clear()         # by a box alone nothing is left to look for
    assert targets.main.target.state is State.SEARCHING
    assert [(target.target_id, target.state) for target in targets.others] == [(2, State.SEARCHING)]


def test_a_failing_batch_loses_one_frame_and_no_target(tiny, monkeypatch):
    searching = TrackerSettings(track_threshold=1.0, lost_threshold=0.0)
    starts, pictures = ((TEXTS[0], None), (TEXTS[1], BOXES[1]), (TEXTS[2], BOXES[2])), frames(4, seed=3)
    targets, apart = made(tiny, searching, starts), made(tiny, searching, starts)
    before = targets.track(pictures[0], 0.0)
    apart.track(pictures[0], 0.0)
    with monkeypatch.context() as broken:
        broken.setattr(tiny, "ground", lambda *inputs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            targets.track(pictures[1], 0.1)
    assert [targets.main.target, *targets.others] == before
    # Those that follow go on where they were, and the search begins its sweep anew.
    for one, other in zip(targets.track(pictures[2], 0.2)[1:], apart.track(pictures[2], 0.2)[1:], strict=True):
        assert largest([one], [other]) < 2e-3
    assert targets.track(pictures[3], 0.3)[0].state is State.SEARCHING


def test_an_image_that_is_none_is_refused_before_anything_changes(tiny):
    targets = made(tiny)
    before = [targets.main.target, *targets.others]
    with pytest.raises(ValueError, match="image must be"):
        targets.track(np.zeros((4, 4), np.uint8))
    assert [targets.main.target, *targets.others] == before


def test_nan_in_one_row_is_no_target_for_that_one_alone(tiny, monkeypatch):
    targets, right = made(tiny), tiny.track

    def second_is_nan(*inputs):
        maps = right(*inputs)
        maps.score[1] = float("nan")
        return maps

    monkeypatch.setattr(tiny, "track", second_is_nan)
    confidences = [target.confidence for target in targets.track(frames(1)[0])]
    assert confidences[1] == 0 < min(confidences[0], confidences[2])
