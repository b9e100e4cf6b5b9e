# SPDX-License-Identifier: Apache-2.0
"""Launch files and viewers' configurations against what is really there."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

WHY = "needs a sourced ROS 2 or the wheels of `make setup`"
pytest.importorskip("rclpy", reason=WHY)
pytest.importorskip("vlt_ros.msg", reason=WHY)

from harness import fill, kind_of  # noqa: E402

from vlt_ros.ros.parameters import Parameters  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "launch").glob("*.launch.py"))
# Not parameters of the node: what launch itself does with a process.
OF_LAUNCH = {"namespace", "cameras", "params_file", "image_topic", "camera_info_topic", "depth_topic", "use_sim_time",
             "use_respawn", "log_level", "rviz"}


def calls(file: Path, name: str) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_argument_is_declared_described_and_used(file):
    declared = calls(file, "DeclareLaunchArgument")
    assert all(any(word.arg == "description" for word in call.keywords) for call in declared)
    used = {call.args[0].value for call in calls(file, "LaunchConfiguration") if isinstance(call.args[0], ast.Constant)}
    for helper in ("if_given", "always"):
        used |= {call.args[0].value for call in calls(file, helper)}
    if calls(file, "IncludeLaunchDescription"):     # the included file sees them all
        included = calls(ROOT / "launch" / "tracker.launch.py", "DeclareLaunchArgument")
        used |= {call.args[0].value for call in included} & {call.args[0].value for call in declared}
    assert used == {call.args[0].value for call in declared}
    assert not calls(file, "OpaqueFunction"), "it would hide arguments from --show-args"


@pytest.mark.parametrize("name", ["tracker", "multi_camera"])
def test_arguments_are_parameters_of_the_node_or_launch_s(name):
    file = ROOT / "launch" / f"{name}.launch.py"
    declared = {call.args[0].value for call in calls(file, "DeclareLaunchArgument")}
    assert declared - OF_LAUNCH <= {spec.name for spec in fields(Parameters)}
    assert {"params_file", "image_topic", "image_transport", "model", "weights", "device", "initial_command",
            "autostart", "use_sim_time", "use_respawn", "log_level"} <= declared


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_real_launch_takes_the_files(file):
    pytest.importorskip("launch_ros", reason="needs ROS 2's launch and launch_ros")
    from launch import LaunchDescription

    specification = importlib.util.spec_from_file_location("launch_file", file)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    description = module.generate_launch_description()
    assert isinstance(description, LaunchDescription)
    declared = {call.args[0].value for call in calls(file, "DeclareLaunchArgument")}
    assert {argument.name for argument in description.get_launch_arguments()} == declared


def test_viewers_show_topics_that_the_node_has(robot):
    topics = {name.removeprefix("/vlt_test") for name, _ in robot.node.get_topic_names_and_types()}
    text = (ROOT / "config" / "vlt_ros.rviz").read_text()
    displays = yaml.safe_load(text)["Visualization Manager"]
    image = displays["Displays"][0]["Topic"]
    assert image["Value"] in topics and image["Reliability Policy"] == "Best Effort" and image["Depth"] == 1
    assert displays["Tools"][1]["Topic"]["Value"] in topics
    layout = json.loads((ROOT / "config" / "foxglove_layout.json").read_text())
    named = set(re.findall(r'"(/[a-z_]+)', json.dumps(layout["configById"])))
    assert named == {"/debug_image", "/command", "/status", "/target", "/diagnostics"} and named <= topics
    fill(kind_of(layout["configById"]["Publish!follow"]["datatype"])(),
         json.loads(layout["configById"]["Publish!follow"]["value"]))

    def panels(node) -> set:
        return {node} if isinstance(node, str) else panels(node["first"]) | panels(node["second"])

    assert panels(layout["layout"]) == set(layout["configById"])
