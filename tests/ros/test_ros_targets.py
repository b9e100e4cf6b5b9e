# SPDX-License-Identifier: Apache-2.0
"""Targets beside the main one on the real node: added, listed, refused and removed; the main one is as ever."""

from __future__ import annotations

import pytest

WHY = "needs a sourced ROS 2 or the wheels of `make setup`"
pytest.importorskip("rclpy", reason=WHY)
pytest.importorskip("vlt_ros.msg", reason=WHY)

from harness import BOX  # noqa: E402
from std_msgs.msg import UInt32  # noqa: E402
from vlt_ros.msg import Target, TargetArray, TargetCommand  # noqa: E402


class More:
    """A robot's side of the further targets."""

    def __init__(self, robot) -> None:
        self.robot, self.arrays = robot, []
        self.adding = robot.node.create_publisher(TargetCommand, "add_target", 10)
        self.removing = robot.node.create_publisher(UInt32, "remove_target", 10)
        self.listening = robot.node.create_subscription(TargetArray, "targets", self.arrays.append, 100)

    def add(self, text: str = "", box: tuple = (), stamp=None) -> None:
        self.robot.wait_for_subscriber(self.adding)
        command = TargetCommand(text=text)
        for name, value in zip(("x", "y", "width", "height"), box, strict=False):
            setattr(command.box, name, float(value))
        if stamp is not None:
            command.header.stamp = stamp
        self.adding.publish(command)

    def remove(self, target_id: int) -> None:
        self.robot.wait_for_subscriber(self.removing)
        self.removing.publish(UInt32(data=target_id))

    def said(self, part: str, result: int = Target.COMMAND_ACCEPTED) -> Target:
        return self.robot.wait(lambda: next((s for s in self.robot.statuses[-1:] if part in s.reason
                                             and s.command_result == result), None), what=part)

    def show(self) -> tuple:
        """An image's answer on `target`, and on `targets`."""
        message, answer = self.robot.show()
        array = self.robot.wait(lambda: next((a for a in self.arrays if a.header == message.header), None),
                                what="targets of the image")
        return answer, array.targets


@pytest.fixture
def more(robot):
    side = More(robot)
    robot.wait(lambda: robot.node.count_publishers("targets"), what="targets")
    yield side
    side.remove(0)
    side.said("all targets are removed")
    for one in (side.adding, side.removing):
        robot.node.destroy_publisher(one)
    robot.node.destroy_subscription(side.listening)


def test_targets_come_and_go_beside_the_main_one(robot, more):
    main = robot.follow("the red mug")
    assert not more.arrays
    image, _ = robot.show()
    more.add("the blue cup", (70, 50, 30, 30), image.header.stamp)
    first = more.said("is added").target_id
    assert first == main.target_id      # the main target's status, its id and text stay
    more.add("the dog")
    more.said(f"target {main.target_id + 2} is added")
    answer, targets = more.show()
    assert [(one.target_id, one.text) for one in targets] == [
        (main.target_id, "the red mug"), (main.target_id + 1, "the blue cup"), (main.target_id + 2, "the dog")]
    assert targets[0] == answer and answer.state == Target.TRACKING
    assert targets[1].state == Target.TRACKING and targets[1].box.width > 0 and targets[1].box != targets[0].box
    assert all(one.header == answer.header and one.image_width == 160 and one.latency_ms > 0 for one in targets)
    more.remove(main.target_id + 1)
    more.said(f"target {main.target_id + 1} is removed")
    # A new main target: the others stay, and ids are never given twice.
    robot.point(BOX, "the green mug")
    robot.wait_for_status(text="the green mug", target_id=main.target_id + 3)
    assert [one.target_id for one in more.show()[1]] == [main.target_id + 3, main.target_id + 2]
    robot.say("")
    robot.wait_for_status(state=Target.IDLE, text="")
    assert [one.target_id for one in more.show()[1]] == [main.target_id + 2]
    more.remove(main.target_id + 2)
    more.said("is removed")
    assert more.show()[1] == []         # said once, then no more
    more.arrays.clear()
    robot.show()
    robot.show()
    assert not more.arrays


def test_what_cannot_be_added_or_removed_is_refused_and_nothing_is_lost(robot, more):
    main = robot.follow("the red mug")
    more.add("the cup")
    more.said("is added")
    refused = Target.COMMAND_REJECTED
    for text, box, part in (("a\x07b", (), "control character"), ("", (), "needs a text or a box"),
                            ("x", (500, 500, 9, 9), "inside the 160 x 120 frame")):
        more.add(text, box)
        more.said(part, refused)
    more.add("x", BOX, robot.picture_message(stamp=(7, 7)).header.stamp)
    more.said("no image with stamp 7.000000007", refused)
    more.remove(4000000000)
    more.said("no target has the id 4000000000", refused)
    for _ in range(6):
        more.add("one more")
    more.add("too many")
    more.said("at most 8 targets are followed", refused)
    _, targets = more.show()
    assert len(targets) == 8 and targets[0].target_id == main.target_id and targets[0].text == "the red mug"
    assert robot.set(image_timeout_s=0.5).successful     # silence is said for all of them
    robot.wait(lambda: more.arrays[-1].targets and {one.state for one in more.arrays[-1].targets} == {
        Target.INPUT_TIMEOUT}, what="INPUT_TIMEOUT on targets")
