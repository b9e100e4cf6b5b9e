# SPDX-License-Identifier: Apache-2.0
"""Every protocol against other people's code (got10k, vot-toolkit) or the MATLAB toolkits' rules, written once more."""

import math

import numpy as np
import pytest

from vlt_ros.evaluation.errors import EvaluationError
from vlt_ros.evaluation.metrics import (
    NORM_PRECISION_THRESHOLDS,
    PRECISION_THRESHOLDS,
    THRESHOLDS,
    centre_errors,
    overlaps,
)
from vlt_ros.evaluation.protocols import METRICS, PROTOCOLS

SIZE = (320, 240)
CURVES = ("success", "precision_curve", "norm_precision_curve")


def trajectories(count=60, seed=0, truth_inside=False, nan=True):
    """Random and adversarial runs: (predicted, truth, absent), from a single frame to all absent."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        length = 1 if number % 10 == 0 else int(rng.integers(2, 70))
        truth = np.c_[rng.uniform(-30, 300, (length, 2)), rng.uniform(1, 120, (length, 2))]
        if truth_inside:
            truth[:, :2] = np.abs(truth[:, :2]) + 1
        if number % 3 == 0:
            truth = np.round(truth)                         # overlaps that fall on thresholds
        predicted = truth + rng.normal(0, rng.choice([0, 1, 10, 100]), truth.shape)
        if number % 3 == 0:
            predicted = np.round(predicted)
        absent = rng.random(length) < (1.0 if number % 10 == 5 else 0.2)
        if not truth_inside:
            truth[absent] = 0                               # as data sets write it
            predicted[rng.random(length) < 0.1] = 0         # "not there"
            predicted[rng.random(length) < 0.1, 2] *= -1
            predicted[rng.random(length) < 0.05] = (-500, -500, 20, 20)
            predicted[rng.random(length) < 0.05] = (0, 0, *SIZE)
        if nan:
            predicted[rng.random(length) < 0.1] = np.nan
        yield predicted, truth, absent


def matlab(predicted, truth, absent):
    """LaSOT's, TNL2K's and OTB's calc_seq_err_robust and eval_tracker, frame by frame: three curves."""
    predicted, errors = [list(box) for box in predicted], []
    for i in range(1, len(truth)):
        if (any(map(math.isnan, predicted[i])) or predicted[i][2] <= 0 or predicted[i][3] <= 0) \
                and not any(map(math.isnan, truth[i])):
            predicted[i] = predicted[i - 1]
    predicted[0] = list(truth[0])
    for (x, y, w, h), (tx, ty, tw, th), gone in zip(predicted, truth, absent, strict=True):
        if gone:
            continue
        if not (tx > 0 and ty > 0 and tw > 0 and th > 0):
            errors.append((-1, -1, -1))
            continue
        inter = max(0, min(x + w, tx + tw) - max(x, tx)) * max(0, min(y + h, ty + th) - max(y, ty))
        dx, dy = (x + (w - 1) / 2) - (tx + (tw - 1) / 2), (y + (h - 1) / 2) - (ty + (th - 1) / 2)
        iou = inter / (w * h + tw * th - inter)             # NaN where frame 0 began with NaN: above no threshold
        errors.append((1 if iou > 1 else iou, math.hypot(dx, dy), math.hypot(
            (x + (w - 1) / 2) / tw - (tx + (tw - 1) / 2) / tw, (y + (h - 1) / 2) / th - (ty + (th - 1) / 2) / th)))
    return ([sum(e[0] > t for e in errors) / len(truth) for t in THRESHOLDS],
            [sum(e[1] <= t for e in errors) / len(truth) for t in PRECISION_THRESHOLDS],
            [sum(e[2] <= t for e in errors) / len(truth) for t in NORM_PRECISION_THRESHOLDS])


@pytest.mark.parametrize("name", ["lasot", "lasotext", "tnl2k", "otb"])
def test_matlab_toolkits(name):
    seen = set()
    for predicted, truth, absent in trajectories():
        if name == "otb":
            absent[:] = False                               # its toolkit knows none
        got = PROTOCOLS[name].score(predicted, truth, absent)
        assert got.frames == len(truth), "divided by the full length"
        for curve, expected in zip(CURVES, matlab(predicted, truth, absent), strict=True):
            assert getattr(got, curve) == pytest.approx(expected, abs=1e-9)
        seen.add(round(got.auc, 6))
    assert len(seen) > 30


