# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest

from vlt_ros.evaluation.metrics import THRESHOLDS, centre_errors, norm_centre_errors, overlaps
from vlt_ros.evaluation.protocols import PROTOCOLS

score = PROTOCOLS["ope"].score


def naive(predicted, truth, absent):
    """The protocol once more, box by box in plain Python."""
    ious, errors = [], []
    for (px, py, pw, ph), (x, y, w, h), gone in zip(predicted, truth, absent, strict=True):
        if gone:
            continue
        if not all(map(math.isfinite, (px, py, pw, ph))) or pw <= 0 or ph <= 0:
            ious.append(0.0)
            errors.append(math.inf)
            continue
        iw = min(px + pw, x + w) - max(px, x)
        ih = min(py + ph, y + h) - max(py, y)
        inter = max(iw, 0) * max(ih, 0)
        ious.append(min(1.0, inter / (pw * ph + w * h - inter)))
        errors.append(math.dist((px + pw / 2, py + ph / 2), (x + w / 2, y + h / 2)))
    success = [sum(iou > t / 20 for iou in ious) / len(ious) for t in range(21)]
    return (sum(success) / 21, sum(iou > 0.5 for iou in ious) / len(ious),
            sum(error <= 20 for error in errors) / len(errors))


def test_equals_an_independent_computation_on_adversarial_trajectories():
    rng = np.random.default_rng(3)
    for _ in range(50):
        length = int(rng.integers(1, 60))
        truth = np.c_[rng.uniform(-20, 300, (length, 2)), rng.uniform(1, 90, (length, 2))]
        predicted = truth + rng.normal(0, rng.choice([0, 2, 20, 200]), truth.shape)
        predicted[rng.random(length) < 0.1] = np.nan
        predicted[rng.random(length) < 0.1, 2] = 0
        predicted[rng.random(length) < 0.1] = truth[0]
        predicted[rng.random(length) < 0.05, 0] = np.inf
        absent = rng.random(length) < 0.2
        absent[0] = False
        got = score(predicted, truth, absent)
        assert (got.auc, got.sr50, got.precision) == pytest.approx(naive(predicted, truth, absent), abs=1e-12)
        assert got.frames == (~absent).sum()


def test_perfect_tracker_gets_20_of_21():
    rng = np.random.default_rng(0)
    # Fractions whose IoU with themselves rounds to more than 1 must not pass the threshold 1.
    truth = np.c_[rng.uniform(0, 500, (2000, 2)), rng.uniform(0.1, 200, (2000, 2))]
    scores = score(truth, truth)
    assert scores.auc == pytest.approx(20 / 21, abs=1e-12)
    assert (scores.sr50, scores.precision) == (1, 1)


def test_thresholds_are_strict_and_exact():
    assert list(THRESHOLDS) == [i / 20 for i in range(21)]
    truth = np.array([[0, 0, 20, 1]] * 20, float)
    predicted = np.array([[0, 0, i, 1] for i in range(1, 21)], float)       # IoU i/20
    assert overlaps(predicted, truth) == pytest.approx(THRESHOLDS[1:], abs=0)
    scores = score(predicted, truth)
    # IoU i/20 passes the i thresholds below it.
    assert scores.auc == pytest.approx(sum(range(1, 21)) / 20 / 21, abs=1e-12)
    assert scores.sr50 == 10 / 20


def test_precision_at_20_pixels_counts_the_20th():
    truth = np.array([[100, 100, 10, 10]] * 3, float)
    predicted = truth + [[20, 0, 0, 0], [20.001, 0, 0, 0], [12, 16, 0, 0]]
    assert centre_errors(predicted, truth) == pytest.approx([20, 20.001, 20])
    assert score(predicted, truth).precision == pytest.approx(2 / 3)


def test_norm_precision_is_in_sizes_of_the_true_box():
    truth = np.array([[100, 100, 64, 16]] * 4, float)
    predicted = truth + [[16, 0, 0, 0], [0, 4, 0, 0], [0, 5, 0, 0], [38.4, 12.8, 0, 0]]
    assert norm_centre_errors(predicted, truth) == pytest.approx([0.25, 0.25, 0.3125, 1.0])
    scores = score(predicted, truth)
    assert scores.norm_precision_curve[[24, 25, 31, 32]].tolist() == [0, 0.5, 0.5, 0.75], "at most 0.25 counts"
    assert scores.norm_precision == 0
    assert scores.norm_precision_auc == scores.norm_precision_curve.mean() and len(scores.norm_precision_curve) == 51


def test_known_overlaps():
    truth = np.array([[0, 0, 10, 10]] * 5, float)
    predicted = np.array([[5, 0, 10, 10], [10, 0, 10, 10], [2, 2, 5, 5], [-10, -10, 30, 30],
                          [0, 0, -10, -10]], float)
    assert overlaps(predicted, truth) == pytest.approx([1 / 3, 0, 0.25, 1 / 9, 0])


def test_absent_and_impossible_truth_is_left_out():
    truth = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [np.nan] * 4, [5, 5, 0, 0]])
    predicted = np.array([[0, 0, 10, 10], [90, 90, 10, 10], [0, 0, 10, 10], [5, 5, 1, 1]], float)
    scores = score(predicted, truth, np.array([False, True, False, False]))
    assert (scores.frames, scores.sr50, scores.precision) == (1, 1, 1)
    nothing = score(predicted, truth, np.ones(4, bool))
    assert nothing.frames == 0 and math.isnan(nothing.auc) and math.isnan(nothing.precision)


def test_no_box_scores_nothing():
    truth = np.array([[0, 0, 4, 4]] * 2, float)
    for nothing in (np.zeros((2, 4)), np.full((2, 4), np.nan)):
        scores = score(nothing, truth)
        assert (scores.auc, scores.sr50, scores.precision) == (0, 0, 0), "no hit near the origin"


def test_wrong_shapes_name_both():
    with pytest.raises(ValueError, match=r"\(3, 4\), true ones \(2, 4\)"):
        score(np.zeros((3, 4)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"absent has shape \(3,\); it must be \(2,\)"):
        score(np.zeros((2, 4)), np.zeros((2, 4)), np.zeros(3, bool))
