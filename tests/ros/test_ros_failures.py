# SPDX-License-Identifier: Apache-2.0
"""What the node does when its network fails: the real node in this process, with a tracker made to fail."""

from __future__ import annotations

from dataclasses import replace

import pytest

WHY = "needs a sourced ROS 2 or the wheels of `make setup`"
pytest.importorskip("rclpy", reason=WHY)
pytest.importorskip("vlt_ros.msg", reason=WHY)

import threading  # noqa: E402

from harness import BOX, Robot  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from vlt_ros.msg import Target  # noqa: E402

NAMESPACE = "/failing"


@pytest.fixture
def pair(ros, weights):
    """The node, active, and a robot that saw it follow a box."""
    from vlt_ros.ros.node import VltTracker

    node = VltTracker(
        namespace=NAMESPACE,
        parameter_overrides=[
            Parameter("weights", value=str(weights)),
            Parameter("track_threshold", value=0.0),
            Parameter("lost_threshold", value=0.0),
        ],
    )
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    node.autostart()
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    robot = Robot(NAMESPACE)
    try:
        robot.show()
        robot.point(BOX)
        robot.wait_for_status(state=Target.TRACKING)
        yield node, robot
    finally:
        robot.close()
        executor.shutdown()
        thread.join(5)
        node.stop()
        node.destroy_node()


def fail(node, monkeypatch, error: Exception | None, times: int) -> list:
    """Let the next `times` calls of track raise, or give a NaN box where there is no error."""
    right, left = node._targets.track, [None] * times

    def track(image, stamp):
        if not left:
            return right(image, stamp)
        left.pop()
        if error is not None:
            raise error
        right(image, stamp)
        good, nan = node._tracker.target, float("nan")
        node._tracker._target = replace(good, box=(nan,) * 4, confidence=nan)
        return node._tracker.target

    monkeypatch.setattr(node._targets, "track", track)
    return left


@pytest.mark.parametrize("error", [RuntimeError("kernel failed"), None], ids=["exception", "not finite"])
def test_one_failed_image_is_dropped_and_said_and_the_next_one_tracked(pair, monkeypatch, error):
    node, robot = pair
    left = fail(node, monkeypatch, error, 1)
    robot.targets.clear()
    image = robot.picture_message()
    robot.image.publish(image)
    robot.wait(lambda: not left and node._counters.failed == 1, what="the failure")
    assert robot.targets == []
    _, answer = robot.show()
    assert answer.state == Target.TRACKING
    robot.wait(
        lambda: robot.diagnostics["inference"][2]["failed"] == "1", what="the failure in the diagnostics"
    )
    assert robot.state() == "active"


def test_out_of_memory_once_is_survived_and_twice_in_a_row_deactivates(pair, monkeypatch):
    import torch

    node, robot = pair
    error = torch.OutOfMemoryError("CUDA out of memory")
    left = fail(node, monkeypatch, error, 1)
    robot.image.publish(robot.picture_message())
    robot.wait(lambda: not left, what="the first failure")
    assert robot.show()[1].state == Target.TRACKING and robot.state() == "active"
    left = fail(node, monkeypatch, error, 2)
    for _ in range(20):
        robot.image.publish(robot.picture_message())
        if not left:
            break
        robot.wait(lambda: True)
        threading.Event().wait(0.1)
    robot.wait(lambda: robot.state() == "inactive", what="deactivation")
    robot.wait(
        lambda: "out of memory" in robot.diagnostics["inference"][1], what="the reason in the diagnostics"
    )
    assert robot.transition("activate") and robot.state() == "active"


def test_a_failed_load_after_a_good_one_does_not_raise_out_of_the_transition(pair):
    node, robot = pair
    robot.to_unconfigured()
    assert robot.set(weights="/nowhere/w.safetensors").successful
    assert not robot.transition("configure") and robot.state() == "unconfigured"
    assert "/nowhere/w.safetensors" in node.failure


def test_a_grounder_that_is_not_there_fails_the_load_and_one_that_is_proposes(pair, tmp_path):
    import grounders

    node, robot = pair
    robot.to_unconfigured()
    assert robot.set(grounder="nobody/nothing").successful
    assert not robot.transition("configure") and robot.state() == "unconfigured"
    assert "hf download nobody/nothing" in node.failure
    assert robot.set(grounder=str(grounders.owlv2(tmp_path))).successful
    assert robot.transition("configure") and robot.transition("activate")
    asked, ground = [], node._grounder.ground
    node._grounder.ground = lambda image, text: asked.append((image.shape[0], text)) or ground(image, text)
    robot.say("the grey thing")
    robot.wait(lambda: robot.show() and asked, what="the grounder to be asked")
    assert asked[0] == (robot.picture_message().height, "the grey thing")
