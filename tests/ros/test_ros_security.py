# SPDX-License-Identifier: Apache-2.0
"""The SROS2 policy against the real node's topics and services, and bytes that are no messages."""

from __future__ import annotations

import random
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

WHY = "needs a sourced ROS 2 or the wheels of `make setup`"
pytest.importorskip("rclpy", reason=WHY)
pytest.importorskip("vlt_ros.msg", reason=WHY)

from rclpy.serialization import serialize_message  # noqa: E402
from vlt_ros.msg import Target, TargetCommand  # noqa: E402

POLICY = Path(__file__).resolve().parents[2] / "config" / "sros2_policy.xml"
STEERING = {"command", "target_command", "add_target", "remove_target", "clicked_point"}
STEERING_SERVICES = {"reset", "enable", "change_state", "set_parameters", "set_parameters_atomically"}


def rules(namespace: str) -> dict[tuple[str, str], set[str]]:
    """Allowed full names by (enclave, kind of access), the node's namespace put in for the policy's."""
    found: dict[tuple[str, str], set[str]] = {}
    for enclave in ElementTree.parse(POLICY).iter("enclave"):
        for profile in enclave.iter("profile"):
            for group in profile:
                (access, qualifier), *_ = group.attrib.items()
                assert qualifier == "ALLOW"
                for entry in group:
                    name = entry.text.replace("~", profile.get("node"))
                    full = name if name.startswith("/") else f"{namespace}/{name}"
                    found.setdefault((enclave.get("path"), access), set()).add(full)
    return found


def test_policy_allows_the_node_exactly_what_it_has(robot, session):
    node, names = robot.node, ("vlt_tracker", "/vlt_test")
    own = {access: set(allowed) for (path, access), allowed in rules("/vlt_test").items() if "tracker" in path}
    published = {name for name, _ in node.get_publisher_names_and_types_by_node(*names)}
    subscribed = {name for name, _ in node.get_subscriber_names_and_types_by_node(*names)}
    served = {name for name, _ in node.get_service_names_and_types_by_node(*names)}
    # Where vision_msgs is installed, and with use_depth.
    more = {f"/vlt_test/{name}" for name in ("detections", "target_pose", "target_3d")}
    assert own["publish"] - more <= published <= own["publish"]
    # Raw or compressed images, as image_transport says; /clock under use_sim_time.
    optional = {"/vlt_test/image", "/vlt_test/image/compressed", "/clock", "/parameter_events"}
    optional |= {"/vlt_test/depth", "/vlt_test/camera_info", "/tf", "/tf_static"}
    assert own["subscribe"] - optional <= subscribed <= own["subscribe"]
    assert served == own["reply"]


def test_only_the_operator_may_steer():
    for (path, access), allowed in rules("").items():
        names = {name.rpartition("/")[2] for name in allowed}
        if access == "publish" and names & STEERING or access == "request" and names & STEERING_SERVICES:
            assert path == "/vlt_ros/operator"
        assert not any("*" in name for name in allowed)


def test_bytes_that_are_no_messages_leave_the_node_alive_and_the_target_kept(robot, process):
    old = robot.follow("the red mug")
    rng = random.Random(0)
    whole = {
        robot.image: serialize_message(robot.picture_message()),
        robot.target_command: serialize_message(TargetCommand(text="x" * 20)),
        robot.command: b"\0\1\0\0" + (20).to_bytes(4, "little") + b"the blue mug of Jane\0",
    }
    for _ in range(100):
        for publisher, message in whole.items():
            raw = bytearray(message[: rng.choice([len(message), rng.randrange(4, len(message))])])
            for _ in range(rng.randrange(4)):
                place = rng.randrange(4, len(raw)) if len(raw) > 4 else 0
                raw[place:place + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", rng.randbytes(4)])
            if publisher is not robot.image:    # commands are only cut: one that happens to be whole is obeyed, rightly
                raw = message[: rng.randrange(8, len(message) - 4 if publisher is robot.command else 24)]
            publisher.publish(bytes(raw))
        time.sleep(0.002)
    assert process.alive and robot.state() == "active"
    _, answer = robot.show()
    assert answer.state in (Target.TRACKING, Target.SEARCHING) and answer.target_id == old.target_id
    assert "Traceback" not in process.output()
