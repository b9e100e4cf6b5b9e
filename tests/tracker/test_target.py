# SPDX-License-Identifier: Apache-2.0
import dataclasses
import math

import pytest

from vlt_ros.tracker import State, Target, TrackerSettings


def test_states_have_the_messages_numbers():
    names = ["IDLE", "SEARCHING", "TRACKING", "UNCERTAIN", "LOST"]
    assert [(s.name, int(s)) for s in State] == list(zip(names, range(5), strict=True))


def test_defaults():
    settings = TrackerSettings()
    assert (settings.track_threshold, settings.lost_threshold, settings.lost_after_s) == (0.45, 0.35, 0.6)
    assert settings.reacquire is True and settings.search_interval_frames == 1


@pytest.mark.parametrize("changes", [
    {"track_threshold": 0, "lost_threshold": 0}, {"track_threshold": 1, "lost_threshold": 1},
    {"lost_after_s": 0}, {"lost_after_s": 1e6}, {"search_interval_frames": 100}, {"track_threshold": 0.35}])
def test_settings_within_their_ranges(changes):
    assert dataclasses.replace(TrackerSettings(), **changes)


@pytest.mark.parametrize("changes, words", [
    ({"track_threshold": 1.1}, "1.1"), ({"lost_threshold": -0.1}, "-0.1"), ({"track_threshold": 0.2}, "0.35"),
    ({"track_threshold": math.nan}, "nan"), ({"lost_threshold": math.nan}, "nan"),
    ({"lost_after_s": -1}, "-1"), ({"lost_after_s": math.nan}, "nan"), ({"lost_after_s": math.inf}, "inf"),
    ({"search_interval_frames": 0}, "0"), ({"search_interval_frames": -3}, "-3")])
def test_settings_out_of_range(changes, words):
    with pytest.raises(ValueError, match=next(iter(changes))) as error:
        dataclasses.replace(TrackerSettings(), **changes)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_settings_and_targets_do_not_change():
    for thing in (TrackerSettings(), Target()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            thing.confidence = 1


@pytest.mark.parametrize("state", list(State))
def test_box_belongs_to_tracking_and_uncertain(state):
    box = (1.0, 2.0, 3.0, 4.0)
    with_box = state in (State.TRACKING, State.UNCERTAIN)
    assert Target(state, box if with_box else None).state is state
    with pytest.raises(ValueError, match=state.name):
        Target(state, None if with_box else box)
