# SPDX-License-Identifier: Apache-2.0
"""The state machine, frame by frame, on synthetic scenes."""

from __future__ import annotations

import numpy as np
import pytest

from vlt_ros.tracker import CommandError, Following, State, Target, Tracker, TrackerSettings
from vlt_ros.tracker.geometry import overlap, window_around
from vlt_ros.tracker.look import Looker, Template
from vlt_ros.tracker.tracker import EXTENT_LOOKS, Extent

RED, BLUE = (100, 80, 40, 30), (220, 150, 40, 30)


@pytest.fixture
def tracker(network):
    return Tracker(network)


def shifted(box, dx, dy=0):
    return box[0] + dx, box[1] + dy, box[2], box[3]


def until(tracker, image, state, frames=300, stamp=None):
    """Track the same frame until a state is reached; returns the frames that it took."""
    for count in range(1, frames + 1):
        if tracker.track(image, None if stamp is None else stamp + count / 30).state is state:
            return count
    raise AssertionError(f"still {tracker.target.state.name} after {frames} frames")


def lost(tracker, network, image, frames=60):
    """Take the target away until it is LOST."""
    kept, network.confidence = network.confidence, network.doubt
    until(tracker, image, State.LOST, frames)
    network.confidence = kept


# starting -------------------------------------------------------------------------------------------------
def test_before_any_command(tracker, network, scene):
    assert tracker.target == Target()
    assert tracker.track(scene(red=RED), 1.0) == Target()
    assert network.looks == 0


def test_start_by_text_searches_finds_and_follows(tracker, network, scene):
    image = scene(red=RED, blue=BLUE)
    target = tracker.start("  the blue box ")
    assert target == tracker.target == Target(State.SEARCHING, None, 0.0, 1, "the blue box", None)
    assert network.looks == 0 and network.texts == ["the blue box"]
    assert until(tracker, image, State.TRACKING, stamp=10.0) == 3       # seen, seen again, seen closer
    target = tracker.target
    assert overlap(target.box, BLUE) > 0.6 and target.confidence == pytest.approx(0.9)
    assert (target.target_id, target.text, target.last_seen) == (1, "the blue box", 10.0 + 3 / 30)
    assert overlap(tracker.track(image).box, BLUE) > 0.7
    assert network.templates == 1


def test_another_sentence_finds_another_target(tracker, scene):
    image = scene(red=RED, blue=BLUE)
    tracker.start("the red box")
    until(tracker, image, State.TRACKING)
    assert overlap(tracker.target.box, RED) > 0.6


def test_start_by_box_tracks_at_once(tracker, network, scene):
    image = scene(red=RED)
    target = tracker.start(image=image, box=RED, stamp=5.0)
    assert target == Target(State.TRACKING, RED, 1.0, 1, "", 5.0)
    assert (network.looks, network.templates, network.texts) == (len(EXTENT_LOOKS), 1, [""])
    for k in range(1, 30):
        truth = shifted(RED, 4 * k, 2 * k)
        target = tracker.track(scene(red=truth), 5.0 + k / 30)
        assert target.state is State.TRACKING and overlap(target.box, truth) > 0.6
        assert target.last_seen == 5.0 + k / 30 and target.target_id == 1
    assert network.looks == len(EXTENT_LOOKS) + 29 and network.templates == 1


def test_start_by_both_takes_the_box_and_the_words(tracker, network, scene):
    image = scene(red=RED, blue=BLUE)
    assert tracker.start("the red box", image=image, box=RED).state is State.TRACKING
    assert network.texts == ["the red box", ""] and tracker._guide.text == "the red box"
    assert overlap(tracker.track(image).box, RED) > 0.7


def test_a_box_is_not_pulled_away_by_a_sentence_that_names_something_else(tracker, network, scene):
    image = scene(red=RED, blue=BLUE)
    assert tracker.start("the blue box", image=image, box=RED).text == "the blue box"
    assert tracker._guide.text == "" and tracker._words.text == "the blue box"
    for _ in range(5):
        assert overlap(tracker.track(image).box, RED) > 0.7
    tracker.search_again()
    until(tracker, image, State.TRACKING)
    assert overlap(tracker.target.box, BLUE) > 0.7, "a search is for what the sentence names"


