# SPDX-License-Identifier: Apache-2.0
"""Bags of both storages and both kinds of images, whole and damaged, through `vlt bag`."""

import ast
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from vlt_ros.cli import main
from vlt_ros.evaluation import evaluate as evaluation
from vlt_ros.evaluation.bags import Bag, BagError, message_types
from vlt_ros.evaluation.sequences import read_sequence
from vlt_ros.media import open_source
from vlt_ros.tracker import State

ROOT = Path(__file__).resolve().parents[2]
SECOND = 10**9
START = 1000 * SECOND


def write_bag(folder, images, storage="MCAP", compressed=False, truth=None, extra=False, damaged=()):
    """Images at 30 Hz on /camera, losslessly; boxes on /truth, a text on /words; `damaged` ones hold no picture."""
    from rosbags.rosbag2 import StoragePlugin, Writer

    store = message_types()
    types = store.types
    header = types["std_msgs/msg/Header"]
    with Writer(folder, version=9, storage_plugin=StoragePlugin[storage]) as writer:
        def publish(connection, stamp, message):
            writer.write(connection, stamp, store.serialize_cdr(message, connection.msgtype))

        kind = "sensor_msgs/msg/CompressedImage" if compressed else "sensor_msgs/msg/Image"
        camera = writer.add_connection("/camera", kind, typestore=store)
        boxes = truth is not None and writer.add_connection("/truth", "vlt_ros/msg/TargetCommand", typestore=store)
        if extra:
            words = writer.add_connection("/words", "std_msgs/msg/String", typestore=store)
            publish(words, START, types["std_msgs/msg/String"]("hello"))
        for index, image in enumerate(images):
            stamp = START + round(index * SECOND / 30)
            head = header(types["builtin_interfaces/msg/Time"](stamp // SECOND, stamp % SECOND), "camera")
            height, width = image.shape[:2]
            if compressed:
                data = cv2.imencode(".png", image)[1].ravel()
                message = types[kind](head, "png", data[:10] if index in damaged else data)
            else:
                data = image.ravel()[:10] if index in damaged else image.ravel()
                message = types[kind](head, height, width, "bgr8", 0, 3 * width, data)
            publish(camera, stamp, message)
            if truth is not None and index < len(truth):
                box = types["vlt_ros/msg/BoundingBox"](*map(float, truth[index]))
                publish(boxes, stamp, types["vlt_ros/msg/TargetCommand"](head, "", box))
    return folder


@pytest.fixture(scope="module")
def alpha(sequences):
    return read_sequence(sequences / "alpha")


@pytest.fixture(scope="module")
def bag(alpha, tmp_path_factory):
    return write_bag(tmp_path_factory.mktemp("bags") / "alpha", alpha.images(), truth=alpha.boxes, extra=True)


@pytest.fixture
def vlt(weights, tmp_path):
    """`vlt bag` with tiny weights, into tmp_path/out unless told otherwise."""
    def run(path, *arguments, out="out"):
        command = ["bag", path, "--weights", weights, "--device", "cpu", "--out", tmp_path / out, *arguments]
        return CliRunner().invoke(main, [str(a) for a in command])
    return run


def lines_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def report_of(folder):
    return json.loads((folder / "report.json").read_text())


def by_hand(boxes, truth):
    """Area under the success plot: how much of the frames has an IoU above 0, 0.05, ..., 1."""
    low, high = np.maximum(boxes[:, :2], truth[:, :2]), np.minimum((boxes[:, :2] + boxes[:, 2:]),
                                                                  (truth[:, :2] + truth[:, 2:]))
    both = np.prod(np.clip(high - low, 0, None), axis=1)
    iou = both / (np.prod(boxes[:, 2:], axis=1) + np.prod(truth[:, 2:], axis=1) - both)
    return np.mean([np.mean(iou > threshold) for threshold in np.linspace(0, 1, 21)])


@pytest.mark.parametrize("storage", ["MCAP", "SQLITE3"])
@pytest.mark.parametrize("compressed", [False, True])
def test_bag_evaluate_and_a_few_lines_give_one_auc(sequences, alpha, weights, vlt, tmp_path, storage, compressed):
    bag = write_bag(tmp_path / "bag", alpha.images(), storage, compressed)
    box = ",".join(map(str, alpha.boxes[0]))
    done = vlt(bag, "--image-topic", "/camera", "--box", box, "--truth", alpha.truth)
    assert done.exit_code == 0, done.output
    report = report_of(tmp_path / "out")
    theirs = evaluation.evaluate(sequences / "alpha", tmp_path / "theirs", start="box", weights=weights, device="cpu",
                                 progress=False)
    boxes = np.loadtxt(tmp_path / "theirs" / "alpha.txt", delimiter=",")
    assert 0 < report["auc"] < 1
    assert report["auc"] == theirs["auc"] == pytest.approx(by_hand(boxes, alpha.boxes), abs=1e-6)
    assert report["precision"] == theirs["precision"]
    mine = [line["box"] for line in lines_of(tmp_path / "out" / "track.jsonl")]
    # A shifted start moves the number.
    assert np.allclose(np.array(mine), boxes, atol=0.0051)
    vlt(bag, "--image-topic", "/camera", "--box", "20,30,16,14", "--truth", alpha.truth, out="moved")
    assert report_of(tmp_path / "moved")["auc"] != report["auc"]


def test_results_are_a_bag_lines_and_a_page(bag, alpha, vlt, tmp_path):
    done = vlt(bag, "--image-topic", "camera", "--text", "the bright square", "--truth", "truth")
    assert done.exit_code == 0, done.output
    out = tmp_path / "out"
    lines, report = lines_of(out / "track.jsonl"), report_of(out)
    assert [line["frame"] for line in lines] == list(range(12)) and "/truth" not in done.output
    film = open_source(out / "track.mp4")
    assert film.fps == pytest.approx(30, abs=0.1) and len(list(film)) == 12
    assert set(lines[0]) == {"frame", "state", "box", "confidence", "latency_ms"}
    assert report["frames"] == 12 and sum(report["states"].values()) == 12 and report["start"] == "text"
    assert report["frame_0"]["used"] == "own" and "the bright square" in (out / "report.html").read_text()
    with Bag(out / "bag", "/camera")._reader() as reader:
        assert {c.topic: (c.msgtype, c.msgcount) for c in reader.connections} == {
            "/camera": ("sensor_msgs/msg/Image", 12), "/target": ("vlt_ros/msg/Target", 12),
            "/target_image/compressed": ("sensor_msgs/msg/CompressedImage", 12)}
        # Viewers know the messages by what the file itself says of them.
        assert all("header" in c.msgdef.data for c in reader.connections)
    written = Bag(out / "bag", "/camera")
    targets = [message for _, _, message in written._messages("/target")]
    pictures = [image for image in Bag(out / "bag", "/target_image/compressed")]
    for image, old, target, drawn, line in zip(written, Bag(bag, "/camera"), targets, pictures, lines, strict=True):
        assert image.raw == old.raw and image.time_ns == old.time_ns
        assert target.header == image.message.header == drawn.message.header
        assert State(target.state).name == line["state"] and target.text == "the bright square"
        assert (target.image_width, target.image_height) == (96, 72)
        assert drawn.picture().shape == image.picture().shape and (drawn.picture() != image.picture()).any()
    # What was tracked is a truth in turn.
    done = vlt(out / "bag", "--image-topic", "camera", "--text", "the bright square", "--truth", "/target", out="again")
    assert done.exit_code == 0, done.output
    assert lines_of(tmp_path / "again" / "track.jsonl")[-1]["box"] == lines[-1]["box"]


def test_two_runs_are_equal_but_for_latency(bag, vlt, tmp_path):
    for out in ("one", "two", "two"):      # the second time over old results
        assert vlt(bag, "--image-topic", "camera", "--box", "10,20,16,14", out=out).exit_code == 0
    assert (tmp_path / "one/bag/bag.mcap").read_bytes() == (tmp_path / "two/bag/bag.mcap").read_bytes()
    one, two = ([line | {"latency_ms": 0} for line in lines_of(tmp_path / out / "track.jsonl")]
                for out in ("one", "two"))
    assert one == two
    one, two = (report_of(tmp_path / out) | {"latency_ms": 0} for out in ("one", "two"))
    assert one == two and "auc" not in one


def test_an_image_without_a_picture_is_counted_and_left_out(alpha, vlt, tmp_path):
    bag = write_bag(tmp_path / "bag", alpha.images(), damaged=(3, 4))
    done = vlt(bag, "--image-topic", "camera", "--box", "10,20,16,14", "--truth", alpha.truth)
    assert done.exit_code == 0 and "2 unreadable" in done.output, done.output
    report = report_of(tmp_path / "out")
    assert (report["frames"], report["answered"], report["unreadable"], report["dropped"]) == (12, 10, 2, 0)
    assert [line["frame"] for line in lines_of(tmp_path / "out" / "track.jsonl")] == [0, 1, 2, *range(5, 12)]
    assert report["present_fraction"] == pytest.approx(10 / 12, abs=1e-6)


def refused(result, *parts):
    assert result.exit_code == 2, (result.output, result.exception)
    lines = [line for line in result.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1 and lines[0].startswith("error: ") and "Traceback" not in result.stderr, result.stderr
    for part in parts:
        assert part in lines[0], lines[0]


def test_what_cannot_be_used_is_said_in_one_line(bag, alpha, vlt, tmp_path):
    usual = ("--image-topic", "camera", "--text", "x")
    (tmp_path / "empty").mkdir()
    refused(vlt(tmp_path / "empty", *usual), "is no rosbag2 folder", "metadata.yaml")
    refused(vlt(tmp_path / "nowhere", *usual), "is no rosbag2 folder")
    refused(vlt(bag, "--image-topic", "/front", "--text", "x"), "no topic /front", "with images are: /camera")
    refused(vlt(bag, "--image-topic", "/words", "--text", "x"), "/words", "std_msgs/msg/String, not images")
    refused(vlt(bag, *usual, "--truth", "/words"), "holds std_msgs/msg/String, not boxes")
    refused(vlt(bag, *usual, "--truth", "no.txt"), "no.txt is neither a file nor a topic")
    refused(vlt(bag, "--image-topic", "camera"), "nothing to follow")
    refused(vlt(bag, "--image-topic", "camera", "--box", "900,2,9,5"), "box (900, 2, 9, 5)")
    (tmp_path / "short.txt").write_text("1,2,3,4\n" * 11)
    refused(vlt(bag, *usual, "--truth", tmp_path / "short.txt"), "short.txt has 11 boxes", "12 images")
    fewer = write_bag(tmp_path / "fewer", alpha.images(), truth=alpha.boxes[:7])
    refused(vlt(fewer, *usual, "--truth", "/truth"), "/truth has 7 boxes", "12 images")
    assert not (tmp_path / "out").exists(), "nothing is written for what is refused"
    copy = shutil.copytree(bag, tmp_path / "mine" / "bag")
    refused(vlt(copy, *usual, out="mine"), "lies where the results go")
    assert Bag(copy, "camera").length == 12, "the bag that was read is whole"


@pytest.mark.parametrize("storage, name", [("MCAP", "cut.mcap"), ("SQLITE3", "cut.db3")])
def test_a_truncated_bag(alpha, vlt, tmp_path, storage, name):
    bag = write_bag(tmp_path / "cut", alpha.images(), storage)
    os.truncate(bag / name, (bag / name).stat().st_size // 2)
    refused(vlt(bag, "--image-topic", "camera", "--box", "10,20,16,14"), "cut cannot be read", "copy it again")


def test_what_was_followed_before_the_damage_is_kept(alpha, vlt, tmp_path):
    bag = write_bag(tmp_path / "bag", alpha.images(), "SQLITE3")
    with sqlite3.connect(bag / "bag.db3") as database:
        database.execute("UPDATE messages SET data = substr(data, 1, 40) WHERE id = 8")
    refused(vlt(bag, "--image-topic", "camera", "--box", "10,20,16,14"), "cannot be read after message 7", "7 images",
            "kept in")
    assert len(lines_of(tmp_path / "out" / "track.jsonl")) == 7 and not (tmp_path / "out" / "report.json").exists()
    assert len(list(Bag(tmp_path / "out" / "bag", "/target_image/compressed"))) == 7
    with sqlite3.connect(bag / "bag.db3") as database:
        database.execute("DELETE FROM messages WHERE id > 7")
    refused(vlt(bag, "--image-topic", "camera", "--box", "10,20,16,14"), "has 7 images, but the bag says 12", "kept in")
    with pytest.raises(BagError, match="has no messages"):
        Bag(write_bag(tmp_path / "none", []), "camera")


def online(*arguments):
    """`vlt bag --online` in a process of its own, which makes itself part of ROS."""
    command = [sys.executable, "-m", "vlt_ros.cli", "bag", *map(str, arguments), "--online"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)


def test_online_every_image_is_answered_or_counted_as_dropped(weights, tmp_path):
    pytest.importorskip("rclpy")
    (tmp_path / "truth.txt").write_text("300,200,40,80\n" * 120)
    done = online(ROOT / "demo/data/vtest_excerpt", "--image-topic", "image/compressed", "--text", "the man in black",
                  "--weights", weights, "--device", "cpu", "--out", tmp_path, "--params-file",
                  ROOT / "config" / "tracker.yaml", "--truth", tmp_path / "truth.txt")
    assert done.returncode == 0, done.stderr
    report, lines = report_of(tmp_path), lines_of(tmp_path / "track.jsonl")
    assert report["frames"] == 120 and report["online"] and report["unreadable"] == 0
    # How many are dropped is the machine's load; what is asked here is that they are counted.
    assert lines and report["dropped"] == 120 - len(lines) and sum(report["states"].values()) == len(lines)
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p95"]
    assert 0 < report["end_to_end_ms"]["p50"] <= report["end_to_end_ms"]["p95"]
    images = {image.index: image for image in Bag(tmp_path / "bag", "/image/compressed")}
    targets = [message for _, _, message in Bag(tmp_path / "bag", "/image/compressed")._messages("/target")]
    assert len(images) == 120 and 0 <= report["auc"] <= 1 and (tmp_path / "report.html").exists()
    for line, target in zip(lines, targets, strict=True):
        assert target.header == images[line["frame"]].message.header and target.text == "the man in black"
        assert State(target.state).name == line["state"] and target.latency_ms > 0


def test_online_a_box_on_raw_images_and_what_came_before_damage_is_kept(alpha, weights, tmp_path):
    pytest.importorskip("rclpy")
    bag = write_bag(tmp_path / "bag", alpha.images(), "SQLITE3")
    usual = (bag, "--image-topic", "camera", "--device", "cpu", "--out", tmp_path / "out")
    with sqlite3.connect(bag / "bag.db3") as database:
        database.execute("UPDATE messages SET data = substr(data, 1, 40) WHERE id = 12")
    done = online(*usual, "--box", "10,20,16,14", "--weights", weights)
    assert done.returncode == 2 and "after message 11 of /camera" in done.stderr and "kept in" in done.stderr
    lines = lines_of(tmp_path / "out" / "track.jsonl")
    assert lines and lines[0]["state"] != "IDLE" and not (tmp_path / "out" / "report.json").exists()
    assert len(list(Bag(tmp_path / "out" / "bag", "/camera"))) == 11


def test_launch_file_gives_options_that_the_command_has():
    tree = ast.parse((ROOT / "launch" / "bag_eval.launch.py").read_text())
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    options = {word for word in words if word.startswith("--")}
    known = {name for option in main.commands["bag"].params for name in option.opts}
    assert {"--online", "--params-file"} <= options <= known
    declared = {node.args[0].value for node in ast.walk(tree)
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "DeclareLaunchArgument"}
    used = {node.args[0].value for node in ast.walk(tree)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "LaunchConfiguration"}
    assert used == declared == {"bag", "image_topic", "text", "params_file", "out"}
