# SPDX-License-Identifier: Apache-2.0
"""The node `vlt_servo`, an example of a controller: it keeps the target in the middle and at its distance.

It drives whatever listens to `cmd_vel` and sees no obstacles: put a collision monitor behind it.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from dataclasses import fields

import rclpy
from geometry_msgs.msg import PoseStamped, Twist, TwistStamped
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from vlt_ros.msg import Target  # type: ignore[attr-defined]  # generated, in the ament prefix
from vlt_ros.ros.control import STOP, Servo, ServoSettings, Velocity
from vlt_ros.ros.messages import STATE_NAMES

RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)


class VltServo(Node):
    """Turns `target` (and `target_pose`, if the distance is taken from it) into `cmd_vel`.

    While somebody asked for a target it publishes at a steady rate, zeros when the target cannot be relied on. After
    a stop command one zero ends it, so that others may drive.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__("vlt_servo", **kwargs)
        values = {spec.name: self._declare(spec.name, spec.default, **spec.metadata) for spec in fields(ServoSettings)}
        self._is_stamped = self._declare("stamped", True, "Publish TwistStamped; false: Twist")
        self._frame = self._declare("frame_id", "base_link", "Frame of a TwistStamped: the robot's base")
        rate = self._declare("rate_hz", 20.0, "Commands a second", 1.0, 200.0)
        self._servo = Servo(ServoSettings(**values))
        self._reason, self._is_driving = self._servo.reason, False
        self._publisher = self.create_publisher(TwistStamped if self._is_stamped else Twist, "cmd_vel", RELIABLE)
        self.create_subscription(Target, "target", self._on_target, RELIABLE)
        if self._servo.settings.distance_from == "pose":
            self.create_subscription(PoseStamped, "target_pose", self._on_pose, RELIABLE)
        self.create_timer(1 / rate, self._drive, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _declare(self, name: str, default, description: str, low: float | None = None, high: float | None = None):
        descriptor = ParameterDescriptor(description=description, read_only=True)
        if low is not None and high is not None:
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
        return self.declare_parameter(name, default, descriptor).value

    def _on_target(self, message: Target) -> None:
        box = message.box
        self._servo.see(STATE_NAMES.get(message.state, "unknown"), (box.x, box.y, box.width, box.height),
                        message.image_width, message.image_height, time.monotonic())

    def _on_pose(self, message: PoseStamped) -> None:
        place = message.pose.position
        self._servo.measure(math.sqrt(place.x ** 2 + place.y ** 2 + place.z ** 2), time.monotonic())

    def _drive(self) -> None:
        velocity = self._servo.velocity(time.monotonic())
        if self._servo.reason != self._reason:
            self._reason = self._servo.reason
            self.get_logger().info(f"standing: {self._reason}" if self._reason else "following")
        if self._servo.following or self._is_driving:
            self._publish(velocity)
        self._is_driving = self._servo.following

    def _publish(self, velocity: Velocity) -> None:
        twist = Twist()
        twist.linear.x, twist.angular.z = float(velocity.forward), float(velocity.yaw)
        if not self._is_stamped:
            self._publisher.publish(twist)
            return
        message = TwistStamped(twist=twist)
        message.header.stamp, message.header.frame_id = self.get_clock().now().to_msg(), self._frame
        self._publisher.publish(message)

    def stop(self) -> None:
        """Stop the robot, for the end of the process: returns when the command has been received."""
        if self._is_driving:
            self._publish(STOP)
            self._publisher.wait_for_all_acked(Duration(seconds=0.5))


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM.

    Returns:
        0, or 2 when a parameter given at start has a wrong type or is out of its range.
    """
    # rclpy's own handlers would close the publisher before the robot is stopped.
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    node, ended = None, False

    def end(*_) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    try:
        node = VltServo()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while not ended:
            executor.spin_once(timeout_sec=0.1)
    except ExternalShutdownException:
        pass
    except (InvalidParameterTypeException, InvalidParameterValueException, ValueError) as error:
        print(f"vlt_servo: {error}", file=sys.stderr)
        return 2
    finally:
        if node is not None:
            node.stop()
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
