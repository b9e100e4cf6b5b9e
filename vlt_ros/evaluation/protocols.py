# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' protocols by name: which frames count, what is divided by what, and who says so.

They agree on little but the IoU. Every protocol here is a function whose docstring names the toolkit and the rules;
reports print it. What a protocol measures is always the same: success (part of frames with an IoU above each
threshold; its mean is the AUC), precision (part of frames with a centre error of at most so many pixels),
normalised precision (the same in widths and heights of the true box), AO (mean IoU) and success rates.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vlt_ros.evaluation.errors import EvaluationError
from vlt_ros.evaluation.metrics import (
    NORM_PRECISION_AT,
    NORM_PRECISION_THRESHOLDS,
    PRECISION_PIXELS,
    PRECISION_THRESHOLDS,
    THRESHOLDS,
    centre_errors,
    has_area,
    norm_centre_errors,
    overlaps,
)

METRICS = ("auc", "precision", "norm_precision", "norm_precision_auc", "ao", "sr50", "sr75")
CONVENTIONS = ("own", "truth")
MATLAB_ATTRIBUTES = {
    "lasot": ("illumination variation", "partial occlusion", "deformation", "motion blur", "camera motion", "rotation",
              "background clutter", "viewpoint change", "scale variation", "full occlusion", "fast motion",
              "out of view", "low resolution", "aspect ratio change"),
    "tnl2k": ("camera motion", "rotation", "deformation", "full occlusion", "illumination variation", "out of view",
              "partial occlusion", "viewpoint change", "scale variation", "background clutter", "motion blur",
              "aspect ratio change", "low resolution", "fast motion", "adversarial samples", "thermal crossover",
              "modality switch"),
}


@dataclass(frozen=True)
class Scores:
    """One sequence, or all of them: curves over their thresholds and rates, all in [0, 1]; NaN without frames.

    success: (K,) over K overlap thresholds. precision_curve, norm_precision_curve: (51,) each.
    ao: mean IoU. sr50, sr75: part of frames with an IoU above 0.5, 0.75. frames: what they were divided by.
    """

    success: np.ndarray
    precision_curve: np.ndarray
    norm_precision_curve: np.ndarray
    ao: float
    sr50: float
    sr75: float
    frames: int

    @property
    def auc(self) -> float:
        """Area under the success plot."""
        return float(self.success.mean())

    @property
    def precision(self) -> float:
        """Precision at 20 pixels."""
        return float(self.precision_curve[PRECISION_PIXELS])

    @property
    def norm_precision(self) -> float:
        """Normalised precision at 0.2."""
        return float(self.norm_precision_curve[NORM_PRECISION_AT])

    @property
    def norm_precision_auc(self) -> float:
        """Area under the normalised precision plot, from 0 to 0.5."""
        return float(self.norm_precision_curve.mean())


