# SPDX-License-Identifier: Apache-2.0
"""The topic `clicked_point`: follow what somebody clicked on in a viewer."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PointStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo


class ClickedPoint:
    """Points as a start: pixels (z is 0), or metres in the image's optical frame (REP 103), which need `camera_info`.

    RViz's "Publish Point" gives metres in its fixed frame: set that to the camera's optical frame.

    Args:
        node: subscribes. start: called for every point with a function that gives its pixel in an image of a frame id,
            and with its stamp.
    """

    def __init__(self, node: Node, start: Callable[[Callable[[str], tuple[float, float]], Time], None]) -> None:
        self._node, self._start = node, start
        self._subscriptions: list[Subscription] = []
        self._camera: CameraInfo | None = None

    def subscribe(self) -> None:
        """Listen to `clicked_point` and `camera_info`."""
        reliable = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        self._subscriptions = [
            self._node.create_subscription(PointStamped, "clicked_point", self._on_point, reliable),
            self._node.create_subscription(CameraInfo, "camera_info", self._on_camera, qos_profile_sensor_data)]

    def unsubscribe(self) -> None:
        """Listen no more."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _on_point(self, message: PointStamped) -> None:
        self._start(functools.partial(self.pixel, message), message.header.stamp)

    def _on_camera(self, message: CameraInfo) -> None:
        self._camera = message

    def pixel(self, clicked: PointStamped, frame_id: str) -> tuple[float, float]:
        """Where a point is in the image of the optical frame ``frame_id`` [px].

        Raises:
            CommandError: it is not finite, behind the camera or in another frame, or there is no camera_info for it.
        """
        from vlt_ros.tracker import CommandError

        point, frame = clicked.point, clicked.header.frame_id
        if not all(math.isfinite(value) for value in (point.x, point.y, point.z)):
            raise CommandError(f"clicked point ({point.x}, {point.y}, {point.z}) is not finite")
        if frame not in ("", frame_id):
            raise CommandError(f"clicked point is in frame {frame!r}, the image in {frame_id!r}: send pixels with z 0, "
                               "or set the viewer's fixed frame to the image's")
        if point.z == 0:
            return point.x, point.y
        if point.z < 0:
            raise CommandError(f"clicked point is behind the camera (z {point.z:g} m)")
        return project(self._camera, (point.x, point.y, point.z))


def project(camera: CameraInfo | None, point: tuple[float, float, float]) -> tuple[float, float]:
    """The pixel of a point [m] in a camera's optical frame, by its K and D as raw images have them.

    Raises:
        CommandError: no camera, or one that is not calibrated or of a model that OpenCV's projectPoints has not.
    """
    import cv2

    from vlt_ros.tracker import CommandError

    if camera is None or not camera.k[0]:
        raise CommandError("clicked point is in metres, which needs a calibrated camera on camera_info; or send pixels "
                           "with z 0")
    matrix: Any = np.array(camera.k, np.float64).reshape(3, 3)
    distortion: Any = np.array(camera.d, np.float64)
    zero = np.zeros(3)
    if camera.distortion_model == "equidistant":
        pixels, _ = cv2.fisheye.projectPoints(np.array([[point]], np.float64), zero, zero, matrix, distortion[:4])
    elif camera.distortion_model in ("", "plumb_bob", "rational_polynomial"):
        pixels, _ = cv2.projectPoints(np.array([point], np.float64), zero, zero, matrix, distortion)
    else:
        raise CommandError(f"clicked point is in metres, but camera_info has the model {camera.distortion_model!r}; "
                           "send pixels with z 0")
    x, y = pixels.reshape(2)
    return float(x), float(y)
