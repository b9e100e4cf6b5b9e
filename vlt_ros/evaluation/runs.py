# SPDX-License-Identifier: Apache-2.0
"""One tracker on one sequence: following it, and keeping what came out on disk.

What counts as a prediction: a benchmark's tracker reports a box for every frame, so in a frame where ours
says LOST or SEARCHING the last box that it reported stands as its prediction (none before its first box: IoU
0). ``present`` says in which frames it did report one. Frame 0 of a start by box is the given box; frame 0 of a
start by text alone is the tracker's own output and never the ground truth.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vlt_ros.evaluation.metrics import has_area
from vlt_ros.evaluation.sequences import Sequence, SequenceError, read_boxes
from vlt_ros.media import make_folder

if TYPE_CHECKING:
    from vlt_ros.tracker import Tracker

# Sequences carry no times; the tracker's clock serves its time-outs and the times in reports.
FPS = 30.0
# Of the boxes that are kept, in pixels: what is scored is exactly what the result files say.
DECIMALS = 4
# What only some trackers say, of each frame.
SAID = ("ids", "confidences", "states")


@dataclass(frozen=True)
class Run:
    """One sequence's predictions.

    boxes: (T, 4) x, y, w, h in pixels, NaN before the first box. present: (T,) bool, a box was reported in
    this frame. ids: (T,) target ids, None where the tracker has none. seconds: time inside ``Tracker.track``, which
    was called ``calls`` times. confidences: (T,) in [0, 1], and states: (T,) names such as TRACKING; None where the
    tracker says neither.
    """

    boxes: np.ndarray
    present: np.ndarray
    ids: np.ndarray | None = None
    seconds: float = 0.0
    calls: int = 0
    confidences: np.ndarray | None = None
    states: np.ndarray | None = None


def run_sequence(tracker: Tracker, sequence: Sequence, start: str, text: str, progress=None) -> Run:
    """Follow one sequence's target from frame 0 to its end.

    Args:
        tracker: started anew here. start: box, text or both. text: the sentence given ('' with box).
        progress: called after every frame.

    Raises:
        SequenceError: the first box cannot be started from, or an image cannot be read.
    """
    from vlt_ros.tracker import CommandError

    boxes, present = np.full((len(sequence), 4), np.nan), np.zeros(len(sequence), bool)
    ids, confidences, states = np.zeros(len(sequence), int), np.zeros(len(sequence)), [""] * len(sequence)
    seconds, calls = 0.0, 0
    for index, image in enumerate(sequence.images()):
        stamp = index / FPS
        if index == 0 and start != "text":
            box = tuple(float(v) for v in sequence.boxes[0])
            try:
                target = tracker.start(text, image=image, box=box, stamp=stamp)
            except CommandError as error:
                raise SequenceError(f"{sequence.truth} line 1: {error}") from error
            reported = box
        else:
            if index == 0:
                tracker.start(text, stamp=stamp)
            began = time.perf_counter()
            target = tracker.track(image, stamp)
            seconds += time.perf_counter() - began
            calls += 1
            reported = target.box
        ids[index] = getattr(target, "target_id", 0)
        if hasattr(target, "state"):
            confidences[index], states[index] = round(target.confidence, DECIMALS), target.state.name
        if reported is not None:
            boxes[index], present[index] = np.round(reported, DECIMALS), True
        elif index:
            boxes[index] = boxes[index - 1]
        if progress is not None:
            progress()
    says = any(states)
    return Run(boxes, present, ids, seconds, calls, confidences if says else None, np.array(states) if says else None)


def read_results(file: Path, sequence: Sequence) -> Run:
    """A result file, one box a line, as published raw results are; a box without area says "not there".

    Raises:
        SequenceError: it is missing or malformed, or has not one line for each frame. The last frames of LaSOT's
            monkey-17, which some trackers report and its toolkit cuts, are cut.
    """
    boxes = read_boxes(file)
    if sequence.name == "monkey-17" and len(boxes) > len(sequence):
        boxes = boxes[:len(sequence)]
    if len(boxes) != len(sequence):
        raise SequenceError(f"{file} has {len(boxes)} lines but {sequence.truth} has {len(sequence)}; "
                            "results need one box for each frame")
    return Run(boxes, has_area(boxes))


def save_run(run: Run, boxes_file: Path, facts_file: Path, key: dict) -> None:
    """Keep a finished run: its boxes as a result file, everything else and ``key``, what was run, beside it.

    Killed at any moment, this leaves a whole run or none.
    """
    make_folder(boxes_file.parent)
    make_folder(facts_file.parent)
    facts_file.unlink(missing_ok=True)
    # As trackers' result files are: without area before the first box.
    lines = [",".join(f"{value:.{DECIMALS}f}" for value in box) for box in np.nan_to_num(run.boxes, nan=0.0)]
    facts = {"key": key, "present": run.present.astype(int).tolist(), "seconds": run.seconds, "calls": run.calls,
             **{name: None if (values := getattr(run, name)) is None else values.tolist() for name in SAID}}
    for file, text in ((boxes_file, "\n".join(lines)), (facts_file, json.dumps(facts, ensure_ascii=False))):
        partial = file.with_name(file.name + ".partial")
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(file)


def load_run(boxes_file: Path, facts_file: Path, key: dict) -> Run | None:
    """The run of exactly this ``key``, None where there is no such one or its files are damaged."""
    try:
        facts = json.loads(facts_file.read_text(encoding="utf-8"))
        if facts["key"] != json.loads(json.dumps(key)):
            return None
        boxes, present = read_boxes(boxes_file), np.array(facts["present"], bool)
        if len(boxes) != len(present) or len(boxes) != key["frames"]:
            return None
        boxes[~has_area(boxes)] = np.nan
        said = {name: None if facts[name] is None else np.array(facts[name]) for name in SAID}
        if any(values is not None and len(values) != len(boxes) for values in said.values()):
            return None
        return Run(boxes, present, seconds=float(facts["seconds"]), calls=int(facts["calls"]), **said)
    except (OSError, ValueError, KeyError, TypeError, SequenceError):
        return None


def sequence_key(sequence: Sequence) -> dict:
    """What tells a sequence from another version of it: its boxes, and the ends of its media."""
    from vlt_ros.media.sources import list_images

    ends = []
    for media in sequence.shown():
        if media.is_dir():
            files = list_images(media)
            ends += [files[0].read_bytes(), files[-1].read_bytes()]
        else:
            with open(media, "rb") as film:
                ends += [film.read(1 << 16), str(media.stat().st_size).encode()]
    return {"sequence": sequence.name, "frames": len(sequence),
            "data": hashlib.sha256(b"".join([sequence.boxes.tobytes(), *ends])).hexdigest()}


def code_digest() -> str:
    """Hash of the code that makes predictions: a run by other code is another run."""
    package = Path(__file__).resolve().parents[1]
    files = sorted(f for part in ("networks", "tracker") for f in (package / part).glob("*.py"))
    files += [Path(__file__).resolve(), Path(__file__).resolve().with_name("peers.py")]
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()
