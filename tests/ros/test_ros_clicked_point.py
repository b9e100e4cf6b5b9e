# SPDX-License-Identifier: Apache-2.0
"""A clicked point on the real node: pixels, metres with the camera's calibration, and points that are refused."""

from __future__ import annotations

import contextlib
import math
import time

import pytest

WHY = "needs a sourced ROS 2 or the wheels of `make setup`"
pytest.importorskip("rclpy", reason=WHY)
pytest.importorskip("vlt_ros.msg", reason=WHY)

from geometry_msgs.msg import PointStamped  # noqa: E402
from harness import PICTURE  # noqa: E402
from sensor_msgs.msg import CameraInfo  # noqa: E402
from vlt_ros.msg import Target  # noqa: E402

from vlt_ros.ros.clicked_point import project  # noqa: E402
from vlt_ros.tracker import CommandError, Tracker  # noqa: E402

FRAME = "camera_optical_frame"
K = [200.0, 0.0, 80.0, 0.0, 210.0, 60.0, 0.0, 0.0, 1.0]


@pytest.fixture
def click(robot):
    publisher = robot.node.create_publisher(PointStamped, "clicked_point", 1)

    def send(x: float, y: float, z: float = 0.0, frame: str = "", stamp=None) -> None:
        robot.wait_for_subscriber(publisher)
        message = PointStamped()
        message.point.x, message.point.y, message.point.z, message.header.frame_id = float(x), float(y), float(z), frame
        if stamp is not None:
            message.header.stamp = stamp
        publisher.publish(message)

    yield send
    robot.node.destroy_publisher(publisher)


@pytest.fixture(scope="module")
def found(weights):
    """Points of PICTURE with the boxes that the node's network has there."""
    from vlt_ros.networks import load_network

    tracker, boxes = Tracker(load_network(weights, device="cpu")), {}
    for x in range(20, 150, 10):
        for y in range(20, 110, 10):
            try:
                boxes[x, y] = tracker.box_at(PICTURE, (x, y))
            except CommandError:
                continue
            if len(set(boxes.values())) == 3:
                return boxes
    raise AssertionError(f"the random network finds too little: {boxes}")


def box_of(target: Target) -> tuple:
    return target.box.x, target.box.y, target.box.width, target.box.height


def test_pixels_start_what_the_network_finds_there(robot, click, found):
    ids = set()
    for point, box in found.items():
        image, _ = robot.show()
        before = robot.statuses[-1].target_id
        click(*point)
        robot.wait(lambda before=before: robot.statuses[-1].target_id != before, what="a new target")
        status = robot.statuses[-1]
        assert (status.state, status.text, status.header) == (Target.TRACKING, "", image.header)
        assert box_of(status) == pytest.approx(box, abs=0.5)
        ids.add(status.target_id)
    assert len(ids) == len(found)


def test_metres_need_the_calibration_and_the_image_s_frame(robot, click, found):
    point, box = next(iter(found.items()))
    z = 2.0
    metres = ((point[0] - K[2]) / K[0] * z, (point[1] - K[5]) / K[4] * z, z)
    robot.show()
    old = robot.statuses[-1].target_id

    def refused(part: str) -> None:
        robot.wait(lambda: robot.statuses[-1].command_result == Target.COMMAND_REJECTED
                   and part in robot.statuses[-1].reason, what=f"refused: {part}")
        assert robot.statuses[-1].target_id == old

    click(*metres, FRAME)
    refused("needs a calibrated camera")
    click(*metres, "map")
    refused("is in frame 'map', the image in 'camera_optical_frame'")
    click(5000, 5000)
    refused("outside the 160 x 120 image")
    click(1, 1, -1, FRAME)
    refused("behind the camera")
    click(float("nan"), 1)
    refused("not finite")
    camera = robot.node.create_publisher(CameraInfo, "camera_info", 1)
    robot.wait_for_subscriber(camera)
    for _ in range(10):         # the node hears of it on another topic than the point's
        camera.publish(CameraInfo(k=K, distortion_model="plumb_bob", d=[0.0] * 5))
        time.sleep(0.2)
        click(*metres, FRAME)
        with contextlib.suppress(AssertionError):
            robot.wait(lambda: robot.statuses[-1].target_id != old, 3.0)
            break
    robot.node.destroy_publisher(camera)
    status = robot.wait_for_status(state=Target.TRACKING, command_result=Target.COMMAND_ACCEPTED)
    assert box_of(status) == pytest.approx(box, abs=0.5)


def test_before_any_image_it_is_refused(robot, click):
    assert robot.transition("deactivate") and robot.transition("activate")
    click(30, 30)
    robot.wait(lambda: "no image yet" in robot.statuses[-1].reason, what="a refusal")


def test_projection_follows_the_camera_models():
    x, y, z = 0.4, -0.3, 2.0
    a, b = x / z, y / z
    camera = CameraInfo(k=K)
    assert project(camera, (x, y, z)) == pytest.approx((K[0] * a + K[2], K[4] * b + K[5]))
    # Brown and Conrady's model, as the plumb bob is: k1, k2, p1, p2, k3.
    k1, k2, p1, p2, k3 = d = [0.1, -0.05, 0.01, -0.02, 0.03]
    r = a * a + b * b
    radial = 1 + k1 * r + k2 * r**2 + k3 * r**3
    u = a * radial + 2 * p1 * a * b + p2 * (r + 2 * a * a)
    v = b * radial + p1 * (r + 2 * b * b) + 2 * p2 * a * b
    camera = CameraInfo(k=K, distortion_model="plumb_bob", d=d)
    assert project(camera, (x, y, z)) == pytest.approx((K[0] * u + K[2], K[4] * v + K[5]))
    assert project(camera, (x, y, z)) != pytest.approx((K[0] * a + K[2], K[4] * b + K[5]), abs=0.1)
    fisheye = project(CameraInfo(k=K, distortion_model="equidistant", d=[0.0] * 4), (x, y, z))
    radius = r**0.5
    share = math.atan(radius) / radius
    assert fisheye == pytest.approx((K[0] * a * share + K[2], K[4] * b * share + K[5]))
    with pytest.raises(CommandError, match="model 'thin_prism'"):
        project(CameraInfo(k=K, distortion_model="thin_prism"), (x, y, z))
    with pytest.raises(CommandError, match="calibrated"):
        project(CameraInfo(), (x, y, z))
