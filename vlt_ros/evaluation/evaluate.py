# SPDX-License-Identifier: Apache-2.0
"""One-pass evaluation: the tracker, started once, over whole sequences.

What counts as a prediction: a benchmark's tracker reports a box for every frame, so in a frame where ours
says LOST or SEARCHING the last box that it reported stands as its prediction (none before its first box: IoU
0). ``present_fraction`` says in how many frames it did report one. Frame 0 of a start by box is the given
box; frame 0 of a start by text alone is the tracker's own output and never the ground truth.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vlt_ros.evaluation.metrics import PROTOCOL, score
from vlt_ros.evaluation.sequences import Sequence, SequenceError, read_sequences
from vlt_ros.media import make_folder

if TYPE_CHECKING:
    from vlt_ros.tracker import Tracker

STARTS = ("box", "text", "both")
PHRASES = ("right", "wrong", "none")
# Sequences carry no times; the tracker's clock only serves its time-outs.
FPS = 30.0


class EvaluationError(ValueError):
    """What was asked cannot be evaluated; the message says why and what to do."""


@dataclass(frozen=True)
class Run:
    """One sequence's predictions.

    boxes: (T, 4) x, y, w, h in pixels, NaN before the first box. present: (T,) bool, a box was reported in
    this frame. seconds: time inside ``Tracker.track``, which was called ``calls`` times.
    """

    boxes: np.ndarray
    present: np.ndarray
    seconds: float
    calls: int


def run_sequence(tracker: Tracker, sequence: Sequence, start: str, text: str, progress=None) -> Run:
    """Follow one sequence's target from frame 0 to its end.

    Args:
        tracker: started anew here. start: box, text or both. text: the sentence given ('' with box).
        progress: called after every frame.
    """
    from vlt_ros.tracker import CommandError

    boxes, present = np.full((len(sequence), 4), np.nan), np.zeros(len(sequence), bool)
    seconds, calls = 0.0, 0
    for index, image in enumerate(sequence.images()):
        stamp = index / FPS
        if index == 0 and start != "text":
            box = tuple(float(v) for v in sequence.boxes[0])
            try:
                tracker.start(text, image=image, box=box, stamp=stamp)
            except CommandError as error:
                raise SequenceError(f"{sequence.folder / 'groundtruth.txt'} line 1: {error}") from error
            reported = box
        else:
            if index == 0:
                tracker.start(text, stamp=stamp)
            began = time.perf_counter()
            reported = tracker.track(image, stamp).box
            seconds += time.perf_counter() - began
            calls += 1
        if reported is not None:
            boxes[index], present[index] = reported, True
        elif index:
            boxes[index] = boxes[index - 1]
        if progress is not None:
            progress()
    return Run(boxes, present, seconds, calls)


def phrases_for(sequences: list[Sequence], start: str, phrase: str) -> list[str]:
    """The sentence that each sequence's tracker is given.

    ``right`` is its own, ``wrong`` that of the next sequence in order (the last one takes the first's),
    ``none`` is empty.

    Raises:
        EvaluationError: the combination makes no sense. SequenceError: a sentence is missing.
    """
    if start not in STARTS or phrase not in PHRASES:
        raise EvaluationError(f"start {start!r} with phrase {phrase!r} is unknown; start is one of "
                              f"{', '.join(STARTS)}, phrase one of {', '.join(PHRASES)}")
    if start == "box":
        if phrase != "right":
            raise EvaluationError(f"--phrase {phrase} has no meaning with --start box, which gives no "
                                  "sentence; use --start both or text")
        return [""] * len(sequences)
    if phrase == "none":
        if start == "text":
            raise EvaluationError("--phrase none leaves --start text with nothing to start from; "
                                  "use --start both")
        return [""] * len(sequences)
    for sequence in sequences:
        if not sequence.text:
            raise SequenceError(f"{sequence.folder / 'language.txt'} is missing or empty; "
                                "write the target's sentence there or use --start box")
    texts = [sequence.text for sequence in sequences]
    if phrase == "wrong":
        if len(set(texts)) < 2:
            raise EvaluationError("--phrase wrong takes the sentence of another sequence; give at least two "
                                  "sequences with different sentences")
        texts = texts[1:] + texts[:1]
    return texts


def evaluate(root: str | Path, out: str | Path, *, start: str = "box", phrase: str = "right",
             weights: str | Path | None = None, model: str | None = None, device: str = "auto",
             precision: str = "auto", progress: bool = True) -> dict:
    """Run the tracker over all sequences below ``root`` and write ``out``/report.json and ``out``/NAME.txt.

    Args:
        root: folder of sequences, see :mod:`vlt_ros.evaluation.sequences`. out: folder for results.
        start: box, text or both. phrase: which sentence, see :func:`phrases_for`.
        weights, model, device, precision: as for :func:`vlt_ros.networks.load_network`.
        progress: show a progress bar on stderr.

    Returns:
        The report. Scores are in [0, 1], means over sequences; ``fps`` is frames over the time spent inside
        ``Tracker.track``: reading and decoding images, loading and warming up, and the start's own work are
        not in it. Values without a meaning (a sequence whose target is never there) are None.

    Raises:
        SequenceError, EvaluationError, MediaError, WeightsError, DeviceError: each with one clear line.
    """
    sequences = read_sequences(root)
    texts = phrases_for(sequences, start, phrase)
    if start != "text":
        for sequence in sequences:
            if sequence.absent[0]:
                raise SequenceError(f"{sequence.folder / 'groundtruth.txt'} line 1: the target is absent, so "
                                    "there is no box to start from; "
                                    "use --start text or leave the sequence out")
    out = make_folder(out)

    from tqdm import tqdm

    from vlt_ros.networks import load_network
    from vlt_ros.tracker import Tracker

    network = load_network(weights, model=model, device=device, precision=precision)
    tracker = Tracker(network)
    tracker.warm_up()
    per_sequence: dict[str, dict] = {}
    seconds = calls = 0
    with tqdm(total=sum(map(len, sequences)), unit="frame", disable=not progress) as bar:
        for sequence, text in zip(sequences, texts, strict=True):
            bar.set_description(sequence.name)
            run = run_sequence(tracker, sequence, start, text, bar.update)
            # As trackers' result files are: one x,y,w,h a line; without area before the first box.
            lines = np.nan_to_num(run.boxes, nan=0.0)
            np.savetxt(out / f"{sequence.name}.txt", lines, fmt="%.2f", delimiter=",")
            scores = score(run.boxes, sequence.boxes, sequence.absent)
            per_sequence[sequence.name] = {
                "auc": _number(scores.auc), "sr50": _number(scores.sr50),
                "precision": _number(scores.precision),
                "fps": _number(_rate(run.calls, run.seconds), 2), "frames": len(sequence),
                "scored_frames": scores.frames, "present_fraction": _number(run.present.mean()), "text": text,
            }
            seconds, calls = seconds + run.seconds, calls + run.calls
    report = {key: _mean([entry[key] for entry in per_sequence.values()])
              for key in ("auc", "sr50", "precision", "present_fraction")}
    report |= {"fps": _number(_rate(calls, seconds), 2), "start": start, "phrase": phrase,
               "protocol": PROTOCOL, "model": network.name, "weights": str(weights) if weights else "shipped",
               "device": str(network.device), "arithmetic": network.precision, "per_sequence": per_sequence}
    write_report(out, report)
    return report


def table(report: dict) -> str:
    """The report as lines of text: one sequence each, and the means."""
    names = [*report["per_sequence"], "mean"]
    width = max(len("sequence"), *map(len, names))
    columns = ("auc", "sr50", "precision", "present_fraction", "fps")
    heads = ("AUC", "SR0.5", "P@20px", "present", "FPS")
    lines = [f"{'sequence':{width}}  frames" + "".join(f"  {head:>7}" for head in heads)]
    frames = sum(entry["frames"] for entry in report["per_sequence"].values())
    for name, entry in [*report["per_sequence"].items(), ("mean", report | {"frames": frames})]:
        values = [entry[column] for column in columns]
        cells = ["-" if value is None else f"{value:.1f}" if column == "fps" else f"{value:.3f}"
                 for column, value in zip(columns, values, strict=True)]
        lines.append(f"{name:{width}}  {entry['frames']:6d}" + "".join(f"  {cell:>7}" for cell in cells))
    return "\n".join(lines)


def write_report(folder: Path, report: dict) -> None:
    """Write folder/report.json, whole or not at all."""
    partial = folder / "report.json.partial"
    partial.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(folder / "report.json")


def _rate(calls: int, seconds: float) -> float:
    return calls / seconds if seconds > 0 else float("nan")


def _number(value: float, digits: int = 4) -> float | None:
    return round(float(value), digits) if math.isfinite(value) else None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _number(sum(known) / len(known)) if known else None
