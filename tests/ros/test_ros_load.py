# SPDX-License-Identifier: Apache-2.0
"""The camera that loads the node."""

from __future__ import annotations

import itertools

import numpy as np


def test_camera_sends_its_pictures_round_and_round_with_rising_stamps():
    from rclpy.serialization import deserialize_message
    from sensor_msgs.msg import Image

    from vlt_ros.ros.images import to_bgr
    from vlt_ros.ros.load import Camera

    pictures = [np.full((16, 24, 3), 10 * (i + 1), np.uint8) for i in range(3)]
    camera = Camera(pictures, 50.0)
    shots = list(itertools.islice(camera.shots(), 4)) + list(itertools.islice(camera.shots(), 3))
    assert camera.count == 7
    messages = [deserialize_message(shot.raw, Image) for shot in shots]
    assert [int(to_bgr(message)[0, 0, 0]) for message in messages] == [10, 20, 30, 10, 20, 30, 10]
    stamps = [message.header.stamp.sec * 10**9 + message.header.stamp.nanosec for message in messages]
    assert stamps == [shot.stamp_ns for shot in shots]
    assert {b - a for a, b in itertools.pairwise(stamps[:4])} == {20_000_000} and stamps[4] > stamps[3]
    assert {b.time_ns - a.time_ns for a, b in itertools.pairwise(shots)} == {20_000_000}