@dataclass(frozen=True)
class Protocol:
    """Rules of one benchmark.

    Attributes:
        name: of the command line. rule: its docstring, for people.
        frame_0: "own" scores what the tracker reported in frame 0, "truth" writes the true box there, "out" leaves
            the frame out.
        absent: frames without the target, and true boxes without area, are left "out"; or are "missed", no hits but
            divided by; or "counted" like any other frame, with the true box as it is written.
        edge: a true box that is not positive in x, y, w and h is "scored" like others, or is a "hit" for both
            precisions and a miss for the overlap; "pytracking" makes it a miss for precision.
        holds: a predicted box that is NaN or has no area is replaced by the one before.
        needs_area: such a box has an infinite centre error, else the error of its written numbers.
        clips: both boxes are clipped to the image first, in the GOT-10k toolkit's way.
        pooled: frames of all sequences are one set; otherwise every sequence weighs the same.
        drops_failures: sequences whose whole curve is 0 do not enter its mean.
        thresholds: of the success plot.
        attributes: what the flags of an attribute file stand for, in order; levels of a flag as a tuple.
        variants: other protocols' readings of the same runs, {what: changed fields}.
    """

    name: str
    rule: str = ""
    frame_0: str = "own"
    absent: str = "out"
    edge: str = "scored"
    holds: bool = False
    needs_area: bool = True
    clips: bool = False
    pooled: bool = False
    drops_failures: bool = False
    thresholds: tuple[float, ...] = tuple(THRESHOLDS)
    attributes: tuple[str | tuple[str, ...], ...] = ()
    variants: tuple[tuple[str, tuple[tuple[str, object], ...]], ...] = ()

    def others(self) -> dict[str, Protocol]:
        """The variants as protocols, by what they do differently."""
        return {what: replace(self, variants=(), **dict(changes)) for what, changes in self.variants}

    def score(self, predicted: np.ndarray, truth: np.ndarray, absent: np.ndarray | None = None,
              size: tuple[int, int] | None = None, frame_0: str | None = None) -> Scores:
        """Scores of one sequence.

        Args:
            predicted: (T, 4) boxes x, y, w, h in pixels; NaN or no area for "no box".
            truth: (T, 4). absent: (T,) bool, frames without the target.
            size: width and height of the images, needed where the protocol clips.
            frame_0: "own" or "truth" in place of the protocol's.

        Raises:
            ValueError: the lengths differ, or the size is missing.
        """
        predicted, truth = np.array(predicted, np.float64), np.array(truth, np.float64)
        if predicted.shape != truth.shape or truth.ndim != 2 or truth.shape[1:] != (4,):
            raise ValueError(f"predicted boxes have shape {predicted.shape}, true ones {truth.shape}; "
                             "both must be (T, 4)")
        absent = np.zeros(len(truth), bool) if absent is None else np.asarray(absent, bool)
        if absent.shape != (len(truth),):
            raise ValueError(f"absent has shape {absent.shape}; it must be ({len(truth)},)")
        if self.holds:
            predicted = _hold(predicted, truth)
        if (frame_0 or self.frame_0) == "truth" and self.frame_0 != "out":
            predicted[:1] = truth[:1]
        counted = ~absent & has_area(truth) if self.absent == "out" else np.ones(len(truth), bool)
        if self.frame_0 == "out":
            counted[:1] = False
        if self.clips:
            if size is None:
                raise ValueError(f"{self.name} clips boxes to the image, so it needs the images' size")
            predicted, truth = _clip(predicted, size), _clip(truth, size)
        overlap, error, norm_error = (measure(predicted, truth)
                                      for measure in (overlaps, centre_errors, norm_centre_errors))
        if self.needs_area:
            error[~has_area(predicted)] = norm_error[~has_area(predicted)] = np.inf
        if self.edge != "scored":
            with np.errstate(invalid="ignore"):
                edge = ~(truth > 0).all(axis=1)
            overlap[edge], norm_error[edge] = 0, 0
            error[edge] = 0 if self.edge == "hit" else np.inf
        if self.absent == "missed":
            overlap[absent], error[absent], norm_error[absent] = 0, np.inf, np.inf
        overlap, error, norm_error = overlap[counted], error[counted], norm_error[counted]
        thresholds, frames = np.array(self.thresholds), int(counted.sum())
        if not frames:
            nothing = [np.full(len(t), np.nan) for t in (thresholds, PRECISION_THRESHOLDS, NORM_PRECISION_THRESHOLDS)]
            return Scores(*nothing, *[float("nan")] * 3, 0)
        return Scores(
            success=(overlap[:, None] > thresholds).mean(axis=0),
            precision_curve=(error[:, None] <= PRECISION_THRESHOLDS).mean(axis=0),
            norm_precision_curve=(norm_error[:, None] <= NORM_PRECISION_THRESHOLDS).mean(axis=0),
            ao=float(overlap.mean()), sr50=float((overlap > 0.5).mean()), sr75=float((overlap > 0.75).mean()),
            frames=frames)

    def overall(self, scores: Sequence[Scores], frame_0: str | None = None) -> Scores:
        """All sequences together; those without a frame to score do not count.

        With ``frame_0`` "own" a sequence that failed from its first frame to its last counts as the 0 that it is:
        toolkits that drop such sequences could not meet them, for they write the truth into frame 0.
        """
        scores = [one for one in scores if one.frames]
        if not scores:
            return self.score(np.empty((0, 4)), np.empty((0, 4)), size=(1, 1))
        weights = np.array([one.frames if self.pooled else 1 for one in scores], np.float64)
        drops = self.drops_failures and (frame_0 or self.frame_0) == "truth"

        def curve(field: str) -> np.ndarray:
            curves = np.array([getattr(one, field) for one in scores])
            kept = curves.any(axis=1) if drops else np.ones(len(scores), bool)
            return np.average(curves[kept], axis=0, weights=weights[kept]) if kept.any() else curves[0]

        rates = [float(np.average([getattr(one, field) for one in scores], weights=weights))
                 for field in ("ao", "sr50", "sr75")]
        return Scores(curve("success"), curve("precision_curve"), curve("norm_precision_curve"), *rates,
                      sum(one.frames for one in scores))

    def attribute_names(self, values: Sequence[str], where: object) -> list[str]:
        """The attributes that a sequence has.

        Args:
            values: what its attribute file says, either names or one number for each of :attr:`attributes`.
            where: the file, for the message.

        Raises:
            EvaluationError: numbers of another count than the protocol has attributes.
        """
        if not all(value.lstrip("-").replace(".", "", 1).isdigit() for value in values):
            return list(values)
        numbers = [int(float(value)) for value in values]
        meanings = self.attributes or tuple(f"attribute {number}" for number in range(1, len(numbers) + 1))
        if len(numbers) != len(meanings):
            raise EvaluationError(f"{where} has {len(numbers)} attribute flags but {self.name} has {len(meanings)}; "
                                  "give the protocol of the data set with --protocol")
        names = []
        for number, meaning in zip(numbers, meanings, strict=True):
            if isinstance(meaning, tuple):
                names += meaning[number:number + 1] if number >= 0 else ()
            elif number > 0:
                names.append(meaning)
        return names


