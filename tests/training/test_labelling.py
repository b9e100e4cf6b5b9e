# SPDX-License-Identifier: Apache-2.0
"""Labelling one's own clips: boxes from a person, a tracker between them, and what training reads of it."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from vlt_ros.cli import main
from vlt_ros.evaluation.sequences import read_sequence
from vlt_ros.media.sources import list_images, read_image
from vlt_ros.tracker import State, Target
from vlt_ros.training import labelling
from vlt_ros.training.datasets import READERS
from vlt_ros.training.labelling import LabelError, label_clip, ranges

FRAMES = 30


def truth(t):
    """Where the target is: to the right, one way."""
    return (10 + 3 * t, 20, 16, 14)


def picture(t, gone=(), thief=()):
    """Frame t: a red target, hidden in the frames ``gone``; in ``thief`` a second red thing far below."""
    image = np.full((100, 140, 3), 90, np.uint8)
    for box in ([] if t in gone else [truth(t)]) + ([(10, 70, 16, 14)] if t in thief else []):
        x, y, w, h = box
        image[y:y + h, x:x + w] = (30, 30, 230)
    return image


def write_frames(folder, **options):
    folder.mkdir(parents=True)
    for t in range(FRAMES):
        cv2.imwrite(str(folder / f"{t}.png"), picture(t, **options))
    return folder


class RedTracker:
    """Follows what is red and nearest to where it was; LOST without. Counts frames; ``dies`` after so many."""

    frames, dies, starts = 0, 10**9, []

    def start(self, text="", image=None, box=None, stamp=None):
        RedTracker.starts.append((text, box))
        self.box = (0.0, 0.0, 1.0, 1.0) if box is None else box
        return Target(State.TRACKING, self.box, 1.0, 1, text) if box else Target(State.SEARCHING)

    def track(self, image, stamp=None):
        if RedTracker.frames >= RedTracker.dies:
            raise KeyboardInterrupt
        RedTracker.frames += 1
        red = ((image[..., 2] > 180) & (image[..., 0] < 100)).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(red)
        found = [tuple(map(float, row[:4])) for row in stats[1:] if row[4] > 50]
        if not found:
            return Target(State.LOST, None, 0.1)
        self.box = min(found, key=lambda b: abs(b[0] - self.box[0]) + abs(b[1] - self.box[1]))
        return Target(State.TRACKING, self.box, 0.8)


@pytest.fixture(autouse=True)
def counters(monkeypatch):
    monkeypatch.setattr(RedTracker, "frames", 0)
    monkeypatch.setattr(RedTracker, "dies", 10**9)
    monkeypatch.setattr(RedTracker, "starts", [])


def label(source, out, **options):
    return label_clip(str(source), out, make_tracker=RedTracker, **options)


def kinds(labels):
    return {kind: [t for t, one in labels.items() if one.kind == kind] for kind in
            ("given", "tracked", "absent", "review")}


def near(box, t):
    return box is not None and np.allclose(box, truth(t), atol=2)


def test_a_box_on_the_first_frame_labels_the_clip(tmp_path):
    source = write_frames(tmp_path / "dog" / "img")
    clip, labels = label(source, tmp_path / "clips", text="the red thing", first=truth(0))
    assert clip.folder == tmp_path / "clips" / "dog" and RedTracker.starts == [("the red thing", truth(0))]
    assert kinds(labels) == {"given": [0], "tracked": list(range(1, FRAMES)), "absent": [], "review": []}
    assert all(near(one.box, t) for t, one in labels.items())
    assert sorted(path.name for path in clip.folder.iterdir()) == [
        "groundtruth.txt", "img", "labels.jsonl", "language.txt", "sheet.jpg"]
    assert [path.name for path in list_images(clip.folder / "img")] == [f"{t:06d}.jpg" for t in range(FRAMES)]
    assert read_image(clip.folder / "sheet.jpg").shape[1] > 900
    video = READERS["clips"](tmp_path / "clips").videos[0]
    assert video.text == "the red thing" and video.present.all() and all(map(near, video.boxes, range(FRAMES)))
    sequence = read_sequence(clip.folder)
    assert len(list(sequence.images())) == FRAMES and not sequence.absent.any()


def test_doubt_is_left_out_and_only_a_person_says_absent(tmp_path):
    source = write_frames(tmp_path / "dog", gone=range(12, 18))
    _, labels = label(source, tmp_path / "out", first=truth(0))
    assert kinds(labels)["review"] == list(range(12, 18)) and ranges(kinds(labels)["review"]) == "12-17"
    video = READERS["clips"](tmp_path / "out").videos[0]
    assert np.flatnonzero(~video.present).tolist() == list(range(12, 18)) and not video.absent.any()
    _, labels = label(source, tmp_path / "out", given={12: None, 18: truth(18)})
    assert kinds(labels) == {"given": [0, 18], "tracked": [*range(1, 12), *range(19, FRAMES)],
                             "absent": list(range(12, 18)), "review": []}
    video = READERS["clips"](tmp_path / "out").videos[0]
    assert np.flatnonzero(video.absent).tolist() == np.flatnonzero(~video.present).tolist() == list(range(12, 18))


def test_a_correction_relabels_both_ways_and_only_what_it_touches(tmp_path):
    # The target hides, a second red thing shows, and the tracker goes with that one.
    source = write_frames(tmp_path / "dog", gone=range(8, 12), thief=range(8, FRAMES))
    _, labels = label(source, tmp_path / "out", first=truth(0))
    assert all(near(labels[t].box, t) for t in range(8)) and not any(near(labels[t].box, t) for t in range(8, FRAMES))
    before = RedTracker.frames
    assert before == FRAMES - 1
    clip, labels = label(source, tmp_path / "out", given={20: truth(20)})
    assert RedTracker.frames - before == FRAMES - 21 + 19                      # forward from 20, and back to 1
    assert kinds(labels)["review"] == list(range(12, 20))       # forward is with the thief, backward with the target
    assert all(near(labels[t].box, t) for t in (*range(8), *range(20, FRAMES)))
    # Where the target hides both ways take the thief for it: that they agree cannot tell, the sheet does.
    assert kinds(labels)["tracked"][7:11] == [8, 9, 10, 11]
    before = RedTracker.frames
    _, labels = label(source, tmp_path / "out", given={8: None, 12: truth(12)})
    assert RedTracker.frames - before == FRAMES - 13 - (FRAMES - 20)         # 12 to 20; all else was tracked
    assert kinds(labels) == {"given": [0, 12, 20], "tracked": [*range(1, 8), *range(13, 20), *range(21, FRAMES)],
                             "absent": [8, 9, 10, 11], "review": []}
    assert all(near(one.box, t) for t, one in labels.items() if one.box)
    again = RedTracker.frames
    assert label(source, tmp_path / "out")[1] == labels and RedTracker.frames == again


def test_frames_before_the_first_given_one_are_tracked_backward(tmp_path):
    source = write_frames(tmp_path / "dog")
    _, labels = label(source, tmp_path / "out", given={10: truth(10)})
    assert not kinds(labels)["review"] and all(near(one.box, t) for t, one in labels.items())


def test_text_alone_starts_it_until_a_box_is_given(tmp_path):
    source = write_frames(tmp_path / "dog", gone=range(5))
    _, labels = label(source, tmp_path / "out", text="the red thing")
    assert kinds(labels) == {"given": [], "tracked": list(range(5, FRAMES)), "absent": [], "review": list(range(5))}
    label(source, tmp_path / "out", given={5: truth(5)})
    label(source, tmp_path / "out", text="the other words")
    assert [text for text, _ in RedTracker.starts] == ["the red thing"] * 3 + ["the other words"] * 2
    assert (tmp_path / "out" / "dog" / "language.txt").read_text() == "the other words\n"


@pytest.mark.parametrize("dies", [0, 3, FRAMES + 3])
def test_a_killed_run_loses_nothing_and_goes_on(tmp_path, dies, monkeypatch):
    source = write_frames(tmp_path / "dog")
    whole = label(source, tmp_path / "whole", text="it", first=truth(0), given={15: truth(15)})[1]
    RedTracker.dies = RedTracker.frames + dies
    with pytest.raises(KeyboardInterrupt):
        label(source, tmp_path / "out", text="it", first=truth(0), given={15: truth(15)})
    log = tmp_path / "out" / "dog" / "labels.jsonl"
    assert sum("given" in json.loads(line) for line in log.read_text().splitlines()) == 2
    assert not (tmp_path / "out" / "dog" / "groundtruth.txt").exists()
    log.write_text(log.read_text() + '{"frame": 3, "fro')          # as a kill leaves it in the middle of a line
    RedTracker.dies = 10**9
    assert label(source, tmp_path / "out")[1] == whole


def test_reading_frames_that_was_killed_begins_anew_and_others_frames_are_never_touched(tmp_path, monkeypatch):
    source = write_frames(tmp_path / "dog")
    saved, save = [], labelling.save_image

    def killed(path, image):
        saved.append(path)
        if len(saved) == 4:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        save(path, image)

    monkeypatch.setattr(labelling, "save_image", killed)
    with pytest.raises(KeyboardInterrupt):
        label(source, tmp_path / "out", first=truth(0))
    monkeypatch.setattr(labelling, "save_image", save)
    assert not kinds(label(source, tmp_path / "out", first=truth(0))[1])["review"]
    # A clip that lies in the layout already, given as the source of itself.
    own = write_frames(tmp_path / "clips" / "cat" / "img")
    with pytest.raises(LabelError, match=f"{own} holds frames that vlt label did not read: give another --name"):
        label(own, tmp_path / "clips", first=truth(0))
    assert len(list(own.iterdir())) == FRAMES
    with pytest.raises(LabelError, match=f"holds the frames of {source}, not of {own}: give another --name"):
        label(own, tmp_path / "out", name="dog", first=truth(0))


def test_bad_input_is_one_line_and_what_was_given_stays(tmp_path):
    source = write_frames(tmp_path / "dog")

    def refused(words, **options):
        with pytest.raises(LabelError, match=words) as error:
            label(source, tmp_path / "out", **options)
        assert "\n" not in str(error.value)

    refused("nothing to follow: give --box")
    refused("--name is '../x'", name="../x", first=truth(0))
    refused("frame 30 is not in the clip, whose frames are 0 to 29", first=truth(0), given={30: truth(0)})
    refused(r"frame 5: box \(500, 1, 5, 5\) has less than 2 pixels", given={5: (500, 1, 5, 5)})
    refused("there is no screen.*give the box as X,Y,W,H", given={5: "mouse"})
    log = tmp_path / "out" / "dog" / "labels.jsonl"
    assert json.loads(log.read_text().splitlines()[-1]) == {"frame": 0, "given": list(truth(0))}
    log.write_text(log.read_text() + '{"frame": 1}\n')
    refused("labels.jsonl line 4 cannot be read")


def test_a_box_is_drawn_with_the_mouse(monkeypatch):
    from matplotlib import pyplot, widgets
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.testing.widgets import click_and_drag

    monkeypatch.setattr(FigureCanvasAgg, "required_interactive_framework", "test")
    selectors, made = [], widgets.RectangleSelector.__init__

    def keep(self, *args, **options):
        made(self, *args, **options)
        selectors.append(self)

    monkeypatch.setattr(widgets.RectangleSelector, "__init__", keep)
    monkeypatch.setattr(pyplot, "show", lambda **_: click_and_drag(selectors[-1], (9.5, 19.5), (25.5, 33.5)))
    assert np.allclose(labelling.draw_box(picture(0), "frame 0"), truth(0), atol=0.5)
    monkeypatch.setattr(pyplot, "show", lambda **_: None)
    with pytest.raises(LabelError, match="frame 0: no box was drawn"):
        labelling.draw_box(picture(0), "frame 0")


def test_the_command_labels_with_the_real_tracker_and_training_takes_it(weights, tmp_path):
    out = tmp_path / "clips"

    def vlt(*arguments):
        return CliRunner().invoke(main, [str(a) for a in arguments])

    for name in ("dog", "cat"):
        source = write_frames(tmp_path / name)
        boxes = [f"{t}={','.join(map(str, truth(t)))}" for t in range(1, 12)] + ["12=absent"]
        result = vlt("label", source, "--text", f"the {name}", "--box", "10,20,16,14", "--out", out, "--max-frames", 20,
                     *(part for box in boxes for part in ("--correct", box)), "--weights", weights, "--device", "cpu")
        assert result.exit_code == 0, result.output
        assert "12 frames given, 0 frames tracked, 8 frames absent, 0 frames review" in result.output
    result = vlt("label", source, "--correct", "12=absentee", "--out", out)
    assert result.exit_code == 2 and "'absentee' is not a box" in result.stderr
    result = vlt("label", source, "--correct", "1,2,3,4", "--out", out)
    assert result.exit_code == 2 and "'1,2,3,4' is not FRAME=BOX" in result.stderr
    result = vlt("label", source, "--correct", "15=50,20,16,14", "--out", out, "--weights", weights, "--device", "cpu")
    assert result.exit_code == 0 and "13 frames given" in result.output, result.output
    config = {"model": "pjvlt_tiny", "start": "random", "datasets": {}, "mix": {"clip": 1}, "steps": 2, "batch_size": 2,
              "loaders": 0, "validation_samples": 0, "device": "cpu", "precision": "fp32", "freeze_separate": False}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    result = vlt("train", tmp_path / "train.yaml", "--data", f"clips={out}", "--out", tmp_path / "trained")
    assert result.exit_code == 0, (result.output, result.exception)
    assert list((tmp_path / "trained").glob("*.safetensors"))
