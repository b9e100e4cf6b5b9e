# SPDX-License-Identifier: Apache-2.0
import json
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from vlt_ros.evaluation.evaluate import EvaluationError
from vlt_ros.evaluation.pointing import evaluate_pointing, inside, measure, table, wilson


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (10, 10), (3, 10), (255, 300), (1, 1)])
def test_wilson_bounds_solve_its_equation(hits, trials):
    # By definition both ends are the p for which |rate - p| is z standard errors of p itself.
    for bound in wilson(hits, trials):
        variance = bound * (1 - bound) / trials
        assert (hits / trials - bound) ** 2 == pytest.approx(1.959964 ** 2 * variance, abs=1e-12)


def test_wilson_known_value_and_bad_counts():
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    for bad in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="have no interval"):
            wilson(*bad)


def test_inside():
    box = (10, 20, 5, 5)
    assert all(inside(point, box) for point in ((10, 20), (15, 25), (12, 21)))
    assert not any(inside(point, box) for point in ((15.1, 21), (12, 19.9), (math.nan, 21)))


def scenes(count=60):
    rng = np.random.default_rng(1)
    boxes = np.array([[0, 0, 20, 20], [40, 0, 20, 20], [80, 0, 20, 20]], float)
    for _ in range(count):
        target, other = rng.permutation(3)[:2]
        yield SimpleNamespace(image=boxes, right=f"object {target}", wrong=f"object {other}", boxes=boxes,
                              target=int(target), wrong_target=int(other))


def centre(box):
    return box[0] + box[2] / 2, box[1] + box[3] / 2


def test_one_that_listens():
    report = measure(scenes(), lambda boxes, text: centre(boxes[int(text[-1])]) if text else (200.0, 200.0))
    assert report["right"]["rate"] == 1 and report["wrong"]["rate"] == 0 and report["none"]["rate"] == 0
    assert report["wrong"]["followed"]["rate"] == 1
    assert report["scenes"] == 60 and report["chance"] == pytest.approx(1 / 3, abs=1e-4)
    assert report["right"]["low"] < 1 == report["right"]["high"]


def test_one_that_ignores_its_sentence():
    report = measure(scenes(300), lambda boxes, text: centre(boxes[1]))
    rates = {report[phrase]["rate"] for phrase in ("right", "wrong", "none")}
    assert len(rates) == 1
    assert report["none"]["low"] < 1 / 3 < report["none"]["high"]


def test_no_scene():
    with pytest.raises(EvaluationError, match="--count"):
        measure([], lambda image, text: (0.0, 0.0))


def test_evaluate_pointing_writes_a_report(weights, tmp_path, monkeypatch):
    """The whole command with the real network's grounding; only the pictures are plain ones made here."""
    class Generator:
        def __init__(self, data, assets, *, split):
            assert (data, assets, split) == ("data", "assets", "heldout")

        def candidates(self, index, by, count):
            assert count == 3
            scene = next(iter(scenes(1)))
            scene.image = np.random.default_rng(index).integers(0, 255, (224, 224, 3), np.uint8)
            scene.right, scene.wrong = f"{by} right", f"{by} wrong"
            return scene

    monkeypatch.setitem(sys.modules, "vlt_ros.training.samples", SimpleNamespace(SampleGenerator=Generator))
    report = evaluate_pointing("data", tmp_path / "out", assets="assets", count=4, weights=weights,
                               device="cpu", progress=False)
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert list(report["kinds"]) == ["colour", "position", "name"] and report["model"] == "pjvlt_tiny"
    for entry in report["kinds"].values():
        assert entry["scenes"] == 4 and set(entry) >= {"right", "wrong", "none", "chance"}
        assert entry["right"]["trials"] == entry["wrong"]["followed"]["trials"] == 4

    def missing(*_args, **_kwargs):
        raise FileNotFoundError("assets has no cut-outs: run make assets")

    monkeypatch.setattr(sys.modules["vlt_ros.training.samples"], "SampleGenerator", missing)
    with pytest.raises(EvaluationError, match="run make assets"):
        evaluate_pointing("data", tmp_path / "out", weights=weights, device="cpu", progress=False)


def test_table_names_every_rate():
    entry = measure(scenes(), lambda boxes, text: centre(boxes[int(text[-1]) if text else 0]))
    report = {"kinds": {"colour": entry}}
    head, row = table(report).splitlines()
    assert head.split()[:6] == ["kind", "scenes", "chance", "right", "wrong", "none"]
    assert row.split()[:3] == ["colour", "60", "0.33"] and "1.00 (0.94-1.00)" in row
