# SPDX-License-Identifier: Apache-2.0
"""The topic `debug_image`: what the node sees and thinks, for people with a viewer."""

from __future__ import annotations

import array
import time
from collections.abc import Callable

import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from vlt_ros.media import Shown, annotate
from vlt_ros.msg import Target  # type: ignore[attr-defined]  # generated, in the ament prefix


class DebugImage:
    """Images with the target, its state, confidence, sentence and latency drawn in, while somebody subscribes.

    Args:
        node: publishes them, best effort and depth 1. rate_hz: asked before each; most of them a second, 0 for none.
    """

    def __init__(self, node: Node, rate_hz: Callable[[], float]) -> None:
        self._node, self._rate_hz = node, rate_hz
        self._publisher = node.create_publisher(
            Image, "debug_image", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
        self._due = -float("inf")       # when the next may go, by the monotonic clock [s]

    def publish(self, target: Target, image: np.ndarray) -> None:
        """Draw a target on a copy of its image, BGR uint8 (H, W, 3), and send it under the target's header."""
        rate, now = self._rate_hz(), time.monotonic()
        if not rate:
            return
        self._due = min(self._due, now + 1 / rate)      # the rate may have been raised
        if now < self._due or not self._publisher.get_subscription_count():
            return
        # Counted from when it was due, or 10 Hz of images at 30 Hz would come to 7.5.
        self._due = max(self._due + 1 / rate, now)
        drawn = annotate(image, Shown.of(target), target.latency_ms)
        height, width = drawn.shape[:2]
        # A list or a numpy array as data would take a thousand times as long.
        self._publisher.publish(Image(header=target.header, height=height, width=width, encoding="bgr8",
                                      step=3 * width, data=array.array("B", drawn.tobytes())))

    def destroy(self) -> None:
        """Give the topic back."""
        self._node.destroy_publisher(self._publisher)
