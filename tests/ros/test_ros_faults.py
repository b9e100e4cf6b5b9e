# SPDX-License-Identifier: Apache-2.0
"""Faults injected into the real node in its own process: its network raises, hangs, returns NaN, loses its device."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

WHY = "needs a sourced ROS 2 or the wheels of `make setup`"
pytest.importorskip("rclpy", reason=WHY)
pytest.importorskip("vlt_ros.msg", reason=WHY)

from harness import PATIENCE_S, START_S, NodeProcess, Robot  # noqa: E402
from vlt_ros.msg import Target  # noqa: E402

NAMESPACE = "/faulty"
PROGRAM = (str(Path(__file__).with_name("faulty_node.py")),)
ERROR = b"\x02"


def start(folder: Path, weights: Path, namespace: str = NAMESPACE) -> tuple[NodeProcess, Path]:
    switch = folder / "fault"
    process = NodeProcess(
        namespace,
        folder / "log.txt",
        program=PROGRAM,
        env={"FAULT_FILE": str(switch)},
        weights=weights,
        track_threshold=0.0,
        lost_threshold=0.0,
        inference_timeout_s=0.7,
    )
    return process, switch


@pytest.fixture(scope="module")
def faulty(ros, weights, tmp_path_factory):
    process, switch = start(tmp_path_factory.mktemp("faulty"), weights)
    robot = Robot(NAMESPACE)
    try:
        robot.wait(lambda: robot.state() == "active", START_S, "autostart")
        yield process, robot, switch
        switch.write_text("")
        assert process.interrupt() == 0, process.output()
        assert "Traceback" not in process.output()
    finally:
        robot.close()
        process.process.kill()


@pytest.fixture
def tracking(faulty):
    """Node, robot and the switch of the faults, while a box is followed."""
    process, robot, switch = faulty
    switch.write_text("")
    switch.with_name("ends").unlink(missing_ok=True)
    robot.to_active()
    robot.set(lost_after_s=1.0)
    robot.follow("the red mug")
    robot.targets.clear()
    return process, robot, switch


def feed(robot: Robot, condition, what: str, timeout: float = PATIENCE_S) -> list:
    """Send images until something holds; their stamps."""
    sent, end = [], time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"{what}; last {robot.statuses[-1]}; {robot.diagnostics}"
        message = robot.picture_message()
        robot.image.publish(message)
        sent.append((message.header.stamp.sec, message.header.stamp.nanosec))
        time.sleep(0.03)
    return sent


def has_box(target: Target) -> bool:
    return target.box.width > 0 or target.box.height > 0


def test_inference_that_raises_is_said_and_no_old_box_goes_out_under_a_new_stamp(tracking):
    process, robot, switch = tracking
    old = robot.statuses[-1]
    switch.write_text("raise")
    sent = feed(robot, lambda: robot.statuses[-1].state == Target.INPUT_TIMEOUT, "INPUT_TIMEOUT")
    assert "no usable image on /faulty/image" in robot.statuses[-1].reason
    assert "RuntimeError: kernel failed" in robot.statuses[-1].reason
    sent += feed(robot, lambda: robot.diagnostics["input"][0] == ERROR, "an error in the diagnostics")
    stamps = set(sent)
    assert not [t for t in robot.targets if (t.header.stamp.sec, t.header.stamp.nanosec) in stamps and has_box(t)]
    switch.write_text("")
    _, answer = robot.show()
    assert answer.state == Target.TRACKING and answer.target_id == old.target_id
    assert process.output().count("image or command dropped") < 5  # throttled


def test_command_on_which_the_network_fails_is_rejected_and_the_old_target_kept(tracking):
    _, robot, switch = tracking
    old = robot.statuses[-1]
    switch.write_text("raise")
    robot.say("the blue mug")
    status = robot.wait_for_status(command_result=Target.COMMAND_REJECTED)
    assert "the network failed on it, RuntimeError: kernel failed" in status.reason
    assert (status.text, status.target_id) == ("the red mug", old.target_id)
    switch.write_text("")
    _, answer = robot.show()
    assert (answer.state, answer.text) == (Target.TRACKING, "the red mug")


def test_search_goes_on_after_one_failure(tracking):
    _, robot, switch = tracking
    robot.say("the blue mug")
    robot.wait_for_status(state=Target.SEARCHING, text="the blue mug")
    switch.write_text("raise once")
    feed(robot, lambda: switch.read_text() == "", "the failure")
    assert Target.TRACKING in [robot.show()[1].state for _ in range(40)]


def test_nan_from_the_network_is_no_target(tracking):
    _, robot, switch = tracking
    robot.set(lost_after_s=0.0)
    switch.write_text("nan")
    _, answer = robot.show()
    assert answer.state == Target.LOST and answer.confidence == 0 and not has_box(answer)
    switch.write_text("")
    assert Target.TRACKING in [robot.show()[1].state for _ in range(40)]


def test_hanging_inference_is_reported_and_survived(tracking):
    process, robot, switch = tracking
    old = robot.statuses[-1]
    switch.write_text("hang")
    sent = feed(robot, lambda: robot.statuses[-1].state == Target.INPUT_TIMEOUT, "INPUT_TIMEOUT")
    assert "the network has not come back for 0.7 s" in robot.statuses[-1].reason
    assert not has_box(robot.statuses[-1])
    robot.wait(lambda: robot.diagnostics["inference"][0] == ERROR, what="an error in the diagnostics")
    assert "not come back" in robot.diagnostics["inference"][1]
    for number in range(200):  # commands that wait are bounded
        robot.say(f"mug {number}")
    assert robot.state() == "active" and robot.set(lost_after_s=0.7).successful  # still answers
    answered = [t for t in robot.targets if t.state != Target.INPUT_TIMEOUT]
    assert len(answered) <= 1 and len(sent) > 10
    switch.write_text("")
    switch.with_name("ends").touch()
    robot.wait(lambda: robot.statuses[-1].target_id > old.target_id, what="the commands")
    robot.wait(lambda: robot.diagnostics["inference"][0] == b"\x00", what="diagnostics without the error")
    assert "-> INPUT_TIMEOUT: the network has not come back" in process.output()


def test_node_that_hangs_can_be_deactivated_and_configured_anew(tracking):
    process, robot, switch = tracking
    switch.write_text("hang")
    feed(robot, lambda: robot.statuses[-1].state == Target.INPUT_TIMEOUT, "INPUT_TIMEOUT")
    robot.transition("deactivate")
    assert robot.state() == "unconfigured" and process.alive
    assert "it is given up" in process.output()
    switch.write_text("")
    robot.to_active()
    robot.targets.clear()
    robot.show()
    switch.with_name("ends").touch()  # the network that was given up comes back while the new one works
    image, answer = robot.show()
    assert answer.state == Target.IDLE and answer.target_id == 0
    time.sleep(0.3)
    assert {t.header.stamp.sec for t in robot.targets} <= {image.header.stamp.sec - 1, image.header.stamp.sec}


def test_hanging_node_ends_on_sigterm(ros, weights, tmp_path):
    process, switch = start(tmp_path, weights, "/hangs")
    robot = Robot("/hangs")
    try:
        robot.wait(lambda: robot.state() == "active", START_S, "autostart")
        switch.write_text("hang")
        robot.wait_for_subscriber(robot.command)
        process.wait_for("no image on")     # what hides behind the silence is said too
        robot.say("the red mug")
        process.wait_for("-> INPUT_TIMEOUT: the network has not come back")
        assert process.send(signal.SIGTERM) == 0
    finally:
        robot.close()
        process.process.kill()


def test_out_of_memory_twice_and_a_lost_device_deactivate_and_say_why(tracking):
    _, robot, switch = tracking
    switch.write_text("oom once")
    feed(robot, lambda: switch.read_text() == "", "the failure")
    assert robot.show()[1].state == Target.TRACKING and robot.state() == "active"
    for fault, reason in (("oom", "out of memory twice in a row"), ("lost", "the device is lost")):
        switch.write_text(fault)
        feed(robot, lambda: robot.statuses[-1].reason == "the node was deactivated", "deactivation")
        assert robot.state() == "inactive"
        robot.wait(lambda reason=reason: reason in robot.diagnostics["inference"][1], what=reason)
        assert robot.diagnostics["inference"][0] == ERROR
        switch.write_text("")
        robot.to_active()
        feed(robot, lambda: robot.statuses[-1].state == Target.SEARCHING, "the command, which outlives it")
