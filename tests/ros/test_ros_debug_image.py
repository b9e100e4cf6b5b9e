# SPDX-License-Identifier: Apache-2.0
"""`debug_image` of the real node: what is drawn, when, how often, and under which header."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

WHY = "needs a sourced ROS 2 or the wheels of `make setup`"
pytest.importorskip("rclpy", reason=WHY)
pytest.importorskip("vlt_ros.msg", reason=WHY)

from harness import BOX  # noqa: E402
from rclpy.qos import qos_profile_sensor_data  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from vlt_ros.msg import Target  # noqa: E402

from vlt_ros.media import Shown, annotate  # noqa: E402
from vlt_ros.media.drawing import STATE_COLOURS  # noqa: E402
from vlt_ros.ros.debug_image import DebugImage  # noqa: E402

SIZE = (320, 240)


@pytest.fixture
def viewer(robot):
    """What a viewer receives; it subscribes with `watch` and leaves with `leave`."""
    class Viewer:
        def __init__(self) -> None:
            self.images, self._subscription = [], None

        def watch(self) -> None:
            self._subscription = robot.node.create_subscription(
                Image, "debug_image", self.images.append, qos_profile_sensor_data)
            robot.wait(lambda: robot.node.count_publishers("/vlt_test/debug_image"), what="debug_image")

        def leave(self) -> None:
            if self._subscription is not None:
                robot.node.destroy_subscription(self._subscription)
                self._subscription = None

    one = Viewer()
    yield one
    one.leave()


def picture() -> np.ndarray:
    return cv2.resize(np.random.default_rng(1).integers(0, 255, (12, 16, 3), np.uint8), SIZE)


def show_until_seen(robot, viewer):
    """Publish images until the viewer has one of them drawn: (its message, the answer about it)."""
    for _ in range(60):
        message, answer = robot.show(robot.picture_message(picture()))
        time.sleep(0.02)
        for drawn in viewer.images:
            if drawn.header.stamp == message.header.stamp:
                return drawn, answer
    raise AssertionError(f"no debug image in 60 images; {len(viewer.images)} came")


def test_draws_the_answer_under_its_header(robot, viewer):
    assert robot.set(debug_rate_hz=1000.0).successful
    viewer.watch()
    robot.show(robot.picture_message(picture()))
    robot.point(BOX, "the red mug")
    robot.wait_for_status(text="the red mug", state=Target.TRACKING)
    drawn, answer = show_until_seen(robot, viewer)
    assert drawn.header == answer.header and drawn.header.frame_id == "camera_optical_frame"
    assert (drawn.width, drawn.height, drawn.encoding, drawn.step) == (*SIZE, "bgr8", 3 * SIZE[0])
    pixels = np.frombuffer(drawn.data, np.uint8).reshape(drawn.height, drawn.width, 3)
    assert answer.state == Target.TRACKING and answer.text == "the red mug"
    assert np.array_equal(pixels, annotate(picture(), Shown.of(answer), answer.latency_ms))
    assert not np.array_equal(pixels, annotate(picture(), Shown("TRACKING", None, 0.0, "")))
    robot.say("")
    robot.wait_for_status(state=Target.IDLE, text="")
    viewer.images.clear()
    drawn, _ = show_until_seen(robot, viewer)
    pixels = np.frombuffer(drawn.data, np.uint8).reshape(drawn.height, drawn.width, 3)
    assert (pixels[:150] == picture()[:150]).all(), "no box without a target"


def test_runtime_rate_of_zero_sends_none(robot, viewer):
    viewer.watch()
    assert robot.set(debug_rate_hz=1000.0).successful
    show_until_seen(robot, viewer)
    assert robot.set(debug_rate_hz=0.0).successful
    time.sleep(0.1)
    viewer.images.clear()
    for _ in range(5):
        robot.show()
    assert viewer.images == []
    assert not robot.set(debug_rate_hz=-1.0).successful


class Publisher:
    """Stands for rclpy's, with a number of subscribers of our choice."""

    def __init__(self) -> None:
        self.subscribers, self.sent = 0, []

    def create_publisher(self, *_):
        return self

    def get_subscription_count(self) -> int:
        return self.subscribers

    def publish(self, message) -> None:
        self.sent.append(message)


def test_draws_nothing_for_nobody_and_not_more_often_than_asked(monkeypatch):
    node, clock, drawn, rate = Publisher(), [100.0], [], [10.0]
    monkeypatch.setattr("vlt_ros.ros.debug_image.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("vlt_ros.ros.debug_image.annotate",
                        lambda image, *_: drawn.append(image) or annotate(image, *_))
    output = DebugImage(node, rate_hz=lambda: rate[0])
    for _ in range(30):
        output.publish(Target(), picture())
        clock[0] += 1 / 30
    assert drawn == [] and node.sent == []
    node.subscribers = 1
    for _ in range(300):
        output.publish(Target(), picture())
        clock[0] += 1 / 30
    assert len(drawn) == len(node.sent) and 98 <= len(node.sent) <= 102
    rate[0] = 0.001
    output.publish(Target(), picture())
    clock[0] += 0.2
    output.publish(Target(), picture())
    before, rate[0] = len(node.sent), 10.0
    for _ in range(60):
        output.publish(Target(), picture())
        clock[0] += 1 / 30
    assert 18 <= len(node.sent) - before <= 22, "a raised rate holds at once"


def test_every_state_of_the_message_has_its_name_and_colour():
    for number, name in enumerate(STATE_COLOURS):
        assert getattr(Target, name) == number
        assert Shown.of(Target(state=number)).name == name
    assert Shown.of(Target(state=99)).name == "99"
