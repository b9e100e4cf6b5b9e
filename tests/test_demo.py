# SPDX-License-Identifier: Apache-2.0
"""The demo with a network of random weights: everything but what it finds. Real processes, real topics."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from vlt_ros.ros import playback

ROOT = Path(__file__).resolve().parents[1]
BAG = ROOT / "demo" / "data" / "vtest_excerpt"


def load(name):
    """A script of demo/ as a module; the folder is no package."""
    spec = importlib.util.spec_from_file_location(f"demo_{name}", ROOT / "demo" / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_bag, demo = load("make_bag"), load("run")


@pytest.fixture
def short_bag(tmp_path):
    """Ten frames of the demo's bag, written by the demo's own writer."""
    frames = [cv2.imdecode(image.jpeg, cv2.IMREAD_COLOR) for image in demo.read_images(BAG)[:10]]
    make_bag.write_bag(frames, tmp_path / "bag")
    return tmp_path / "bag"


def run_demo(*arguments, timeout=300):
    """Run the demo to its end; on a time-out it is stopped by SIGTERM, so that it takes its node with it."""
    command = [sys.executable, str(ROOT / "demo" / "run.py"), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.terminate()
            out, err = process.communicate(timeout=60)
            pytest.fail(f"the demo did not end within {timeout} s: {err}")
        return subprocess.CompletedProcess(command, process.returncode, out, err)


def test_the_bag_is_what_its_description_says():
    images = demo.read_images(BAG)
    assert len(images) == make_bag.LAST_FRAME - make_bag.FIRST_FRAME + 1 == 120
    assert make_bag.LAST_FRAME < 560, "later frames are kept for evaluation"
    assert {b.stamp_ns - a.stamp_ns for a, b in zip(images, images[1:], strict=False)} == {100_000_000}
    assert all(image.time_ns == image.stamp_ns for image in images)
    assert cv2.imdecode(images[0].jpeg, cv2.IMREAD_COLOR).shape == (576, 768, 3)
    assert sum(file.stat().st_size for file in BAG.iterdir()) < 8e6
    # The woman in the red jacket: the one strongly red thing on the path, at the right edge at first.
    first = cv2.imdecode(images[0].jpeg, cv2.IMREAD_COLOR)[200:420].astype(int)
    red = (first[..., 2] > 120) & (first[..., 2] > 2 * first[..., 1]) & (first[..., 2] > 2 * first[..., 0])
    assert np.median(np.nonzero(red)[1]) > 700


def test_demo_answers_every_image_and_writes_its_files(weights, short_bag, tmp_path):
    pytest.importorskip("rclpy")
    done = run_demo("--bag", short_bag, "--weights", weights, "--device", "cpu", "--out", tmp_path / "out",
                    "--text", "the man in black")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "out" / "demo.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "out" / "target.jsonl").read_text().splitlines()]
    assert summary["frames"] == 10 and summary["text"] == "the man in black"
    # How many are dropped is the machine's load; what is asked here is that they are counted.
    assert rows and summary["dropped"] == 10 - len(rows)
    assert 0 < summary["p50_latency_ms"] <= summary["p95_latency_ms"]
    tracked = [row for row in rows if row["state"] == "TRACKING"]
    assert summary["tracked_fraction"] == pytest.approx(len(tracked) / 10)
    images = demo.read_images(short_bag)
    for row in rows:
        assert row["stamp"] == images[row["frame"]].stamp_ns * 1e-9, "the header comes back unchanged"
        assert row["end_to_end_ms"] > row["latency_ms"] > 0
        assert (row["box"] is not None) == (row["state"] in ("TRACKING", "UNCERTAIN"))
    film = cv2.VideoCapture(str(tmp_path / "out" / "demo.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 10
    assert cv2.imread(str(tmp_path / "out" / "contact_sheet.png")).shape[1] > 1000
    log = (tmp_path / "out" / "node.log").read_text()
    assert "Traceback" not in log


@pytest.mark.parametrize(("arguments", "message"), [
    (("--weights", "missing.safetensors"), "missing.safetensors is missing"),
    (("--text", "a\x07b"), "the node rejected the command: text holds a control character"),
])
def test_demo_fails_in_one_line_and_leaves_no_node(weights, short_bag, tmp_path, arguments, message):
    pytest.importorskip("rclpy")
    arguments = arguments if "--weights" in arguments else (*arguments, "--weights", weights)
    done = run_demo("--bag", short_bag, "--device", "cpu", "--out", tmp_path / "out", *arguments)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]
    assert not (tmp_path / "out" / "demo.json").exists()


def test_sigterm_stops_the_node_too(weights, tmp_path):
    pytest.importorskip("rclpy")
    weights = shutil.copy(weights, tmp_path)        # a path of this test alone
    log = tmp_path / "out" / "node.log"
    command = [sys.executable, str(ROOT / "demo" / "run.py"), "--weights", str(weights), "--device", "cpu",
               "--out", str(log.parent)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 200
        while not (log.exists() and "active" in log.read_text()) and time.monotonic() < end:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "error: stopped before the end" in err
    nodes = [cmdline for cmdline in Path("/proc").glob("[0-9]*/cmdline") if _mentions(cmdline, weights)]
    assert not nodes, "no process runs with this test's weights any more"


def _mentions(cmdline, path):
    try:
        return str(path).encode() in cmdline.read_bytes()
    except OSError:     # ended meanwhile
        return False


def test_a_dead_node_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    node = playback.Node(tmp_path / "node.log", {})
    node.process.wait(10)
    message = "the node ended with exit code 1: it gave no reason .its log: .*node.log"
    with pytest.raises(playback.PlaybackError, match=message):
        node.check()
    (tmp_path / "node.log").write_text("[INFO] [1.0] [x]: fine\n[ERROR] [2.0] [demo.vlt_tracker]: "
                                       "no weights\n")
    assert node.reason().startswith("no weights (")


def test_bad_bags(tmp_path):
    with pytest.raises(demo.DemoError, match="is no rosbag2 folder .* --bag"):
        demo.read_images(tmp_path)
    frames = [np.zeros((8, 8, 3), np.uint8)]
    make_bag.write_bag(frames, tmp_path / "cut")
    file = tmp_path / "cut" / "cut.mcap"
    os.truncate(file, 40)
    with pytest.raises(demo.DemoError, match="cannot be read"):
        demo.read_images(tmp_path / "cut")
