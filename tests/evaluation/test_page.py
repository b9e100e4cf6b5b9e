# SPDX-License-Identifier: Apache-2.0
import base64
import json
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from vlt_ros.evaluation.errors import EvaluationError
from vlt_ros.evaluation.evaluate import evaluate, score
from vlt_ros.evaluation.sequences import SequenceError, read_sequences


class Page(HTMLParser):
    """Text and tags of a page; every tag must be closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.tags, self.sources = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href", "xlink:href") and tag != "use"]
        if tag not in ("meta", "img", "path", "use", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_shows_what_the_report_says_and_needs_nothing_else(sequences, weights, tmp_path):
    report = evaluate(sequences, tmp_path, start="both", protocol="tnl2k", against="kcf", weights=weights, device="cpu",
                      progress=False)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    words = " ".join(" ".join(page.words).split())
    for shown in (report["protocol"], "pjvlt_tiny", "the bright square", f"{report['auc']:.3f}", "alpha", "beta",
                  f"{report['against']['kcf']['auc']:.3f}", "Frame 0, both ways", "PyTracking"):
        assert shown in words
    assert page.tags.count("svg") == 4 + 2, "three curves, the confidence, and the overlap over time of both sequences"
    assert all(source.startswith("data:") for source in page.sources), "nothing is loaded from elsewhere"
    strips = re.findall(r"data:image/jpeg;base64,([^\"]+)", text)
    assert len(strips) == 2
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(strips[0]), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[1] > 1000 and picture.std() > 10
    assert words.index("By attribute") if report["attributes"] else "By attribute" not in words


def test_score_of_our_own_result_files_is_our_own_score(sequences, weights, tmp_path):
    options = {"weights": weights, "device": "cpu", "progress": False}
    ours = evaluate(sequences, tmp_path / "run", start="text", against="", **options)
    scored = score(tmp_path / "run", sequences, tmp_path / "score")
    for metric in ("auc", "precision", "norm_precision", "ao", "sr50", "sr75"):
        assert scored[metric] == ours[metric]
    assert json.loads((tmp_path / "score" / "report.json").read_text()) == scored
    assert scored["protocol_name"] == "ope" and scored["fps"] is None


def test_score_needs_no_images_and_shows_attributes(write_sequence, tmp_path):
    boxes = write_sequence(tmp_path / "in" / "<b>&" / "x", frames=4)
    folder = tmp_path / "in" / "<b>&"
    for file in (folder / "x").glob("*.txt"):
        file.rename(folder / file.name)
    for rest in sorted((folder / "x").rglob("*"), reverse=True):
        rest.unlink() if rest.is_file() else rest.rmdir()
    (folder / "attributes.txt").write_text("0,1" + ",0" * 12 + "\n")
    (tmp_path / "results" / "<b>&").mkdir(parents=True)
    np.savetxt(tmp_path / "results" / "<b>&" / "<b>&_001.txt", boxes, fmt="%.3f", delimiter=",")
    report = score(tmp_path / "results", tmp_path / "in", tmp_path / "out", protocol="lasot")
    assert report["auc"] == pytest.approx(20 / 21, abs=1e-6)
    assert report["attributes"] == {"partial occlusion": {"sequences": 1} | {
        metric: report[metric] for metric in ("auc", "precision", "norm_precision", "norm_precision_auc", "ao", "sr50",
                                              "sr75")}}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "partial occlusion" in page and "&lt;b&gt;&amp;" in page and "<b>" not in page and "jpeg" not in page
    with pytest.raises(SequenceError, match="has no images, but the protocol clips boxes to them"):
        score(tmp_path / "results", tmp_path / "in", tmp_path / "out", protocol="got10k")
    (folder / "meta_info.ini").write_text("[METAINFO]\nresolution: (96, 72)\n")
    (folder / "attributes.txt").unlink()
    (folder / "cover.label").write_text("8\n8\n0\n8\n")
    report = score(tmp_path / "results", tmp_path / "in", tmp_path / "out", protocol="got10k")
    assert (report["ao"], report["per_sequence"]["<b>&"]["scored_frames"]) == (1, 2)


def test_score_refuses_what_is_not_there(sequences, tmp_path):
    with pytest.raises(EvaluationError, match="nothing is not a folder; give the one with a file NAME.txt"):
        score(tmp_path / "nothing", sequences, tmp_path / "out")
    (tmp_path / "alpha.txt").write_text("1,2,3,4\n" * 12)
    with pytest.raises(EvaluationError, match=r"beta.txt is missing \(1 of 2 sequences have no results\)"):
        score(tmp_path, sequences, tmp_path / "out")
    (tmp_path / "beta.txt").write_text("1,2,3,4\n" * 4)
    with pytest.raises(SequenceError, match=r"beta.txt has 4 lines but .*groundtruth.txt has 5"):
        score(tmp_path, sequences, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(EvaluationError, match="'vot' is unknown: choose one of ope, lasot"):
        score(tmp_path, sequences, tmp_path / "out", protocol="vot")


def test_official_layouts_are_read(write_sequence, tmp_path):
    lasot = tmp_path / "LaSOT" / "bear" / "bear-2"
    write_sequence(lasot, frames=4)
    write_sequence(tmp_path / "LaSOT" / "bear" / "bear-1", frames=3)
    (lasot / "language.txt").rename(lasot / "nlp.txt")
    (lasot / "full_occlusion.txt").write_text("0,1,0,0")
    (lasot / "out_of_view.txt").write_text("0,0,0,1")
    one, = read_sequences(tmp_path / "LaSOT")
    assert (one.name, one.text, one.absent.tolist()) == ("bear-2", "the bright square", [False, True, False, True])
    webuav = tmp_path / "Test" / "uav"
    write_sequence(webuav, frames=2)
    (webuav / "groundtruth.txt").rename(webuav / "groundtruth_rect.txt")
    (webuav / "img").rename(webuav / "imgs")
    assert len(read_sequences(tmp_path / "Test")[0]) == 2
    got10k = tmp_path / "val" / "GOT-10k_Val_000001"
    write_sequence(got10k, frames=2)
    for image in (got10k / "img").iterdir():
        image.rename(got10k / image.name)
    (got10k / "img").rmdir()
    one, = read_sequences(tmp_path / "val")
    assert one.size() == (96, 72) and len(list(one.images())) == 2
