# SPDX-License-Identifier: Apache-2.0
"""`vlt view` and `vlt track --show`: what a bag holds on a page, and in a window's stead."""

import base64
import json
import re

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from vlt_ros.cli import main
from vlt_ros.evaluation.bags import message_types
from vlt_ros.evaluation.view import read_clip
from vlt_ros.media import MediaError, Shown
from vlt_ros.media.clip import Clip, Window, why_no_window

SECOND = 10**9
STATES = ("IDLE", "SEARCHING", "TRACKING", "UNCERTAIN", "LOST")
TEXT = "the </script> mug"


def write_bag(folder, count=5, targets=True, damaged=()):
    """As a robot records them: images, the ones with boxes, status, and targets, the third of which is missing."""
    from rosbags.rosbag2 import StoragePlugin, Writer

    store = message_types()
    types = store.types
    image_type, target_type = "sensor_msgs/msg/CompressedImage", "vlt_ros/msg/Target"
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topics = {name: writer.add_connection(name, kind, typestore=store) for name, kind in (
            ("/status", target_type), ("/target_image/compressed", image_type), ("/camera", image_type),
            *([("/target", target_type)] if targets else []))}
        for index in range(count):
            time = types["builtin_interfaces/msg/Time"](100 + index, 5)
            head = types["std_msgs/msg/Header"](time, "camera")
            jpeg = cv2.imencode(".png", np.full((48, 64, 3), 40 * index, np.uint8))[1].ravel()
            box = types["vlt_ros/msg/BoundingBox"](10.0 + index, 20.0, 12.0, 14.0)
            target = types[target_type](head, 1, TEXT, index, 1, "", 0.1 * index, box, time, 64, 48, 12.5)
            stamp = (200 + index) * SECOND
            for name, connection in topics.items():
                if name == "/status" and targets or name == "/target" and index == 3:
                    continue
                message = target
                if connection.msgtype == image_type:
                    message = types[image_type](head, "png", jpeg[:20] if index in damaged else jpeg)
                writer.write(connection, stamp, store.serialize_cdr(message, connection.msgtype))
    return folder