def test_a_start_that_fails_halfway_leaves_the_old_target(tracker, network, scene, monkeypatch):
    image = scene(red=RED, blue=BLUE)
    old = tracker.start(image=image, box=RED)
    monkeypatch.setattr(network, "track", lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
    with pytest.raises(RuntimeError):
        tracker.start("the blue box", image=image, box=BLUE)
    monkeypatch.undo()
    assert tracker.target == old and overlap(tracker.track(image).box, RED) > 0.7
    assert tracker.start("blue").target_id == old.target_id + 1


def test_box_partly_outside_is_cut(tracker, scene):
    assert tracker.start(image=scene(), box=(-10, 220, 40, 60)).box == (0, 220, 30, 20)


def test_every_command_has_a_new_id_and_nothing_else_has(tracker, network, scene):
    image = scene(red=RED)
    assert tracker.start("red").target_id == 1
    until(tracker, image, State.TRACKING)
    assert tracker.target.target_id == 1
    assert tracker.search_again().target_id == tracker.clear().target_id == 1
    assert tracker.start("red").target_id == 2              # the same words again are a new command
    assert tracker.start(image=image, box=RED).target_id == 3
    lost(tracker, network, scene())
    assert tracker.target.target_id == 3
    assert tracker.stop().target_id == 3
    assert tracker.start("red").target_id == 4


# the state machine ----------------------------------------------------------------------------------------
def test_whole_cycle_keeps_the_id(tracker, network, scene):
    """SEARCHING, TRACKING, UNCERTAIN, TRACKING, UNCERTAIN, LOST, TRACKING."""
    seen, gone, states = scene(red=RED), scene(), []

    def frame(image, stamp):
        target = tracker.track(image, stamp)
        assert target is tracker.target and target.target_id == 1 and target.text == "red"
        assert (target.box is not None) == (target.state in (State.TRACKING, State.UNCERTAIN))
        assert 0 <= target.confidence <= 1
        if not states or states[-1] is not target.state:
            states.append(target.state)
        return target

    tracker.start("red")
    states.append(tracker.target.state)
    for k in range(6):
        frame(seen, k / 10)
    network.confidence = 0.4                                # between the thresholds
    assert frame(seen, 0.6).last_seen == 0.6
    network.confidence = 0.9
    frame(seen, 0.7)
    for k in range(8, 17):
        assert frame(gone, k / 10).last_seen == 0.7
    assert frame(gone, 1.81).state is State.LOST and tracker.target.last_seen == 0.7
    frame(gone, 1.9)
    elsewhere = scene(red=(20, 190, 40, 30))
    for k in range(20, 80):
        if frame(elsewhere, k / 10).state is State.TRACKING:
            break
    assert overlap(tracker.target.box, (20, 190, 40, 30)) > 0.5 and tracker.target.last_seen == k / 10
    assert [s.name for s in states] == [
        "SEARCHING", "TRACKING", "UNCERTAIN", "TRACKING", "UNCERTAIN", "LOST", "TRACKING"]


def test_uncertain_between_the_thresholds_follows_but_is_not_trusted(tracker, network, scene):
    tracker.start(image=scene(red=RED), box=RED)
    network.confidence = 0.4
    for k in range(1, 80):                                  # never lost, however long
        truth = shifted(RED, 2 * (k % 30))
        target = tracker.track(scene(red=truth), k / 10)
        assert target.state is State.UNCERTAIN and target.confidence == pytest.approx(0.4)
        assert overlap(target.box, truth) > 0.4 and target.last_seen == k / 10


def test_box_does_not_move_on_a_low_score(tracker, network, scene):
    tracker.start(image=scene(red=RED), box=RED, stamp=0.0)
    before = tracker.track(scene(red=RED), 0.1)
    network.confidence = 0.2                                # it sees, but does not believe
    for k in range(8):
        target = tracker.track(scene(red=shifted(RED, 5 * k)), 0.2 + k / 15)
        assert target.state is State.UNCERTAIN and target.confidence == pytest.approx(0.2)
        assert target.box == before.box and target.last_seen == 0.1
    network.confidence = 0.9
    assert overlap(tracker.track(scene(red=shifted(RED, 35)), 0.75).box, shifted(RED, 35)) > 0.5


@pytest.mark.parametrize("value, state", [
    (0.5, State.TRACKING), (0.49, State.UNCERTAIN), (0.25, State.UNCERTAIN)])
def test_thresholds_belong_to_the_upper_side(value, state, network, scene):
    tracker = Tracker(network, TrackerSettings(track_threshold=0.5, lost_threshold=0.25))
    tracker.start(image=scene(red=RED), box=RED, stamp=0.0)
    network.confidence = value
    target = tracker.track(scene(red=RED), 9.0)
    assert target.state is state and target.last_seen == 9.0


@pytest.mark.parametrize("rate", [5, 30, 120])
def test_lost_after_seconds_not_frames(rate, network, scene):
    tracker = Tracker(network, TrackerSettings(lost_after_s=0.6))
    tracker.start(image=scene(red=RED), box=RED, stamp=100.0)
    first = None
    for k in range(1, 4 * rate):
        stamp = 100 + k / rate
        first = first or stamp                              # unseen from the first frame on
        state = tracker.track(scene(), stamp).state
        assert state is (State.LOST if stamp - first >= 0.6 else State.UNCERTAIN)
        if state is State.LOST:
            return
    raise AssertionError("never lost")


def test_a_sighting_starts_the_time_anew(tracker, network, scene):
    tracker.start(image=scene(red=RED), box=RED, stamp=0.0)
    for k in range(1, 40):
        image = scene() if k % 5 else scene(red=RED)        # seen every half second
        assert tracker.track(image, k / 10).state is not State.LOST


def test_lost_at_once_when_the_time_is_zero(network, scene):
    tracker = Tracker(network, TrackerSettings(lost_after_s=0))
    tracker.start(image=scene(red=RED), box=RED, stamp=0.0)
    assert tracker.track(scene(), 0.1) == Target(State.LOST, None, network.doubt, 1, "", 0.0) \
        or tracker.target.confidence == pytest.approx(network.doubt)
    assert tracker.target.state is State.LOST and tracker.target.box is None


def test_without_stamps_frames_count_at_30_hz(tracker, scene):
    tracker.start(image=scene(red=RED), box=RED)
    tracker.track(scene(red=RED))
    assert until(tracker, scene(), State.LOST) in (19, 20)  # lost_after_s = 0.6


def test_without_reacquire_it_stays_lost_until_told(network, scene):
    tracker = Tracker(network, TrackerSettings(reacquire=False))
    tracker.start("red", image=scene(red=RED), box=RED)
    lost(tracker, network, scene())
    looks = network.looks
    for _ in range(30):
        assert tracker.track(scene(red=RED)).state is State.LOST
    assert network.looks == looks
    tracker.search_again()
    until(tracker, scene(red=RED), State.TRACKING)


def test_settings_may_change_between_frames(tracker, network, scene):
    image = scene(red=RED)
    tracker.start(image=image, box=RED)
    network.confidence = 0.6
    assert tracker.track(image).state is State.TRACKING
    tracker.settings = TrackerSettings(track_threshold=0.7)
    assert tracker.track(image).state is State.UNCERTAIN
    tracker.settings = TrackerSettings(track_threshold=0.8, lost_threshold=0.7, lost_after_s=0)
    assert tracker.track(image).state is State.LOST
    tracker.settings = TrackerSettings()
    until(tracker, image, State.TRACKING)


@pytest.mark.parametrize("interval", [1, 2, 5])
def test_search_interval(interval, network, scene):
    """While searching only every n-th frame costs a look; while tracking every frame does."""
    tracker = Tracker(network, TrackerSettings(search_interval_frames=interval))
    tracker.start("red")
    for k in range(1, 41):
        tracker.track(scene())
        assert network.looks == (k - 1) // interval + 1
    until(tracker, scene(red=RED), State.TRACKING)
    looks = network.looks
    for k in range(1, 6):
        tracker.track(scene(red=RED))
        assert network.looks == looks + k
    lost(tracker, network, scene())
    looks = network.looks
    for k in range(1, 41):
        tracker.track(scene())
        assert network.looks == looks + (k - 1) // interval + 1


def test_search_again_by_box_looks_at_the_next_frame(network, scene):
    tracker = Tracker(network, TrackerSettings(search_interval_frames=4))
    tracker.start(image=scene(red=RED), box=RED)
    lost(tracker, network, scene())
    tracker.track(scene()), tracker.track(scene())
    tracker.search_again()
    looks = network.looks
    tracker.track(scene())
    assert network.looks == looks + 1


def test_one_look_a_frame_in_every_state(tracker, network, scene):
    """The rate holds while searching: no frame runs the network twice."""
    def step(image):
        looks = network.looks
        target = tracker.track(image)
        assert network.looks == looks + 1, target.state
        return target.state

    seen, gone = scene(red=RED), scene()
    tracker.start("red")
    states = {step(gone) for _ in range(70)}
    states |= {step(seen) for _ in range(70)}
    states |= {step(gone) for _ in range(100)}
    states |= {step(scene(red=(20, 20, 40, 30))) for _ in range(100)}
    assert states == {State.SEARCHING, State.TRACKING, State.UNCERTAIN, State.LOST}
    assert tracker.target.state is State.TRACKING


# stop, search_again, clear --------------------------------------------------------------------------------
def test_stop_forgets_the_target(tracker, network, scene):
    image = scene(red=RED)
    tracker.start("red", image=image, box=RED)
    tracker.track(image)
    assert tracker.stop() == tracker.target == Target(State.IDLE, None, 0.0, 1, "", None)
    looks = network.looks
    assert tracker.track(image).state is State.IDLE and network.looks == looks
    assert tracker.stop().state is State.IDLE
    with pytest.raises(CommandError, match="no target"):
        tracker.search_again()
    assert tracker.target.state is State.IDLE


def test_search_again_by_words(tracker, network, scene):
    image = scene(red=RED)
    tracker.start("red")
    until(tracker, image, State.TRACKING, stamp=0.0)
    seen = tracker.target.last_seen
    assert tracker.search_again() == Target(State.SEARCHING, None, 0.0, 1, "red", seen)
    until(tracker, scene(red=BLUE), State.TRACKING)
    assert overlap(tracker.target.box, BLUE) > 0.5
    assert network.texts == ["red"]                         # the words are still known


def test_search_again_by_appearance(tracker, network, scene):
    tracker.start(image=scene(red=RED), box=RED, stamp=0.0)
    assert tracker.search_again() == Target(State.SEARCHING, None, 0.0, 1, "", 0.0)
    until(tracker, scene(red=BLUE), State.TRACKING)
    assert overlap(tracker.target.box, BLUE) > 0.5
    assert network.templates == 1                           # the template is kept


@pytest.mark.parametrize("command", ["text", "box"])
def test_search_again_from_every_state(command, tracker, network, scene):
    image = scene(red=RED)
    tracker.start("red") if command == "text" else tracker.start(image=image, box=RED)
    for reach in ("start", "tracking", "lost", "again"):
        if reach in ("tracking", "lost"):
            until(tracker, image, State.TRACKING)
        if reach == "lost":
            lost(tracker, network, scene())
        assert tracker.search_again().state is State.SEARCHING and tracker.target.target_id == 1
    until(tracker, image, State.TRACKING)


def test_clear_with_words_searches_and_forgets_the_time(tracker, network, scene):
    tracker.start("red", image=scene(red=RED), box=RED, stamp=1000.0)
    tracker.track(scene(), 1000.1)
    assert tracker.clear() == Target(State.SEARCHING, None, 0.0, 1, "red", None)
    # Time begins again, earlier than before: nothing of the old clock may linger.
    until(tracker, scene(red=BLUE), State.TRACKING, stamp=3.0)
    assert tracker.target.last_seen < 60 and overlap(tracker.target.box, BLUE) > 0.5
    assert tracker.track(scene(), 61.0).state is State.UNCERTAIN


def test_clear_without_words_is_idle(tracker, scene):
    tracker.start(image=scene(red=RED), box=RED)
    assert tracker.clear() == Target(target_id=1)
    assert tracker.clear().state is State.IDLE


# what goes wrong ------------------------------------------------------------------------------------------
BAD_IMAGES = {
    "none": None, "list": [[1, 2], [3, 4]], "grey": np.zeros((20, 20), np.uint8),
    "four channels": np.zeros((20, 20, 4), np.uint8), "float": np.zeros((20, 20, 3), np.float32),
    "sixteen bit": np.zeros((20, 20, 3), np.uint16), "empty": np.zeros((0, 0, 3), np.uint8),
    "no width": np.zeros((20, 0, 3), np.uint8), "one row": np.zeros((1, 20, 3), np.uint8),
    "batch": np.zeros((1, 20, 20, 3), np.uint8)}
BAD_COMMANDS = {
    "nothing": {}, "blank": {"text": "  "}, "control": {"text": "a\x07"}, "long": {"text": "a" * 300},
    "no string": {"text": 7}, "box without image": {"box": RED},
    "both without image": {"text": "red", "box": RED}, "box outside": {"image": ..., "box": (900, 0, 10, 10)},
    "box of NaN": {"image": ..., "box": (0, 0, float("nan"), 9)},
    "three numbers": {"image": ..., "box": (1, 2, 3)}, "flat box": {"image": ..., "box": (1, 2, 0, 3)},
    "text bad, box good": {"text": "\x00", "image": ..., "box": BLUE},
    "text good, box bad": {"text": "blue", "image": ..., "box": (0, 0, -1, 5)},
    **{f"image {name}": {"image": image, "box": BLUE} for name, image in BAD_IMAGES.items()}}


def pair(network_class, scene):
    """Two trackers in the same state, to compare one that was disturbed with one that was not."""
    trackers = [Tracker(network_class()) for _ in range(2)]
    for tracker in trackers:
        tracker.start("red", image=scene(red=RED), box=RED, stamp=0.0)
        tracker.track(scene(red=RED), 0.1)
        tracker.track(scene(), 0.2)
    return trackers


def assert_same_future(one, other, scene):
    for k in range(3, 50):
        image = scene() if k < 15 else scene(red=shifted(RED, 2 * (k - 15)))
        assert one.track(image, k / 10) == other.track(image, k / 10)
    assert one.target.state is State.TRACKING


@pytest.mark.parametrize("name", BAD_COMMANDS)
def test_command_that_fails_leaves_everything_as_it_was(name, network, scene):
    one, other = pair(type(network), scene)
    before = one.target
    command = {k: scene(blue=BLUE) if v is ... else v for k, v in BAD_COMMANDS[name].items()}
    with pytest.raises(CommandError) as error:
        one.start(**command)
    assert str(error.value).isprintable() and isinstance(error.value, ValueError)
    assert one.target is before
    assert_same_future(one, other, scene)
    assert one.start("blue").target_id == 2                 # a refused command takes no number


def test_command_that_breaks_the_network_leaves_everything_as_it_was(network, scene):
    one, other = pair(type(network), scene)
    one.network.fail = True
    with pytest.raises(RuntimeError, match="out of memory"):
        one.start("blue", image=scene(blue=BLUE), box=BLUE)
    one.network.fail = False
    assert_same_future(one, other, scene)


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_image_is_refused_and_changes_nothing(name, network, scene):
    one, other = pair(type(network), scene)
    before = one.target
    for _ in range(3):
        with pytest.raises(ValueError, match="image must") as error:
            one.track(BAD_IMAGES[name], 0.25)
        assert "\n" not in str(error.value)
    assert one.target is before and one.network.looks == other.network.looks
    assert_same_future(one, other, scene)


def test_bad_image_does_not_move_the_frame_counter(network, scene):
    one, other = (Tracker(type(network)()) for _ in range(2))
    for tracker in (one, other):
        tracker.start(image=scene(red=RED), box=RED)
        tracker.track(scene())                              # unseen: the time until LOST runs
    for _ in range(20):
        with pytest.raises(ValueError, match="image must"):
            one.track(None)
    for _ in range(40):
        assert one.track(scene()) == other.track(scene())


@pytest.mark.parametrize("poison", ["score", "offset", "size"])
@pytest.mark.parametrize("settings", [
    TrackerSettings(), TrackerSettings(track_threshold=0.0, lost_threshold=0.0)], ids=["default", "zero"])
def test_output_that_is_not_finite_is_no_target(poison, settings, network, scene):
    tracker = Tracker(network, settings)
    tracker.start(image=scene(red=RED), box=RED, stamp=0.0)
    tracker.track(scene(red=RED), 0.1)
    box = tracker.target.box
    network.poison = poison
    target = tracker.track(scene(red=shifted(RED, 30)), 0.2)
    assert (target.state, target.box, target.confidence, target.last_seen) == (State.UNCERTAIN, box, 0.0, 0.1)
    until(tracker, scene(red=RED), State.LOST, stamp=0.2)
    for k in range(40):
        assert tracker.track(scene(red=RED), 3 + k / 30).state is State.LOST
    network.poison = ""
    until(tracker, scene(red=RED), State.TRACKING, stamp=5.0)

    tracker.start("red")
    network.poison = poison
    for k in range(40):
        assert tracker.track(scene(red=RED), 9 + k / 30).state is State.SEARCHING


def test_target_at_the_border_keeps_ten_pixels_inside(tracker, scene):
    start = (270, 100, 40, 30)
    tracker.start(image=scene(red=start), box=start)
    for k in range(1, 16):
        x = 270 + 3 * k
        image = scene(red=(x, 100, min(40, 320 - x), 30)) if x < 320 else scene()
        target = tracker.track(image)
        x, y, w, h = target.box
        assert x >= 0 and y >= 0 and x + w <= 320 and y + h <= 240 and w >= 10 and h >= 10


@pytest.mark.parametrize("size", [(2, 2), (5, 3), (8, 600), (601, 9)])
def test_odd_frames_are_survived(size, tracker, network, scene):
    for command in ({"text": "red"}, {"image": scene(size=size), "box": (0, 0, 2, 2)}):
        tracker.start(**command)
        for k in range(50):
            network.confidence = 0.9 if k < 20 else 0.0
            target = tracker.track(scene(size=size, red=(0, 0, 2, 2)), k / 10)
            if target.box is not None:
                x, y, w, h = target.box
                assert x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= size[0] and y + h <= size[1]


def test_frame_size_may_change_while_tracking(tracker, scene):
    tracker.start("red", image=scene(size=(640, 480), red=(500, 400, 40, 30)), box=(500, 400, 40, 30))
    for size in ((640, 480), (320, 240), (100, 80), (640, 480)):
        for _ in range(12):
            target = tracker.track(scene(size=size, red=(30, 30, 40, 30)))
            if target.state is State.TRACKING:
                x, y, w, h = target.box
                assert x + w <= size[0] and y + h <= size[1]


# how it follows -------------------------------------------------------------------------------------------
def test_size_smoothing(network, scene):
    """At full confidence and a share of one half it is the geometric mean; the centre is not smoothed."""
    for share, expected in ((0.0, (40, 30)), (0.5, (56.57, 42.43)), (1.0, (80, 60))):
        tracker = Tracker(network, following=Following(size_smoothing=share))
        tracker.start(image=scene(red=RED), box=RED)
        x, y, w, h = tracker.track(scene(red=(80, 65, 80, 60))).box
        assert (w, h) == pytest.approx(expected, abs=4)
        assert (x + w / 2, y + h / 2) == pytest.approx((120, 95), abs=2)


# the real network -----------------------------------------------------------------------------------------
def test_language_once_per_command_and_template_once_per_target(tiny, monkeypatch):
    calls = {"text": 0, "bert": 0, "words": 0, "template": 0, "track": 0, "ground": 0}

    def count(name, owner, attribute):
        original = getattr(owner, attribute)

        def counted(*args, **kwargs):
            calls[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, attribute, counted)

    count("text", tiny.text, "forward")
    count("bert", tiny.text.bert, "forward")
    count("template", tiny.backbone, "embed_template")
    count("track", tiny, "track")
    count("ground", tiny, "ground")
    for layer in tiny.saiel.values():
        count("words", layer, "words")
    frames = [np.random.default_rng(k).integers(0, 256, (90, 120, 3), np.uint8) for k in range(4)]
    tracker = Tracker(tiny, TrackerSettings(track_threshold=0.0, lost_threshold=0.0))
    for command in range(1, 4):
        tracker.start("the red mug", image=frames[0], box=(30, 30, 30, 20))
        for k in range(25):
            assert tracker.track(frames[k % 4]).state is State.TRACKING
        # Twice a command: its sentence, and none, which the box may be followed better with.
        assert calls == {"text": 2 * command, "bert": 2 * command, "words": 4 * command, "template": command,
                         "track": (25 + 2 * len(EXTENT_LOOKS)) * command, "ground": 0}
    calls.update(dict.fromkeys(calls, 0))
    tracker.settings = TrackerSettings(track_threshold=1.0, lost_threshold=0.0)
    tracker.start("the red mug")
    for k in range(60):
        assert tracker.track(frames[k % 4]).state is State.SEARCHING
    assert calls == {"text": 1, "bert": 1, "words": 2, "template": 0, "track": 0, "ground": 60}


def test_two_trackers_may_share_a_network(tiny):
    frames = [np.random.default_rng(k).integers(0, 256, (90, 120, 3), np.uint8) for k in range(6)]
    settings = TrackerSettings(track_threshold=0.0, lost_threshold=0.0)

    def started(text, box):
        tracker = Tracker(tiny, settings)
        tracker.start(text, image=frames[0], box=box)
        return tracker

    commands = (("the red mug", (20, 20, 30, 20)), ("a dog", (60, 40, 25, 30)))
    alone = [[tracker.track(frame) for frame in frames[1:]] for tracker in (started(*c) for c in commands)]
    both = [started(*c) for c in commands]
    together = [[tracker.track(frame) for tracker in both] for frame in frames[1:]]
    assert together == [list(pair) for pair in zip(*alone, strict=True)]
    assert alone[0][-1].box != alone[1][-1].box


def test_warm_up_changes_nothing(tracker, network, scene, tiny):
    tracker.start("red", image=scene(red=RED), box=RED)
    before = tracker.target
    tracker.warm_up()
    assert tracker.target is before and network.looks >= 2
    assert overlap(tracker.track(scene(red=RED)).box, RED) > 0.7
    real = Tracker(tiny)
    real.warm_up()
    assert real.target == Target()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_tracks(precision, tmp_path):
    import torch

    from vlt_ros.networks import CONFIGS, PJVLT, load_network, save_network

    torch.manual_seed(0)
    save_network(PJVLT(CONFIGS["pjvlt_tiny"]), tmp_path / "tiny.safetensors")
    network = load_network(tmp_path / "tiny.safetensors", device="cpu", precision=precision)
    tracker = Tracker(network, TrackerSettings(track_threshold=0.0, lost_threshold=0.0))
    frame = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    tracker.start("the red mug", image=frame, box=(30, 30, 30, 20))
    assert all(tracker.track(frame).state is State.TRACKING for _ in range(5))
    tracker.start("the red mug")
    assert tracker.track(frame).state is State.SEARCHING


def test_search_region_grows_while_the_target_is_not_seen_and_shrinks_when_it_is_back(network, scene, monkeypatch):
    """A target that jumps out of its region is met again without a search of the whole frame."""
    sides, right = [], Looker.looks

    def spy(self, looks):
        sides.extend(look.window.side for look in looks)
        return right(self, looks)

    monkeypatch.setattr(Looker, "looks", spy)
    tracker = Tracker(network, TrackerSettings(lost_after_s=10))
    tracker.start("red", scene(red=(100, 100, 30, 30)), (100, 100, 30, 30))
    sides.clear()
    assert tracker.track(scene(red=(101, 100, 30, 30))).state is State.TRACKING
    for _ in range(5):
        assert tracker.track(scene()).box == tracker.target.box
    assert max(sides[:2]) < 125 and sides[2] == pytest.approx(150, abs=3)
    assert sides[4] == sides[5] == pytest.approx(210, abs=4)            # no further: training saw no smaller targets
    assert tracker.track(scene(red=(185, 100, 30, 30))).state is State.TRACKING
    tracker.track(scene(red=(185, 100, 30, 30)))
    assert sides[-1] < 140


def test_box_keeps_the_extent_that_was_given(network, scene):
    """The operator's box is larger than what the network takes for the thing, and stays so as the thing moves."""
    thing, given = (100, 100, 30, 30), (94, 100, 42, 42)

    def following(share):
        tracker = Tracker(network, following=Following(extent_share=share))
        tracker.start("red", scene(red=thing), given)
        for k in range(1, 30):
            target = tracker.track(scene(red=(100 + 3 * k, 100 + k, 30, 30)))
        return overlap(target.box, (94 + 87, 100 + 29, 42, 42))

    assert following(0.0) < 0.55 < 0.85 < following(1.0)
    assert following(0.0) < following(0.6) < following(1.0)


def test_extent_of_something_else_is_not_learned(network, scene):
    """A box beside what the network sees says nothing of it."""
    tracker = Tracker(network, following=Following(extent_share=1.0))
    tracker.start("red", scene(red=(100, 100, 30, 30)), (128, 128, 30, 30))
    for _ in range(30):
        target = tracker.track(scene(red=(100, 100, 30, 30)))
    assert overlap(target.box, (100, 100, 30, 30)) > 0.8


def test_extent_is_that_of_the_boxes_it_was_measured_on():
    seen = (10.0, 20.0, 30.0, 40.0)
    assert Extent().apply(seen) == pytest.approx(seen)
    assert Extent(0.5, -0.25, np.log(2), np.log(0.5)).apply(seen) == pytest.approx((10, 20, 60, 20))


# recognition ------------------------------------------------------------------------------------------------
@pytest.fixture
def recognised(network, monkeypatch):
    """A network that recognises: the list's last value is the probability, whatever the head says."""
    said = [0.9]
    network.config.recognition = 4
    looks = Looker.looks

    def told(self, wanted):
        return [seen if look.template is None else seen._replace(confidence=said[-1])
                for look, seen in zip(wanted, looks(self, wanted), strict=True)]

    monkeypatch.setattr(Looker, "looks", told)
    monkeypatch.setattr(Looker, "template", lambda self, image, box: Template(
        self.network.encode_template(self._tensor(image, window_around(box, 2.0), 32)), None))
    return said


def test_a_doubted_target_is_followed_and_then_lost_where_it_was_believed(recognised, network, scene):
    tracker = Tracker(network, TrackerSettings(lost_after_s=0.1))
    tracker.start(image=scene(red=RED), box=RED, stamp=0.0)
    for k in range(1, 6):
        trusted = tracker.track(scene(red=RED), k / 10)
    assert trusted.state is State.TRACKING and trusted.last_seen == 0.5
    recognised.append(0.01)
    states, boxes = [], []
    for k in range(6, 14):
        target = tracker.track(scene(red=shifted(RED, 3 * (k - 5))), k / 10)
        states.append(target.state)
        boxes.append(target.box)
        assert target.last_seen == (0.5 if target.state is not State.TRACKING else target.last_seen)
    assert State.UNCERTAIN in states and states[-1] is State.LOST
    moved = [box for box in boxes if box is not None]
    assert moved[-1][0] > trusted.box[0] + 4, "what looks right is followed while it is doubted"
    assert tracker._search.last[0] < moved[-1][0], "and looked for where it was last believed"


@pytest.mark.parametrize("same, frames", [(0.99, 18), (0.1, 6)])
def test_doubt_is_shorter_once_another_thing_is_followed(recognised, network, scene, monkeypatch, same, frames):
    """Three times as long while it is one thing from frame to frame: the target may have turned."""
    told = [0.99]
    monkeypatch.setattr(Looker, "continues", lambda self, before, sighting: told[-1])
    tracker = Tracker(network, TrackerSettings(lost_after_s=0.2))
    tracker.start(image=scene(red=RED), box=RED, stamp=0.0)

    def lost_after(first):
        states = [tracker.track(scene(red=RED), k / 30).state for k in range(first, first + 60)]
        return states.index(State.LOST) - states.index(State.UNCERTAIN)

    def track(first, count):
        return [tracker.track(scene(red=RED), k / 30).state for k in range(first, first + count)]

    assert set(track(1, 5)) == {State.TRACKING}
    recognised.append(0.01)
    track(6, 3)
    told.append(same)
    track(9, 1)
    told.append(0.99)
    recognised.append(0.99)
    assert track(10, 12)[-1] is State.TRACKING, "trusted again: what changed before is forgotten"
    recognised.append(0.01)
    told.append(same)
    assert lost_after(22) in (frames - 1, frames, frames + 1)


def test_one_misleading_frame_is_outvoted(recognised, network, scene):
    tracker = Tracker(network)
    tracker.start(image=scene(red=RED), box=RED, stamp=0.0)
    for k in range(1, 10):
        recognised.append(0.99)
        tracker.track(scene(red=RED), k / 30)
    recognised.append(0.05)
    once = tracker.track(scene(red=RED), 10 / 30)
    assert once.state is State.TRACKING and 0.6 < once.confidence < 0.99
    confidences = [tracker.track(scene(red=RED), k / 30).confidence for k in range(11, 25)]
    assert confidences == sorted(confidences, reverse=True) and confidences[-1] < 0.1, "many are believed"
