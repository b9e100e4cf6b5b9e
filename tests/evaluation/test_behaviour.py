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
