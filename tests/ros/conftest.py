# SPDX-License-Identifier: Apache-2.0
"""One node process and one robot for the tests of the interface; each test starts with an idle node."""

from __future__ import annotations

import pytest

NAMESPACE = "/vlt_test"


@pytest.fixture(scope="session")
def ros():
    """rclpy, initialised once."""
    import rclpy

    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture(scope="session")
def session(ros, weights, tmp_path_factory):
    """The shared node process and robot."""
    from harness import START_S, NodeProcess, Robot

    process = NodeProcess(
        NAMESPACE,
        tmp_path_factory.mktemp("node") / "log.txt",
        weights=weights,
        **{f"qos_overrides.{NAMESPACE}/image/compressed.subscription.reliability": "reliable"},
    )
    robot = Robot(NAMESPACE)
    try:
        robot.wait(lambda: robot.state() == "active", START_S, "autostart")
        yield process, robot
        assert process.alive, process.output()
    finally:
        try:
            assert process.interrupt() == 0, process.output()
        finally:
            robot.close()


@pytest.fixture
def process(session):
    return session[0]


@pytest.fixture
def robot(session, weights):
    """The robot before a node that is active, idle, and trusts every answer of its random network."""
    from vlt_ros.msg import Target

    process, robot = session
    assert process.alive, process.output()
    fresh = {
        "weights": str(weights),
        "weights_sha256": "",
        "image_transport": "raw",
        "initial_command": "",
        "max_command_length": 256,
        "device": "auto",
    }
    result = robot.set(**fresh)
    if not result.successful:
        robot.to_unconfigured()
        assert robot.set(**fresh).successful
    assert robot.set(
        track_threshold=0.0,
        lost_threshold=0.0,
        lost_after_s=1.0,
        image_timeout_s=20.0,  # on a busy machine seconds pass between two images
        max_rate_hz=0.0,
        max_image_age_s=0.0,
    ).successful
    robot.to_active()
    robot.enable(True)
    robot.say("")
    robot.wait_for_status(target_id=robot.statuses[-1].target_id if robot.statuses else 0, text="")
    _, answer = robot.show()
    assert answer.state == Target.IDLE
    robot.targets.clear()
    return robot
