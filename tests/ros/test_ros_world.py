# SPDX-License-Identifier: Apache-2.0
"""The real node in a bad world: signals, respawn, namesakes, misfits, full and read-only disks, no network."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

WHY = "needs a sourced ROS 2 or the wheels of `make setup`"
pytest.importorskip("rclpy", reason=WHY)
pytest.importorskip("vlt_ros.msg", reason=WHY)

from harness import BOX, PATIENCE_S, START_S, NodeProcess, Robot  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from vlt_ros.msg import Target  # noqa: E402

FAULTY = (str(Path(__file__).with_name("faulty_node.py")),)
ROOT = Path(__file__).resolve().parents[2]
ERROR = b"\x02"


def test_sigkill_and_respawn_go_on_and_sigterm_ends_cleanly(ros, weights, tmp_path):
    """As launch respawns it: the second process follows the initial command, robot and camera stay as they are."""
    robot = Robot("/killed")
    parameters = dict(weights=weights, initial_command="the red mug", track_threshold=0.0, lost_threshold=0.0)
    try:
        for number in range(2):
            process = NodeProcess("/killed", tmp_path / f"{number}.txt", **parameters)
            robot.statuses.clear()
            robot.wait(lambda: robot.statuses and robot.statuses[-1].text == "the red mug", START_S, "the command")
            assert Target.TRACKING in [robot.show()[1].state for _ in range(40)]
            if number == 0:
                os.kill(process.process.pid, signal.SIGKILL)
                assert process.process.wait(10) == -signal.SIGKILL
            else:
                for _ in range(30):  # in the middle of the work
                    robot.image.publish(robot.picture_message())
                assert process.send(signal.SIGTERM) == 0
                assert "Traceback" not in process.output()
    finally:
        robot.close()


def test_camera_that_starts_again_is_heard_again(robot):
    robot.follow()
    old = robot.image
    robot.image = robot.node.create_publisher(Image, "image", old.qos_profile)
    robot.node.destroy_publisher(old)
    _, answer = robot.show()
    assert answer.state == Target.TRACKING


def test_second_node_of_the_same_name_is_said(robot, process, tmp_path):
    twin = NodeProcess("/vlt_test", tmp_path / "log.txt", autostart=False)
    try:
        said = "2 nodes are called /vlt_test/vlt_tracker"
        robot.wait(lambda: said in robot.diagnostics["input"][1], START_S, "a word")
        assert robot.diagnostics["input"][0] == ERROR
        assert process.output().count(said) == 1
    finally:
        assert twin.interrupt() == 0
    robot.wait(lambda: "nodes are called" not in robot.diagnostics["input"][1], PATIENCE_S, "the end of it")


def test_qos_that_does_not_fit_is_said(ros, weights, tmp_path):
    process = NodeProcess(
        "/misfit",
        tmp_path / "log.txt",
        weights=weights,
        **{"qos_overrides./misfit/image.subscription.reliability": "reliable"},
    )
    robot = Robot("/misfit")  # its camera is best effort
    try:
        robot.wait(lambda: robot.state() == "active", START_S, "autostart")
        robot.wait_for_status(state=Target.INPUT_TIMEOUT)
        robot.wait(lambda: "does not fit" in robot.diagnostics["input"][1], PATIENCE_S, "diagnostics")
        for text in (robot.statuses[-1].reason, robot.diagnostics["input"][1]):
            assert "robot's QoS on /misfit/image does not fit" in text and "eliab" in text
        assert "incompatible QoS" in process.output()
        robot.node.destroy_publisher(robot.image)
        robot.image = robot.node.create_publisher(
            Image, "image", QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        )
        assert robot.show()[1].state == Target.IDLE
    finally:
        robot.close()
        assert process.interrupt() == 0


def namespaces_work() -> bool:
    command = ["unshare", "--net", "--mount", "--map-root-user", "true"]
    return bool(shutil.which("unshare")) and subprocess.run(command, capture_output=True).returncode == 0


WITH_NAMESPACES = pytest.mark.skipif(not namespaces_work(), reason="this machine lets nobody make a namespace")
# Temporary folders of four kilobytes, filled; the first two arguments are folders that stay.
FULL_DISK = """
keep="$1 $2"; shift 2
mount --rbind /tmp /mnt || exit 3
for folder in /var/tmp /tmp; do
    mount -t tmpfs -o size=4k none $folder && ! head -c 8192 /dev/zero 2> /dev/null > $folder/full || exit 4
