# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from vlt_ros.evaluation.errors import EvaluationError
from vlt_ros.evaluation.metrics import overlaps
from vlt_ros.evaluation.peers import Peer, parse_peers
from vlt_ros.evaluation.runs import run_sequence
from vlt_ros.evaluation.sequences import read_sequences


@pytest.mark.parametrize("name", ["csrt", "kcf", "mil"])
def test_opencvs_trackers_follow_the_square(sequences, name):
    alpha = read_sequences(sequences)[0]
    tracker = Peer(name).build()
    run = run_sequence(tracker, alpha, "box", "")
    assert run.calls == 11 and (run.boxes[0] == alpha.boxes[0]).all()
    assert run.present[:3].all() and overlaps(run.boxes, alpha.boxes)[:3].min() > 0.4
    again = run_sequence(tracker, alpha, "box", "")
    assert np.array_equal(run.boxes, again.boxes), "what ran before does not matter"


def test_a_box_that_opencv_cannot_start_from_is_followed_nowhere():
    tracker = Peer("kcf").build()
    image = np.zeros((40, 60, 3), np.uint8)
    assert tracker.start(image=image, box=(-10, -10, 15.5, 15)).box == (-10, -10, 15.5, 15)
    tracker.track(image)
    tracker.start(image=image, box=(100, 100, 5, 5))
    assert tracker.track(image).box is None or len(tracker.track(image).box) == 4


def test_parsing(tmp_path):
    for name in ("nano_backbone.onnx", "nano_head.onnx"):
        (tmp_path / name).write_bytes(name.encode())
    models = (tmp_path / "nano_backbone.onnx", tmp_path / "nano_head.onnx")
    assert parse_peers("") == ()
    assert parse_peers(f"csrt, nano:{tmp_path}") == (Peer("csrt"), Peer("nano", models))
    assert parse_peers(f"nano:{models[1]}") == (Peer("nano", models),)
    with pytest.raises(EvaluationError, match="OpenCV cannot load NanoTrack from .*backbone.onnx"):
        Peer("nano", models).build()
    assert Peer("nano", models).key() != Peer("nano", models[::-1]).key() != Peer("kcf").key()
    for text, message in (("boosting", "'boosting' is unknown: give some of csrt"), ("csrt:x", "'csrt:x' is unknown"),
                          ("kcf,kcf", "names kcf twice"), ("nano", "nano:PATH"),
                          (f"nano:{tmp_path / 'no'}", "no such folder or file")):
        with pytest.raises(EvaluationError, match=message):
            parse_peers(text)
    models[0].unlink()
    with pytest.raises(EvaluationError, match="has 0 ONNX files with 'backbone' in their names"):
        parse_peers(f"nano:{tmp_path}")