def otb_of_got10k():
    from got10k.experiments import ExperimentOTB

    toolkit = object.__new__(ExperimentOTB)                 # its constructor wants the data set on disk
    toolkit.nbins_iou, toolkit.nbins_ce = 21, 51

    def curves(predicted, truth):
        predicted = predicted.copy()
        predicted[0] = truth[0]
        return toolkit._calc_curves(*toolkit._calc_metrics(predicted, truth))

    return curves


def test_webuav3m_is_what_the_got10k_package_computes():
    # WebUAV-3M's toolkit is a copy of the GOT-10k toolkit's OTB experiment with normalised precision beside.
    curves = otb_of_got10k()
    for predicted, truth, absent in trajectories(seed=1):
        got = PROTOCOLS["webuav3m"].score(predicted, truth, absent)
        success, precision = curves(predicted, truth)
        assert got.success == pytest.approx(success, abs=1e-9)
        assert got.precision_curve == pytest.approx(precision, abs=1e-9)


def test_otb_equals_the_got10k_package_where_no_rule_divides_them():
    curves = otb_of_got10k()
    for predicted, truth, _ in trajectories(seed=2, truth_inside=True, nan=False):
        predicted[:, 2:] = np.abs(predicted[:, 2:]) + 0.1
        got = PROTOCOLS["otb"].score(predicted, truth)
        success, precision = curves(predicted, truth)
        assert got.success == pytest.approx(success, abs=1e-9)
        assert got.precision_curve == pytest.approx(precision, abs=1e-9)


def test_otb_differs_from_the_got10k_package_in_two_rules():
    curves = otb_of_got10k()
    truth = np.array([[50, 50, 10, 10]] * 4, float)
    lost = truth.copy()
    lost[2] = 0
    success, precision = curves(lost, truth)
    got = PROTOCOLS["otb"].score(lost, truth)
    assert (success.mean(), precision[20]) == pytest.approx((0.75 * 20 / 21, 0.75)), "there a box without area misses"
    assert (got.auc, got.precision) == pytest.approx((20 / 21, 1)), "MATLAB takes the one before"
    border = np.array([[50, 50, 10, 10], [0, 50, 10, 10]], float)
    far = border + [[0, 0, 0, 0], [200, 0, 0, 0]]
    assert curves(border, border)[0].mean() == pytest.approx(20 / 21)
    assert curves(far, border)[1][20] == 0.5
    assert PROTOCOLS["otb"].score(border, border).auc == pytest.approx(10 / 21), "x = 0 misses whatever is predicted"
    assert PROTOCOLS["otb"].score(far, border).precision == 1, "and hits precision whatever is predicted"


def test_got10k_equals_its_package():
    from got10k.experiments import ExperimentGOT10k
    from got10k.utils.metrics import rect_iou

    toolkit = object.__new__(ExperimentGOT10k)
    ours, theirs = [], []
    for predicted, truth, absent in trajectories(seed=3, nan=False):
        truth[~absent, 2:] = np.maximum(truth[~absent, 2:], 1)
        ours.append(PROTOCOLS["got10k"].score(predicted, truth, absent, SIZE))
        # ``report`` of the toolkit: frames 1 and on, those with a cover above 0.
        theirs.append(rect_iou(predicted[1:].copy(), truth[1:].copy(), bound=SIZE)[~absent[1:]])
        if len(theirs[-1]):
            ao, sr, _, curve = toolkit._evaluate(theirs[-1], np.array([]))
            assert (ours[-1].ao, ours[-1].sr50) == pytest.approx((ao, sr), abs=1e-9)
            assert ours[-1].success == pytest.approx(curve, abs=1e-9)
        else:
            assert ours[-1].frames == 0 and math.isnan(ours[-1].ao)
    ao, sr, _, curve = toolkit._evaluate(np.concatenate(theirs), np.array([]))
    overall = PROTOCOLS["got10k"].overall(ours)
    assert (overall.ao, overall.sr50) == pytest.approx((ao, sr), abs=1e-9), "frames are pooled"
    assert overall.sr75 == pytest.approx((np.concatenate(theirs) > 0.75).mean(), abs=1e-9)
    assert overall.success == pytest.approx(curve, abs=1e-9)
    assert abs(overall.ao - np.nanmean([one.ao for one in ours])) > 1e-3, "the mean over sequences is another number"


