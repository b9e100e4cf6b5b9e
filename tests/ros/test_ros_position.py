# SPDX-License-Identifier: Apache-2.0
"""`target_pose`, `target_3d` and `detections` of the real node in its own process, against ray casting."""

from __future__ import annotations

import array
import time

import numpy as np
import pytest

WHY = "needs a sourced ROS 2 or the wheels of `make setup`"
pytest.importorskip("rclpy", reason=WHY)
pytest.importorskip("vlt_ros.msg", reason=WHY)

from geometry_msgs.msg import PoseStamped  # noqa: E402
from harness import LATCHED, START_S, NodeProcess, Robot  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402
from vlt_ros.msg import Target  # noqa: E402

NAMESPACE = "/depth_test"
WIDTH, HEIGHT = 160, 120
FX, FY, CX, CY = 150.0, 160.0, 78.0, 61.5
NORMAL, DISTANCE = np.array([0.15, -0.1, 0.95]), 2.5
# The camera on a robot: 0.2 m ahead and 0.5 m up, looking ahead (x of the base is z of the optical frame).
MOUNT = np.array([[0.0, 0.0, 1.0, 0.2], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.5]])
MOUNT_QUATERNION = (-0.5, 0.5, -0.5, 0.5)


def plane() -> np.ndarray:
    """What a depth camera before the plane NORMAL . p = DISTANCE sees (H, W) [m]."""
    v, u = np.mgrid[0:HEIGHT, 0:WIDTH]
    rays = np.stack([(u - CX) / FX, (v - CY) / FY, np.ones(u.shape)], -1)
    return DISTANCE / (rays @ NORMAL)


def expected(target) -> np.ndarray:
    """Where the ray through the middle of a target's box meets the plane [m]."""
    u, v = target.box.x + target.box.width / 2 - 0.5, target.box.y + target.box.height / 2 - 0.5
    ray = np.array([(u - CX) / FX, (v - CY) / FY, 1.0])
    return ray * DISTANCE / (ray @ NORMAL)


class DepthRobot(Robot):
    """A robot with a depth camera; keeps poses by their stamp."""

    def __init__(self) -> None:
        super().__init__(NAMESPACE)
        self.poses, self.boxes, self.detections = {}, {}, {}
        self.depth = self.node.create_publisher(Image, "depth", 5)
        self.camera_info = self.node.create_publisher(CameraInfo, "camera_info", 5)
        self._keep(PoseStamped, "target_pose", self.poses, 10)
        try:
            from vision_msgs.msg import Detection2DArray, Detection3DArray
        except ImportError:
            return
        self._keep(Detection3DArray, "target_3d", self.boxes, 10)
        self._keep(Detection2DArray, "detections", self.detections, 10)

    def _keep(self, kind, topic, where, qos) -> None:
        def keep(message) -> None:
            where[message.header.stamp.sec] = message

        self.node.create_subscription(kind, topic, keep, qos)

    def see(self, metres: np.ndarray | None, encoding="32FC1", late=0, **changes) -> Target:
        """Show an image with this depth, both changed as said; the tracker's answer."""
        image = self.picture_message()
        if metres is not None:
            data = (np.round(np.nan_to_num(metres) * 1000).astype("<u2") if encoding == "16UC1"
                    else metres.astype("<f4"))
            depth = Image(height=metres.shape[0], width=metres.shape[1], encoding=encoding,
                          step=data.itemsize * metres.shape[1], data=array.array("B", data.tobytes()))
            depth.header.frame_id = image.header.frame_id
            depth.header.stamp.sec, depth.header.stamp.nanosec = image.header.stamp.sec + late, 123456789
            for name, value in changes.items():
                setattr(depth.header if name == "frame_id" else depth, name, value)
            self.wait_for_subscriber(self.depth)
            self.depth.publish(depth)
        return self.show(image)[1]

    def calibrate(self) -> None:
        self.wait_for_subscriber(self.camera_info)
        self.camera_info.publish(CameraInfo(width=WIDTH, height=HEIGHT, distortion_model="plumb_bob", d=[0.0] * 5,
                                            k=[FX, 0.0, CX, 0.0, FY, CY, 0.0, 0.0, 1.0]))

    def place(self, metres=None, encoding="32FC1") -> tuple[Target, PoseStamped]:
        """Show the plane until its target has a pose (depth is best effort); the target and the pose."""
        for _ in range(20):
            target = self.see(plane() if metres is None else metres, encoding)
            end = time.monotonic() + 1
            while time.monotonic() < end:
                if pose := self.poses.get(target.header.stamp.sec):
                    return target, pose
                time.sleep(0.005)
        raise AssertionError(f"no pose; {self.diagnostics}")


