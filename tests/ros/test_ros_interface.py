# SPDX-License-Identifier: Apache-2.0
"""The node's contract, against the real node in its own process over Fast DDS."""

from __future__ import annotations

import array
import time

import cv2
import numpy as np
import pytest

WHY = "needs a sourced ROS 2 or the wheels of `make setup`"
rclpy = pytest.importorskip("rclpy", reason=WHY)
pytest.importorskip("vlt_ros.msg", reason=WHY)

from harness import BOX, PICTURE  # noqa: E402
from sensor_msgs.msg import CompressedImage  # noqa: E402
from vlt_ros.msg import Target  # noqa: E402


def box_of(target) -> tuple:
    return (target.box.x, target.box.y, target.box.width, target.box.height)


def jpeg(robot, picture=PICTURE) -> CompressedImage:
    data = cv2.imencode(".jpg", picture)[1].tobytes()
    return CompressedImage(
        header=robot.picture_message().header,
        format="bgr8; jpeg compressed bgr8",
        data=array.array("B", data),
    )


def test_box_on_raw_images_is_followed_and_every_image_is_answered_under_its_own_header(robot):
    robot.show()
    robot.point(BOX)
    status = robot.wait_for_status(command_result=Target.COMMAND_ACCEPTED, state=Target.TRACKING)
    assert box_of(status) == BOX and status.target_id > 0 and status.text == ""
    for _ in range(3):
        image, answer = robot.show()
        assert answer.header == image.header
        assert answer.state == Target.TRACKING
        assert answer.last_seen == image.header.stamp
        assert (answer.image_width, answer.image_height) == (160, 120)
        assert answer.target_id == status.target_id
        assert 0 <= answer.confidence <= 1 and answer.box.width > 0 and answer.box.height > 0
        assert answer.latency_ms > 0


def test_text_is_searched_then_found_and_a_new_text_gets_a_new_id(robot):
    robot.say("the red mug")
    first = robot.wait_for_status(
        text="the red mug", state=Target.SEARCHING, command_result=Target.COMMAND_ACCEPTED
    )
    assert box_of(first) == (0, 0, 0, 0)
    answers = [robot.show()[1] for _ in range(40)]
    assert Target.TRACKING in [a.state for a in answers]
    assert all((a.box.width > 0) == (a.state in (Target.TRACKING, Target.UNCERTAIN)) for a in answers)
    robot.say("the blue mug")
    second = robot.wait_for_status(text="the blue mug")
    assert second.target_id == first.target_id + 1


def test_text_and_box_on_an_earlier_image_named_by_its_stamp(robot):
    image, _ = robot.show()
    for _ in range(3):
        robot.show()
    robot.point(BOX, "the left one", image.header.stamp)
    status = robot.wait_for_status(text="the left one", state=Target.TRACKING)
    assert status.header == image.header and box_of(status) == BOX
    _, answer = robot.show()
    assert answer.state == Target.TRACKING and answer.text == "the left one"


def test_box_before_any_image_waits_for_the_next(robot):
    assert robot.transition("deactivate") and robot.transition("activate")
    robot.point(BOX)
    robot.wait_for_status(command_result=Target.COMMAND_PENDING, state=Target.IDLE)
    _, answer = robot.show()
    assert answer.state == Target.TRACKING and answer.command_result == Target.COMMAND_ACCEPTED


def test_empty_command_stops(robot):
    robot.say("the red mug")
    followed = robot.wait_for_status(text="the red mug")
    robot.say("")
    status = robot.wait_for_status(state=Target.IDLE, text="")
    assert status.target_id == followed.target_id
    _, answer = robot.show()
    assert answer.state == Target.IDLE and box_of(answer) == (0, 0, 0, 0) and answer.confidence == 0


def rejected(robot, part: str) -> Target:
    return robot.wait(
        lambda: (
            robot.statuses[-1].command_result == Target.COMMAND_REJECTED
            and part in robot.statuses[-1].reason
            and robot.statuses[-1]
        ),
        what=f"rejection: {part}",
    )