def test_got10k_differs_from_its_package_where_that_has_no_answer():
    from got10k.utils.metrics import rect_iou

    truth = np.array([[10, 10, 20, 20]] * 3, float)
    predicted = truth.copy()
    predicted[1] = np.nan
    assert math.isnan(rect_iou(predicted[1:].copy(), truth[1:].copy(), SIZE).mean())
    assert PROTOCOLS["got10k"].score(predicted, truth, size=SIZE).ao == 0.5, "a miss here"
    truth[1] = 0
    assert rect_iou(truth[1:].copy(), truth[1:].copy(), SIZE).mean() == pytest.approx(0.5)
    assert PROTOCOLS["got10k"].score(truth, truth, size=SIZE).ao == 1, "a target without area is not there"


def test_overlaps_and_centre_errors_equal_the_got10k_package():
    from got10k.utils.metrics import center_error, rect_iou

    for predicted, truth, _ in trajectories(seed=4, nan=False):
        assert overlaps(predicted, truth) == pytest.approx(rect_iou(predicted, truth), abs=1e-9)
        assert centre_errors(predicted, truth) == pytest.approx(center_error(predicted, truth), abs=1e-9)


def test_overlaps_equal_vot_toolkit_on_whole_pixels_and_differ_on_parts_of_them():
    from vot.region import Rectangle, calculate_overlaps

    rng = np.random.default_rng(5)
    truth = np.c_[rng.integers(30, 200, (200, 2)), rng.integers(2, 60, (200, 2))].astype(float)
    predicted = truth + np.c_[rng.integers(-30, 31, (200, 2)), rng.integers(0, 20, (200, 2))]
    predicted[::10, :2] += 500
    expected = calculate_overlaps([Rectangle(*box) for box in predicted], [Rectangle(*box) for box in truth])
    assert 0.1 < np.mean(expected) < 0.9
    assert overlaps(predicted, truth) == pytest.approx(expected, abs=1e-9)
    # VOT's accuracy without burn-in is the mean of these: our AO.
    assert PROTOCOLS["ope"].score(predicted, truth).ao == pytest.approx(np.mean(expected), abs=1e-9)
    half = calculate_overlaps([Rectangle(0, 0, 10.4, 10)], [Rectangle(0, 0, 10, 10)])[0]
    assert half == 1 and overlaps([[0, 0, 10.4, 10]], [[0, 0, 10, 10]])[0] == pytest.approx(10 / 10.4), \
        "VOT counts pixels, so it rounds"
    outside = [[-10, -10, 20, 20]], [[-10, -10, 20, 10]]
    assert calculate_overlaps([Rectangle(*outside[0][0])], [Rectangle(*outside[1][0])])[0] != pytest.approx(0.5)
    assert overlaps(*outside)[0] == 0.5, "VOT cuts boxes left of and above the image"
    nothing = [[5, 5, 0, 0]]
    assert calculate_overlaps([Rectangle(*nothing[0])] * 1, [Rectangle(*nothing[0])])[0] == 1
    assert overlaps(nothing, nothing)[0] == 0, "two empty boxes agree for VOT"


def test_frame_0_both_ways():
    truth = np.array([[50, 50, 20, 20]] * 4, float)
    failed = np.full((4, 4), np.nan)
    for name in ("lasot", "tnl2k", "otb", "webuav3m"):
        protocol = PROTOCOLS[name]
        helped, own = protocol.score(failed, truth), protocol.score(failed, truth, frame_0="own")
        assert helped.auc == pytest.approx(20 / 21 / 4), "the toolkit writes the truth into frame 0"
        assert (own.auc, own.precision, own.norm_precision, own.ao) == (0, 0, 0, 0), "and never into the frames after"
    for way in ("own", "truth"):
        assert PROTOCOLS["got10k"].score(failed, truth, size=SIZE, frame_0=way).frames == 3, "frame 0 is left out"
    assert PROTOCOLS["ope"].score(failed, truth).auc == 0
    assert PROTOCOLS["ope"].score(failed, truth, frame_0="truth").auc == pytest.approx(20 / 21 / 4)


