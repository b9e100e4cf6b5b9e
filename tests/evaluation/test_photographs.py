# SPDX-License-Identifier: Apache-2.0
import math
from types import SimpleNamespace

import numpy as np
import pytest

from vlt_ros.evaluation.errors import EvaluationError
from vlt_ros.evaluation.photographs import chance_of, measure_classes, measure_told_apart, table

LEFT, RIGHT = (0.0, 20.0, 30.0, 30.0), (70.0, 20.0, 30.0, 30.0)


def photographs(count=40):
    for k in range(count):
        target = k % 2
        yield SimpleNamespace(image=np.zeros((80, 100, 3), np.uint8), boxes=np.array([LEFT, RIGHT]), target=target,
                              right=f"the {('left', 'right')[target]} dog", absent="the cat")


def test_chance_is_the_binomial_where_chances_are_equal():
    for hits in range(8):
        expected = sum(math.comb(7, k) * 0.3**k * 0.7 ** (7 - k) for k in range(hits, 8))
        assert chance_of(hits, [0.3] * 7) == pytest.approx(expected, abs=1e-12)


def test_chance_of_unequal_trials():
    assert chance_of(2, [0.5, 0.25]) == pytest.approx(0.125)
    assert chance_of(1, [0.5, 0.25]) == pytest.approx(1 - 0.5 * 0.75)
    assert chance_of(0, []) == 1


def listens(image, text):
    if text == "the cat":
        return (15.0, 30.0), 0.1
    return ((85.0, 30.0) if "right" in text else (15.0, 30.0)), 0.8 if text else 0.3


def test_classes_count_points_and_answers():
    report = measure_classes(photographs(), listens, 0.45)
    assert report["right"]["pointing"]["rate"] == report["right"]["answered"]["rate"] == 1
    assert report["absent"]["pointing"]["rate"] == 1 and report["absent"]["answered"]["rate"] == 0
    assert report["none"]["answers"]["rate"] == 0 and report["centre"]["rate"] == 0
    assert "1.00 (0.91-1.00)" in table({"classes": report, "told_apart": {}})


def test_a_phrase_that_decides_is_beyond_chance_and_one_that_is_ignored_is_not():
    heard = measure_told_apart(photographs(), listens)
    assert heard["right"]["hits"]["rate"] == 1 and heard["right"]["p"] == pytest.approx(0.5**40)
    assert heard["none"]["hits"]["rate"] == 0.5 and heard["none"]["p"] > 0.4 and heard["none"]["chance"] == 0.5


def test_points_beside_every_candidate_are_no_trials():
    report = measure_told_apart(photographs(4), lambda image, text: ((50.0, 70.0), 0.5))
    assert report["right"]["on_one"]["rate"] == 0 and report["right"]["hits"] is None and report["right"]["p"] is None


def test_nothing_to_look_at():
    with pytest.raises(EvaluationError, match="no photograph"):
        measure_classes([], listens, 0.45)
