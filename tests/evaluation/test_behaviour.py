# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from vlt_ros.evaluation.behaviour import behaviour, summary

TARGET, NEAR, OTHER = (50, 50, 20, 20), (50, 50, 20, 8), (200, 50, 20, 20)


def measured(frames, absent=(), ids=None, interval=0.5):
    """frames: what was reported, None for nothing; the target stands still."""
    boxes = np.array([TARGET if f is None else f for f in frames], float)      # a held box must not count
    present = np.array([f is not None for f in frames])
    gone = np.isin(np.arange(len(frames)), absent)
    return behaviour(boxes, present, np.array([TARGET] * len(frames), float), gone,
                     interval * np.arange(len(frames)), None if ids is None else np.array(ids))


def test_first_lock_and_wrong_locks():
    one = measured([None, OTHER, OTHER, NEAR, TARGET, TARGET])
    assert one.first_lock_s == 2.0
    assert (one.wrong, one.reported) == (2, 5), "an overlap of 0.4 is neither on the target nor on something else"
    never = measured([None, OTHER])
    assert never.first_lock_s is None and never.reacquired_s == () and never.lost_for_good == 0
    assert summary([one, never])["first_lock_s"] == 2.0 and summary([one, never])["never_locked"] == 1
    assert summary([one, never])["wrong_lock_rate"] == pytest.approx(3 / 6)


def test_false_presence_counts_absent_frames_only():
    one = measured([TARGET, TARGET, TARGET, None, TARGET], absent=[2, 3])
    assert (one.false_present, one.absent) == (1, 2)
    assert summary([one])["false_present_rate"] == 0.5
    assert summary([measured([TARGET])])["false_present_rate"] is None


def test_reacquisition_runs_from_the_targets_return():
    one = measured([TARGET, TARGET, None, None, None, None, TARGET], absent=[2, 3])
    assert one.reacquired_s == (1.0,), "visible from frame 4, found in frame 6"
    assert measured([TARGET, None, TARGET], absent=[1]).reacquired_s == (0.0,)
    assert measured([TARGET, OTHER, OTHER, TARGET]).reacquired_s == (1.0,), "lost in sight, from frame 1"
    assert measured([TARGET, OTHER, None, None, TARGET], absent=[2]).reacquired_s == (0.5,), "the last coming into view"
    lost = measured([TARGET, None, None])
    assert lost.reacquired_s == () and lost.lost_for_good == 1
    assert measured([TARGET, None], absent=[1]).lost_for_good == 0, "it never came back"
    assert measured([TARGET, NEAR, NEAR, TARGET]).reacquired_s == (), "a poor box is not a loss"
    told = summary([one, lost])
    assert (told["reacquisition_s"], told["reacquired"], told["lost_for_good"]) == (1.0, 1, 1)


def test_id_stability():
    one = measured([TARGET] * 4, ids=[7, 7, 8, 7])
    assert summary([one])["id_stability"] == 0.75
    assert summary([measured([TARGET] * 4)])["id_stability"] is None


def states(text):
    return np.array([{"T": "TRACKING", "U": "UNCERTAIN", "L": "LOST"}[letter] for letter in text])


def told(text, absent, on=None):
    """States by their letters, two frames a second; a box wherever one goes with the state, on the target."""
    boxes = np.array([TARGET] * len(text), float)
    boxes[[i for i in range(len(text)) if on is not None and i not in on]] = OTHER
    gone = np.isin(np.arange(len(text)), absent)
    return behaviour(boxes, np.array([letter != "L" for letter in text]), np.array([TARGET] * len(text), float), gone,
                     0.5 * np.arange(len(text)), None, states(text))


def test_a_target_that_leaves_is_to_be_lost_and_found_in_time():
    one = told("TTUULLLLTT", absent=[2, 3, 4, 5])
    assert [(a.lost_s, a.back_s) for a in one.absences] == [(1.0, 1.0)] and one.false_tracking == 0
    late = told("TTTUULLLLLLLTT", absent=[2, 3, 4, 5])
    assert [(a.lost_s, a.back_s) for a in late.absences] == [(1.5, 3.0)] and late.false_tracking == 1
    both = summary([one, late])
    assert (both["absences"], both["lost_in_time"], both["back_in_time"]) == (2, 0.5, 0.5)
    assert (both["lost_s"], both["back_s"], both["false_tracking_rate"]) == (1.25, 2.0, 0.125)


def test_which_absences_count():
    assert told("TUUT", absent=[1, 2]).absences == (), "no longer than the time there is to say so"
    assert told("LLLLTT", absent=[0, 1, 2, 3]).absences == (), "nothing was followed before"
    never = told("TTTTTT", absent=[1, 2, 3])
    assert [(a.lost_s, a.back_s) for a in never.absences] == [(None, 0.0)] and never.false_tracking == 3
    assert summary([never])["lost_in_time"] == 0.0
    elsewhere = told("TLLLLTTTTTTT", absent=[1, 2, 3, 4], on=[0, 10, 11])
    assert [a.back_s for a in elsewhere.absences] == [2.5], "TRACKING on something else is not back"
    cut = told("TLLLLLL", absent=[1, 2, 3, 4])
    assert summary([cut])["back_in_time"] is None and summary([cut])["absences"] == 1, "too short to come back"
    assert summary([measured([TARGET])])["false_tracking_rate"] is None