done
for folder in $keep; do
    case $folder in /tmp/*) mkdir -p $folder && mount --bind /mnt/${folder#/tmp/} $folder || exit 5 ;; esac
done
cd /proc && exec "$@"
"""


@WITH_NAMESPACES
def test_full_and_read_only_disk_and_no_socket_but_fast_dds(ros, weights, tmp_path):
    """No temporary folder holds a byte, no home or log folder can be made, and Python may not open a socket."""
    weights = shutil.copy(weights, tmp_path / "weights.safetensors")
    process = NodeProcess(
        "/full",
        tmp_path / "log.txt",
        program=FAULTY,
        before=("unshare", "--mount", "--map-root-user", "sh", "-c", FULL_DISK, "sh", str(ROOT), str(tmp_path)),
        env={name: "/proc/nowhere" for name in ("HOME", "ROS_LOG_DIR", "ROS_HOME", "XDG_CACHE_HOME", "HF_HOME")}
        | {"DENY_SOCKETS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        weights=weights,
        track_threshold=0.0,
        lost_threshold=0.0,
        image_timeout_s=30.0,
    )
    robot = Robot("/full")
    try:
        robot.wait(lambda: robot.state() == "active", START_S, "autostart")
        robot.show()
        robot.say("the red mug")
        robot.wait_for_status(state=Target.SEARCHING, text="the red mug")
        assert Target.TRACKING in [robot.show()[1].state for _ in range(40)]
        robot.wait(lambda: robot.diagnostics["inference"][0] == b"\x00", what="diagnostics")
        assert process.interrupt() == 0
    finally:
        robot.close()
        process.process.kill()
    output = process.output()
    assert "no log file, logging to the terminal alone" in output and "SEARCHING -> TRACKING" in output
    assert "DENIED" not in output and "Traceback" not in output


@WITH_NAMESPACES
def test_shipped_weights_start_without_any_network(tmp_path):
    """In a network namespace with no interface that is up, not even the loopback."""
    process = NodeProcess(
        "/lonely", tmp_path / "log.txt", before=("unshare", "--net", "--map-root-user"), initial_command="the red mug"
    )
    process.wait_for("network pjvlt_s on ")
    process.wait_for("none -> SEARCHING: target 1 'the red mug'")
    process.wait_for("SEARCHING -> INPUT_TIMEOUT: no image on /lonely/image")
    assert process.interrupt() == 0


def test_queues_have_the_depths_of_the_contract(robot):
    """One slot at every input: what the node cannot take in time must not wait in the middleware either."""
    from unittest.mock import patch

    from rclpy.qos import HistoryPolicy

    from vlt_ros.ros.node import VltTracker

    made = []
    # The graph does not tell depths: ask the profiles that the node subscribes with.
    with patch.object(VltTracker, "create_subscription", lambda self, kind, name, call, qos, **_: made.append(qos)), \
            patch.object(VltTracker, "create_timer"):
        node = VltTracker.__new__(VltTracker)
        node._steady, node._more_inputs = None, []
        node._subscribe(SimpleNamespace(image_transport="raw"))
    assert [(qos.depth, qos.history) for qos in made] == [(1, HistoryPolicy.KEEP_LAST)] * 3
    assert [qos.reliability.name for qos in made] == ["BEST_EFFORT", "RELIABLE", "RELIABLE"]


def test_stamps_from_the_past_and_the_future(robot):
    assert robot.set(max_image_age_s=5.0).successful
    now = robot.node.get_clock().now().to_msg()
    robot.show(robot.picture_message(stamp=(now.sec, now.nanosec)))
    robot.point(BOX, "the red mug")
    robot.wait_for_status(text="the red mug")
    now = robot.node.get_clock().now().to_msg()
    old = robot.show(robot.picture_message(stamp=(now.sec, now.nanosec)))[1]
    assert old.state == Target.TRACKING
    count = len(robot.targets)
    assert robot.set(image_timeout_s=1.0).successful
    while robot.statuses[-1].state != Target.INPUT_TIMEOUT:  # nothing but bad stamps: said, not silence
        robot.image.publish(robot.picture_message(stamp=(now.sec + 3600, 0)))
        time.sleep(0.03)  # of two at once the node takes the newer one alone
        robot.image.publish(robot.picture_message(stamp=(now.sec - 3600, 0)))
        time.sleep(0.03)
        assert len(robot.targets) < count + 2
    assert "max_image_age_s is 5" in robot.statuses[-1].reason
    robot.wait(lambda: int(robot.diagnostics["input"][2]["too_old"]) > 10, what="the count")
    assert [t.state for t in robot.targets[count:]] == [Target.INPUT_TIMEOUT]
    now = robot.node.get_clock().now().to_msg()
    _, answer = robot.show(robot.picture_message(stamp=(now.sec, now.nanosec)))
    assert (answer.state, answer.target_id) == (Target.TRACKING, old.target_id)
    # Without a limit a stamp is taken as it is; from the future back to now is time going back.
    assert robot.set(max_image_age_s=0.0, image_timeout_s=20.0).successful
    image, answer = robot.show(robot.picture_message(stamp=(now.sec + 3600, 7)))
    assert answer.header == image.header and answer.state == Target.TRACKING
    image, answer = robot.show(robot.picture_message(stamp=(now.sec + 1, 7)))
    assert answer.header == image.header and answer.state == Target.SEARCHING


def test_clock_that_starts_again_under_use_sim_time(robot):
    """A simulation that is reset: /clock and stamps go back, the wall clock goes on."""
    from rosgraph_msgs.msg import Clock

    clock = robot.node.create_publisher(Clock, "/clock", 10)

    def tick(second: int) -> Target:
        message = Clock()
        message.clock.sec = second
        seen = len(robot.targets)
        for _ in range(100):
            clock.publish(message)
            robot.image.publish(robot.picture_message(stamp=(second, 0)))
            time.sleep(0.05)
            if found := [t for t in robot.targets[seen:] if t.header.stamp.sec == second]:
                return found[0]
        raise AssertionError(f"no answer at {second}; {robot.diagnostics}")

    try:
        # Age is measured by the simulated clock: by the wall's, stamps of 500 s would be decades old.
        assert robot.set(use_sim_time=True, max_image_age_s=2.0).successful
        tick(500)
        robot.point(BOX, "the red mug")
        robot.wait_for_status(text="the red mug")
        assert tick(501).state == Target.TRACKING
        answer = tick(3)
        assert answer.state in (Target.SEARCHING, Target.TRACKING) and answer.text == "the red mug"
        assert answer.last_seen.sec <= 3  # nothing of the time before is left
        # A clock that stands still does not hide a camera that does.
        assert robot.set(image_timeout_s=0.5).successful
        robot.wait_for_status(state=Target.INPUT_TIMEOUT)
    finally:
        robot.set(use_sim_time=False, max_image_age_s=0.0)
        robot.node.destroy_publisher(clock)


def test_stream_of_nothing_but_malformed_images_is_said(robot):
    robot.follow()
    robot.show()
    assert robot.set(image_timeout_s=1.0).successful
    count = len(robot.targets)
    end = time.monotonic() + PATIENCE_S
    while robot.statuses[-1].state != Target.INPUT_TIMEOUT:
        assert time.monotonic() < end
        message = robot.picture_message()
        message.step = 5
        robot.image.publish(message)
        time.sleep(0.03)
    assert "no usable image on /vlt_test/image for 1 s: step 5 is shorter" in robot.statuses[-1].reason
    assert not [t for t in robot.targets[count:] if t.box.width]
    robot.wait(lambda: robot.diagnostics["input"][0] == ERROR, what="diagnostics")
    assert robot.show()[1].state == Target.TRACKING


def test_states_are_logged_once_each(robot, process):
    before = len(process.output().splitlines())
    robot.follow("the red mug")
    for _ in range(5):
        robot.show()
    robot.say("%s %n {} \u202etfel \U0001f9f8")
    robot.wait_for_status(state=Target.SEARCHING)
    assert robot.set(image_timeout_s=0.5).successful
    robot.wait_for_status(state=Target.INPUT_TIMEOUT)
    time.sleep(0.2)
    lines = [line.split("]: ", 1)[1] for line in process.output().splitlines()[before:] if " -> " in line]
    states = [line.split(":")[0] for line in lines]
    assert states == ["IDLE -> TRACKING", "TRACKING -> SEARCHING", "SEARCHING -> INPUT_TIMEOUT"]
    assert "'%s %n {} " in lines[-2]


def test_diagnostics_come_at_1_hz_and_name_what_the_contract_names(robot):
    from diagnostic_msgs.msg import DiagnosticArray

    got = []
    subscription = robot.node.create_subscription(DiagnosticArray, "/diagnostics", got.append, 10)
    robot.show()
    ours = lambda: [m for m in got if m.status[0].hardware_id == "/vlt_test/vlt_tracker"]  # noqa: E731
    robot.wait(lambda: len(ours()) >= 5, what="five messages")
    times = [m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 for m in ours()]
    robot.node.destroy_subscription(subscription)
    assert [round(b - a) for a, b in zip(times, times[1:], strict=False)] == [1] * (len(times) - 1)
    names = [status.name for status in ours()[-1].status]
    # Full name, as rqt_robot_monitor tells two cameras apart by it alone.
    assert names == [f"vlt_test/vlt_tracker: {part}" for part in ("input", "inference", "target")]
    keys = {status.name.split(": ")[1]: {pair.key for pair in status.values} for status in ours()[-1].status}
    assert {"fps", "age_s", "dropped", "malformed", "encoding"} <= keys["input"]
    assert {"p50_ms", "p95_ms", "device", "precision", "runtime", "memory_mb"} <= keys["inference"]
    assert {"state", "confidence"} <= keys["target"]


def test_parameter_and_command_storms_leave_the_last_values_in_force(robot):
    from rcl_interfaces.srv import GetParameters

    rng, wanted = random.Random(0), {"track_threshold": 0.0, "lost_threshold": 0.0, "max_rate_hz": 0.0}
    accepted = 0
    for number in range(300):
        name = rng.choice(["track_threshold", "lost_threshold", "max_rate_hz"])
        value = rng.choice([0.0, 0.3, 0.6, 1.0, -1.0, float("nan"), float("inf"), "x", 1e308, True, 3])
        robot.image.publish(robot.picture_message())
        robot.say(f"mug {number}")
        try:
            result = robot.set(**{name: value})
        except TypeError:
            continue
        new = wanted | {name: value}
        good = isinstance(value, float) and 0 <= value <= (1000 if name == "max_rate_hz" else 1)
        good = good and new["lost_threshold"] <= new["track_threshold"]
        assert result.successful == good, (name, value, result)
        assert good or result.reason
        wanted, accepted = (new, accepted + 1) if good else (wanted, accepted)
    answer = robot.call(GetParameters, "get_parameters", GetParameters.Request(names=list(wanted)))
    assert [value.double_value for value in answer.values] == list(wanted.values()) and accepted > 30
    robot.wait_for_status(text="mug 299")
    assert robot.set(max_rate_hz=0.0).successful
    robot.show()


def test_lifecycle_in_every_order_without_a_leak(ros, weights, tmp_path):
    """200 random transitions, allowed and not; the node's state is always the one that the design says."""
    from soak import read_process

    process = NodeProcess("/cycled", tmp_path / "log.txt", weights=weights, autostart=False)
    robot = Robot("/cycled")
    graph = {
        ("unconfigured", "configure"): "inactive",
        ("inactive", "activate"): "active",
        ("inactive", "cleanup"): "unconfigured",
        ("active", "deactivate"): "inactive",
    }
    rng, state, seen, samples = random.Random(1), "unconfigured", set(), []
    try:
        robot.wait(lambda: robot.state() == "unconfigured", START_S, "the node")
        for number in range(200):
            name = rng.choice(["configure", "activate", "deactivate", "cleanup"])
            seen.add((state, name))
            assert robot.transition(name) == ((state, name) in graph), (number, state, name)
            state = graph.get((state, name), state)
            if state == "active" and number % 3 == 0:
                robot.show()
            if state == "unconfigured":
                assert robot.state() == state
                samples.append(read_process(process.process.pid))
        assert len(seen) == 12  # every transition was tried in every state
        early, late = samples[len(samples) // 3], samples[-1]
        assert late["threads"] <= early["threads"] and late["descriptors"] <= early["descriptors"], (early, late)
        assert late["memory_mb"] < early["memory_mb"] + 10
        assert process.interrupt() == 0 and "Traceback" not in process.output()
    finally:
        robot.close()
        process.process.kill()


def test_soak_is_flat(ros, weights, tmp_path):
    """A short one; `make soak` runs an hour. The plot is kept in out/soak."""
    from soak import plot, problems, soak

    report = soak(20.0, tmp_path / "log.txt", weights=weights, track_threshold=0.1, lost_threshold=0.0)
    plot(report, ROOT / "out" / "soak" / "short.png")
    assert problems(report) == [] and len(report["samples"]) >= 18
    assert report["answers"] > report["images"] / 4 and "TRACKING" in report["states"]