def _hold(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Each predicted box without area takes the one before, unless the truth is NaN: so do the MATLAB toolkits."""
    good = has_area(predicted) | np.isnan(truth).any(axis=1)
    for index in range(1, len(predicted)):
        if not good[index]:
            predicted[index] = predicted[index - 1]
    return predicted


def _clip(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The corner is moved into the image and the size cut to what is left: the GOT-10k toolkit's ``bound``."""
    width, height = size
    x, y = np.clip(boxes[:, 0], 0, width), np.clip(boxes[:, 1], 0, height)
    return np.stack([x, y, np.clip(boxes[:, 2], 0, width - x), np.clip(boxes[:, 3], 0, height - y)], axis=1)


PROTOCOLS: dict[str, Protocol] = {}


def _protocol(define: Callable[[], Protocol]) -> Callable[[], Protocol]:
    """Put the protocol that the function makes into :data:`PROTOCOLS`, with its docstring as the rule."""
    protocol = define()
    PROTOCOLS[protocol.name] = replace(protocol, rule=" ".join(inspect.getdoc(define).split()))
    return define


@_protocol
def ope() -> Protocol:
    """One-pass evaluation, no re-initialisation, no toolkit's peculiarities (this project's default).

    Success AUC over 21 thresholds 0, 0.05 .. 1 of IoU > threshold (a perfect tracker gets 20/21); precision at 20
    pixels and normalised precision, both "at most". Frame 0 counts with the tracker's own box. Frames without the
    target (flagged, NaN or no area) are left out of numerator and denominator. A frame without a predicted box, or
    with one that has no area, is a miss. Overall values are means over sequences.
    """
    return Protocol("ope")


def _matlab(name: str, attributes: tuple, absent: str = "missed") -> Protocol:
    """What the MATLAB toolkits share, and how others read them."""
    # PyTracking knows absent frames of LaSOT only; elsewhere they are true boxes without area to it.
    pytracking = {"edge": "pytracking", "drops_failures": False, "absent": "missed" if "lasot" in name else "counted"}
    return Protocol(name, frame_0="truth", absent=absent, edge="hit", holds=True, needs_area=False,
                    drops_failures=True, attributes=attributes, variants=(
                        ("absent frames left out of the denominator too", (("absent", "out"),)),
                        ("true boxes at x <= 0 or y <= 0 scored like others", (("edge", "scored"),)),
                        ("PyTracking: true boxes that are not positive miss precision and hit the normalised one",
                         tuple(pytracking.items()))))


@_protocol
def lasot() -> Protocol:
    """LaSOT's MATLAB toolkit (HengLan/LaSOT_Evaluation_Toolkit; Fan et al., CVPR 2019), one-pass evaluation.

    Success over IoU > 0:0.05:1; precision over 0:50 px, read at 20; normalised precision over 0:0.01:0.5, its table
    value read at 0.2. The truth is written into frame 0. A predicted box that is NaN or has no area is replaced by
    the one before. Absent frames (full occlusion or out of view) are no hits, but every curve is divided by the full
    length of the sequence. A true box that is not positive in x, y, w and h is a miss for success and a hit for both
    precisions (the toolkit gives it the error -1). Means over sequences; a sequence whose whole curve is 0 does not
    enter that curve's mean. The toolkit knows no AO or SR: here they are divided by the full length as well.
    """
    return _matlab("lasot", MATLAB_ATTRIBUTES["lasot"])


@_protocol
def lasotext() -> Protocol:
    """LaSOT's extension (Fan et al., IJCV 2021): the toolkit and every rule of lasot on 150 other videos.

    Success over IoU > 0:0.05:1; precision at 20 px; normalised precision at 0.2. The truth is written into frame 0;
    absent frames are no hits but are divided by; true boxes that are not positive in x, y, w and h miss success and
    hit both precisions; predicted boxes without area are replaced by the one before; means over sequences.
    """
    return _matlab("lasotext", MATLAB_ATTRIBUTES["lasot"])


@_protocol
def tnl2k() -> Protocol:
    """TNL2K's MATLAB toolkit (wangxiao5791509/TNL2K_evaluation_toolkit; Wang et al., CVPR 2021), a copy of LaSOT's.

    Success over IoU > 0:0.05:1; precision at 20 px; of normalised precision over 0:0.01:0.5 the paper's tables give
    the area, others the value at 0.2: both are here. The truth is written into frame 0. Absent frames (12.6 % of the
    test set, empty boxes) are no hits but every curve is divided by the full length. A true box that is not positive
    in x, y, w and h (2.8 % of the frames) misses success and hits both precisions. A predicted box that is NaN or has
    no area is replaced by the one before. Means over sequences without those whose whole curve is 0. PyTracking's
    reading, which many papers use, differs; it is among the variants.
    """
    return _matlab("tnl2k", MATLAB_ATTRIBUTES["tnl2k"])


@_protocol
def otb() -> Protocol:
    """OTB's MATLAB toolkit (tracker_benchmark v1.0 and v1.1; Wu, Lim and Yang, CVPR 2013 and TPAMI 2015), OPE.

    Success over IoU > 0:0.05:1, ranked by the area; precision over 0:50 px, read at 20; normalised precision is not
    OTB's and follows the same rules here. The truth is written into frame 0. A predicted box that is NaN or has no
    area is replaced by the one before. A true box that is not positive in x, y, w and h (OTB counts from 1, so they
    hardly occur) misses success and hits precision; no frame is called absent. Divided by all frames; means over
    sequences without those whose whole curve is 0.
    """
    return _matlab("otb", ("illumination variation", "scale variation", "occlusion", "deformation", "motion blur",
                           "fast motion", "in-plane rotation", "out-of-plane rotation", "out of view",
                           "background clutter", "low resolution"), absent="counted")


@_protocol
def got10k() -> Protocol:
    """GOT-10k's Python toolkit (got-10k/toolkit, ExperimentGOT10k; Huang, Zhao and Huang, TPAMI 2021).

    Frame 0 is left out. Frames whose target is not visible (cover.label 0) are left out. Both boxes are clipped to
    the image (the corner moved inside, the size cut to what is left). AO is the mean IoU and SR0.5, SR0.75 the parts
    of frames with an IoU above, over the frames of all sequences pooled; the success plot has 101 thresholds
    0:0.01:1. The toolkit measures no precision: here it is over the same frames, of the clipped boxes. A predicted
    box that is NaN is a miss, where the toolkit's AO would be NaN. One run a sequence, not the toolkit's three.
    """
    return Protocol("got10k", frame_0="out", clips=True, pooled=True, thresholds=tuple(np.arange(101) / 100))


@_protocol
def webuav3m() -> Protocol:
    """WebUAV-3M's Python toolkit (the MMOT toolkit of 983632847/Awesome-Multimodal-Object-Tracking; TPAMI 2023).

    Success over IoU > 0:0.05:1; precision over 0:50 px, read at 20; of normalised precision over 0:0.01:0.5 the
    tables give the area. The truth is written into frame 0. Absent frames are counted like others with the empty box
    0,0,0,0 as their truth: no box can overlap it, but a tracker that says 0,0,0,0 there hits both precisions. Boxes
    are taken as they are written; NaN is a miss. Divided by all frames; means over sequences. The toolkit's complete
    success (CIoU) and mAcc are not computed.
    """
    levels = (("complexity easy", "complexity medium", "complexity hard"), ("size small", "size medium", "size large"),
              ("length short", "length medium", "length long"))
    return Protocol("webuav3m", frame_0="truth", absent="counted", needs_area=False, attributes=(
        "low resolution", "partial occlusion", "full occlusion", "out of view", "fast motion", "camera motion",
        "viewpoint change", "rotation", "deformation", "background clutter", "scale variation",
        "aspect ratio variation", "illumination variation", "motion blur", *levels),
        variants=(("absent frames left out", (("absent", "out"),)),))
