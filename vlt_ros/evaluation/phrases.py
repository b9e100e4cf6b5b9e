# SPDX-License-Identifier: Apache-2.0
"""Phrase grounding on whole pictures: does the sentence lead to its object?

ROOT holds ``queries.json``, a list of {"file", "text", "box"}, and the pictures under ``img/``. Each phrase is
grounded by text alone, by the tracker's own look at a whole frame (``vlt_ros.tracker.ground``: one look, blank
template). Every query is asked three times: with its own phrase (``right``), with another query's (``wrong``) and with
none; a hit is a hit on the query's own box, whatever the phrase said. So a network that listens is high with ``right``
and low with ``wrong``; one that only finds the salient object is equal in all three.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlt_ros.evaluation.errors import EvaluationError
from vlt_ros.evaluation.metrics import overlaps
from vlt_ros.evaluation.pointing import PHRASES, Count, Point, inside
from vlt_ros.evaluation.report import write_report
from vlt_ros.media import MediaError, make_folder
from vlt_ros.tracker import Box, CommandError, validate_text

PROTOCOL = ("phrases: text alone, one look at the whole picture with a blank template. pointing: the centre of the "
            "predicted box lies in the query's box, edges count; iou50: IoU > 0.5 with it. wrong: the phrase of the "
            "next query in the list that has another phrase and another object; none: no phrase. No threshold: the "
            "confidence is reported beside every box. 95 % Wilson intervals")

Grounding = tuple[Box | None, float, Point]


@dataclass(frozen=True)
class Query:
    """One phrase. file: as written in queries.json; picture: where it is; box: x, y, w, h in pixels."""

    file: str
    picture: Path
    text: str
    box: Box


def read_queries(root: str | Path) -> list[Query]:
    """The queries of ``root``/queries.json, in its order.

    An entry's ``file`` is looked for below ``root``/img, then below ``root`` (written as img/NAME); ``text`` is a
    sentence that is not empty; ``box`` is x, y, width, height in pixels with a positive size. Other fields are free.

    Raises:
        EvaluationError: queries.json is missing, no JSON, no list or empty, or an entry is malformed; the message
            names the entry, counted from 0.
    """
    root = Path(root)
    path = root / "queries.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EvaluationError(f"{path} is missing: it lists the phrases as {{file, text, box}}, "
                              "the pictures lie in img/ beside it") from error
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{path} is no valid JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        what = "an empty list" if entries == [] else type(entries).__name__
        raise EvaluationError(f"{path} must be a list of {{file, text, box}} with at least one entry, not {what}")
    return [_query(entry, f"{path} entry {number}", root) for number, entry in enumerate(entries)]


def _query(entry: object, where: str, root: Path) -> Query:
    if not isinstance(entry, dict):
        raise EvaluationError(f"{where} must be {{file, text, box}}, not {entry!r}")
    for field in ("file", "text", "box"):
        if field not in entry:
            raise EvaluationError(f"{where} has no {field}: an entry is {{file, text, box}}")
    file, box = entry["file"], entry["box"]
    if not isinstance(file, str) or not file or "\0" in file:
        raise EvaluationError(f"{where}: file must be the name of a picture in img/, not {file!r}")
    picture = next((p for p in (root / "img" / file, root / file) if p.is_file()), None)
    if picture is None:
        raise EvaluationError(f"{where}: picture {root / 'img' / file} is missing")
    try:
        text = validate_text(entry["text"])
    except CommandError as error:
        raise EvaluationError(f"{where}: {error}") from error
    if not text:
        raise EvaluationError(f"{where}: text is empty, so there is nothing to look for")
    numbers = isinstance(box, list) and len(box) == 4 and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e9 for v in box)
    if not numbers or min(box[2:]) <= 0:
        raise EvaluationError(f"{where}: box must be four numbers x, y, width, height in pixels with a positive size, "
                              f"not {box!r}")
    return Query(file, picture, text, tuple(float(v) for v in box))


def wrong_texts(queries: list[Query]) -> list[str | None]:
    """For each query the phrase of the next one in the list (after the last comes the first) with another phrase and
    another object; None where there is none."""
    def other(index: int) -> str | None:
        own = queries[index]
        return next((q.text for q in queries[index + 1:] + queries[:index]
                     if q.text != own.text and (q.picture, q.box) != (own.picture, own.box)), None)

    return [other(index) for index in range(len(queries))]


def measure(queries: list[Query], ground: Callable[[np.ndarray, str], Grounding],
            progress: Callable[[], object] | None = None) -> tuple[list[dict], dict]:
    """Ground every query with each phrase.

    Args:
        queries: see :func:`read_queries`. ground: from a picture (BGR uint8) and a phrase to box (x, y, w, h in
            pixels), confidence and pointed-at pixel; a box of None, or one that is not finite, is a miss.
        progress: called after every query.

    Returns:
        predictions, one {file, text, box or None, confidence} a query in their order, with their own phrases; and
        {phrase: {"pointing": Count.report(), "iou50": Count.report(), "confidence": mean}}, None for a phrase that no
        query could be asked with.

    Raises:
        EvaluationError: a picture cannot be read, or a box lies outside of it; the message names the entry.
    """
    from vlt_ros.media.sources import read_image

    counts = {phrase: (Count(), Count(), []) for phrase in PHRASES}
    predictions, pictures = [], {}
    for number, (query, wrong) in enumerate(zip(queries, wrong_texts(queries), strict=True)):
        if query.picture not in pictures:
            # Phrases of one picture usually follow one another; all pictures at once may not fit into memory.
            try:
                pictures = {query.picture: read_image(query.picture)}
            except MediaError as error:
                raise EvaluationError(f"queries.json entry {number}: {error}") from error
        image = pictures[query.picture]
        (height, width), (x, y, w, h) = image.shape[:2], query.box
        if not (x < width and y < height and x + w > 0 and y + h > 0):
            raise EvaluationError(f"queries.json entry {number}: box ({x:g}, {y:g}, {w:g}, {h:g}) lies outside of "
                                  f"{query.file}, which is {width} x {height}")
        for phrase, text in zip(PHRASES, (query.text, wrong, ""), strict=True):
            if text is None:
                continue
            box, confidence, point = ground(image, text)
            if box is None or not all(map(math.isfinite, box)) or not confidence > 0:
                box, hit, overlap = None, False, 0.0
            else:
                hit = inside(point, query.box)
                overlap = float(overlaps(np.array([box]), np.array([query.box]))[0])
            pointing, iou50, confidences = counts[phrase]
            pointing.add(hit)
            iou50.add(overlap > 0.5)
            confidences.append(confidence)
            if phrase == "right":
                predictions.append({"file": query.file, "text": query.text,
                                    "box": None if box is None else [round(float(v), 2) for v in box],
                                    "confidence": round(float(confidence), 4)})
        if progress is not None:
            progress()
    return predictions, {
        phrase: {"pointing": pointing.report(), "iou50": iou50.report(),
                 "confidence": round(sum(confidences) / len(confidences), 4)} if confidences else None
        for phrase, (pointing, iou50, confidences) in counts.items()}


def evaluate_phrases(root: str | Path, out: str | Path, *, weights: str | Path | None = None, model: str | None = None,
                     device: str = "auto", precision: str = "auto", runtime: str = "auto",
                     progress: bool = True) -> dict:
    """Ground the phrases of ``root`` and write ``out``/predictions.json and ``out``/report.json.

    Args:
        root: folder with queries.json and img/, see :func:`read_queries`. out: folder for results, made anew.
        weights, model, device, precision, runtime: as for :func:`vlt_ros.networks.load_network`.
        progress: show a progress bar on stderr.

    Returns:
        The report: ``pointing_accuracy`` and ``iou50_accuracy`` of the right phrases, ``phrases`` with what
        :func:`measure` counts for right, wrong and none, ``queries`` and ``pictures`` (numbers), protocol, model,
        weights, device, arithmetic.

    Raises:
        EvaluationError, MediaError, WeightsError, DeviceError: each with one clear line.
    """
    from tqdm import tqdm

    from vlt_ros.networks import load_network
    from vlt_ros.tracker import ground

    queries = read_queries(root)
    out = make_folder(out)
    network = load_network(weights, model=model, device=device, precision=precision, runtime=runtime)
    with tqdm(total=len(queries), desc="phrases", unit="query", disable=not progress) as bar:
        predictions, phrases = measure(queries, lambda image, text: ground(network, image, text), bar.update)
    report = {"pointing_accuracy": phrases["right"]["pointing"]["rate"],
              "iou50_accuracy": phrases["right"]["iou50"]["rate"], "phrases": phrases, "queries": len(queries),
              "pictures": len({query.picture for query in queries}), "protocol": PROTOCOL, "model": network.name,
              "weights": str(weights) if weights else "shipped", "device": str(network.device),
              "arithmetic": f"{network.runtime} {network.precision}"}
    partial = out / "predictions.json.partial"
    partial.write_text(json.dumps(predictions, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(out / "predictions.json")
    write_report(out, report)
    return report


def table(report: dict) -> str:
    """The report as lines of text."""
    lines = [f"{'phrase':6}  queries  {'pointing':>18}  {'IoU > 0.5':>18}  confidence"]
    for phrase, entry in report["phrases"].items():
        if entry is None:
            lines.append(f"{phrase:6}  {0:7d}  {'-':>18}  {'-':>18}  {'-':>10}")
            continue
        cells = [f"{c['rate']:.2f} ({c['low']:.2f}-{c['high']:.2f})" for c in (entry["pointing"], entry["iou50"])]
        lines.append(f"{phrase:6}  {entry['pointing']['trials']:7d}" + "".join(f"  {cell:>18}" for cell in cells)
                     + f"  {entry['confidence']:10.2f}")
    return "\n".join(lines)
