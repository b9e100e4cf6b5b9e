# SPDX-License-Identifier: Apache-2.0
"""`vlt_servo` in its own process: what comes on `cmd_vel`, and that it stops."""

from __future__ import annotations

import signal
import time

import pytest

WHY = "needs a sourced ROS 2 or the wheels of `make setup`"
rclpy = pytest.importorskip("rclpy", reason=WHY)
pytest.importorskip("vlt_ros.msg", reason=WHY)

from geometry_msgs.msg import PoseStamped, Twist, TwistStamped  # noqa: E402
from harness import PATIENCE_S, START_S, NodeProcess, Robot  # noqa: E402
from vlt_ros.msg import Target  # noqa: E402

SERVO = ("-m", "vlt_ros.ros.servo")


class Base(Robot):
    """A robot's base, and the tracker before the servo."""

    def __init__(self, namespace: str, kind: type = TwistStamped) -> None:
        super().__init__(namespace)
        self.commands = []
        self.node.create_subscription(kind, "cmd_vel", self.commands.append, 100)
        self.says = self.node.create_publisher(Target, "target", 1)
        self.pose = self.node.create_publisher(PoseStamped, "target_pose", 1)

    def tell(self, state: int) -> None:
        """A target in the left half, a fifth of the image high."""
        message = Target(state=state, image_width=640, image_height=480)
        if state in (Target.TRACKING, Target.UNCERTAIN):
            message.box.x, message.box.y, message.box.width, message.box.height = 150.0, 192.0, 40.0, 96.0
        self.says.publish(message)

    def until(self, condition, state: int | None = None) -> None:
        """Say a state until the newest command is so."""
        end = time.monotonic() + PATIENCE_S
        while not (self.commands and condition(velocity(self.commands[-1]))):
            assert time.monotonic() < end, self.commands[-3:]
            if state is not None:
                self.tell(state)
            time.sleep(0.02)


def velocity(message) -> tuple[float, float]:
    twist = getattr(message, "twist", message)
    return twist.linear.x, twist.angular.z


def moving(command: tuple[float, float]) -> bool:
    return command[0] > 0.05 and command[1] > 0.1


def standing(command: tuple[float, float]) -> bool:
    return command == (0.0, 0.0)


def test_it_drives_while_tracking_and_stops_on_loss_silence_and_at_its_end(ros, tmp_path):
    process = NodeProcess("/servo", tmp_path / "log.txt", program=SERVO, frame_id="base_footprint")
    base = Base("/servo")
    try:
        base.wait(lambda: base.says.get_subscription_count() > 0, START_S, "vlt_servo")
        time.sleep(0.3)
        assert base.commands == []              # the robot is not its own before somebody asks for a target
        base.until(moving, Target.TRACKING)
        assert base.commands[-1].header.frame_id == "base_footprint" and base.commands[-1].header.stamp.sec > 0
        assert all(abs(velocity(one)[0]) <= 0.5 and abs(velocity(one)[1]) <= 1.0 for one in base.commands)
        for stop in (Target.LOST, Target.INPUT_TIMEOUT, Target.UNCERTAIN, None):        # None: silence
            base.until(moving, Target.TRACKING)
            base.until(standing, stop)
        process.wait_for("standing: no message on target for 0.5 s")
        base.until(moving, Target.TRACKING)
        base.until(standing, Target.IDLE)
        seen = len(base.commands)
        time.sleep(0.5)
        assert len(base.commands) - seen <= 1   # others may drive now
        base.until(moving, Target.TRACKING)
        assert process.send(signal.SIGTERM) == 0
        base.until(standing)
        assert "Traceback" not in process.output()
    finally:
        process.send(signal.SIGKILL)
        base.close()


def test_distance_from_target_pose_and_plain_twist(ros, tmp_path):
    process = NodeProcess("/servo2", tmp_path / "log.txt", program=SERVO, stamped=False, distance_from="pose")
    base = Base("/servo2", Twist)
    try:
        base.wait(lambda: base.pose.get_subscription_count() > 0, START_S, "vlt_servo")
        base.until(lambda command: command[1] > 0.1, Target.TRACKING)
        assert base.commands[-1].linear.x == 0          # without a pose it only turns
        far = PoseStamped()
        far.pose.position.x, far.pose.position.z = 3.0, 4.0
        timer = base.node.create_timer(0.05, lambda: base.pose.publish(far))
        base.until(moving, Target.TRACKING)
        base.node.destroy_timer(timer)
        base.until(lambda command: command[0] == 0 and command[1] > 0.1, Target.TRACKING)
        assert process.interrupt() == 0
    finally:
        process.send(signal.SIGKILL)
        base.close()


@pytest.mark.parametrize("parameter", [{"distance_from": "lidar"}, {"max_speed": -1.0}, {"rate_hz": "often"}])
def test_a_bad_parameter_is_one_clear_line(tmp_path, parameter):
    process = NodeProcess("/bad", tmp_path / "log.txt", program=SERVO, **parameter)
    assert process.process.wait(START_S) == 2
    lines = process.output().strip().splitlines()
    assert len(lines) == 1 and next(iter(parameter)) in lines[0]
