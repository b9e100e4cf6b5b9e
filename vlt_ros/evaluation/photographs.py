# SPDX-License-Identifier: Apache-2.0
"""Text alone on whole photographs held out of training: is the named thing found, and an absent one refused?

*Classes*: a photograph, the name of something in it, the name of something that is not, and no phrase. A hit is an
answer that points into a box of the named thing. Most photographs show one large thing in their middle, so three
controls stand beside it: the centre of the picture, the phrase for something absent (whose hits are on the same
boxes), and no phrase. The tracker may refuse, so hits are counted twice: of every look's best box, and of the
answers alone, whose confidence reaches what a search by text asks of a single window.

*Told apart*: photographs with 2 to 8 things of one name and a phrase that is true of one of them by colour or place.
Among the points that fall on one of them, a tracker that ignores the phrase is right in 1 of K; the probability of
as many hits or more by that chance is the binomial test (of unequal chances, so of a Poisson binomial).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from vlt_ros.evaluation.evaluate import EvaluationError, write_report
from vlt_ros.evaluation.pointing import Count, Point, inside, open_heldout
from vlt_ros.media import make_folder

PROTOCOL = ("photographs: one look at the whole picture with a blank template; a hit is the point inside a box of the "
            "named thing; answered: confidence at least what a search by text asks of one window; sources in equal "
            "shares, things under 5 % of the longer side left out; 95 % Wilson intervals")
LOOKS = ("right", "absent", "none")


def chance_of(hits: int, chances: Iterable[float]) -> float:
    """Probability of at least ``hits`` hits when trial i hits with probability ``chances``[i] (Poisson binomial)."""
    distribution = np.ones(1)
    for chance in chances:
        distribution = np.convolve(distribution, (1 - chance, chance))
    return float(distribution[hits:].sum())


def measure_classes(photographs: Iterable, ground: Callable[[np.ndarray, str], tuple[Point, float]],
                    threshold: float) -> dict:
    """Ground each photograph with its own phrase, an absent one and none.

    Args:
        photographs: see ``vlt_ros.training.samples.Photograph``. ground: from picture (RGB uint8) and phrase to
            pointed-at pixel and confidence. threshold: confidence of an answer.

    Returns:
        {look: {"pointing": all looks, "answered": hits with an answer of all looks, "answers": looks with an answer}}
        as Count.report(), for :data:`LOOKS`, and "centre", the hits of the picture's centre.
    """
    counts = {look: {"pointing": Count(), "answered": Count(), "answers": Count()} for look in LOOKS}
    centre = Count()
    for photograph in photographs:
        height, width = photograph.image.shape[:2]

        def hit(point: Point, boxes=photograph.boxes) -> bool:
            return any(inside(point, box) for box in boxes)

        centre.add(hit((width / 2, height / 2)))
        for look, text in zip(LOOKS, (photograph.right, photograph.absent, ""), strict=True):
            if look == "absent" and not text:
                continue
            point, confidence = ground(photograph.image, text)
            found, answer = hit(point), confidence >= threshold
            for name, value in (("pointing", found), ("answered", found and answer), ("answers", answer)):
                counts[look][name].add(value)
    if not centre.trials:
        raise EvaluationError("there is no photograph to look at; ask for at least one with --count")
    report = {look: {name: count.report() if count.trials else None for name, count in entry.items()}
              for look, entry in counts.items()}
    return report | {"centre": centre.report(), "threshold": round(threshold, 4)}


def measure_told_apart(photographs: Iterable, ground: Callable[[np.ndarray, str], tuple[Point, float]]) -> dict:
    """Which of several things of one name a phrase leads to.

    Returns:
        {look: {"on_one": points on one of the things, "hits": of these, on the described one, "chance": its
        expectation, "p": see :func:`chance_of`}} for the looks 'right' and 'none'.
    """
    seen = {look: (Count(), Count(), []) for look in ("right", "none")}
    for photograph in photographs:
        for look, text in (("right", photograph.right), ("none", "")):
            on_one, hits, chances = seen[look]
            point, _ = ground(photograph.image, text)
            under = [inside(point, box) for box in photograph.boxes]
            on_one.add(any(under))
            if any(under):
                # Of things that overlap a point may be on several; then it is a hit in as many cases by chance.
                hits.add(under[photograph.target])
                chances.append(sum(under) / len(under))
    report = {}
    for look, (on_one, hits, chances) in seen.items():
        report[look] = {"on_one": on_one.report() if on_one.trials else None,
                        "hits": hits.report() if hits.trials else None,
                        "chance": round(float(np.mean(chances)), 4) if chances else None,
                        "p": chance_of(hits.hits, chances) if chances else None}
    return report


def evaluate_photographs(root: str | Path, out: str | Path, *, assets: str | Path = "build/assets", count: int = 300,
                         weights: str | Path | None = None, model: str | None = None, device: str = "auto",
                         precision: str = "auto", runtime: str = "auto", progress: bool = True) -> dict:
    """Measure grounding on held-out photographs and write ``out``/report.json. Arguments as for evaluate_pointing.

    Returns:
        {"classes": see :func:`measure_classes`, "told_apart": see :func:`measure_told_apart`, "protocol", "model",
        "weights", "device", "arithmetic"}.

    Raises:
        EvaluationError, MediaError, WeightsError, DeviceError: each with one clear line.
    """
    from tqdm import tqdm

    from vlt_ros.tracker import TrackerSettings
    from vlt_ros.tracker.search import needed

    out = make_folder(out)
    network, generator, look = open_heldout(root, assets, weights=weights, model=model, device=device,
                                            precision=precision, runtime=runtime)

    def shown(name: str, told_apart: bool):
        photographs = (generator.photograph(i, told_apart) for i in range(count))
        return tqdm(photographs, total=count, desc=name, unit="picture", disable=not progress)

    report = {"classes": measure_classes(shown("classes", False), look, needed(TrackerSettings().track_threshold, 1)),
              "told_apart": measure_told_apart(shown("told apart", True), look),
              "protocol": PROTOCOL, "model": network.name, "weights": str(weights) if weights else "shipped",
              "device": str(network.device), "arithmetic": f"{network.runtime} {network.precision}"}
    write_report(out, report)
    return report


def table(report: dict) -> str:
    """The report as lines of text."""
    def cell(count: dict | None) -> str:
        return (f"{count['rate']:.2f} ({count['low']:.2f}-{count['high']:.2f})" if count else "-").rjust(18)

    classes = report["classes"]
    lines = [f"{'class phrase':12}  {'points at it':>18}  {'answers at it':>18}  {'answers':>18}"]
    lines += [f"{look:12}  " + "  ".join(cell(classes[look][name]) for name in ("pointing", "answered", "answers"))
              for look in LOOKS]
    lines += [f"{'centre':12}  {cell(classes['centre'])}", "",
              f"{'told apart':12}  {'on one of them':>18}  {'on the right one':>18}  {'by chance':>18}  p"]
    for look, entry in report["told_apart"].items():
        chance = "-" if entry["chance"] is None else f"{entry['chance']:.2f}"
        p = "-" if entry["p"] is None else f"{entry['p']:.2g}"
        lines.append(f"{look:12}  {cell(entry['on_one'])}  {cell(entry['hits'])}  {chance:>18}  {p}")
    return "\n".join(lines)
