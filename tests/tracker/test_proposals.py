# SPDX-License-Identifier: Apache-2.0
"""A grounder proposes where to look; the network's own confidence decides."""

from __future__ import annotations

import numpy as np
import pytest

from vlt_ros.tracker import State, Tracker, TrackerSettings
from vlt_ros.tracker.geometry import overlap
from vlt_ros.tracker.search import PROPOSALS, search_levels

SIZE = (640, 480)
# Far from the frame's middle and small: without help the whole frame does not show it surely.
RED, BLUE = (560, 420, 24, 20), (60, 60, 30, 30)


class Grounder:
    """Proposes what it is told to; notes when it was asked, and for what."""

    def __init__(self, *boxes) -> None:
        self.boxes, self.asked, self.fail = boxes, [], False

    def ground(self, image: np.ndarray, text: str):
        assert image.dtype == np.uint8 and image.ndim == 3
        self.asked.append(text)
        if self.fail:
            raise RuntimeError("out of memory")
        return [(box, 0.9 - 0.1 * k) for k, box in enumerate(self.boxes)]


def frames_until_tracking(tracker, image, frames):
    return next((n for n in range(1, frames + 1) if tracker.track(image).state is State.TRACKING), None)


def started(tracker, image):
    """Frames until a start by text is TRACKING, in two sweeps at most."""
    tracker.start("the red box")
    return frames_until_tracking(tracker, image, 2 * sum(len(level) for level in search_levels(*SIZE, 64)))


@pytest.fixture
def far_sighted(network, monkeypatch):
    """The colour network, unsure of anything under a fifth of the window: only a close look finds the target."""
    track = type(network).track

    def short_sighted(self, search, template, words):
        maps = track(self, search, template, words)
        size = float(maps.size[0].flatten(1)[:, maps.score.argmax()].max())
        return maps if size > 0.2 else maps._replace(score=maps.score.clamp(max=0.3))

    monkeypatch.setattr(type(network), "track", short_sighted)
    return network


def test_a_proposal_on_the_target_is_tracked_at_once(far_sighted, scene):
    image = scene(size=SIZE, red=RED, blue=BLUE)
    assert started(Tracker(far_sighted), image) is None        # no window of a sweep is close enough
    grounder = Grounder(RED)
    tracker = Tracker(far_sighted, grounder=grounder)
    assert started(tracker, image) == 3        # proposed and seen, seen anew, and again
    assert overlap(tracker.target.box, RED) > 0.7 and tracker.target.confidence == pytest.approx(0.9)
    assert grounder.asked == ["the red box"]


@pytest.mark.parametrize("boxes", [
    (), (BLUE,), ((300, 200, 40, 40),), ((0, 0, 640, 480),), ((630, 470, 10, 10),), ((300, 200, 2, 2), BLUE)])
def test_a_wrong_proposal_or_none_is_refused_by_the_networks_own_look(boxes, far_sighted, scene):
    image = scene(size=SIZE, red=RED, blue=BLUE)
    grounder = Grounder(*boxes)
    assert started(Tracker(far_sighted, grounder=grounder), image) is None
    assert grounder.asked


def test_a_proposal_beside_another_thing_of_the_kind_is_not_taken_for_it(network, scene):
    """The network sees red in the window, but not where the grounder says."""
    image = scene(size=SIZE, red=(300, 200, 40, 40))
    tracker = Tracker(network, grounder=Grounder((360, 200, 40, 40)))
    tracker.start("the red box")
    tracker.track(image)
    assert network.looks == 2 and tracker._search.confidence == pytest.approx(0.9)      # the whole frame came after it


def test_the_trackers_thresholds_decide(network, scene):
    image = scene(size=SIZE, red=RED)
    network.confidence = 0.6
    for threshold, frames in ((0.55, 3), (0.65, None)):
        settings = TrackerSettings(track_threshold=threshold)
        assert started(Tracker(network, settings, grounder=Grounder(RED)), image) == frames


def test_the_target_must_still_be_there_in_the_next_frames(network, scene):
    tracker = Tracker(network, grounder=Grounder(RED))
    tracker.start("the red box")
    tracker.track(scene(size=SIZE, red=RED))
    assert frames_until_tracking(tracker, scene(size=SIZE), 40) is None


def test_it_is_asked_once_a_sweep_and_its_best_are_looked_at(network, scene):
    sweep = sum(len(level) for level in search_levels(*SIZE, 64))
    boxes = [(40 + 90 * k, 100, 30, 30) for k in range(5)]
    # The second is the first again.
    grounder = Grounder(boxes[0], tuple(v + 1 for v in boxes[0]), *boxes[1:])
    tracker = Tracker(network, grounder=grounder)
    tracker.start("the red box")
    for frame in range(1, 2 * sweep + 1):
        tracker.track(scene(size=SIZE))
        turns = 1 + (frame - 1) // sweep
        assert len(grounder.asked) == turns and network.looks == frame + PROPOSALS * turns


def test_a_lost_target_is_found_where_it_is_proposed_and_known_by_its_template(far_sighted, scene):
    start = scene(size=SIZE, red=(300, 200, 24, 20))
    gone, back = scene(size=SIZE), scene(size=SIZE, red=RED, blue=BLUE)

    def frames(grounder, words="the red box"):
        tracker = Tracker(far_sighted, grounder=grounder)
        tracker.start(words, image=start, box=(300, 200, 24, 20))
        for _ in range(60):
            tracker.track(gone)
        assert tracker.target.state is State.LOST
        return frames_until_tracking(tracker, back, 80)        # a sweep of 35 tiles, every other look

    assert frames(None) is None and frames(Grounder(BLUE)) is None
    grounder = Grounder(RED)
    assert frames(grounder) is not None and set(grounder.asked) == {"the red box"}
    grounder = Grounder(RED)
    assert frames(grounder, words="") is None and not grounder.asked        # nothing to ask it for


def test_a_failing_grounder_costs_a_frame_and_the_search_goes_on(network, scene):
    image = scene(size=SIZE, red=(300, 200, 60, 60))
    grounder = Grounder((300, 200, 60, 60))
    grounder.fail = True
    tracker = Tracker(network, grounder=grounder)
    tracker.start("the red box")
    with pytest.raises(RuntimeError, match="out of memory"):
        tracker.track(image)
    assert tracker.target.state is State.SEARCHING
    assert frames_until_tracking(tracker, image, 5) and len(grounder.asked) == 1
