# SPDX-License-Identifier: Apache-2.0
"""From a box and a depth image to a point in metres. No ROS calls here.

Frames are REP 103's: the camera's optical frame has x right, y down, z forward, in metres. Depth is REP 118's: the
z of what a pixel shows, as 16UC1 (in units of `scale` metres, 0: none) or 32FC1 (metres, NaN or infinite: none).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from sensor_msgs.msg import CameraInfo, Image

Box = tuple[float, float, float, float]
Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]

_TYPES = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}
# Of the box's width and height: its border shows the background.
INNER = 0.5
# Of the pixels looked at: fewer are speckle.
MIN_VALID = 0.1


class DepthError(ValueError):
    """There is no position; the text says why."""


class Extent(NamedTuple):
    """A target in the camera's optical frame: its centre, width and height [m]."""

    centre: Vector
    width: float
    height: float


def locate(box: Box, depth: Image, info: CameraInfo, scale: float) -> Extent:
    """Where the target in a box is.

    Args:
        box: x, y, width, height [px] in the colour image, from its top-left corner.
        depth: sensor_msgs/Image registered to the colour image: of its size, seen from its place.
        info: sensor_msgs/CameraInfo of the colour image.
        scale: metres in one unit of a 16UC1 image; a 32FC1 image is in metres.

    Raises:
        DepthError: sizes, encoding or calibration do not fit, or the box shows no depth.
    """
    if (info.width, info.height) != (depth.width, depth.height):
        raise DepthError(f"camera_info is for {info.width}x{info.height}, the depth image is {depth.width}x"
                         f"{depth.height}: both must be registered to the colour image")
    z = median_depth(box, depth, scale)
    x, y, w, h = box
    # Boxes are measured from the corner of the first pixel, K from its centre.
    across, down = ray((x + w / 2 - 0.5, y + h / 2 - 0.5), info)
    return Extent((across * z, down * z, z), w * z / info.k[0], h * z / info.k[4])


def median_depth(box: Box, depth: Image, scale: float) -> float:
    """Median of the valid depth in the inner part of a box [m]. Arguments and errors as for :func:`locate`."""
    image = _depth_array(depth)
    x, y, w, h = box
    margin_x, margin_y = w * (1 - INNER) / 2, h * (1 - INNER) / 2
    left, right = _pixels(x + margin_x, x + w - margin_x, depth.width)
    top, bottom = _pixels(y + margin_y, y + h - margin_y, depth.height)
    inner = image[top:bottom, left:right]
    valid = inner[np.isfinite(inner) & (inner > 0)]
    if valid.size < max(1.0, MIN_VALID * inner.size):
        raise DepthError(f"{valid.size} of {inner.size} pixels in the box have a depth")
    return float(np.median(valid)) * (scale if image.dtype.kind == "u" else 1.0)


def ray(pixel: tuple[float, float], info: CameraInfo) -> tuple[float, float]:
    """What a pixel (u, v) of the image as the camera sends it sees at a depth of one metre: (x, y) [m].

    Distortion is taken out with OpenCV (plumb_bob, rational_polynomial, equidistant), so the image must not be
    rectified, or its camera_info must have a `d` of zeros.

    Raises:
        DepthError: the camera is not calibrated, or its distortion model is not known.
    """
    import cv2

    matrix, distortion = np.array(info.k, float).reshape(3, 3), np.array(info.d, float)
    if not (np.isfinite(matrix).all() and matrix[0, 0] > 0 and matrix[1, 1] > 0):
        raise DepthError("camera_info has no focal lengths in k: calibrate the camera")
    point = np.array([[pixel]], float)
    if not distortion.any():
        x, y = (pixel[0] - matrix[0, 2]) / matrix[0, 0], (pixel[1] - matrix[1, 2]) / matrix[1, 1]
    elif info.distortion_model in ("plumb_bob", "rational_polynomial") and distortion.size in (4, 5, 8, 12, 14):
        x, y = cv2.undistortPoints(point, matrix, distortion)[0, 0]
    elif info.distortion_model == "equidistant" and distortion.size == 4:
        x, y = cv2.fisheye.undistortPoints(point, matrix, distortion)[0, 0]
    else:
        raise DepthError(f"camera_info has {distortion.size} coefficients of distortion model "
                         f"{info.distortion_model!r}: known are plumb_bob, rational_polynomial and equidistant")
    if not (np.isfinite(x) and np.isfinite(y)):
        raise DepthError("camera_info's distortion has no inverse at the box")
    return float(x), float(y)


def rotate(rotation: Quaternion, vector: Vector) -> Vector:
    """A vector turned by a unit quaternion x, y, z, w (v + 2 w (q x v) + 2 q x (q x v))."""
    q, v = np.array(rotation[:3]), np.array(vector)
    turned = v + 2 * np.cross(q, np.cross(q, v) + rotation[3] * v)
    return float(turned[0]), float(turned[1]), float(turned[2])


def _depth_array(message: Image) -> np.ndarray:
    """(H, W) uint16 or float32 as it was sent, without a copy."""
    kind = _TYPES.get(message.encoding)
    if kind is None:
        raise DepthError(f"encoding {message.encoding!r} is no depth: give 16UC1 or 32FC1")
    dtype = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
    row = message.width * dtype.itemsize
    data = np.frombuffer(message.data, np.uint8)
    # The last row may lack its padding.
    if not (message.width and message.height and message.step >= row
            and data.size >= message.step * (message.height - 1) + row):
        raise DepthError(f"{message.width}x{message.height} pixels of {message.encoding} with a step of {message.step} "
                         f"do not fit {data.size} bytes")
    return np.ndarray((message.height, message.width), dtype, data, strides=(message.step, dtype.itemsize))


def _pixels(low: float, high: float, size: int) -> tuple[int, int]:
    """First and one past the last pixel whose centres lie between two edges; at least one pixel, inside the image."""
    first = int(min(max(np.ceil(low - 0.5), 0), size - 1))
    return first, int(min(max(np.ceil(high - 0.5), first + 1), size))
