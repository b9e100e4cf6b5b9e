# SPDX-License-Identifier: Apache-2.0
import json
from types import SimpleNamespace

import numpy as np
import pytest

from vlt_ros.evaluation.errors import EvaluationError
from vlt_ros.evaluation.evaluate import evaluate, phrases_for
from vlt_ros.evaluation.protocols import PROTOCOLS
from vlt_ros.evaluation.report import table
from vlt_ros.evaluation.runs import run_sequence
from vlt_ros.evaluation.sequences import SequenceError, read_sequences

score = PROTOCOLS["ope"].score


class Scripted:
    """Stands where the tracker stands and answers from a list; remembers how it was started."""

    def __init__(self, boxes):
        self.boxes, self.started, self.tracked = list(boxes), None, 0

    def start(self, text="", image=None, box=None, stamp=None):
        self.started = (text, image is not None, box, stamp)

    def track(self, image, stamp=None):
        box = self.boxes[self.tracked]
        self.tracked += 1
        return SimpleNamespace(box=box, target_id=3)


def test_box_start_is_given_frame_0_and_asked_for_the_rest(sequences):
    alpha = read_sequences(sequences)[0]
    tracker = Scripted([tuple(b) for b in alpha.boxes[1:]])
    run = run_sequence(tracker, alpha, "box", "")
    assert tracker.started == ("", True, (10, 20, 16, 14), 0.0)
    assert tracker.tracked == run.calls == 11
    assert (run.boxes == alpha.boxes).all() and run.present.all()
    assert score(run.boxes, alpha.boxes).auc == pytest.approx(20 / 21)


def test_text_start_is_never_given_the_truth_and_a_missing_box_is_the_last_one(sequences):
    alpha = read_sequences(sequences)[0]
    answers = [None, None, (1, 2, 3, 4), None, (5, 6, 7, 8)] + [None] * 7
    tracker = Scripted(answers)
    run = run_sequence(tracker, alpha, "text", "words")
    assert tracker.started == ("words", False, None, 0.0)
    assert tracker.tracked == run.calls == 12
    assert np.isnan(run.boxes[:2]).all()
    assert run.boxes[2:].tolist() == [[1, 2, 3, 4]] * 2 + [[5, 6, 7, 8]] * 8
    assert run.present.tolist() == [a is not None for a in answers]


def test_both_gives_box_and_text(sequences):
    alpha = read_sequences(sequences)[0]
    tracker = Scripted([None] * 11)
    run = run_sequence(tracker, alpha, "both", "words")
    assert tracker.started[0] == "words" and tracker.started[2] == (10, 20, 16, 14)
    assert run.boxes.tolist() == [[10, 20, 16, 14]] * 12


def test_phrases(write_sequence, sequences, tmp_path):
    alpha, beta = read_sequences(sequences)
    assert phrases_for([alpha, beta], "box", "right") == ["", ""]
    assert phrases_for([alpha, beta], "text", "right") == ["the bright square", "the other thing"]
    assert phrases_for([alpha, beta], "both", "wrong") == ["the other thing", "the bright square"]
    assert phrases_for([alpha, beta], "both", "none") == ["", ""]
    for combination, message in ((("box", "wrong"), "no meaning with --start box"),
                                 (("text", "none"), "nothing to start from; use --start both")):
        with pytest.raises(EvaluationError, match=message):
            phrases_for([alpha, beta], *combination)
    with pytest.raises(EvaluationError, match="at least two sequences with different sentences"):
        phrases_for([alpha], "text", "wrong")
    write_sequence(tmp_path / "mute", text="")
    with pytest.raises(SequenceError, match=r"mute/language.txt is missing or empty; "
                                            r"write .* or use --start box"):
        phrases_for(read_sequences(tmp_path), "both", "right")


@pytest.mark.parametrize(("start", "phrase"), [("box", "right"), ("text", "right"), ("both", "wrong")])
def test_evaluate_writes_a_report_that_its_own_box_files_confirm(sequences, weights, tmp_path, start, phrase):
    report = evaluate(sequences, tmp_path / "out", start=start, phrase=phrase, weights=weights, device="cpu",
                      progress=False)
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert (report["start"], report["phrase"], report["protocol"]) == (start, phrase, PROTOCOLS["ope"].rule)
    assert report["model"] == "pjvlt_tiny" and report["weights"] == str(weights)
    assert list(report["per_sequence"]) == ["alpha", "beta"]
    for sequence in read_sequences(sequences):
        entry = report["per_sequence"][sequence.name]
        boxes = np.loadtxt(tmp_path / "out" / f"{sequence.name}.txt", delimiter=",", ndmin=2)
        scores = score(boxes, sequence.boxes, sequence.absent)
        assert (entry["auc"], entry["sr50"], entry["precision"]) == pytest.approx(
            (scores.auc, scores.sr50, scores.precision), abs=1e-6)
        assert entry["frames"] == len(sequence) == len(boxes) and entry["fps"] > 0
        if start != "text":
            assert boxes[0].tolist() == sequence.boxes[0].tolist()
    for key in ("auc", "sr50", "precision"):
        values = [entry[key] for entry in report["per_sequence"].values()]
        assert report[key] == pytest.approx(np.mean(values), abs=2e-6)
    assert 0 <= report["auc"] <= 20 / 21 and report["fps"] > 0
    printed = table(report).splitlines()
    assert [line.split()[0] for line in printed] == ["sequence", "alpha", "beta", "mean"]
    assert f"{report['auc']:.3f}" in printed[-1] and "17" in printed[-1].split()


