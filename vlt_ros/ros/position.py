# SPDX-License-Identifier: Apache-2.0
"""The target in metres: `target_pose` and `target_3d` from a depth image, camera_info and TF.

The inference thread hands over; everything else happens in the executor's callbacks. A target waits until a depth
image not older than its own image has come, so that the nearest one is known, and until TF knows its time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from geometry_msgs.msg import Point, Pose, PoseStamped, Vector3
from geometry_msgs.msg import Quaternion as Rotation
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.time import Time
from rclpy.timer import Timer
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from vlt_ros import msg
from vlt_ros.ros.depth import DepthError, Extent, Quaternion, Vector, locate, rotate
from vlt_ros.ros.detections import hypothesis
from vlt_ros.ros.inference import Frame, RecentFrames

if TYPE_CHECKING:
    import numpy as np
    from rclpy.lifecycle import LifecycleNode

RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
RECENT_DEPTH_BYTES = 64 << 20
# How long a target waits for its depth and its transform, and how often the latter is asked for.
WAIT_S, POLL_PERIOD_S = 0.25, 0.02
MOST_WAITING = 32
WARN_EVERY_S = 5.0
NO_ROTATION: Quaternion = (0.0, 0.0, 0.0, 1.0)


class _NotYet(DepthError):
    """What is missing may still come."""


class TargetPosition:
    """Publishes where a tracked target is, in the image's optical frame or in `target_frame`.

    Nothing is published but while TRACKING, and nothing when the position cannot be had: one warning in five
    seconds says why.

    Args:
        node: makes the publishers and subscriptions: `depth`, `camera_info`, and TF with a target_frame.
        depth_scale: metres in one unit of 16UC1.
        target_frame: TF frame to publish in; empty: the image's own.
        sync_slop_s: asked for the largest difference of the stamps of an image and its depth [s].

    Attributes:
        problem: why the newest tracked target has no position; empty when there is nothing to say.
    """

    def __init__(self, node: LifecycleNode, depth_scale: float, target_frame: str,
                 sync_slop_s: Callable[[], float]) -> None:
        self._node, self._scale, self._frame, self._slop = node, depth_scale, target_frame, sync_slop_s
        self._handed_over: deque[tuple[msg.Target, float]] = deque(maxlen=MOST_WAITING)    # with its arrival [s]
        self._waiting: list[tuple[msg.Target, float]] = []
        self.problem = ""
        self._depths = RecentFrames(RECENT_DEPTH_BYTES)
        self._info: CameraInfo | None = None
        self._inputs: list[Any] = []
        self._timer: Timer                                     # while subscribed
        self._hand_over = node.create_guard_condition(self._answer)
        self._transforms: tuple[Any, Any] | None = None        # tf2's buffer and listener
        self._newest = (0, 0)                                  # stamp of the newest target
        self._pose_publisher = node.create_publisher(PoseStamped, "target_pose", RELIABLE)
        self._box_publisher = None
        try:
            from vision_msgs.msg import Detection3DArray
        except ImportError:
            node.get_logger().info("vision_msgs is not installed: no `target_3d`")
        else:
            self._box_publisher = node.create_publisher(Detection3DArray, "target_3d", RELIABLE)
        if target_frame:
            try:
                import tf2_ros  # noqa: F401
            except ImportError:
                node.get_logger().error(f"target_frame is {target_frame!r}, but tf2_ros is not installed: no "
                                        "position is published; install it, or leave target_frame empty")

    def subscribe(self) -> None:
        """Start to listen to depth, calibration and transforms."""
        overridable = QoSOverridingOptions.with_default_policies()
        for kind, topic, callback, depth in ((Image, "depth", self._on_depth, 5),
                                             (CameraInfo, "camera_info", self._on_info, 1)):
            newest = QoSProfile(depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT)
            self._inputs.append(self._node.create_subscription(kind, topic, callback, newest,
                                                               qos_overriding_options=overridable))
        self._listen_to_transforms()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = self._node.create_timer(POLL_PERIOD_S, self._answer, clock=steady)

    def unsubscribe(self) -> None:
        """Stop, and forget what was heard."""
        if not self._inputs:
            return
        for subscription in self._inputs:
            self._node.destroy_subscription(subscription)
        self._inputs = []
        self._node.destroy_timer(self._timer)
        self._stop_listening()
        self._handed_over.clear()
        self._forget()
        self._info, self.problem = None, ""

    def publish(self, target: msg.Target, image: np.ndarray) -> None:
        """Hand a target over to the executor; for the inference thread."""
        self._handed_over.append((target, time.monotonic()))
        self._hand_over.trigger()

    def destroy(self) -> None:
        """Free the publishers."""
        self._node.destroy_guard_condition(self._hand_over)
        self._node.destroy_publisher(self._pose_publisher)
        if self._box_publisher is not None:
            self._node.destroy_publisher(self._box_publisher)

    # Executor's callbacks

    def _on_depth(self, message: Image) -> None:
        self._depths.add(Frame(message))
        self._answer()

    def _on_info(self, message: CameraInfo) -> None:
        self._info = message

    def _answer(self) -> None:
        """Publish the newest target that can be placed; older ones that still wait are then out of date."""
        if not self._inputs:
            return
        while self._handed_over:
            target, arrival = self._handed_over.popleft()
            stamp = target.header.stamp.sec, target.header.stamp.nanosec
            if stamp < self._newest:        # a looped bag
                self._forget()
                self._listen_to_transforms()
            self._newest = stamp
            if target.state == msg.Target.TRACKING:
                self._waiting.append((target, arrival))
            else:
                self.problem = ""
        waiting, self._waiting = self._waiting, []
        for target, arrival in reversed(waiting):
            may_wait = time.monotonic() - arrival <= WAIT_S
            try:
                extent = self._extent(target, may_wait)
                translation, rotation = self._transform(target.header)
            except DepthError as error:
                if may_wait and isinstance(error, _NotYet):
                    self._waiting.insert(0, (target, arrival))
                else:
                    self.problem = f"no target_pose: {error}"
                    self._node.get_logger().warning(self.problem, throttle_duration_sec=WARN_EVERY_S)
            else:
                self.problem = ""
                self._send(target, extent, translation, rotation)
                return

    def _extent(self, target: msg.Target, may_wait: bool) -> Extent:
        header, box = target.header, target.box
        if not (header.stamp.sec or header.stamp.nanosec):
            raise DepthError("the image has no stamp, so no depth image belongs to it")
        if self._info is None:
            raise _NotYet(f"no message on {self._inputs[1].topic_name}")
        depth = self._depth_of(header, may_wait)
        if (depth.width, depth.height) != (target.image_width, target.image_height):
            raise DepthError(f"the depth image is {depth.width}x{depth.height}, the image {target.image_width}x"
                             f"{target.image_height}: use depth that is registered to the colour image")
        if depth.header.frame_id != header.frame_id:
            raise DepthError(f"the depth image is of frame {depth.header.frame_id!r}, the image of "
                             f"{header.frame_id!r}: use depth that is registered to the colour image")
        return locate((box.x, box.y, box.width, box.height), depth, self._info, self._scale)

    def _depth_of(self, header: Header, may_wait: bool) -> Image:
        """The depth image nearest in time to an image."""
        topic, slop, wanted = self._inputs[0].topic_name, self._slop(), _seconds(header)
        before, after = self._depths.around(header.stamp)
        if after is None and may_wait:
            raise _NotYet("the next one may be nearer")
        frames = [frame for frame in (before, after) if frame is not None]
        if not frames:
            raise DepthError(f"no depth image on {topic}")
        nearest = min(frames, key=lambda frame: abs(frame.stamp - wanted))
        if (difference := abs(nearest.stamp - wanted)) > slop:
            raise DepthError(f"the nearest depth image on {topic} is {difference:.3f} s away from the image, "
                             f"sync_slop_s is {slop:g}")
        return nearest.message

    # Transforms

    def _listen_to_transforms(self) -> None:
        """Start to listen anew: what was known of another time must not be used."""
        self._stop_listening()
        if not self._frame:
            return
        try:
            from tf2_ros import Buffer, TransformListener
        except ImportError:
            return
        buffer = Buffer()
        self._transforms = buffer, TransformListener(buffer, self._node)

    def _stop_listening(self) -> None:
        if self._transforms is not None:
            self._transforms[1].unregister()
        self._transforms = None

    def _transform(self, header: Header) -> tuple[Vector, Quaternion]:
        """From an image's frame to `target_frame` at the image's stamp, which is not zero: that means the latest."""
        if not self._frame:
            return (0.0, 0.0, 0.0), NO_ROTATION
        if self._transforms is None:
            raise DepthError("target_frame needs tf2_ros, which is not installed")
        from tf2_ros import TransformException

        try:
            found = self._transforms[0].lookup_transform(self._frame, header.frame_id, Time.from_msg(header.stamp))
        except TransformException as error:
            raise _NotYet(f"no transform from {header.frame_id!r} to {self._frame!r} at the image's stamp: "
                          f"{error}") from error
        t, q = found.transform.translation, found.transform.rotation
        return (t.x, t.y, t.z), (q.x, q.y, q.z, q.w)

    # What goes out

    def _send(self, target: msg.Target, extent: Extent, translation: Vector, rotation: Quaternion) -> None:
        header = Header(stamp=target.header.stamp, frame_id=self._frame or target.header.frame_id)
        x, y, z = (a + b for a, b in zip(rotate(rotation, extent.centre), translation, strict=True))
        pose = PoseStamped(header=header)
        pose.pose.position = Point(x=x, y=y, z=z)
        self._pose_publisher.publish(pose)
        if self._box_publisher is None:
            return
        from vision_msgs.msg import Detection3D, Detection3DArray

        one = Detection3D(header=header, id=str(target.target_id), results=[hypothesis(target)])
        one.results[0].pose.pose = pose.pose
        # The box stays along the camera's axes; how deep the target is was not seen.
        qx, qy, qz, qw = rotation
        one.bbox.center = Pose(position=pose.pose.position, orientation=Rotation(x=qx, y=qy, z=qz, w=qw))
        one.bbox.size = Vector3(x=extent.width, y=extent.height, z=0.0)
        self._box_publisher.publish(Detection3DArray(header=header, detections=[one]))

    def _forget(self) -> None:
        self._depths.clear()
        self._waiting, self._newest = [], (0, 0)


def _seconds(header: Header) -> float:
    return header.stamp.sec + header.stamp.nanosec * 1e-9
