# SPDX-License-Identifier: Apache-2.0
"""How a tracker behaves that is told by words: when it finds its target, what else it takes for it, and afterwards.

Benchmarks' curves do not see whether a tracker said "not there". These measures are this project's own:
:data:`DEFINITIONS` says what they are, here and in reports.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vlt_ros.evaluation.metrics import overlaps

ON_TARGET, ON_SOMETHING_ELSE = 0.5, 0.1
LOST_WITHIN_S, BACK_WITHIN_S = 1.0, 2.0
DEFINITIONS = (
    f"On the target: a frame with the target and a reported box that overlaps it by more than {ON_TARGET} (IoU). "
    f"On something else: a frame with the target and a reported box that overlaps it by less than {ON_SOMETHING_ELSE}.",
    "First lock: time from frame 0 to the first frame on the target.",
    "Wrong lock: frames on something else among those with the target and a reported box.",
    "False present: frames with a reported box among those without the target.",
    "Re-acquisition: after a first lock the target is lost when it leaves, when no box is reported or when the box is "
    "on something else; the time runs from the target's (last) coming into view until the next frame on the target.",
    "False tracking: frames in TRACKING among those without the target.",
    f"LOST in time: absences in which LOST was said at most {LOST_WITHIN_S:g} s after the target left, among those "
    "that are longer and begin after a first lock.",
    f"Back in time: of the same absences, those after which TRACKING was said on the target at most "
    f"{BACK_WITHIN_S:g} s after it came back, among those with as much time left.",
    "Id stability: frames with the first lock's target id among all frames on the target.",
)


@dataclass(frozen=True)
class Absence:
    """What was said of one. lost_s: from the target's leaving to LOST. back_s: from its return to TRACKING on it; both
    None where that was not said. left_s: from its return to the sequence's end.
    """

    lost_s: float | None
    back_s: float | None
    left_s: float

    @property
    def may_come_back(self) -> bool:
        """Whether there was time for that."""
        return self.back_s is not None or self.left_s >= BACK_WITHIN_S


@dataclass(frozen=True)
class Behaviour:
    """Counts of one sequence, in frames unless they say seconds.

    first_lock_s: None without any. wrong of reported: boxes on something else among boxes while the target is there.
    false_present of absent. reacquired_s: one for each loss that ended. lost_for_good: 1 when a visible target was
    not found again by the end. same_id of locked: None without ids. absences: those that are to be noticed, and
    false_tracking: TRACKING of absent; none and None without states.
    """

    first_lock_s: float | None
    wrong: int
    reported: int
    false_present: int
    absent: int
    reacquired_s: tuple[float, ...]
    lost_for_good: int
    same_id: int | None
    locked: int
    absences: tuple[Absence, ...] = ()
    false_tracking: int | None = None


def behaviour(boxes: np.ndarray, present: np.ndarray, truth: np.ndarray, absent: np.ndarray, stamps: np.ndarray,
              ids: np.ndarray | None = None, states: np.ndarray | None = None) -> Behaviour:
    """Measure one sequence.

    Args:
        boxes: (T, 4) x, y, w, h in pixels. present: (T,) bool, the tracker reported this box in this frame.
        truth: (T, 4). absent: (T,) bool, frames without the target. stamps: (T,) seconds.
        ids: (T,) target ids, and states: (T,) names of states, where the tracker has any.
    """
    iou = overlaps(boxes, truth)
    there = ~np.asarray(absent, bool)
    on_target = there & present & (iou > ON_TARGET)
    elsewhere = there & present & (iou < ON_SOMETHING_ELSE)
    locks = np.flatnonzero(on_target)
    first = int(locks[0]) if len(locks) else len(iou)
    reacquired, lost, since = [], False, None
    for index in range(first + 1, len(iou)):
        if not lost:
            lost = not there[index] or not present[index] or bool(elsewhere[index])
            since = None
        if not lost:
            continue
        if not there[index]:
            since = None
        elif since is None:
            since = index
        if on_target[index]:
            reacquired.append(float(stamps[index] - stamps[since]))
            lost = False
    return Behaviour(
        first_lock_s=float(stamps[first] - stamps[0]) if len(locks) else None,
        wrong=int(elsewhere.sum()), reported=int((there & present).sum()),
        false_present=int((~there & present).sum()), absent=int((~there).sum()),
        reacquired_s=tuple(reacquired), lost_for_good=int(lost and since is not None),
        same_id=None if ids is None else int((ids[locks] == ids[locks[0]]).sum()) if len(locks) else 0,
        locked=len(locks),
        absences=() if states is None else tuple(_absences(there, on_target, first, stamps, states)),
        false_tracking=None if states is None else int((~there & (states == "TRACKING")).sum()))


def _absences(there: np.ndarray, on_target: np.ndarray, first: int, stamps: np.ndarray,
              states: np.ndarray) -> Iterator[Absence]:
    for left, back in spans(~there):
        end = float(stamps[min(back, len(stamps) - 1)])
        if left <= first or end - stamps[left] <= LOST_WITHIN_S:
            continue
        lost = np.flatnonzero(states[left:back] == "LOST")
        again = np.flatnonzero(on_target[back:] & (states[back:] == "TRACKING"))
        yield Absence(float(stamps[left + lost[0]] - stamps[left]) if len(lost) else None,
                      float(stamps[back + again[0]] - stamps[back]) if len(again) else None,
                      float(stamps[-1] - end) if back < len(stamps) else 0.0)


def spans(flags: np.ndarray) -> list[tuple[int, int]]:
    """First and one past the last index of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], np.asarray(flags).astype(int), [0]))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def summary(all_of: Sequence[Behaviour]) -> dict:
    """One or more sequences' behaviour as numbers; rates are over the frames of all, None where nothing counts.

    Returns:
        first_lock_s (median of the sequences that locked), never_locked (sequences), wrong_lock_rate,
        false_present_rate, reacquisition_s (mean), reacquired and lost_for_good (losses), id_stability;
        false_tracking_rate; absences, lost_s (median of those said), lost_in_time, back_s (median), back_in_time.
    """
    locks = [one.first_lock_s for one in all_of if one.first_lock_s is not None]
    returns = [seconds for one in all_of for seconds in one.reacquired_s]
    absences = [absence for one in all_of for absence in one.absences]
    with_states = [one for one in all_of if one.false_tracking is not None]
    may_come_back = [absence for absence in absences if absence.may_come_back]
    lost = [absence.lost_s for absence in absences if absence.lost_s is not None]
    back = [absence.back_s for absence in absences if absence.back_s is not None]
    with_ids = [one for one in all_of if one.same_id is not None]

    def rate(part: int, whole: int) -> float | None:
        return round(part / whole, 6) if whole else None

    return {
        "first_lock_s": round(float(np.median(locks)), 4) if locks else None,
        "never_locked": len(all_of) - len(locks),
        "wrong_lock_rate": rate(sum(one.wrong for one in all_of), sum(one.reported for one in all_of)),
        "false_present_rate": rate(sum(one.false_present for one in all_of), sum(one.absent for one in all_of)),
        "reacquisition_s": round(float(np.mean(returns)), 4) if returns else None,
        "reacquired": len(returns),
        "lost_for_good": sum(one.lost_for_good for one in all_of),
        "id_stability": rate(sum(one.same_id for one in with_ids), sum(one.locked for one in with_ids)),
        "false_tracking_rate": rate(sum(one.false_tracking for one in with_states),
                                    sum(one.absent for one in with_states)),
        "absences": len(absences),
        "lost_s": round(float(np.median(lost)), 4) if lost else None,
        "lost_in_time": rate(sum(seconds <= LOST_WITHIN_S for seconds in lost), len(absences)),
        "back_s": round(float(np.median(back)), 4) if back else None,
        "back_in_time": rate(sum(seconds <= BACK_WITHIN_S for seconds in back), len(may_come_back)),
    }
