# SPDX-License-Identifier: Apache-2.0
"""The documents against the running nodes: topics, services, diagnostics, parameters, and every `ros2` command."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from dataclasses import fields, replace

import pytest
import yaml

WHY = "needs a sourced ROS 2 or the wheels of `make setup`"
rclpy = pytest.importorskip("rclpy", reason=WHY)
pytest.importorskip("vlt_ros.msg", reason=WHY)

from documents import ROOT, commands, rows  # noqa: E402
from harness import fill, kind_of  # noqa: E402
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy  # noqa: E402

from vlt_ros.ros.parameters import Parameters  # noqa: E402

REFERENCE = ROOT / "docs" / "reference.md"
# What every node of ROS 2 has; the page says so in a sentence.
SHARED = {"/rosout", "/parameter_events", "/clock", "/tf", "/tf_static", "/vlt_test/vlt_tracker/transition_event"}
# Packages that are not on PyPI: there a robot alone has these topics.
ELSEWHERE = {"vision_msgs"} if importlib.util.find_spec("vision_msgs") is None else set()
COMMANDS_IN = {"command": "std_msgs/msg/String", "target_command": "vlt_ros/msg/TargetCommand",
               "add_target": "vlt_ros/msg/TargetCommand", "remove_target": "std_msgs/msg/UInt32",
               "clicked_point": "geometry_msgs/msg/PointStamped"}
# Packages and verbs of other projects.
THEIRS = {"foxglove_bridge", "rqt_image_view", "opennav_following", "nav2_lifecycle_manager"}


def test_generated_parts_are_those_of_the_code():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import reference
    finally:
        sys.path.pop(0)
    page = REFERENCE.read_text()
    assert set(reference.PARTS) == {part["name"] for part in reference.PART.finditer(page)}
    assert reference.generated(page) == page, "docs/reference.md does not say what the code does: run `make docs`"
    assert reference.generated(page.replace("`track_threshold`", "`track_thresholds`")) == page, "it would be noticed"


def documented(heading: str) -> dict[tuple[str, str], tuple[str, str]]:
    """Type and QoS by direction and name."""
    found = {}
    for place, kind, qos, *_ in rows(REFERENCE, heading):
        if match := re.fullmatch(r"(in|out) `([a-z0-9_/]+)`", place):     # else a parameter's row
            found[match[1], match[2]] = kind, qos
    return found


def offered(node, names: tuple[str, str], namespace: str) -> dict[tuple[str, str], str]:
    """What a node publishes and subscribes to now, as its documentation should name it."""
    found = {}
    for direction, ends in (("out", node.get_publisher_names_and_types_by_node(*names)),
                            ("in", node.get_subscriber_names_and_types_by_node(*names))):
        for name, kinds in ends:
            if name not in SHARED:
                found[direction, name.removeprefix(f"{namespace}/")] = kinds[0]
    return found


def test_topics_of_the_tracker_are_the_documented_ones(robot):
    """Raw and compressed images, with depth and without, together offer exactly what the page lists."""
    page, node, seen = documented("Topics of `vlt_tracker`"), robot.node, {}
    for use_depth, transport in ((False, "raw"), (True, "compressed")):
        robot.to_unconfigured()
        assert robot.set(use_depth=use_depth, image_transport=transport).successful
        robot.to_active()
        image = "image/compressed" if use_depth else "image"

        def now():
            return offered(node, ("vlt_tracker", "/vlt_test"), "/vlt_test")

        robot.wait(lambda image=image, wanted=use_depth: ("in", image) in now()
                   and (("out", "target_pose") in now()) == wanted, what="discovery")
        found = now()
        assert ("out", "target_pose") in found or not use_depth
        seen |= found
    robot.to_unconfigured()
    assert robot.set(use_depth=False, image_transport="raw").successful
    robot.to_active()
    expected = {key: kind for key, (kind, _) in page.items() if kind.split("/")[0] not in ELSEWHERE}
    assert seen == expected


def test_documented_qos_is_the_offered_one(robot):
    checked = 0
    for (direction, name), (_, qos) in documented("Topics of `vlt_tracker`").items():
        topic = name if name.startswith("/") else f"/vlt_test/{name}"
        ends = (robot.node.get_publishers_info_by_topic(topic) if direction == "out"
                else robot.node.get_subscriptions_info_by_topic(topic))
        for end in ends:
            if end.node_name != "vlt_tracker" or name == "image/compressed":   # the harness overrides that one's
                continue
            assert (end.qos_profile.reliability == ReliabilityPolicy.RELIABLE) == ("reliable" in qos), name
            assert (end.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL) == ("transient" in qos), name
            checked += 1
    assert checked >= 9


def test_services_and_diagnostics_are_the_documented_ones(robot):
    served = dict(robot.node.get_service_names_and_types_by_node("vlt_tracker", "/vlt_test"))
    own = {f"~/{name.rpartition('/')[2]}": kinds[0] for name, kinds in served.items()
           if kinds[0].startswith("std_srvs") or kinds[0].startswith("vlt_ros")}
    assert own == {name.strip("`"): kind for name, kind, _ in rows(REFERENCE, "Services of `vlt_tracker`")}
    robot.show()
    robot.wait(lambda: len(robot.diagnostics) == 3, what="diagnostics")
    page = {entry: set(re.findall(r"`(\w+)`", values)) for entry, values in rows(REFERENCE, "Diagnostics")}
    assert page == {entry: set(values) for entry, (_, _, values) in robot.diagnostics.items()}


def test_topics_of_the_servo_are_the_documented_ones(ros):
    from vlt_ros.ros.servo import VltServo

    page = {key: kind for key, (kind, _) in documented("Topics and parameters of `vlt_servo`").items()}
    node = VltServo(cli_args=["--ros-args", "-r", "__ns:=/docs", "-p", "distance_from:=pose"])
    try:
        assert offered(node, ("vlt_servo", "/docs"), "/docs") == page
    finally:
        node.destroy_node()


# ros2 commands ----------------------------------------------------------------------------------------------
def test_every_ros2_command_is_one_that_a_test_here_knows():
    verbs = {tuple(command.words[1:3]) for command in commands("ros2")}
    known = {("topic", "pub"), ("topic", "echo"), ("service", "call"), ("param", "set"), ("param", "describe"),
             ("bag", "play"), ("bag", "record"), ("launch", "vlt_ros"), ("run", "vlt_ros"), ("action", "send_goal")}
    assert {verb for verb in verbs if verb[1] not in THEIRS} == known


def test_topic_commands_fit_the_nodes_topics():
    seen = set()
    for command in commands("ros2", "topic", "pub"):
        _, _, _, once, topic, kind, text = command.words
        name = topic.rsplit("/", 1)[1]
        assert once == "--once" and COMMANDS_IN[name] == kind, command
        message = kind_of(kind)()
        before = repr(message)
        fill(message, yaml.safe_load(text))
        assert repr(message) != before or text == "{data: ''}"
        seen.add(name)
    assert seen == set(COMMANDS_IN)
    with pytest.raises((AttributeError, AssertionError)):
        fill(kind_of("std_msgs/msg/String")(), {"datum": "x"})
    with pytest.raises((AttributeError, AssertionError)):
        fill(kind_of("std_msgs/msg/String")(), {"data": 7})


def test_topics_that_commands_listen_to_are_documented():
    page = {name.lstrip("/") for _, name in documented("Topics of `vlt_tracker`")}
    for command in (*commands("ros2", "topic", "echo"), *commands("ros2", "bag", "record")):
        topics = [word.lstrip("/") for word in command.words[3:] if not word.startswith("-")]
        assert topics and set(topics) - {"camera/image_raw"} <= page, command


def test_service_commands_are_answered(robot):
    for command in commands("ros2", "service", "call"):
        _, _, _, service, kind, *text = command.words
        request = kind_of(kind).Request()
        fill(request, yaml.safe_load(text[0]) if text else {})
        assert service.startswith("/vlt_tracker/")
        answer = robot.call(kind_of(kind), service.rsplit("/", 1)[1], request)
        assert answer.success == (service != "/vlt_tracker/reset"), "without a target there is nothing to search for"


def test_parameter_commands_name_parameters_and_good_values():
    declared = {spec.name: spec for spec in fields(Parameters)}
    for command in commands("ros2", "param"):
        _, _, verb, node, name, *value = command.words
        assert node == "/vlt_tracker" and name in declared, command
        if verb == "set":
            assert declared[name].metadata["runtime"], f"{command}: not while it runs"
            assert not replace(Parameters(), **{name: yaml.safe_load(value[0])}).problem(), command


def test_launch_and_run_commands_give_what_is_declared():
    def declared(file: str) -> set[str]:
        tree = ast.walk(ast.parse((ROOT / "launch" / file).read_text()))
        return {call.args[0].value for call in tree
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "DeclareLaunchArgument"}

    for command in commands("ros2", "launch", "vlt_ros"):
        file, *arguments = command.words[3:]
        own = declared(file) | (declared("tracker.launch.py") if file == "tracker_depth.launch.py" else set())
        assert {word.split(":=")[0] for word in arguments} <= own, command
    built = re.findall(r"^vlt_ros_executable\((\w+)", (ROOT / "CMakeLists.txt").read_text(), re.MULTILINE)
    assert all(command.words[3] in built for command in commands("ros2", "run", "vlt_ros"))
