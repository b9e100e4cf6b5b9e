# SPDX-License-Identifier: Apache-2.0
"""Crops and boxes. Pixel frame: x right, y down, origin at the top-left corner; boxes x, y, width, height."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from vlt_ros.tracker.target import Box

# ImageNet's mean colour in BGR: what lies outside the frame becomes zero after normalisation.
PADDING = (104, 116, 124)
CLIP_MARGIN = 10.0


class Window(NamedTuple):
    """A square region of the frame: top-left corner x, y and side in pixels (may reach outside the frame)."""

    x: int
    y: int
    side: int


def window_around(box: Box, factor: float) -> Window:
    """The square around a box's centre with side ceil(sqrt(w h) * factor), as OSTrack places it.

    The corner is rounded half to even, as Python's and numpy's ``round`` do.
    """
    x, y, w, h = box
    side = max(1, math.ceil(math.sqrt(w * h) * factor))
    return Window(round(x + w / 2 - side / 2), round(y + h / 2 - side / 2), side)


def crop(image: np.ndarray, window: Window, size: int, as_ostrack: bool = False) -> np.ndarray:
    """Cut a window out of a BGR frame and scale it to ``size`` x ``size`` RGB uint8.

    Outside the frame it is ImageNet's mean colour. Bilinear when growing, area when shrinking: bilinear
    shrinking skips pixels, and a target of a few pixels with them.

    as_ostrack: black outside the frame and always bilinear, as the published weights were trained.
    """
    padding = (0, 0, 0) if as_ostrack else PADDING
    height, width = image.shape[:2]
    x, y, side = window
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + side, width), min(y + side, height)
    if left >= right or top >= bottom:
        return np.full((size, size, 3), padding[::-1], np.uint8)
    patch = image[top:bottom, left:right]
    if patch.shape[0] != side or patch.shape[1] != side:
        patch = cv2.copyMakeBorder(patch, top - y, y + side - bottom, left - x, x + side - right,
                                   cv2.BORDER_CONSTANT, value=padding)
    if side > size and not as_ostrack:
        # The same bytes as without the way over floats, which OpenCV averages a third faster.
        patch = cv2.resize(patch.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
        patch = cv2.convertScaleAbs(patch)
    else:
        patch = cv2.resize(patch, (size, size), interpolation=cv2.INTER_LINEAR)
    return cv2.cvtColor(patch, cv2.COLOR_BGR2RGB)


def to_frame(box: tuple[float, float, float, float], window: Window) -> Box:
    """A network box (centre x, centre y, width, height as fractions of a window) in the frame's pixels."""
    cx, cy, w, h = (v * window.side for v in box)
    return window.x + cx - w / 2, window.y + cy - h / 2, w, h


def clip(box: Box, width: int, height: int, margin: float = CLIP_MARGIN) -> Box:
    """Cut a box to the frame, keeping at least ``margin`` pixels of it inside (OSTrack's clip_box)."""
    x, y, w, h = box
    left, right = min(max(0.0, x), width - margin), min(max(margin, x + w), float(width))
    top, bottom = min(max(0.0, y), height - margin), min(max(margin, y + h), float(height))
    return left, top, max(margin, right - left), max(margin, bottom - top)


def hann(side: int) -> np.ndarray:
    """Window (side, side) that peaks at the centre.

    The outer product of 0.5 (1 - cos(2 pi k / (side + 1))), k = 1..side, with itself (OSTrack's hann2d).
    """
    k = np.arange(1, side + 1)
    one = 0.5 * (1 - np.cos(2 * np.pi * k / (side + 1)))
    return np.outer(one, one).astype(np.float32)


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, in [0, 1]."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inner = max(0.0, width) * max(0.0, height)
    union = a[2] * a[3] + b[2] * b[3] - inner
    return inner / union if union > 0 else 0.0


def whole_frame(width: int, height: int) -> Window:
    """The smallest square window that holds the frame, which lies in its middle (a letterbox)."""
    side = max(width, height)
    return Window((width - side) // 2, (height - side) // 2, side)


def tiles(width: int, height: int, side: int) -> list[Window]:
    """Square windows of one side that cover the frame.

    Along a direction longer than the side neighbours overlap by half or more; along one that is shorter a single
    row of windows stands in its middle and reaches outside the frame.
    """
    def starts(length: int) -> list[int]:
        if length <= side:
            return [(length - side) // 2]
        count = math.ceil((length - side) / (side / 2)) + 1
        return [round(i * (length - side) / (count - 1)) for i in range(count)]

    return [Window(x, y, side) for y in starts(height) for x in starts(width)]
