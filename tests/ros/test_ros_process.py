# SPDX-License-Identifier: Apache-2.0
"""The process around the node: how it starts and ends."""

from __future__ import annotations

import time

import pytest

WHY = "needs a sourced ROS 2 or the wheels of `make setup`"
pytest.importorskip("rclpy", reason=WHY)
pytest.importorskip("vlt_ros.msg", reason=WHY)

from harness import START_S, NodeProcess, Robot  # noqa: E402


def test_autostart_with_missing_weights_lives_on_and_ends_cleanly_on_one_sigint(tmp_path):
    process = NodeProcess("/alone", tmp_path / "log.txt", weights="/nowhere/w.safetensors")
    process.wait_for("/nowhere/w.safetensors is missing")
    time.sleep(0.5)
    assert process.alive
    assert process.interrupt() == 0
    assert "Traceback" not in process.output()


def test_without_autostart_the_node_waits(ros, tmp_path):
    process = NodeProcess("/waits", tmp_path / "log.txt", weights="/nowhere/w.safetensors", autostart=False)
    robot = Robot("/waits")
    try:
        robot.wait(lambda: robot.state() == "unconfigured", START_S, "the node")
    finally:
        robot.close()
    assert process.alive and "failed" not in process.output()
    assert process.interrupt() == 0


@pytest.mark.parametrize("parameter", [{"lost_after_s": -1.0}, {"track_threshold": "high"}])
def test_a_bad_parameter_at_start_is_one_clear_line(tmp_path, parameter):
    process = NodeProcess("/bad", tmp_path / "log.txt", **parameter)
    assert process.process.wait(START_S) == 2
    lines = process.output().strip().splitlines()
    assert len(lines) == 1 and next(iter(parameter)) in lines[0]
