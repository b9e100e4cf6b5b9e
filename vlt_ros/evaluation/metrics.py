# SPDX-License-Identifier: Apache-2.0
"""Success and precision as the OTB and LaSOT toolkits draw them.

Wu, Lim and Yang, "Online object tracking: a benchmark", CVPR 2013 (one-pass evaluation, success plot over 21
overlap thresholds, precision at 20 pixels); Fan et al., "LaSOT", CVPR 2019, whose toolkit uses the same
rules.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PROTOCOL = (
    "ope: one-pass evaluation in the manner of the OTB and LaSOT toolkits, no re-initialisation. Success AUC "
    "= mean over 21 thresholds 0, 0.05 .. 1 of the part of frames with IoU > threshold (a perfect tracker "
    "gets 20/21); precision = part of frames with a centre error of at most 20 px; SR0.5 = part of frames "
    "with IoU > 0.5. Frame 0 counts. Frames without the target (absent.txt, NaN or no area) are left out of "
    "numerator and denominator, where the LaSOT toolkit divides by all frames. "
    "Overall values are means over sequences."
)
# In 20ths, so that 0.15 and its like are the nearest floats and 1.0 is 1.
THRESHOLDS = np.arange(21) / 20
PRECISION_PIXELS = 20.0


@dataclass(frozen=True)
class Scores:
    """Values in [0, 1] over the ``frames`` frames that have a target; NaN where there is none."""

    auc: float
    sr50: float
    precision: float
    frames: int


def overlaps(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """IoU of each pair of boxes: two (T, 4) arrays x, y, w, h to (T,). No area or not finite gives 0."""
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        left_top = np.maximum(predicted[:, :2], truth[:, :2])
        right_bottom = np.minimum(predicted[:, :2] + predicted[:, 2:], truth[:, :2] + truth[:, 2:])
        sides = np.clip(right_bottom - left_top, 0, None)
        inter = sides[:, 0] * sides[:, 1]
        iou = inter / (predicted[:, 2:].prod(axis=1) + truth[:, 2:].prod(axis=1) - inter)
        good = (predicted[:, 2:] > 0).all(axis=1) & (truth[:, 2:] > 0).all(axis=1) & np.isfinite(iou)
    # Rounding may give 1 + 1e-16 for equal boxes, and nothing may pass the threshold 1.
    return np.where(good, np.clip(iou, 0, 1), 0.0)


def centre_errors(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Distance of the centres in pixels: two (T, 4) arrays to (T,). A box without area is infinitely far."""
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    with np.errstate(invalid="ignore"):
        offset = predicted[:, :2] + predicted[:, 2:] / 2 - truth[:, :2] - truth[:, 2:] / 2
        distance = np.hypot(offset[:, 0], offset[:, 1])
        good = (predicted[:, 2:] > 0).all(axis=1) & np.isfinite(distance)
    return np.where(good, distance, np.inf)


def score(predicted: np.ndarray, truth: np.ndarray, absent: np.ndarray | None = None) -> Scores:
    """Scores of one sequence by :data:`PROTOCOL`.

    Args:
        predicted: (T, 4) boxes x, y, w, h in pixels; no area or NaN for "no box".
        truth: (T, 4). absent: (T,) bool, frames to leave out.

    Raises:
        ValueError: the lengths differ.
    """
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    if predicted.shape != truth.shape or truth.ndim != 2 or truth.shape[1:] != (4,):
        raise ValueError(f"predicted boxes have shape {predicted.shape}, true ones {truth.shape}; "
                         "both must be (T, 4)")
    absent = np.zeros(len(truth), bool) if absent is None else np.asarray(absent, bool)
    if absent.shape != (len(truth),):
        raise ValueError(f"absent has shape {absent.shape}; it must be ({len(truth)},)")
    with np.errstate(invalid="ignore"):
        present = ~absent & np.isfinite(truth).all(axis=1) & (truth[:, 2:] > 0).all(axis=1)
    if not present.any():
        return Scores(float("nan"), float("nan"), float("nan"), 0)
    iou = overlaps(predicted[present], truth[present])
    error = centre_errors(predicted[present], truth[present])
    return Scores(auc=float((iou[:, None] > THRESHOLDS).mean()), sr50=float((iou > 0.5).mean()),
                  precision=float((error <= PRECISION_PIXELS).mean()), frames=int(present.sum()))
