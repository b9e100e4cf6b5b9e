# SPDX-License-Identifier: Apache-2.0
import json
import math

import numpy as np
import pytest
from click.testing import CliRunner

from vlt_ros.cli import main
from vlt_ros.evaluation.evaluate import EvaluationError
from vlt_ros.evaluation.phrases import evaluate_phrases, measure, read_queries, table, wrong_texts
from vlt_ros.evaluation.pointing import wilson
from vlt_ros.media import save_image

RED, BLUE, GREEN = (20, 10, 40, 30), (100, 60, 30, 40), (60, 50, 20.5, 20)
ENTRIES = [{"file": "a.png", "text": "the red box", "box": RED}, {"file": "a.png", "text": "the blue box", "box": BLUE},
           {"file": "sub/b.jpg", "text": "the green box", "box": GREEN, "id": 7}]


def write_pictures(root, entries=ENTRIES):
    """Two pictures with coloured rectangles on noise."""
    noise = np.random.default_rng(0).integers(0, 90, (120, 160, 3), np.uint8)
    red, blue, green = (RED, (30, 30, 220)), (BLUE, (220, 40, 40)), (GREEN, (30, 210, 50))
    for name, boxes in (("a.png", (red, blue)), ("sub/b.jpg", (green,))):
        image = noise.copy()
        for (x, y, w, h), colour in boxes:
            image[y:y + h, x:x + int(w)] = colour
        (root / "img" / name).parent.mkdir(parents=True, exist_ok=True)
        save_image(root / "img" / name, image)
    (root / "queries.json").write_text(json.dumps(entries))
    return root


@pytest.fixture
def root(tmp_path):
    return write_pictures(tmp_path / "root")


def test_queries_are_read_in_order_and_files_may_name_the_folder(tmp_path):
    root = write_pictures(tmp_path, [*ENTRIES, {"file": "img/a.png", "text": "  it ", "box": [0, 0, 5, 5]}])
    queries = read_queries(root)
    assert [q.file for q in queries] == ["a.png", "a.png", "sub/b.jpg", "img/a.png"]
    assert queries[3].picture == queries[0].picture == root / "img" / "a.png" and queries[3].text == "it"
    assert queries[2].box == (60.0, 50.0, 20.5, 20.0)


def test_the_wrong_phrase_is_another_ones_of_another_object(tmp_path):
    same = {"file": "a.png", "text": "red thing", "box": RED}
    queries = read_queries(write_pictures(tmp_path, [ENTRIES[0], same, ENTRIES[1], ENTRIES[0]]))
    assert wrong_texts(queries) == ["the blue box", "the blue box", "the red box", "the blue box"]
    assert wrong_texts(queries[:2]) == [None, None] and wrong_texts(queries[:1]) == [None]


def centred(box, point=None, confidence=0.5):
    """What a grounding returns for a box x, y, w, h."""
    x, y, w, h = box
    return tuple(map(float, box)), confidence, point or (x + w / 2, y + h / 2)


def test_one_that_listens(root):
    """Exact rates, with every picture and phrase shown once and misses of each kind."""
    asked = []

    def ground(image, text):
        asked.append((int(image[:, :, 1].max()), text))
        return {"the red box": centred(RED, confidence=0.9), "the blue box": centred((100, 60, 30, 19.9)),
                "the green box": centred((66, 50, 20.5, 20), confidence=0.4), "": centred((0, 0, 9, 9))}[text]

    done = []
    predictions, report = measure(read_queries(root), ground, lambda: done.append(1))
    # Blue: pointed into the box, IoU 0.4975. Green: 14.5 of 26.5 columns are shared, IoU 0.547.
    assert report["right"]["pointing"]["hits"] == 3 and report["right"]["iou50"]["hits"] == 2
    assert report["right"]["iou50"]["rate"] == pytest.approx(2 / 3, abs=1e-4)
    low, high = wilson(2, 3)
    assert (report["right"]["iou50"]["low"], report["right"]["iou50"]["high"]) == pytest.approx((low, high), abs=1e-4)
    assert report["right"]["confidence"] == pytest.approx(0.6)
    for phrase in ("wrong", "none"):
        for measured in ("pointing", "iou50"):
            assert report[phrase][measured]["hits"] == 0 and report[phrase][measured]["trials"] == 3
    assert [text for _, text in asked] == ["the red box", "the blue box", "", "the blue box", "the green box", "",
                                           "the green box", "the red box", ""]
    assert len({picture for picture, _ in asked}) == 2 and len(done) == 3
    assert [{k: p[k] for k in ("file", "text")} for p in predictions] == [
        {k: e[k] for k in ("file", "text")} for e in ENTRIES]
    assert predictions[0] == {"file": "a.png", "text": "the red box", "box": [20, 10, 40, 30], "confidence": 0.9}


def test_one_that_ignores_its_sentence_is_equal_in_all_three(root):
    _, report = measure(read_queries(root), lambda image, text: centred(RED))
    assert [report[p]["pointing"]["hits"] for p in ("right", "wrong", "none")] == [1, 1, 1]
    assert [report[p]["iou50"]["hits"] for p in ("right", "wrong", "none")] == [1, 1, 1]


@pytest.mark.parametrize("output", [(None, 0.0, (30.0, 20.0)), ((math.nan, 1.0, 2.0, 3.0), 0.5, (30.0, 20.0)),
                                    (tuple(map(float, RED)), 0.0, (30.0, 20.0))])
def test_an_output_that_is_no_box_is_null_and_a_miss(root, output):
    predictions, report = measure(read_queries(root), lambda image, text: output)
    assert [p["box"] for p in predictions] == [None] * 3
    assert report["right"]["pointing"]["hits"] == report["right"]["iou50"]["hits"] == 0