@pytest.fixture(scope="module")
def session(ros, weights, tmp_path_factory):
    process = NodeProcess(NAMESPACE, tmp_path_factory.mktemp("depth") / "log.txt", weights=weights, use_depth=True,
                          image_timeout_s=20.0, track_threshold=0.0, lost_threshold=0.0)
    robot = DepthRobot()
    try:
        robot.wait(lambda: robot.state() == "active", START_S, "autostart")
        yield process, robot
        assert process.alive and "Traceback" not in process.output(), process.output()
    finally:
        try:
            assert process.interrupt() == 0, process.output()
        finally:
            robot.close()


@pytest.fixture
def tracking(session):
    """The robot with a calibrated camera before a node that tracks."""
    _, robot = session
    robot.calibrate()
    if not (robot.statuses and robot.statuses[-1].state == Target.TRACKING):
        robot.follow("the red mug")
    return robot


def test_without_calibration_there_is_no_pose_and_one_warning_in_the_log(session):
    process, robot = session
    robot.follow("the red mug")
    for _ in range(3):
        robot.see(plane())
    robot.wait(lambda: f"no target_pose: no message on {NAMESPACE}/camera_info" in robot.diagnostics["target"][1])
    assert not robot.poses and process.output().count("no target_pose") == 1


@pytest.mark.parametrize("encoding", ["32FC1", "16UC1"])
def test_pose_is_where_the_ray_meets_the_plane(tracking, encoding):
    places = []
    for _ in range(3):
        target, pose = tracking.place(encoding=encoding)
        assert pose.header == target.header
        place = np.array([pose.pose.position.x, pose.pose.position.y, pose.pose.position.z])
        assert place == pytest.approx(expected(target), rel=5e-3, abs=2e-3)
        assert (pose.pose.orientation.w, pose.pose.orientation.x) == (1.0, 0.0)
        places.append(place)
    target, nearer = tracking.place(plane() / 2, encoding)       # the same rays, half as far
    assert nearer.pose.position.z == pytest.approx(expected(target)[2] / 2, rel=5e-3)


NOTHING = np.full((HEIGHT, WIDTH), np.nan)
BAD = [
    ("NaN", {"metres": NOTHING}, "0 of"),
    ("zero", {"metres": NOTHING, "encoding": "16UC1"}, "0 of"),
    ("size", {"metres": np.ones((60, 80))}, "the depth image is 80x60, the image 160x120"),
    ("stamp", {"metres": plane(), "late": 5}, "the nearest depth image on /depth_test/depth is"),
    ("frame", {"metres": plane(), "frame_id": "other_camera"}, "'other_camera'"),
    ("encoding", {"metres": plane(), "encoding": "32FC2"}, "'32FC2' is no depth"),
    ("data", {"metres": plane(), "step": 10}, "step of 10"),
]


