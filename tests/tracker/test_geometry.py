# SPDX-License-Identifier: Apache-2.0
import math
import random

import cv2
import numpy as np
import pytest

from vlt_ros.tracker.geometry import (
    PADDING,
    Window,
    clip,
    crop,
    hann,
    overlap,
    tiles,
    to_frame,
    whole_frame,
    window_around,
)


def naive_crop(image, window, size):
    """The same crop pixel by pixel; resizing by its definition as a weighted sum."""
    height, width = image.shape[:2]
    side = window.side
    canvas = np.empty((side, side, 3))
    for row in range(side):
        for column in range(side):
            y, x = window.y + row, window.x + column
            canvas[row, column] = image[y, x] if 0 <= y < height and 0 <= x < width else PADDING
    weights = np.zeros((size, side))
    scale = side / size
    for i in range(size):
        if side > size:     # area: the share of every source pixel that lies under the new one
            for k in range(side):
                weights[i, k] = max(0.0, min(k + 1, (i + 1) * scale) - max(k, i * scale)) / scale
        else:               # bilinear: pixel centres at halves, the border repeated
            centre = (i + 0.5) * scale - 0.5
            low = math.floor(centre)
            for k, weight in ((low, 1 - (centre - low)), (low + 1, centre - low)):
                weights[i, min(max(k, 0), side - 1)] += weight
    return np.einsum("ai,bj,ijc->abc", weights, weights, canvas)[..., ::-1]


@pytest.mark.parametrize("window", [
    Window(5, 4, 16), Window(0, 0, 12), Window(3, 2, 20), Window(7, 3, 24), Window(2, 1, 9),    # inside
    Window(-6, 3, 16), Window(20, 3, 16), Window(5, -9, 16), Window(5, 20, 16),                 # one border
    Window(-7, -8, 40), Window(25, 20, 24), Window(-10, -12, 16), Window(-5, -3, 64),           # corners
    Window(29, 23, 16), Window(-15, -15, 16), Window(-4, -4, 5)])                               # one pixel in
@pytest.mark.parametrize("size", [8, 16, 24])
def test_crop_equals_a_naive_one(window, size):
    image = np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)
    kept = image.copy()
    got = crop(image, window, size)
    assert got.shape == (size, size, 3) and got.dtype == np.uint8 and got.flags.c_contiguous
    expected = naive_crop(image, window, size)
    assert np.abs(got - expected).max() <= 1.01         # OpenCV rounds its weights to 11 bits
    assert np.abs(got - expected).mean() < 0.5
    assert np.array_equal(image, kept)


@pytest.mark.parametrize("window", [
    Window(30, 0, 16), Window(0, 24, 16), Window(-16, 0, 16), Window(0, -16, 16), Window(10**6, 10**6, 50),
    Window(-10**6, 3, 7)])
def test_crop_outside_the_frame_is_padding(window):
    image = np.zeros((24, 30, 3), np.uint8)
    got = crop(image, window, 8)
    assert got.shape == (8, 8, 3) and got.dtype == np.uint8
    assert (got == PADDING[::-1]).all()


def test_crop_takes_any_memory_layout():
    image = np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)
    wide = np.zeros((24, 60, 3), np.uint8)
    wide[:, ::2] = image
    for window in (Window(3, 4, 10), Window(-3, 15, 20)):
        expected = crop(image, window, 12)
        assert np.array_equal(crop(wide[:, ::2], window, 12), expected)
        assert np.array_equal(crop(np.asfortranarray(image), window, 12), expected)
        image.flags.writeable = False
        assert np.array_equal(crop(image, window, 12), expected)


def test_crop_is_rgb_of_a_bgr_frame():
    image = np.zeros((10, 10, 3), np.uint8)
    image[..., 0] = 200                                     # blue
    assert crop(image, Window(2, 2, 4), 4)[0, 0].tolist() == [0, 0, 200]


@pytest.mark.parametrize("box, factor, window", [
    ((10, 20, 16, 16), 2, (2, 12, 32)),
    ((0, 0, 10, 40), 4, (-35, -20, 80)),                # sqrt(400) = 20
    ((0, 0, 3, 5), 2, (-2, -2, 8)),                     # sqrt(15) * 2 = 7.75 -> 8; -2.5 -> -2, -1.5 -> -2
    ((1, 0, 4, 4), 2, (-1, -2, 8)),
    ((0.5, 1.5, 4, 4), 2, (-2, 0, 8)),                  # -1.5 -> -2 and -0.5 -> 0: half to even
    ((2.5, 4.5, 4, 4), 2, (0, 2, 8)),                   # 0.5 -> 0, 2.5 -> 2
    ((3.5, 5.5, 4, 4), 2, (2, 4, 8)),                   # 1.5 -> 2, 3.5 -> 4
    ((100, 100, 0.01, 0.01), 4, (100, 100, 1))])
def test_window_around_is_ostracks(box, factor, window):
    assert window_around(box, factor) == window
    assert all(type(v) is int for v in window_around(box, factor))


def test_window_side_is_rounded_up():
    draw = random.Random(0)
    for _ in range(500):
        box = (draw.uniform(-50, 600), draw.uniform(-50, 400), draw.uniform(1, 300), draw.uniform(1, 300))
        window = window_around(box, 4)
        assert 0 <= window.side - 4 * math.sqrt(box[2] * box[3]) < 1
        assert abs(window.x + window.side / 2 - box[0] - box[2] / 2) <= 0.5
        assert abs(window.y + window.side / 2 - box[1] - box[3] / 2) <= 0.5