def test_a_few_lines_of_numpy_give_the_same_auc(sequences, weights, tmp_path):
    report = evaluate(sequences, tmp_path, start="both", weights=weights, device="cpu", progress=False)
    aucs = []
    for name in ("alpha", "beta"):
        p = np.loadtxt(tmp_path / f"{name}.txt", delimiter=",")
        t = np.loadtxt(sequences / name / "groundtruth.txt", delimiter="," if name == "alpha" else None)
        sides = np.minimum(p[:, :2] + p[:, 2:], t[:, :2] + t[:, 2:]) - np.maximum(p[:, :2], t[:, :2])
        inter = sides.clip(0).prod(1)
        iou = inter / (p[:, 2:].prod(1) + t[:, 2:].prod(1) - inter)
        aucs.append(np.mean([iou > k / 20 for k in range(21)]))
    assert report["auc"] == pytest.approx(np.mean(aucs), abs=1e-6) and 0.1 < report["auc"] < 0.95


def test_a_start_by_text_is_scored_with_its_own_frame_0_and_the_other_way_is_told(sequences, weights, tmp_path):
    options = {"protocol": "lasot", "weights": weights, "device": "cpu", "progress": False}
    told = evaluate(sequences, tmp_path / "text", start="text", **options)
    assert told["frame_0"]["used"] == "own" and told["auc"] == told["frame_0"]["own"]["auc"]
    assert told["frame_0"]["truth"]["auc"] > told["auc"], "the truth in frame 0 would help"
    assert told["protocol_name"] == "lasot" and "divided by the full length" in told["protocol"]
    pooled = evaluate(sequences, tmp_path / "text", start="text", **options | {"protocol": "got10k"})
    assert pooled["frame_0"]["used"] == "out" and pooled["frame_0"]["own"] == pooled["frame_0"]["truth"]
    assert len(pooled["curves"]["success"]["rates"]) == 101
    boxed = evaluate(sequences, tmp_path / "box", start="box", **options)
    assert boxed["frame_0"]["used"] == "truth" and boxed["frame_0"]["own"]["auc"] == boxed["auc"]
    assert boxed["behaviour"]["first_lock_s"] == 0 and boxed["behaviour"]["id_stability"] == 1
    assert told["behaviour"] != boxed["behaviour"] and len(boxed["variants"]) == 3


def test_runs_are_repeatable(sequences, weights, tmp_path):
    for name in ("a", "b"):
        evaluate(sequences, tmp_path / name, start="both", weights=weights, device="cpu", progress=False)
    for file in ("alpha.txt", "beta.txt"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_sequence_without_its_target_has_no_score_and_spoils_no_mean(write_sequence, weights, tmp_path):
    write_sequence(tmp_path / "in" / "a", frames=3)
    write_sequence(tmp_path / "in" / "b", frames=3)
    (tmp_path / "in" / "b" / "absent.txt").write_text("1\n1\n1\n")
    options = {"weights": weights, "device": "cpu", "progress": False}
    report = evaluate(tmp_path / "in", tmp_path / "out", start="text", **options)
    assert report["per_sequence"]["b"]["auc"] is None and report["per_sequence"]["b"]["scored_frames"] == 0
    assert report["auc"] == report["per_sequence"]["a"]["auc"]
    assert "-" in table(report).splitlines()[2].split()
    with pytest.raises(SequenceError, match=r"b/groundtruth.txt line 1: the target is absent.*--start text"):
        evaluate(tmp_path / "in", tmp_path / "out", start="box", **options)


def test_a_first_box_outside_the_image_names_the_sequence(write_sequence, weights, tmp_path):
    write_sequence(tmp_path / "in" / "a", frames=2)
    (tmp_path / "in" / "a" / "groundtruth.txt").write_text("500,500,10,10\n1,1,5,5\n")
    write_sequence(tmp_path / "in" / "b", frames=3)
    with pytest.raises(SequenceError, match=r"a/groundtruth.txt line 1: box \(500, 500, 10, 10\).*; the other 1 of 2 "
                                            "runs are kept, and the same command goes on from there"):
        evaluate(tmp_path / "in", tmp_path / "out", weights=weights, device="cpu", progress=False)
    assert len((tmp_path / "out" / "b.txt").read_text().splitlines()) == 3, "the next sequence was still done"
    assert not (tmp_path / "out" / "report.json").exists(), "a part is no result"
