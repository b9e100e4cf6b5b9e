# SPDX-License-Identifier: Apache-2.0
import math
import random
import sys

import numpy as np
import pytest

from vlt_ros.tracker import CommandError, validate_box, validate_text


def one_line(error) -> str:
    message = str(error.value)
    assert message and message.isprintable(), repr(message)
    return message


@pytest.mark.parametrize("text, cleaned", [
    ("the red mug", "the red mug"), ("  a dog\n", "a dog"), ("", ""), (" \t ", ""),
    ("café 猫 🐕‍🦺", "café 猫 🐕‍🦺"), ("a" * 256, "a" * 256),
    ("'; DROP TABLE; $(rm) %s {0}", "'; DROP TABLE; $(rm) %s {0}")])
def test_text_is_kept_as_it_is_but_for_space_around_it(text, cleaned):
    assert validate_text(text) == cleaned


@pytest.mark.parametrize("text, words", [
    ("a\x00b", "U+0000"), ("follow\x1b[2J him", "U+001B"), ("two\nlines", "U+000A"), ("a\ttab", "U+0009"),
    ("a\x7f", "U+007F"), ("a\x9bb", "U+009B"), ("lone \ud83d surrogate", "lone surrogate"),
    ("a" * 257, "257")])
def test_text_refused(text, words):
    with pytest.raises(CommandError) as error:
        validate_text(text)
    assert words in one_line(error)


def test_text_limit_can_be_set():
    assert validate_text("abcde", max_length=5) == "abcde"
    with pytest.raises(CommandError, match="6 characters, at most 5"):
        validate_text("abcdef", max_length=5)


@pytest.mark.parametrize("text", [None, b"bytes", 3, ["a"]])
def test_text_must_be_a_string(text):
    with pytest.raises(CommandError, match="must be a string"):
        validate_text(text)


def test_any_text_passes_or_is_refused_and_never_breaks():
    draw = random.Random(0)
    alphabet = [*map(chr, range(0x180)), *"\u2028\u200d\ufeff\ud800\udfff😀猫\U0010ffff"]
    passed = 0
    for _ in range(3000):
        text = "".join(draw.choices(alphabet, k=draw.choice((0, 1, 3, 20))))
        try:
            cleaned = validate_text(text, max_length=15)
        except CommandError as error:
            assert str(error).isprintable()
            continue
        passed += 1
        assert cleaned == text.strip() and len(cleaned) <= 15
        cleaned.encode()                                    # no surrogates
        assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in cleaned)
        assert validate_text(cleaned) == cleaned
    assert 500 < passed < 2900


@pytest.mark.parametrize("box, cut", [
    ((10, 20, 30, 40), (10, 20, 30, 40)),
    ((-5, -5, 20, 30), (0, 0, 15, 25)),
    ((630, 470, 50, 50), (630, 470, 10, 10)),
    ((-100, -100, 1e6, 1e6), (0, 0, 640, 480)),
    ((0, 0, 2, 2), (0, 0, 2, 2)),
    (np.array([1.5, 2.5, 3, 4], np.float32), (1.5, 2.5, 3, 4))])
def test_box_is_cut_to_the_frame(box, cut):
    got = validate_box(box, 640, 480)
    assert got == cut and all(type(v) is float for v in got)


@pytest.mark.parametrize("box, words", [
    ((1, 2, 3), "four numbers"), ((1, 2, 3, 4, 5), "four numbers"), (None, "four numbers"),
    (7, "four numbers"),
    (("a", 1, 2, 3), "four numbers"), ((1, 2, 3, None), "four numbers"),
    ((10**400, 0, 5, 5), "four numbers"),
    ((math.nan, 0, 5, 5), "NaN"), ((0, 0, math.inf, 5), "infinity"), ((0, -math.inf, 5, 5), "infinity"),
    ((0, 0, 0, 5), "no area"), ((0, 0, 5, -1), "no area"),
    ((700, 0, 50, 50), "640 x 480"), ((-60, 0, 50, 50), "640 x 480"), ((0, 0, 1.9, 50), "2 pixels"),
    ((638.5, 0, 50, 50), "2 pixels")])
def test_box_refused(box, words):
    with pytest.raises(CommandError) as error:
        validate_box(box, 640, 480)
    assert words in one_line(error)


def test_any_box_passes_or_is_refused_and_never_breaks():
    draw = random.Random(0)
    odd = [0.0, -0.0, 1e-300, -1e-300, 1e300, -1e300, sys.float_info.max, math.nan, math.inf, -math.inf,
           1e9, -1e9]
    passed = 0
    for _ in range(5000):
        box = [draw.choice(odd) if draw.random() < 0.1 else draw.uniform(-200, 900) for _ in range(4)]
        try:
            x, y, w, h = validate_box(box, 640, 480)
        except CommandError as error:
            assert str(error).isprintable()
            continue
        passed += 1
        assert x >= 0 and y >= 0 and w >= 2 and h >= 2
        assert x + w <= 640 + 1e-6 and y + h <= 480 + 1e-6
        assert validate_box((x, y, w, h), 640, 480) == pytest.approx((x, y, w, h), abs=1e-6)
    assert passed > 1000