def test_half_an_overlap_is_not_enough(tmp_path):
    queries = read_queries(write_pictures(tmp_path, [{"file": "a.png", "text": "x", "box": [10, 10, 20, 20]}]))
    for width, hits in ((40, 0), (39.9, 1)):
        _, report = measure(queries, lambda image, text, width=width: centred((10, 10, width, 20)))
        assert report["right"]["iou50"]["hits"] == hits and report["wrong"] is None
    assert "-" in table({"phrases": report}).splitlines()[2].split()


def test_the_command_writes_predictions_and_report(root, weights, tmp_path):
    """With the tiny network: what is written is what its own grounding says."""
    out = tmp_path / "out"
    result = CliRunner().invoke(main, ["evaluate", str(root), "--layout", "phrases", "--weights", str(weights),
                                       "--device", "cpu", "--precision", "fp32", "--out", str(out)])
    assert result.exit_code == 0, result.output
    predictions, report = (json.loads((out / name).read_text()) for name in ("predictions.json", "report.json"))
    assert [(p["file"], p["text"]) for p in predictions] == [(e["file"], e["text"]) for e in ENTRIES]
    assert set(predictions[0]) == {"file", "text", "box", "confidence"}
    assert set(report["phrases"]) == {"right", "wrong", "none"} and report["queries"] == 3 and report["pictures"] == 2
    assert report["pointing_accuracy"] == report["phrases"]["right"]["pointing"]["rate"]
    assert report["iou50_accuracy"] == report["phrases"]["right"]["iou50"]["rate"]
    assert report["model"] == "pjvlt_tiny" and "IoU > 0.5" in report["protocol"]
    assert [line.split()[0] for line in result.output.splitlines() if line[:5] in ("right", "wrong", "none ")] == [
        "right", "wrong", "none"]

    from vlt_ros.media.sources import read_image
    from vlt_ros.networks import load_network
    from vlt_ros.tracker import ground

    network = load_network(weights, device="cpu", precision="fp32")
    for prediction, query in zip(predictions, read_queries(root), strict=True):
        box, confidence, _ = ground(network, read_image(query.picture), query.text)
        assert prediction["box"] == pytest.approx(box, abs=0.01)
        assert prediction["confidence"] == pytest.approx(confidence, abs=1e-4)


@pytest.mark.parametrize("content, words", [
    (None, r"queries.json is missing"), ("{", "no valid JSON"), ("\xff\xfe", "no valid JSON"), ("{}", "must be a list"),
    ("[]", "empty list"), ('["a"]', "entry 0 must be"), ('[{"file": "a.png", "text": "x"}]', "entry 0 has no box"),
    ('[{"file": "a.png", "box": [1, 2, 3, 4]}]', "entry 0 has no text"),
    ('[{"text": "x", "box": [1, 2, 3, 4]}]', "entry 0 has no file"),
    ('[{"file": 3, "text": "x", "box": [1, 2, 3, 4]}]', "entry 0: file must be"),
    ('[{"file": "no.png", "text": "x", "box": [1, 2, 3, 4]}]', r"entry 0: picture .*no\.png is missing"),
    ('[{"file": "a.png", "text": 5, "box": [1, 2, 3, 4]}]', "entry 0: text must be a string"),
    ('[{"file": "a.png", "text": " ", "box": [1, 2, 3, 4]}]', "entry 0: text is empty"),
    ('[{"file": "a.png", "text": "a\\u0007", "box": [1, 2, 3, 4]}]', "entry 0: text holds a control character"),
    ('[{"file": "a.png", "text": "x", "box": null}]', "entry 0: box must be four"),
    ('[{"file": "a.png", "text": "x", "box": [1, 2, 3]}]', "entry 0: box must be four"),
    ('[{"file": "a.png", "text": "x", "box": [1, 2, 3, "4"]}]', "entry 0: box must be four"),
    ('[{"file": "a.png", "text": "x", "box": [1, 2, NaN, 4]}]', "entry 0: box must be four"),
    ('[{"file": "a.png", "text": "x", "box": [1, 2, 0, 4]}]', "entry 0: box must be four.*positive size"),
    ('[{"file": "a.png", "text": "x", "box": [1, 2, 3, 1' + 400 * "0" + "]}]", "entry 0: box must be four"),
    (json.dumps([ENTRIES[0], {"file": "a.png", "text": "x", "box": [160, 2, 3, 4]}]), r"entry 1: box .*160 x 120"),
    (json.dumps([ENTRIES[0], {"file": "broken.png", "text": "x", "box": [1, 2, 3, 4]}]), "entry 1: .*broken.png is")])
def test_malformed_queries_are_one_line_that_names_the_entry(content, words, root, tmp_path):
    (root / "img" / "broken.png").write_bytes(b"no picture")
    if content is None:
        (root / "queries.json").unlink()
    else:
        (root / "queries.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(EvaluationError, match=words) as error:
        measure(read_queries(root), lambda image, text: centred(RED))
    assert "\n" not in str(error.value)


def test_malformed_queries_end_the_command_with_one_error(root, weights, tmp_path):
    (root / "queries.json").write_text(json.dumps([{"file": "a.png", "text": "x", "box": [1, 2]}]))
    result = CliRunner().invoke(main, ["evaluate", str(root), "--layout", "phrases", "--weights", str(weights),
                                       "--out", str(tmp_path / "out")])
    assert result.exit_code == 2 and result.stderr.startswith("error: ") and "entry 0" in result.stderr
    with pytest.raises(EvaluationError, match="entry 0"):
        evaluate_phrases(root, tmp_path / "out", weights=weights, device="cpu", progress=False)
    assert not (tmp_path / "out").exists()
