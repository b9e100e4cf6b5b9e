# SPDX-License-Identifier: Apache-2.0
"""Text-only pointing among equal candidates: does the network listen to its sentence?

A scene is a photograph with several objects of one size range pasted on it in random places; the target is
drawn afterwards, so nothing but the sentence tells it from the others. One look at the whole picture with a
blank template gives a point. Each scene is shown three times: with the target's phrase (``right``), with a
phrase that describes another candidate (``wrong``) and with none. A hit is a point inside the *target's* box,
whatever the phrase said; so a network that listens is high with ``right``, low with ``wrong``, and at chance
with ``none``. The objects are held out of training (``split="heldout"`` of the training generator), and so
are the photographs behind them, except for the wallpapers, which hold no named objects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from vlt_ros.evaluation.errors import EvaluationError
from vlt_ros.evaluation.report import write_report
from vlt_ros.media import make_folder

KINDS = ("colour", "position", "name")
PHRASES = ("right", "wrong", "none")
CANDIDATES = 3
PROTOCOL = ("pointing: one look at the whole picture with a blank template; a hit is the point inside the "
            f"box of the target, one of {CANDIDATES} candidates that only the phrase tells apart; objects "
            "held out of training; 95 % Wilson intervals")

Point = tuple[float, float]


@dataclass
class Count:
    """Hits among trials."""

    hits: int = 0
    trials: int = 0

    def add(self, hit: bool) -> None:
        self.hits += bool(hit)
        self.trials += 1

    def report(self) -> dict:
        """rate, its 95 % interval and the counts."""
        low, high = wilson(self.hits, self.trials)
        return {"rate": round(self.hits / self.trials, 4), "low": round(low, 4), "high": round(high, 4),
                "hits": self.hits, "trials": self.trials}


def wilson(hits: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a proportion, 95 % by default. Raises ValueError without trials.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.
    """
    if trials < 1 or not 0 <= hits <= trials:
        raise ValueError(f"{hits} hits of {trials} trials have no interval")
    rate = hits / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def inside(point: Point, box: Iterable[float]) -> bool:
    """Whether a pixel position lies in a box x, y, w, h; edges count."""
    x, y, w, h = (float(v) for v in box)
    return x <= point[0] <= x + w and y <= point[1] <= y + h


def measure(scenes: Iterable, point_at: Callable[[object, str], Point]) -> dict:
    """Show every scene with each phrase.

    Args:
        scenes: with image, right and wrong (phrases), boxes (K, 4) in pixels, target and wrong_target.
        point_at: from image and phrase to a pixel position.

    Returns:
        {phrase: Count.report() of hits on the target}, and for ``wrong`` also ``followed``: how often the
        point was on the candidate that the wrong phrase describes; ``chance``, mean of 1/K.
    """
    hits = {phrase: Count() for phrase in PHRASES}
    followed, chance, number = Count(), 0.0, 0
    for scene in scenes:
        number += 1
        chance += 1 / len(scene.boxes)
        for phrase, text in zip(PHRASES, (scene.right, scene.wrong, ""), strict=True):
            point = point_at(scene.image, text)
            hits[phrase].add(inside(point, scene.boxes[scene.target]))
            if phrase == "wrong":
                followed.add(inside(point, scene.boxes[scene.wrong_target]))
    if not number:
        raise EvaluationError("there is no scene to point in; ask for at least one with --count")
    report = {phrase: count.report() for phrase, count in hits.items()}
    report["wrong"]["followed"] = followed.report()
    return report | {"chance": round(chance / number, 4), "scenes": number}


def open_heldout(root: str | Path, assets: str | Path, **options):
    """What looks at held-out pictures by text alone.

    Args:
        root, assets: as for :func:`evaluate_pointing`. options: for ``vlt_ros.networks.load_network``.

    Returns:
        the network, the training generator's held-out part, and a function from picture (RGB uint8) and phrase to
        pointed-at pixel and confidence.

    Raises:
        EvaluationError, WeightsError, DeviceError: each with one clear line.
    """
    import cv2

    from vlt_ros.networks import load_network
    from vlt_ros.tracker import ground
    from vlt_ros.training.samples import SampleGenerator

    network = load_network(**options)
    try:
        generator = SampleGenerator(root, assets, split="heldout")
    except FileNotFoundError as error:
        raise EvaluationError(str(error)) from error

    def look(image, text: str) -> tuple[Point, float]:
        _, confidence, point = ground(network, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), text)
        return point, confidence

    return network, generator, look


def evaluate_pointing(root: str | Path, out: str | Path, *, assets: str | Path = "build/assets",
                      count: int = 300, weights: str | Path | None = None, model: str | None = None,
                      device: str = "auto", precision: str = "auto", runtime: str = "auto",
                      progress: bool = True) -> dict:
    """Measure pointing by colour, position and name on held-out objects and write ``out``/report.json.

    Args:
        root: the data folder that training reads. assets: cut-outs and backgrounds, see training.assets.
        out: folder for the report, made anew. count: scenes for each kind of phrase.
        weights, model, device, precision, runtime: as for :func:`vlt_ros.networks.load_network`.

    Returns:
        {"kinds": {kind: see :func:`measure`}, "protocol", "model", "weights", "device", "arithmetic"}.

    Raises:
        EvaluationError, MediaError, WeightsError, DeviceError: each with one clear line.
    """
    from tqdm import tqdm

    out = make_folder(out)
    network, generator, look = open_heldout(root, assets, weights=weights, model=model, device=device,
                                            precision=precision, runtime=runtime)

    def point_at(image, text: str) -> Point:
        return look(image, text)[0]

    kinds = {}
    for kind in KINDS:
        scenes = (generator.candidates(i, by=kind, count=CANDIDATES) for i in range(count))
        shown = tqdm(scenes, total=count, desc=kind, unit="scene", disable=not progress)
        kinds[kind] = measure(shown, point_at)
    report = {"kinds": kinds, "protocol": PROTOCOL, "model": network.name,
              "weights": str(weights) if weights else "shipped", "device": str(network.device),
              "arithmetic": f"{network.runtime} {network.precision}"}
    write_report(out, report)
    return report


def table(report: dict) -> str:
    """The report as lines of text."""
    heads = ("right", "wrong", "none", "wrong: followed")
    lines = [f"{'kind':8}  scenes  chance" + "".join(f"  {head:>18}" for head in heads)]
    for kind, entry in report["kinds"].items():
        cells = [entry["right"], entry["wrong"], entry["none"], entry["wrong"]["followed"]]
        lines.append(f"{kind:8}  {entry['scenes']:6d}  {entry['chance']:6.2f}" + "".join(
            "  " + f"{c['rate']:.2f} ({c['low']:.2f}-{c['high']:.2f})".rjust(18) for c in cells))
    return "\n".join(lines)
