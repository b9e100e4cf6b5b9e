# SPDX-License-Identifier: Apache-2.0
"""Runs against ground truth as numbers: one dictionary, which becomes report.json and the page beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vlt_ros.evaluation.behaviour import behaviour
from vlt_ros.evaluation.behaviour import summary as summarise
from vlt_ros.evaluation.metrics import NORM_PRECISION_THRESHOLDS, PRECISION_THRESHOLDS, overlaps
from vlt_ros.evaluation.protocols import CONVENTIONS, METRICS, Protocol, Scores
from vlt_ros.evaluation.runs import FPS, Run
from vlt_ros.evaluation.sequences import Sequence as Video

DIGITS = 6
FRAME_0 = {"own": "the tracker's own box", "truth": "the true box, whatever the tracker said", "out": "left out"}


def assess(sequences: Sequence[Video], runs: Mapping[str, Run], protocol: Protocol, frame_0: str | None = None,
           stamps: Mapping[str, np.ndarray] | None = None) -> dict:
    """One tracker's numbers over all sequences.

    Args:
        sequences: what was to be followed. runs: by the sequences' names.
        protocol: its rules. frame_0: "own" or "truth" in place of the protocol's; both are reported.
        stamps: times of the frames in seconds by name; without, 30 frames a second.

    Returns:
        the metrics by :data:`METRICS`' names, present_fraction, fps, frame_0 {used, own, truth}, variants, behaviour,
        calibration, curves, attributes and per_sequence. Values without a meaning are None.

    Raises:
        SequenceError, EvaluationError: the protocol needs images' sizes that are not there, or attributes do not fit.
    """
    frame_0 = protocol.frame_0 if protocol.frame_0 == "out" else frame_0 or protocol.frame_0
    sizes = {one.name: one.size() if protocol.clips else None for one in sequences}

    def scores(rules: Protocol, convention: str | None) -> list[Scores]:
        return [rules.score(runs[one.name].boxes, one.boxes, one.absent, sizes[one.name], convention)
                for one in sequences]

    used = scores(protocol, frame_0)
    behaviours = [behaviour(runs[one.name].boxes, runs[one.name].present, one.boxes, one.absent,
                            np.arange(len(one)) / FPS if stamps is None else stamps[one.name], runs[one.name].ids,
                            runs[one.name].states)
                  for one in sequences]
    tags = [protocol.attribute_names(*one.attributes) if one.attributes else [] for one in sequences]
    per_sequence = {}
    for one, score, acts, names in zip(sequences, used, behaviours, tags, strict=True):
        run = runs[one.name]
        per_sequence[one.name] = values(score) | {
            "fps": number(_rate([run]), 2), "frames": len(one), "scored_frames": score.frames,
            "present_fraction": number(run.present.mean()), "behaviour": summarise([acts]), "attributes": names}
    total = protocol.overall(used, frame_0)
    return values(total) | {
        "present_fraction": number(np.mean([runs[one.name].present.mean() for one in sequences])),
        "fps": number(_rate(list(runs.values())), 2),
        "frame_0": {"used": frame_0} | {
            way: values(protocol.overall(scores(protocol, way), way)) for way in CONVENTIONS},
        "variants": {what: values(rules.overall(scores(rules, frame_0), frame_0))
                     for what, rules in protocol.others().items()},
        "behaviour": summarise(behaviours),
        "calibration": calibration(sequences, runs),
        "curves": {"success": _curve(protocol.thresholds, total.success),
                   "precision": _curve(PRECISION_THRESHOLDS, total.precision_curve),
                   "norm_precision": _curve(NORM_PRECISION_THRESHOLDS, total.norm_precision_curve)},
        "attributes": {
            tag: {"sequences": sum(tag in names for names in tags)} | values(protocol.overall(
                [score for score, names in zip(used, tags, strict=True) if tag in names], frame_0))
            for tag in sorted({tag for names in tags for tag in names})},
        "per_sequence": per_sequence}


# Left edges of the bins of confidence.
BINS = tuple(step / 20 for step in range(20))


def calibration(sequences: Sequence[Video], runs: Mapping[str, Run]) -> list[dict] | None:
    """What a confidence is worth: reported boxes by the confidence reported with them; None without confidences.

    Returns:
        for every bin [low, high) of :data:`BINS` (the last includes 1): frames, mean_iou, above_50 and above_30
        (shares with an IoU above 0.5 and 0.3), absent (share of frames without the target, whose IoU counts as 0);
        None where there are no frames.
    """
    if any(run.confidences is None for run in runs.values()):
        return None
    confidence, iou, absent = [], [], []
    for one in sequences:
        run = runs[one.name]
        there = run.present
        confidence += run.confidences[there].tolist()
        absent += one.absent[there].tolist()
        iou += np.where(one.absent, 0.0, overlaps(run.boxes, one.boxes))[there].tolist()
    where, iou, absent = np.digitize(confidence, BINS) - 1, np.array(iou), np.array(absent)
    rows = []
    for index, low in enumerate(BINS):
        inside = where == index
        means = {name: number(of[inside].mean(), 4) if inside.any() else None for name, of in (
            ("mean_iou", iou), ("above_50", iou > 0.5), ("above_30", iou > 0.3), ("absent", absent))}
        rows.append({"low": low, "high": round(low + BINS[1], 2), "frames": int(inside.sum())} | means)
    return rows


def values(scores: Scores) -> dict[str, float | None]:
    """The metrics of :data:`METRICS`, rounded."""
    return {name: number(getattr(scores, name)) for name in METRICS}


def table(report: dict) -> str:
    """The report as lines of text: one sequence each, the means, and the other trackers' means."""
    columns = ("auc", "sr50", "precision", "norm_precision", "ao", "present_fraction", "fps")
    heads = ("AUC", "SR0.5", "P@20px", "NP@0.2", "AO", "present", "FPS")
    frames = sum(entry["frames"] for entry in report["per_sequence"].values())
    rows = [*report["per_sequence"].items(), ("mean", report | {"frames": frames})]
    rows += [(name, block | {"frames": frames}) for name, block in report.get("against", {}).items()]
    width = max(len("sequence"), *(len(name) for name, _ in rows))
    lines = [f"{'sequence':{width}}  frames" + "".join(f"  {head:>7}" for head in heads)]
    for name, entry in rows:
        cells = ["-" if entry[column] is None else f"{entry[column]:.1f}" if column == "fps"
                 else f"{entry[column]:.3f}" for column in columns]
        lines.append(f"{name:{width}}  {entry['frames']:6d}" + "".join(f"  {cell:>7}" for cell in cells))
    return "\n".join(lines)


def write_report(folder: Path, report: dict) -> None:
    """Write folder/report.json, whole or not at all."""
    write_whole(folder / "report.json", json.dumps(report, indent=2, allow_nan=False) + "\n")


def write_whole(file: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def number(value: float, digits: int = DIGITS) -> float | None:
    """A value for JSON: rounded, None where it is not finite."""
    return round(float(value), digits) if math.isfinite(value) else None


def _curve(thresholds: Sequence[float], rates: np.ndarray) -> dict[str, list]:
    return {"thresholds": [round(float(t), DIGITS) for t in thresholds], "rates": [number(rate) for rate in rates]}


def _rate(runs: list[Run]) -> float:
    seconds = sum(run.seconds for run in runs)
    return sum(run.calls for run in runs) / seconds if seconds > 0 else float("nan")
