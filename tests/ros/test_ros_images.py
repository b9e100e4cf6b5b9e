# SPDX-License-Identifier: Apache-2.0
"""Every encoding, with and without padding at the end of the rows, and every way an image can be wrong."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from vlt_ros.ros.images import ImageError, to_bgr

HEIGHT, WIDTH = 24, 32


def smooth() -> np.ndarray:
    """A colour picture that chroma subsampling hardly changes."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([60 + 4 * x, 40 + 5 * y, 200 - 3 * x], axis=-1).astype(np.uint8)


def message(
    rows: np.ndarray, encoding: str, padding: int = 0, big_endian: bool = False, height: int = HEIGHT
):
    """An image message from rows of pixels; the padding holds bytes that must not be seen."""
    rows = np.ascontiguousarray(rows)
    if rows.dtype == np.uint16 and big_endian:
        rows = rows.byteswap()
    plain = rows.reshape(rows.shape[0], -1).view(np.uint8)
    padded = np.hstack([plain, np.full((rows.shape[0], padding), 0xAB, np.uint8)])
    return SimpleNamespace(
        height=height,
        width=WIDTH,
        encoding=encoding,
        is_bigendian=int(big_endian),
        step=padded.shape[1],
        data=padded.tobytes(),
    )


def planes(bgr: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Y (H, W), U and V (H / 2, W / 2) as cameras send them (BT.601, video range)."""
    i420 = cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420).reshape(-1)
    size = HEIGHT * WIDTH
    y, u, v = i420[:size], i420[size : size * 5 // 4], i420[size * 5 // 4 :]
    return y.reshape(HEIGHT, WIDTH), u.reshape(HEIGHT // 2, -1), v.reshape(HEIGHT // 2, -1)


def yuv422(bgr: np.ndarray, order: str) -> np.ndarray:
    """(H, W, 2), U and V in turn along a row; order "uyvy" or "yuyv"."""
    y, u, v = planes(bgr)
    chroma = np.stack([u, v], axis=-1).reshape(HEIGHT // 2, WIDTH).repeat(2, axis=0)
    return np.stack([chroma, y] if order == "uyvy" else [y, chroma], axis=-1)


def nv(bgr: np.ndarray, order: str) -> np.ndarray:
    """(H * 3 / 2, W), the Y plane above the chroma; order "nv12" or "nv21"."""
    y, u, v = planes(bgr)
    return np.concatenate([y, np.stack([u, v] if order == "nv12" else [v, u], axis=-1).reshape(-1, WIDTH)])


PICTURE = smooth()
GREY = cv2.cvtColor(PICTURE, cv2.COLOR_BGR2GRAY)
GREY_BGR = cv2.cvtColor(GREY, cv2.COLOR_GRAY2BGR)
RGB = PICTURE[..., ::-1]
ALPHA = np.full((HEIGHT, WIDTH, 1), 77, np.uint8)
WIDE = PICTURE.astype(np.uint16) * 257

# encoding, rows, expected picture, largest difference allowed
PICTURES = [
    ("bgr8", PICTURE, PICTURE, 0),
    ("8UC3", PICTURE, PICTURE, 0),
    ("rgb8", RGB, PICTURE, 0),
    ("bgra8", np.concatenate([PICTURE, ALPHA], -1), PICTURE, 0),
    ("8UC4", np.concatenate([PICTURE, ALPHA], -1), PICTURE, 0),
    ("rgba8", np.concatenate([RGB, ALPHA], -1), PICTURE, 0),
    ("mono8", GREY, GREY_BGR, 0),
    ("8UC1", GREY, GREY_BGR, 0),
    ("mono16", GREY.astype(np.uint16) * 257, GREY_BGR, 1),
    ("bgr16", WIDE, PICTURE, 1),
    ("rgb16", WIDE[..., ::-1], PICTURE, 1),
    ("bgra16", np.concatenate([WIDE, ALPHA.astype(np.uint16)], -1), PICTURE, 1),
    ("rgba16", np.concatenate([WIDE[..., ::-1], ALPHA.astype(np.uint16)], -1), PICTURE, 1),
    ("yuv422", yuv422(PICTURE, "uyvy"), PICTURE, 10),
    ("uyvy", yuv422(PICTURE, "uyvy"), PICTURE, 10),
    ("yuv422_yuy2", yuv422(PICTURE, "yuyv"), PICTURE, 10),
    ("yuyv", yuv422(PICTURE, "yuyv"), PICTURE, 10),
    ("nv12", nv(PICTURE, "nv12"), PICTURE, 10),
    ("nv21", nv(PICTURE, "nv21"), PICTURE, 10),
]


def bayer(order: str) -> np.ndarray:
    """The mosaic behind a colour filter; order of its 2x2 cell, such as rggb."""
    rows = np.empty((HEIGHT, WIDTH), np.uint8)
    for index, colour in enumerate(order):
        y, x = divmod(index, 2)
        rows[y::2, x::2] = PICTURE[y::2, x::2, "bgr".index(colour)]
    return rows


@pytest.mark.parametrize("padding", [0, 6], ids=["tight", "padded"])
@pytest.mark.parametrize("encoding, rows, expected, tolerance", PICTURES, ids=[p[0] for p in PICTURES])
def test_encoding(encoding, rows, expected, tolerance, padding):
    image = to_bgr(message(rows, encoding, padding))
    assert image.dtype == np.uint8 and image.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(image.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("padding", [0, 6], ids=["tight", "padded"])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("order", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer(order, depth, padding):
    rows = bayer(order) if depth == 8 else bayer(order).astype(np.uint16) * 257
    image = to_bgr(message(rows, f"bayer_{order}{depth}", padding))
    inner = np.abs(image.astype(int) - PICTURE)[2:-2, 2:-2]  # interpolation differs at the border
    assert inner.max() <= 6


@pytest.mark.parametrize("encoding", ["mono16", "bgr16"])
def test_big_endian(encoding):
    rows, expected = {p[0]: p[1:3] for p in PICTURES}[encoding]
    image = to_bgr(message(rows, encoding, 4, big_endian=True))
    assert np.abs(image.astype(int) - expected).max() <= 1


def test_bgr8_is_not_copied():
    one = message(PICTURE, "bgr8", 5)
    one.data = np.frombuffer(one.data, np.uint8).copy()
    assert np.shares_memory(to_bgr(one), one.data)


def test_last_row_may_lack_its_padding():
    one = message(PICTURE, "bgr8", 5)
    one.data = one.data[:-5]
    assert np.array_equal(to_bgr(one), PICTURE)


@pytest.mark.parametrize(
    "change, part",
    [
        ({"step": WIDTH * 3 - 1}, "step"),
        ({"data": b"\0" * 100}, "100 bytes"),
        ({"data": b""}, "0 bytes"),
        ({"encoding": "rgb9"}, "'rgb9' is not known"),
        ({"encoding": ""}, "not known"),
        ({"height": 0}, "size 32x0"),
        ({"width": 2**31, "step": 3 * 2**31}, "size"),
        ({"encoding": "16UC1"}, "depth"),
        ({"encoding": "32FC1"}, "depth"),
        ({"encoding": "bayer_xxxx8"}, "bayer_xxxx8"),
        ({"encoding": "64FC9"}, "64FC9"),
        ({"encoding": "nv12", "height": 21, "step": WIDTH}, "even"),
    ],
)
def test_malformed(change, part):
    one = message(PICTURE, "bgr8")
    for name, value in change.items():
        setattr(one, name, value)
    with pytest.raises(ImageError, match=part):
        to_bgr(one)


@pytest.mark.parametrize("suffix, tolerance", [(".png", 0), (".jpg", 12)])
def test_compressed(suffix, tolerance):
    data = cv2.imencode(suffix, PICTURE)[1].tobytes()
    image = to_bgr(SimpleNamespace(format=f"bgr8; {suffix[1:]} compressed bgr8", data=data))
    assert image.shape == (HEIGHT, WIDTH, 3) and np.abs(image.astype(int) - PICTURE).max() <= tolerance


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"not a picture"])
def test_damaged_compressed(data):
    with pytest.raises(ImageError, match="cannot be decoded"):
        to_bgr(SimpleNamespace(format="jpeg", data=data))


def test_compressed_depth_is_no_picture():
    with pytest.raises(ImageError, match="depth"):
        to_bgr(SimpleNamespace(format="16UC1; compressedDepth png", data=b"x" * 100))


BOMB = """
import struct, zlib
from types import SimpleNamespace
from vlt_ros.ros.images import ImageError, to_bgr

def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

def png(side):
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side // 8 + 1) * side))
    data = bytes.fromhex("89504e470d0a1a0a") + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return SimpleNamespace(format="png", data=data)

assert to_bgr(png(64)).shape == (64, 64, 3)
bomb = png(9000)
assert len(bomb.data) < 30_000
try:
    to_bgr(bomb)
except ImageError as error:
    print("refused:", error)
"""


def test_few_bytes_that_claim_gigabytes_of_pixels_are_refused():
    """In a process of its own, as the node is: OpenCV reads its limit when it is imported, here long ago."""
    done = subprocess.run([sys.executable, "-c", BOMB], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("refused: compressed image")
