# SPDX-License-Identifier: Apache-2.0
"""Image messages to arrays. Every field is checked first: drivers send wrong ones, the node lives on."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    from sensor_msgs.msg import CompressedImage, Image

# Channels of the encodings handled here; everything else goes to cv_bridge or rosbags-image.
_EIGHT_BIT = {"bgr8": 3, "rgb8": 3, "mono8": 1, "bgra8": 4, "rgba8": 4, "8UC1": 1, "8UC3": 3, "8UC4": 4}
# Bytes of one pixel of the remaining encodings whose rows can be checked before a library sees them.
_PIXEL_BYTES = {"mono16": 2, "bgr16": 6, "rgb16": 6, "bgra16": 8, "rgba16": 8, "yuv422": 2, "uyvy": 2,
                "yuv422_yuy2": 2, "yuyv": 2, "nv12": 1, "nv21": 1}
_NOT_A_PICTURE = re.compile(r"(8S|16U|16S|32S|32F|64F)(C\d+)?|8UC2|8UC\d\d+")
_SMALLEST, _LARGEST = 8, 1 << 15
# A compressed image of a few bytes can claim gigabytes of pixels. OpenCV reads this when it is first imported.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 26))


class ImageError(ValueError):
    """An image message that holds no usable picture; the text says what is wrong with it."""


def to_bgr(message: Image | CompressedImage) -> np.ndarray:
    """The picture in an image message.

    A bgr8 image is not copied: the array is a view of the message's data, to be read only. Row padding
    (step), byte order and the encoding are honoured.

    Args:
        message: sensor_msgs/Image or sensor_msgs/CompressedImage.

    Returns:
        (H, W, 3) uint8, channels blue, green, red.

    Raises:
        ImageError: the sizes contradict each other, the encoding holds no picture, or the data is damaged.
    """
    return _compressed(message) if hasattr(message, "format") else _raw(message)


def _raw(message: Image) -> np.ndarray:
    import cv2

    height, width, encoding = message.height, message.width, message.encoding
    if not (_SMALLEST <= height <= _LARGEST and _SMALLEST <= width <= _LARGEST):
        raise ImageError(f"size {width}x{height} is outside {_SMALLEST} to {_LARGEST}")
    if _NOT_A_PICTURE.fullmatch(encoding):
        raise ImageError(f"encoding {encoding} is depth or plain numbers, not a picture: use a colour image")
    pixel_bytes = _EIGHT_BIT.get(encoding) or _PIXEL_BYTES.get(encoding)
    if pixel_bytes is None and encoding.startswith("bayer_") and encoding.endswith(("8", "16")):
        pixel_bytes = 2 if encoding.endswith("16") else 1
    if pixel_bytes is None:
        raise ImageError(f"encoding {encoding!r} is not known")
    if message.step < width * pixel_bytes:
        raise ImageError(f"step {message.step} is shorter than a row: {width} pixels of {encoding} are "
                         f"{width * pixel_bytes} bytes")
    rows = height * 3 // 2 if encoding in ("nv12", "nv21") else height
    # The last row may lack its padding; some drivers cut it off.
    needed = message.step * (rows - 1) + width * pixel_bytes
    data = np.frombuffer(message.data, np.uint8)
    if data.size < needed:
        raise ImageError(f"{data.size} bytes of data, but step {message.step} * height {rows} needs {needed}")
    if encoding not in _EIGHT_BIT:
        rows_without_padding = np.ascontiguousarray(np.lib.stride_tricks.as_strided(
            data, (rows, width * pixel_bytes), (message.step, 1), writeable=False))
        if encoding in ("nv12", "nv21"):
            if height % 2 or width % 2:
                raise ImageError(f"{encoding} needs an even size, not {width}x{height}")
            return cv2.cvtColor(rows_without_padding, getattr(cv2, f"COLOR_YUV2BGR_{encoding.upper()}"))
        return _by_library(message, rows_without_padding)
    channels = _EIGHT_BIT[encoding]
    image = np.ndarray((height, width, channels), np.uint8, data, strides=(message.step, channels, 1))
    if encoding in ("bgr8", "8UC3"):
        return image
    return cv2.cvtColor(image, {"rgb8": cv2.COLOR_RGB2BGR, "rgba8": cv2.COLOR_RGBA2BGR}.get(
        encoding, cv2.COLOR_GRAY2BGR if channels == 1 else cv2.COLOR_BGRA2BGR))


def _compressed(message: CompressedImage) -> np.ndarray:
    import cv2

    data = np.frombuffer(message.data, np.uint8)
    if "compressedDepth" in message.format:
        raise ImageError("format compressedDepth is depth, not a picture: subscribe to a colour image")
    # Turned by EXIF, the picture would no longer be in the camera's pixel coordinates.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(data, flags) if data.size else None
    except cv2.error as error:
        raise ImageError(f"compressed image ({message.format!r}, {data.size} bytes): {error.err}") from error
    if image is None:
        raise ImageError(f"compressed image ({message.format!r}, {data.size} bytes) cannot be decoded")
    if min(image.shape[:2]) < _SMALLEST:
        raise ImageError(f"size {image.shape[1]}x{image.shape[0]} is below {_SMALLEST}")
    return image


@lru_cache(maxsize=1)
def _cv_bridge() -> Any | None:
    """ROS 2's cv_bridge, or None. PyPI's cv-bridge 1.x fails or returns nonsense with numpy 2."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        if version("cv-bridge").startswith("1."):
            return None
    except PackageNotFoundError:
        pass
    try:
        import cv_bridge
    except (ImportError, AttributeError):    # AttributeError: built for another numpy
        return None
    return cv_bridge.CvBridge()


def _by_library(message: Image, rows: np.ndarray) -> np.ndarray:
    """Rarer encodings, given without row padding: (H, bytes of a row) uint8."""
    plain = SimpleNamespace(height=message.height, width=message.width, encoding=message.encoding,
                            is_bigendian=message.is_bigendian, step=rows.shape[1], data=rows.reshape(-1))
    bridge = _cv_bridge()
    try:
        if bridge is not None:
            return np.ascontiguousarray(bridge.imgmsg_to_cv2(plain, "bgr8"))
        from rosbags.image import message_to_cvimage

        return np.ascontiguousarray(message_to_cvimage(cast("Image", plain), "bgr8"))
    except Exception as error:    # each library has its own error types, and OpenCV's come through as well
        reason = " ".join(str(error).split())       # OpenCV's ends with a newline
        raise ImageError(f"encoding {message.encoding} cannot be converted: {reason}") from error