@pytest.mark.parametrize("depth, reason", [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_depth_gives_no_pose_a_reason_and_the_next_one_works(tracking, depth, reason):
    tracking._second += 10           # beyond the depth images of before
    shown = [tracking.see(**depth) for _ in range(2)]
    assert [target.state for target in shown] == [Target.TRACKING] * 2
    tracking.wait(lambda: reason in tracking.diagnostics["target"][1], what=reason)
    assert not {target.header.stamp.sec for target in shown} & set(tracking.poses)
    tracking._second += 10
    tracking.place()
    tracking.wait(lambda: "no target_pose" not in tracking.diagnostics["target"][1])


def test_nothing_is_published_while_there_is_no_target(tracking):
    tracking.place()
    tracking.say("")
    tracking.wait_for_status(state=Target.IDLE)
    shown = [tracking.see(plane()) for _ in range(3)]
    assert [target.state for target in shown] == [Target.IDLE] * 3
    time.sleep(0.3)
    assert not {target.header.stamp.sec for target in shown} & set(tracking.poses)


def test_stamps_that_go_back_are_a_new_start(tracking):
    tracking.place()
    tracking._second = 10            # a looped bag
    target, pose = tracking.place()
    assert pose.header.stamp.sec < 1000
    tracking._second = 10_000


def test_detections_are_the_targets_box_in_the_ecosystems_type(tracking):
    pytest.importorskip("vision_msgs.msg", reason="needs vision_msgs, which no package registry for Python has")
    target, _ = tracking.place()
    array_ = tracking.wait(lambda: tracking.detections.get(target.header.stamp.sec), what="detections")
    (one,), box = array_.detections, target.box
    assert array_.header == target.header and one.id == str(target.target_id)
    center = one.bbox.center.position
    assert (center.x, center.y) == pytest.approx((box.x + box.width / 2, box.y + box.height / 2))
    assert (one.bbox.size_x, one.bbox.size_y) == pytest.approx((box.width, box.height))
    assert one.results[0].hypothesis.class_id == "the red mug"
    assert one.results[0].hypothesis.score == pytest.approx(target.confidence)
    tracking.say("")
    tracking.wait_for_status(state=Target.IDLE)
    target = tracking.see(plane())
    assert tracking.wait(lambda: tracking.detections.get(target.header.stamp.sec)).detections == []


def test_target_3d_has_the_pose_and_the_size_in_metres(tracking):
    pytest.importorskip("vision_msgs.msg", reason="needs vision_msgs, which no package registry for Python has")
    target, pose = tracking.place()
    (one,) = tracking.wait(lambda: tracking.boxes.get(target.header.stamp.sec), what="target_3d").detections
    assert one.bbox.center == pose.pose == one.results[0].pose.pose
    z = pose.pose.position.z
    assert (one.bbox.size.x, one.bbox.size.y) == pytest.approx((target.box.width * z / FX, target.box.height * z / FY))


def test_pose_in_target_frame_by_the_transform_at_the_images_stamp(session):
    pytest.importorskip("tf2_ros", reason="needs tf2_ros, which no package registry for Python has")
    from geometry_msgs.msg import TransformStamped
    from tf2_msgs.msg import TFMessage

    _, robot = session
    robot.to_unconfigured()
    assert robot.set(target_frame="odom").successful
    robot.to_active()
    robot.calibrate()
    robot.follow("the red mug")
    missing = "no transform from 'camera_optical_frame' to 'odom'"
    first = robot.see(plane())
    robot.wait(lambda: missing in robot.diagnostics["target"][1], what=missing)
    assert first.header.stamp.sec not in robot.poses

    def transform(child, parent, translation, rotation=(0.0, 0.0, 0.0, 1.0), second=0) -> TransformStamped:
        one = TransformStamped(child_frame_id=child)
        one.header.frame_id, one.header.stamp.sec = parent, second
        one.transform.translation.x, one.transform.translation.y, one.transform.translation.z = map(float, translation)
        r = one.transform.rotation
        r.x, r.y, r.z, r.w = rotation
        return one

    static = robot.node.create_publisher(TFMessage, "/tf_static", LATCHED)
    moving = robot.node.create_publisher(TFMessage, "/tf", 100)
    static.publish(TFMessage(transforms=[
        transform("camera_optical_frame", "base_link", MOUNT[:, 3], MOUNT_QUATERNION)]))
    # The base drives one metre a second along odom's x, and TF is seconds ahead: the latest would be metres wrong.
    start = robot._second

    def drive() -> None:
        now = robot._second
        moving.publish(TFMessage(transforms=[
            transform("base_link", "odom", (second - start, 0.0, 0.0), second=second)
            for second in range(now - 3, now + 6)]))

    robot.wait_for_subscriber(moving)
    driving = robot.node.create_timer(0.1, drive)
    target, pose = robot.place()
    assert pose.header.frame_id == "odom" and pose.header.stamp == target.header.stamp
    travelled = target.header.stamp.sec + target.header.stamp.nanosec * 1e-9 - start
    place = MOUNT @ np.append(expected(target), 1.0) + [travelled, 0.0, 0.0]
    found = pose.pose.position
    assert (found.x, found.y, found.z) == pytest.approx(tuple(place), abs=0.01)
    # Beyond the last transform there is none to take.
    robot.node.destroy_timer(driving)
    robot._second += 100
    last = robot.see(plane())
    robot.wait(lambda: missing in robot.diagnostics["target"][1], what=missing)
    assert last.header.stamp.sec not in robot.poses
