# SPDX-License-Identifier: Apache-2.0
"""Overlap and centre errors of boxes, frame by frame: the only place where they are computed.

What is counted, and what is divided by what, is the business of a benchmark's protocol: see ``protocols``.
"""

from __future__ import annotations

import numpy as np

# In 20ths, so that 0.15 and its like are the nearest floats and 1.0 is 1.
THRESHOLDS = np.arange(21) / 20
PRECISION_THRESHOLDS = np.arange(51.0)
NORM_PRECISION_THRESHOLDS = np.arange(51) / 100
PRECISION_PIXELS = 20
NORM_PRECISION_AT = 20          # index of 0.2


def has_area(boxes: np.ndarray) -> np.ndarray:
    """Which boxes (T, 4) x, y, w, h are finite with a positive size: (T,) bool."""
    boxes = np.asarray(boxes, np.float64)
    with np.errstate(invalid="ignore"):
        return np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1)


def overlaps(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """IoU of each pair of boxes: two (T, 4) arrays x, y, w, h to (T,). No area or not finite gives 0."""
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        left_top = np.maximum(predicted[:, :2], truth[:, :2])
        right_bottom = np.minimum(predicted[:, :2] + predicted[:, 2:], truth[:, :2] + truth[:, 2:])
        sides = np.clip(right_bottom - left_top, 0, None)
        inter = sides[:, 0] * sides[:, 1]
        iou = inter / (predicted[:, 2:].prod(axis=1) + truth[:, 2:].prod(axis=1) - inter)
    # Rounding may give 1 + 1e-16 for equal boxes, and nothing may pass the threshold 1.
    return np.where(has_area(predicted) & has_area(truth) & np.isfinite(iou), np.clip(iou, 0, 1), 0.0)


def centre_errors(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Distance of the centres in pixels: two (T, 4) arrays x, y, w, h to (T,). Not finite is infinitely far."""
    return _distances(_centres(predicted), _centres(truth))


def norm_centre_errors(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Distance of the centres in widths and heights of the true box: two (T, 4) arrays to (T,).

    Mueller et al., "TrackingNet", ECCV 2018. As the toolkits write it, down to the tiny number beside the true size
    that keeps empty true boxes from dividing by zero (they end up infinitely far, or at 0 where both centres agree).
    """
    size = np.asarray(truth, np.float64)[:, 2:] + 1e-16
    with np.errstate(invalid="ignore", over="ignore"):
        return _distances(_centres(predicted) / size, _centres(truth) / size)


def _centres(boxes: np.ndarray) -> np.ndarray:
    """The toolkits' centres: the one of the pixels x .. x+w-1, half a pixel before the box's."""
    boxes = np.asarray(boxes, np.float64)
    return boxes[:, :2] + (boxes[:, 2:] - 1) / 2


def _distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.sqrt(((one - other) ** 2).sum(axis=1))
    return np.where(np.isfinite(distance), distance, np.inf)