def test_means_drop_complete_failures_as_matlab_does_but_not_with_the_trackers_own_frame_0():
    lasot = PROTOCOLS["lasot"]
    truth = np.array([[50, 50, 20, 20]] * 4, float)
    good = lasot.score(truth, truth)
    gone = lasot.score(truth, truth, np.ones(4, bool))
    assert gone.auc == 0 and gone.frames == 4
    assert lasot.overall([good, gone]).auc == good.auc and lasot.overall([good, gone]).ao == good.ao / 2
    assert lasot.overall([good, gone], "own").auc == good.auc / 2
    assert lasot.others()["PyTracking: true boxes that are not positive miss precision and hit the normalised one"] \
        .overall([good, gone]).auc == good.auc / 2


def test_absent_frames_and_the_variants_that_disagree():
    truth = np.array([[50, 50, 20, 20]] * 4 + [[0, 0, 0, 0]] * 4, float)
    absent = np.array([False] * 4 + [True] * 4)
    held = np.repeat(truth[:1], 8, axis=0)
    said = truth.copy()                                     # 0,0,0,0 where the target is gone
    auc = 20 / 21
    assert PROTOCOLS["ope"].score(held, truth, absent).auc == pytest.approx(auc)
    assert PROTOCOLS["got10k"].score(held, truth, absent, SIZE).ao == 1
    for name in ("lasot", "tnl2k"):
        scores = PROTOCOLS[name].score(held, truth, absent)
        assert (scores.auc, scores.precision) == pytest.approx((auc / 2, 0.5)), "no hits, but divided by"
        variants = {what: rules.score(held, truth, absent) for what, rules in PROTOCOLS[name].others().items()}
        left_out, _, pytracking = variants.values()
        assert left_out.auc == pytest.approx(auc) and pytracking.precision == 0.5
        assert pytracking.norm_precision == (1 if name == "tnl2k" else 0.5), "PyTracking knows LaSOT's absent frames"
    webuav = PROTOCOLS["webuav3m"]
    assert webuav.score(held, truth, absent).precision == 0.5
    assert webuav.score(said, truth, absent).precision == webuav.score(said, truth, absent).norm_precision == 1
    assert webuav.score(said, truth, absent).auc == pytest.approx(auc / 2)
    # A box at the border: 2.8 % of TNL2K's test frames.
    border = np.array([[50, 50, 20, 20], [0, 50, 20, 20]], float)
    scores, edge = PROTOCOLS["tnl2k"].score(border, border), list(PROTOCOLS["tnl2k"].others().values())
    assert (scores.auc, scores.precision) == pytest.approx((auc / 2, 1))
    assert edge[1].score(border, border).auc == pytest.approx(auc)
    assert (edge[2].score(border, border).precision, edge[2].score(border, border).norm_precision) == (0.5, 1)


def test_every_protocol_says_whose_rules_it_has():
    assert set(PROTOCOLS) == {"ope", "lasot", "lasotext", "tnl2k", "otb", "got10k", "webuav3m"}
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name and "rame 0" in protocol.rule and len(protocol.rule) > 200
        assert name == "ope" or "toolkit" in protocol.rule
        nothing = protocol.overall([])
        assert nothing.frames == 0 and all(math.isnan(getattr(nothing, metric)) for metric in METRICS)
    with pytest.raises(ValueError, match="got10k clips boxes to the image, so it needs the images' size"):
        PROTOCOLS["got10k"].score(np.ones((2, 4)), np.ones((2, 4)))


def test_attributes():
    lasot, webuav = PROTOCOLS["lasot"], PROTOCOLS["webuav3m"]
    assert lasot.attribute_names(["0", "1"] + ["0"] * 11 + ["1"], "a.txt") == ["partial occlusion",
                                                                               "aspect ratio change"]
    assert lasot.attribute_names(["IV", "OCC"], "a.txt") == ["IV", "OCC"]
    assert webuav.attribute_names(["1"] + ["0"] * 13 + ["2", "0", "1"], "a.txt") == [
        "low resolution", "complexity hard", "size small", "length medium"]
    assert PROTOCOLS["ope"].attribute_names(["0", "1"], "a.txt") == ["attribute 2"]
    with pytest.raises(EvaluationError, match=r"a.txt has 2 attribute flags but lasot has 14"):
        lasot.attribute_names(["0", "1"], "a.txt")
