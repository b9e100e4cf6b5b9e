# SPDX-License-Identifier: Apache-2.0
"""Every system in the node: one parameter changes, everything else stays."""

from __future__ import annotations

import pytest

WHY = "needs a sourced ROS 2 or the wheels of `make setup`"
pytest.importorskip("rclpy", reason=WHY)
pytest.importorskip("vlt_ros.msg", reason=WHY)

from harness import START_S  # noqa: E402
from vlt_ros.msg import Target  # noqa: E402

from vlt_ros.networks import CONFIGS, build_network, save_network  # noqa: E402
from vlt_ros.networks.systems import SYSTEMS  # noqa: E402


@pytest.mark.parametrize("system", SYSTEMS)
def test_node_runs_every_system_by_its_weights_file_alone(robot, system, tmp_path):
    config = CONFIGS[f"{system}_tiny"]
    path = tmp_path / f"{system}.safetensors"
    network = build_network(config)
    save_network(network, path)
    robot.to_unconfigured()
    assert robot.set(weights=str(path)).successful
    robot.to_active()
    robot.diagnostics.clear()
    robot.wait(lambda: "inference" in robot.diagnostics, START_S, "diagnostics")
    assert robot.diagnostics["inference"][2]["network"] == config.name
    robot.follow()
    assert robot.show()[1].state in (Target.TRACKING, Target.UNCERTAIN)
    before = robot.statuses[-1].target_id
    robot.say("the red mug")
    if network.listens:
        status = robot.wait_for_status(text="the red mug", command_result=Target.COMMAND_ACCEPTED)
        assert status.target_id > before
    else:
        status = robot.wait_for_status(command_result=Target.COMMAND_REJECTED)
        assert "does not listen" in status.reason and status.target_id == before