def test_bad_commands_leave_the_old_target_and_say_why(robot):
    robot.show()
    robot.point(BOX, "the red mug")
    old = robot.wait_for_status(text="the red mug", state=Target.TRACKING)
    bad_texts = {"the red\x07 mug": "control character", "x" * 257: "257 characters"}
    for text, reason in bad_texts.items():
        robot.say(text)
        status = rejected(robot, reason)
        assert (status.text, status.target_id) == ("the red mug", old.target_id)
    # Bytes that are no UTF-8, as a broken client sends them: CDR header, length, data, NUL.
    robot.command.publish(b"\x00\x01\x00\x00" + (4).to_bytes(4, "little") + b"a\xff\xfe\x00")
    rejected(robot, "UTF-8")
    for box, reason in {
        (float("nan"), 1, 5, 5): "NaN",
        (10, 10, -5, 5): "no area",
        (500, 500, 9, 9): "inside",
    }.items():
        robot.point(box)
        rejected(robot, reason)
    stamp = robot.picture_message().header.stamp
    robot.point(BOX, "", stamp)
    status = rejected(robot, f"no image with stamp {stamp.sec}.")
    assert (status.text, status.target_id) == ("the red mug", old.target_id)
    _, answer = robot.show()
    assert answer.state == Target.TRACKING and answer.target_id == old.target_id
    assert answer.command_result == Target.COMMAND_REJECTED and "stamp" in answer.reason
    robot.point(BOX, "the blue mug")
    assert robot.wait_for_status(text="the blue mug").command_result == Target.COMMAND_ACCEPTED


def test_malformed_images_are_dropped_counted_and_survived(robot, process):
    _, _, before = robot.wait(lambda: robot.diagnostics.get("input"), what="diagnostics")
    changes = [
        {"step": 5},
        {"data": array.array("B", [0] * 10)},
        {"encoding": "nonsense"},
        {"height": 0, "width": 0},
        {"encoding": "32FC1"},
        {"height": 2**31},
    ]
    for change in changes:
        message = robot.picture_message()
        for name, value in change.items():
            setattr(message, name, value)
        for _ in range(3):
            robot.image.publish(message)
            time.sleep(0.02)
    robot.targets.clear()
    _, answer = robot.show()
    assert answer.state == Target.IDLE
    wanted = int(before["malformed"]) + len(changes)
    robot.wait(
        lambda: int(robot.diagnostics["input"][2]["malformed"]) >= wanted, what=f"{wanted} malformed images"
    )
    assert process.alive and "image dropped: " in process.output()


def test_compressed_images_and_a_damaged_one(robot):
    robot.to_unconfigured()
    assert robot.set(image_transport="compressed").successful
    robot.to_active()
    info = robot.node.get_subscriptions_info_by_topic("/vlt_test/image/compressed")
    assert [i.qos_profile.reliability.name for i in info] == ["RELIABLE"]  # the fixture's override
    _, answer = robot.show(jpeg(robot))
    assert (answer.image_width, answer.image_height) == (160, 120)
    robot.point(BOX)
    robot.wait_for_status(state=Target.TRACKING)
    damaged = jpeg(robot)
    damaged.data = damaged.data[:40]
    robot.compressed.publish(damaged)
    robot.wait(lambda: robot.diagnostics["input"][2]["malformed"] == "1", what="a malformed image")
    image, answer = robot.show(jpeg(robot))
    assert answer.state == Target.TRACKING and answer.header == image.header


def test_silence_is_input_timeout_and_never_an_old_box(robot):
    assert robot.set(image_timeout_s=0.3).successful
    robot.show()
    robot.point(BOX)
    robot.wait_for_status(state=Target.TRACKING)
    image, _ = robot.show()
    count = len(robot.targets)
    status = robot.wait_for_status(state=Target.INPUT_TIMEOUT)
    assert status.header == image.header and box_of(status) == (0, 0, 0, 0) and status.confidence == 0
    assert "no image on /vlt_test/image" in status.reason
    robot.wait(lambda: len(robot.targets) > count, what="INPUT_TIMEOUT on target")
    assert [t.state for t in robot.targets[count:]] == [Target.INPUT_TIMEOUT]
    robot.wait(lambda: robot.diagnostics["input"][0] == b"\x02", what="a diagnostics error")
    robot.say("bad\x01")  # a rejection does not bring the box back either
    status = robot.wait_for_status(state=Target.INPUT_TIMEOUT, command_result=Target.COMMAND_REJECTED)
    assert "control character" in status.reason and box_of(status) == (0, 0, 0, 0)
    _, answer = robot.show()
    assert answer.state == Target.TRACKING
    robot.wait_for_status(state=Target.TRACKING)