def test_boxes_go_to_the_frame_and_back():
    draw = random.Random(0)
    for _ in range(200):
        window = Window(draw.randint(-300, 600), draw.randint(-300, 600), draw.randint(1, 900))
        box = draw.uniform(-50, 400), draw.uniform(-50, 400), draw.uniform(1, 90), draw.uniform(1, 90)
        x, y, w, h = box
        fractions = ((x + w / 2 - window.x) / window.side, (y + h / 2 - window.y) / window.side,
                     w / window.side, h / window.side)
        assert to_frame(fractions, window) == pytest.approx(box, abs=1e-6)
    assert to_frame((0.5, 0.25, 0.5, 0.1), Window(10, 20, 100)) == (35, 40, 50, 10)


@pytest.mark.parametrize("box, clipped", [
    ((50, 60, 20, 30), (50, 60, 20, 30)),
    ((-5, -8, 40, 40), (0, 0, 35, 32)),
    ((620, 470, 50, 50), (620, 470, 20, 10)),
    ((-500, 100, 20, 30), (0, 100, 10, 30)),            # gone: ten pixels stay at the border
    ((900, 900, 20, 30), (630, 470, 10, 10)),
    ((100, 100, 3, 4), (100, 100, 10, 10)),             # OSTrack's margin is also the least size
    ((-10, -10, 2000, 2000), (0, 0, 640, 480))])
def test_clip_keeps_a_margin_of_ten(box, clipped):
    assert clip(box, 640, 480) == clipped


def test_clip_always_ends_inside():
    draw = random.Random(0)
    for _ in range(3000):
        width, height = draw.randint(10, 700), draw.randint(10, 700)
        box = (draw.uniform(-900, 900), draw.uniform(-900, 900), draw.uniform(0, 900), draw.uniform(0, 900))
        x, y, w, h = clip(box, width, height)
        assert x >= 0 and y >= 0 and w >= 10 and h >= 10
        assert x + w <= width + 1e-9 and y + h <= height + 1e-9
        assert clip((x, y, w, h), width, height) == pytest.approx((x, y, w, h))


@pytest.mark.parametrize("side", [8, 16])
def test_hann_is_its_formula(side):
    window = hann(side)
    assert window.shape == (side, side) and window.dtype == np.float32
    for i in range(side):
        for j in range(side):
            expected = math.prod(0.5 * (1 - math.cos(2 * math.pi * k / (side + 1))) for k in (i + 1, j + 1))
            assert window[i, j] == pytest.approx(expected, abs=1e-6)
    assert np.allclose(window, window.T) and np.allclose(window, window[::-1, ::-1]) and window.min() > 0
    assert window.max() == pytest.approx(window[side // 2, side // 2])


def test_overlap_counts_pixels():
    draw = random.Random(0)
    for _ in range(200):
        a, b = ([draw.randint(low, 12) for low in (0, 0, 1, 1)] for _ in range(2))
        masks = np.zeros((2, 30, 30), bool)
        for mask, (x, y, w, h) in zip(masks, (a, b), strict=True):
            mask[y:y + h, x:x + w] = True
        assert overlap(a, b) == pytest.approx((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())
        assert overlap(a, b) == overlap(b, a)
    assert overlap((0, 0, 0, 0), (0, 0, 0, 0)) == 0


@pytest.mark.parametrize("width, height", [(640, 480), (480, 640), (100, 100), (1281, 719), (7, 1000)])
def test_whole_frame_is_the_smallest_square_around_it(width, height):
    x, y, side = whole_frame(width, height)
    assert side == max(width, height)
    assert x <= 0 and y <= 0 and x + side >= width and y + side >= height
    assert abs((x + side / 2) - width / 2) <= 0.5 and abs((y + side / 2) - height / 2) <= 0.5


@pytest.mark.parametrize("width, height", [
    (640, 480), (480, 640), (1280, 720), (1281, 719), (101, 53), (60, 60)])
@pytest.mark.parametrize("side", [25, 60, 160, 161, 320])
def test_tiles_cover_the_frame_and_overlap_by_half(width, height, side):
    windows = tiles(width, height, side)
    assert len(set(windows)) == len(windows)
    assert {w.side for w in windows} == {side}
    covered = np.zeros((height, width), bool)
    for x, y, _ in windows:
        covered[max(y, 0):y + side, max(x, 0):x + side] = True
        # No tile reaches out of the frame where the frame is larger than it.
        assert (0 <= x <= width - side) if width > side else (x <= 0 and x + side >= width)
        assert (0 <= y <= height - side) if height > side else (y <= 0 and y + side >= height)
    assert covered.all()
    for starts in (sorted({w.x for w in windows}), sorted({w.y for w in windows})):
        assert all(b - a <= math.ceil(side / 2) for a, b in zip(starts, starts[1:], strict=False))


@pytest.mark.parametrize("side", [26, 40, 57, 64])
def test_shrinking_crop_is_opencvs_byte_for_byte(side):
    image = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
    expected = cv2.resize(image[7:7 + side, 5:5 + side], (24, 24), interpolation=cv2.INTER_AREA)[..., ::-1]
    assert np.array_equal(crop(image, Window(5, 7, side), 24), expected)
    assert not np.array_equal(crop(image, Window(6, 7, side), 24), expected)