def vlt(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def data_of(page) -> dict:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(found[1])


def test_page_of_a_bag_has_every_image_with_the_target_of_its_stamp(tmp_path):
    done = vlt("view", write_bag(tmp_path / "bag", damaged=(4,)), "--out", tmp_path / "new" / "page.html")
    assert done.exit_code == 0, done.output
    page = tmp_path / "new" / "page.html"
    data = data_of(page)
    assert "/camera" in data["title"], "not the topic with boxes drawn in"
    assert [row["state"] for row in data["rows"]] == ["IDLE", "SEARCHING", "TRACKING", "no answer"]
    assert [row["box"] for row in data["rows"]] == [None, None, [12, 20, 12, 14], None]
    assert [row["seconds"] for row in data["rows"]] == [0, 1, 2, 3]
    assert (data["rows"][2]["confidence"], data["rows"][2]["text"], data["rows"][2]["latency_ms"]) == (0.2, TEXT, 12.5)
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(data["rows"][2]["jpeg"]), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (48, 64, 3) and abs(int(picture.mean()) - 80) <= 2
    assert set(data["colours"]) >= set(STATES)
    assert "http" not in page.read_text(), "nothing from anywhere else"


def test_without_a_screen_one_line_says_why_and_the_page_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vlt_ros.media.clip.why_no_window", lambda: "there is no screen")
    done = vlt("view", write_bag(tmp_path / "bag"))
    assert done.exit_code == 0 and "no window: there is no screen; writing out/view.html instead" in done.output
    assert len(data_of(tmp_path / "out" / "view.html")["rows"]) == 5


def test_bag_without_targets_says_what_to_do(tmp_path):
    done = vlt("view", write_bag(tmp_path / "bag", targets=False), "--target-topic", "/camera")
    assert done.exit_code == 2
    assert "no vlt_ros/msg/Target messages on /camera (topics with some: /status)" in done.output
    assert "let `vlt bag` follow something" in done.output
    clip, _ = read_clip(tmp_path / "bag")
    assert clip.pictures[2].target.name == "TRACKING", "status, where there is nothing else"
    done = vlt("view", tmp_path / "bag", "--image-topic", "/nowhere")
    assert done.exit_code == 2 and "no topic /nowhere" in done.output


def test_track_show_without_a_screen_writes_the_page(tmp_path, weights, monkeypatch):
    monkeypatch.setattr("vlt_ros.media.clip.why_no_window", lambda: "there is no screen")
    (tmp_path / "in").mkdir()
    for index in range(3):
        cv2.imwrite(str(tmp_path / "in" / f"{index}.png"), np.full((48, 64, 3), 80, np.uint8))
    done = vlt("track", tmp_path / "in", "--box", "10,10,20,20", "--weights", weights, "--device", "cpu", "--show",
               "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    rows = data_of(tmp_path / "out" / "view.html")["rows"]
    lines = [json.loads(line) for line in (tmp_path / "out" / "track.jsonl").read_text().splitlines()]
    assert [row["state"] for row in rows] == [line["state"] for line in lines]
    assert rows[0]["box"] == lines[0]["box"] == [10, 10, 20, 20]


def test_clip_of_any_length_stays_small_and_even():
    clip = Clip(max_pictures=50)
    for index in range(333):
        clip.add(np.zeros((24, 32, 3), np.uint8), None, index / 30)
    numbers = [picture.number for picture in clip.pictures]
    assert clip.count == 333 and 25 <= len(numbers) <= 51
    assert set(np.diff(numbers)) == {8} and numbers[0] == 0


def test_large_frames_are_made_smaller_with_their_boxes():
    clip = Clip()
    clip.add(np.zeros((1080, 1920, 3), np.uint8), Shown("TRACKING", (960.0, 540.0, 192.0, 108.0), 0.9, "it"), 0.0)
    picture = clip.pictures[0]
    assert picture.drawn().shape == (405, 720, 3)
    assert picture.box == pytest.approx((360, 202.5, 72, 40.5))
    outline = picture.drawn()[202:244, 360]
    assert (outline.max(axis=1) > 100).mean() > 0.9, "the box's left edge"


def test_nothing_to_show_and_nowhere_to_write(tmp_path):
    with pytest.raises(MediaError, match="no frame to show"):
        Clip().write_page(tmp_path / "page.html", "")
    clip = Clip()
    clip.add(np.zeros((24, 32, 3), np.uint8), None, 0.0)
    with pytest.raises(MediaError, match="cannot write .*--out"):
        clip.write_page(tmp_path / "no" / "page.html", "")


class Screen:
    """OpenCV's window functions, with keys to press and a bar to pull; keeps what was shown."""

    WINDOW_NORMAL, WINDOW_KEEPRATIO, WND_PROP_VISIBLE = 0, 0, 4

    def __init__(self, keys: str, pulls: dict[int, int] | None = None) -> None:
        self.keys, self.pulls, self.shown, self.bar, self.open = iter(keys), pulls or {}, [], 0, True

    def namedWindow(self, *_):
        pass

    def createTrackbar(self, *_):
        pass

    def destroyWindow(self, _):
        self.open = False

    def imshow(self, _, image):
        self.shown.append(int(image[0, 0, 0]) // 20)

    def waitKey(self, _):
        self.bar = self.pulls.get(len(self.shown), self.bar)
        key = next(self.keys)
        return 255 if key == "." else ord(key)

    def setTrackbarPos(self, _, __, at):
        self.bar = at

    def getTrackbarPos(self, *_):
        return self.bar

    def getWindowProperty(self, *_):
        return 1.0


@pytest.mark.parametrize(("keys", "pulls", "shown"), [
    ("...q", {}, [0, 1, 2, 3]),                     # plays
    (". ..q", {}, [0, 1, 1, 1, 1]),                 # space pauses
    ("ddaaaq", {}, [0, 1, 2, 1, 0, 0, 0][:6]),      # d and a step, not before the first
    (".....  q", {}, [0, 1, 2, 3, 4, 4, 4, 4]),     # stays at the last
    (".. dq", {2: 4}, [0, 1, 4, 4, 4]),             # the bar seeks
], ids=["play", "pause", "step", "end", "seek"])
def test_window_plays_pauses_steps_and_seeks(monkeypatch, keys, pulls, shown):
    clip = Clip()
    for index in range(5):
        clip.add(np.full((48, 64, 3), 20 * index + 5, np.uint8), None, index * 1e-3)
    screen = Screen(keys, pulls)
    for name in dir(Screen):
        if not name.startswith("__"):
            monkeypatch.setattr(cv2, name, getattr(screen, name), raising=False)
    clip.play(Window("test"))
    assert screen.shown == shown and not screen.open


def test_windows_need_a_build_with_them_and_a_screen(monkeypatch):
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "\n  GUI:                           NONE\n")
    assert "headless" in why_no_window()
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "\n  GUI:                           GTK3\n    GTK+: YES\n")
    monkeypatch.setenv("DISPLAY", ":0")
    assert why_no_window() == ""
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert "DISPLAY" in why_no_window()