def test_newest_image_wins_and_drops_are_counted(robot):
    assert robot.set(max_rate_hz=10.0).successful
    robot.say("the red mug")
    robot.wait_for_status(text="the red mug")
    robot.wait_for_subscriber(robot.image)
    sent, start = [], time.monotonic()
    while time.monotonic() - start < 1.5:
        message = robot.picture_message()
        robot.image.publish(message)
        sent.append(message.header.stamp)
        time.sleep(0.02)
    robot.wait(
        lambda: robot.targets and robot.targets[-1].header.stamp.sec >= sent[-3].sec, what="the newest image"
    )
    stamps = [t.header.stamp.sec for t in robot.targets]
    assert stamps == sorted(set(stamps))
    assert 5 < len(stamps) < 25 < len(sent)
    assert max(t.latency_ms for t in robot.targets) < 500  # a queue would have grown to seconds
    robot.wait(lambda: int(robot.diagnostics["input"][2]["dropped"]) > 20, what="counted drops")


def test_images_older_than_allowed_are_dropped(robot):
    assert robot.set(max_image_age_s=5.0).successful
    now = robot.node.get_clock().now().to_msg()
    robot.show(robot.picture_message(stamp=(now.sec, now.nanosec)))
    robot.image.publish(robot.picture_message(stamp=(now.sec - 60, 0)))
    robot.wait(lambda: int(robot.diagnostics["input"][2]["too_old"]) == 1, what="an image too old")
    assert robot.targets[-1].header.stamp == now


def test_parameters_are_rejected_together_with_a_reason(robot):
    result = robot.set(track_threshold=0.4, lost_threshold=0.6)
    assert not result.successful and "lost_threshold 0.6 is above track_threshold 0.4" in result.reason
    assert robot.set(lost_threshold=0.0, track_threshold=0.4).successful  # 0.6 was not taken
    assert not robot.set(lost_after_s=-1.0).successful
    assert not robot.set(track_threshold=float("nan")).successful
    assert not robot.set(search_interval_frames=0).successful
    assert not robot.set(track_threshold="high").successful
    result = robot.set(lost_after_s=2.0, device="cpu")
    assert not result.successful and "device is read when the node is configured" in result.reason
    robot.to_unconfigured()
    assert not robot.set(device="gpu").successful
    assert not robot.set(weights_sha256="123").successful
    assert robot.set(device="cpu").successful


def test_runtime_parameters_apply_between_two_images(robot):
    robot.show()
    robot.point(BOX)
    robot.wait_for_status(state=Target.TRACKING)
    assert robot.show()[1].state == Target.TRACKING
    assert robot.set(track_threshold=1.0, lost_threshold=1.0, lost_after_s=0.0).successful
    _, answer = robot.show()
    assert answer.state == Target.LOST and box_of(answer) == (0, 0, 0, 0)


def test_reset_searches_again_under_the_same_id(robot):
    assert not robot.reset().success
    robot.show()
    robot.point(BOX, "the red mug")
    old = robot.wait_for_status(state=Target.TRACKING)
    assert robot.reset().success
    status = robot.wait_for_status(state=Target.SEARCHING)
    assert (status.target_id, status.text) == (old.target_id, "the red mug")


def test_enable_pauses(robot):
    robot.show()
    robot.point(BOX, "the red mug")
    robot.wait_for_status(state=Target.TRACKING)
    assert robot.set(image_timeout_s=1.0).successful
    assert robot.enable(False).success
    status = robot.wait_for_status(state=Target.IDLE, reason="paused by ~/enable")
    assert box_of(status) == (0, 0, 0, 0)
    robot.targets.clear()
    for _ in range(5):
        robot.image.publish(robot.picture_message())
        time.sleep(0.02)
    time.sleep(1.2)  # longer than image_timeout_s: paused is not timed out
    assert [t for t in robot.targets if t.state != Target.IDLE] == []
    assert robot.enable(True).success
    assert robot.wait_for_status(state=Target.SEARCHING).text == "the red mug"
    robot.show()


