# SPDX-License-Identifier: Apache-2.0
"""The parameters' one definition agrees with the file that users copy, the tracker and the launch file."""

from __future__ import annotations

import ast
import xml.etree.ElementTree as ElementTree
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

WHY = "needs a sourced ROS 2 or the wheels of `make setup`"
pytest.importorskip("rclpy", reason=WHY)
pytest.importorskip("vlt_ros.msg", reason=WHY)

from vlt_ros.msg import Target  # noqa: E402

from vlt_ros.ros.parameters import Parameters  # noqa: E402
from vlt_ros.tracker import State, TrackerSettings  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
ROS_OWN = {"use_sim_time", "start_type_description_service"}      # parameters of every node


def test_configuration_file_holds_every_parameter_with_its_default():
    written = yaml.safe_load((ROOT / "config" / "tracker.yaml").read_text())["/**"]["ros__parameters"]
    defaults = {spec.name: spec.default for spec in fields(Parameters)}
    assert written == defaults
    assert {name: type(value) for name, value in written.items()} == {n: type(v) for n, v in defaults.items()}


def test_servo_file_holds_every_parameter_with_its_default(ros):
    from vlt_ros.ros.servo import VltServo

    written = yaml.safe_load((ROOT / "config" / "servo.yaml").read_text())["/**"]["ros__parameters"]
    node = VltServo()
    try:
        listed = node.list_parameters([], 0)
        names = set(getattr(listed, "result", listed).names) - ROS_OWN    # releases differ in what they return
        assert written == {name: node.get_parameter(name).value for name in names}
    finally:
        node.destroy_node()


def test_nav2_files_follow_the_topic_that_the_node_publishes():
    tree = ElementTree.parse(ROOT / "config" / "nav2_follow_target.xml").getroot()
    (follow,) = tree.iter("FollowObject")
    assert follow.get("pose_topic") == "target_pose" and tree.get("BTCPP_format") == "4"
    file = yaml.safe_load((ROOT / "config" / "nav2_following.yaml").read_text())
    managed = file["lifecycle_manager_following"]["ros__parameters"]["node_names"]
    assert managed == ["following_server"] and "following_server" in file


def test_tracker_and_node_have_the_same_defaults():
    settings = TrackerSettings()
    for spec in fields(TrackerSettings):
        assert getattr(Parameters(), spec.name) == getattr(settings, spec.name), spec.name


def test_states_of_tracker_and_message_have_the_same_numbers():
    for state in State:
        assert getattr(Target, state.name) == state.value


def test_launch_file_sets_only_parameters_that_exist():
    tree = ast.parse((ROOT / "launch" / "tracker.launch.py").read_text())
    arguments = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "DeclareLaunchArgument"
    }
    others = {"namespace", "params_file", "image_topic", "use_sim_time", "use_respawn", "log_level", "rviz",
              "depth_topic", "camera_info_topic"}
    assert arguments - others <= {spec.name for spec in fields(Parameters)}


@pytest.mark.parametrize(
    "change, part",
    [
        ({"device": "gpu"}, "device"),
        ({"precision": "int4"}, "precision"),
        ({"runtime": "tensorflow"}, "runtime"),
        ({"image_transport": "theora"}, "raw"),
        ({"weights_sha256": "abc"}, "64"),
        ({"track_threshold": float("nan")}, "track_threshold"),
        ({"track_threshold": 0.2, "lost_threshold": 0.3}, "above"),
        ({"image_timeout_s": 0.0}, "image_timeout_s"),
    ],
)
def test_problems_are_named(change, part):
    assert Parameters().problem() == ""
    assert part in Parameters(**change).problem()