def test_lifecycle_twice_in_a_row(robot):
    robot.to_unconfigured()
    assert robot.set(initial_command="the red mug").successful
    for _ in range(2):
        assert robot.transition("configure") and robot.state() == "inactive"
        assert robot.transition("activate") and robot.state() == "active"
        robot.wait_for_status(text="the red mug", state=Target.SEARCHING)
        assert robot.show()[1].text == "the red mug"
        assert robot.transition("deactivate") and robot.state() == "inactive"
        robot.wait_for_status(state=Target.IDLE, reason="the node was deactivated")
        robot.wait(lambda: robot.image.get_subscription_count() == 0, what="the node to unsubscribe")
        assert robot.transition("activate")
        status = robot.wait_for_status(state=Target.SEARCHING)
        assert status.target_id == 1 and status.text == "the red mug"  # the command outlives a deactivation
        assert robot.transition("deactivate") and robot.transition("cleanup")
        assert robot.state() == "unconfigured"


def test_missing_and_damaged_weights_leave_the_node_unconfigured_alive_and_saying_why(
    robot, process, tmp_path, weights
):
    whole = weights.read_bytes()
    truncated, garbage = tmp_path / "truncated.safetensors", tmp_path / "garbage.safetensors"
    truncated.write_bytes(whole[: len(whole) // 2])
    garbage.write_bytes(b"\x80\x04\x95not safetensors at all")
    robot.to_unconfigured()
    cases = [
        ({"weights": "/nowhere/w.safetensors"}, "/nowhere/w.safetensors"),
        ({"weights": str(truncated)}, "truncated.safetensors"),
        ({"weights": str(garbage)}, "garbage.safetensors"),
        ({"weights": str(weights), "weights_sha256": "0" * 64}, "SHA-256"),
        ({"weights_sha256": "", "device": "cuda:77"}, "cuda:77"),
    ]
    for parameters, part in cases:
        assert robot.set(**parameters).successful
        assert not robot.transition("configure")
        assert robot.state() == "unconfigured" and process.alive
        level, message, _ = robot.wait(
            lambda part=part: part in robot.diagnostics["inference"][1] and robot.diagnostics["inference"],
            what=f"{part} in the diagnostics",
        )
        assert level == b"\x02" and message in process.output()
    assert robot.set(device="auto").successful
    robot.to_active()
    robot.wait(
        lambda: robot.diagnostics["inference"][0] == b"\x00", what="diagnostics without the old failure"
    )


def test_status_reaches_who_comes_late(robot):
    from harness import Robot

    robot.say("the red mug")
    robot.wait_for_status(text="the red mug")
    late = Robot("/vlt_test")
    try:
        assert late.wait_for_status(state=Target.SEARCHING).text == "the red mug"
    finally:
        late.close()


def test_looped_bag_clears_the_memory_of_the_target(robot, tmp_path):
    """A real bag, played twice as `ros2 bag play --loop` does: serialised messages, stamps that go back."""
    from rclpy.serialization import serialize_message
    from rosbags.rosbag2 import Reader, StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topic = writer.add_connection("/image", "sensor_msgs/msg/Image", typestore=store)
        for i in range(4):
            message = robot.picture_message(np.roll(PICTURE, i, axis=1))
            writer.write(topic, message.header.stamp.sec * 10**9, serialize_message(message))
    with Reader(tmp_path / "bag") as reader:
        recorded = [(time_ns // 10**9, raw) for _, time_ns, raw in reader.messages()]

    def play(second: int, raw: bytes) -> Target:
        robot.wait_for_subscriber(robot.image)
        seen = len(robot.targets)
        for _ in range(20):
            robot.image.publish(bytes(raw))
            time.sleep(0.05)
            if found := [t for t in robot.targets[seen:] if t.header.stamp.sec == second]:
                return found[0]
        raise AssertionError("an image of the bag was not answered")

    play(*recorded[0])
    robot.point(BOX)
    status = robot.wait_for_status(state=Target.TRACKING)
    assert all(play(*one).state == Target.TRACKING for one in recorded[1:])
    answer = play(*recorded[0])
    assert (
        answer.state == Target.IDLE and answer.target_id == status.target_id
    )  # a box alone cannot be found again
    robot.set(track_threshold=1.0)  # so that what is found again is not trusted at once
    robot.say("the red mug")
    status = robot.wait_for_status(text="the red mug")
    assert all(play(*one).target_id == status.target_id for one in recorded[1:])
    answer = play(*recorded[0])
    assert (answer.state, answer.target_id, answer.text) == (
        Target.SEARCHING,
        status.target_id,
        "the red mug",
    )
