# SPDX-License-Identifier: Apache-2.0
"""Grounding DINO and OWLv2 from a local folder or the hub's cache, against transformers' own pipeline."""

from __future__ import annotations

import shutil
import socket

import numpy as np
import pytest
from grounders import MAKERS

from vlt_ros.networks import WeightsError, load_grounder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A saved detector of each kind."""
    root = tmp_path_factory.mktemp("grounders")
    return {kind: make(root / kind) for kind, make in MAKERS.items()}


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 255, (120, 200, 3), np.uint8)


@pytest.fixture
def offline(monkeypatch):
    """No socket of Python's may be opened."""
    def denied(*_args, **_kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", denied)
    monkeypatch.setattr(socket, "getaddrinfo", denied)


@pytest.mark.parametrize("kind", MAKERS)
def test_it_proposes_what_transformers_own_pipeline_finds(kind, folders, image, offline):
    from PIL import Image
    from transformers import pipeline

    grounder = load_grounder(str(folders[kind]))
    found = grounder.ground(image, "The red mug.")
    assert found and [c for _, c in found] == sorted((c for _, c in found), reverse=True)
    for (x, y, w, h), confidence in found:
        assert min(x, y) >= 0 and w >= 2 and h >= 2 and x + w <= 200 and y + h <= 120 and 0 < confidence <= 1
    processor = grounder.processor
    detect = pipeline("zero-shot-object-detection", model=grounder.model, image_processor=processor.image_processor,
                      tokenizer=processor.tokenizer, processor=processor)
    # The pipeline does not end Grounding DINO's phrases as its processor and its authors do.
    label = "the red mug." if kind == "grounding-dino" else "the red mug"
    theirs = detect(Image.fromarray(image[..., ::-1].copy()), candidate_labels=[label], threshold=0.01)
    boxes = {tuple(int(v) for v in one["box"].values()): one["score"] for one in theirs}
    for (x, y, w, h), confidence in found:
        # The pipeline cuts boxes to whole pixels, and not to the picture.
        near = [score for (left, top, right, bottom), score in boxes.items()
                if abs(max(left, 0) - x) <= 1 and abs(max(top, 0) - y) <= 1 and abs(min(right, 200) - x - w) <= 1
                and abs(min(bottom, 120) - y - h) <= 1]
        assert any(abs(score - confidence) < 1e-4 for score in near), (x, y, w, h, confidence)
    # What it says depends on the picture and on the sentence, and not on case or full stop.
    assert grounder.ground(image, "the red mug") == found
    assert grounder.ground(image, "a dog") != found != grounder.ground(image[::-1].copy(), "the red mug")


@pytest.mark.parametrize("kind", MAKERS)
def test_the_longest_sentence_is_cut_to_what_it_can_take(kind, folders, image):
    grounder = load_grounder(str(folders[kind]))
    for text in ("x y " * 64, "日" * 256, ".", "..a..", "!"):
        grounder.ground(image, text)


def test_from_the_hubs_cache_by_its_id(folders, image, offline, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="grounder some/dino is neither a folder nor in the hub's cache as "
                                           f"{tmp_path}/models--some--dino: fetch it once with: hf download some/dino"):
        load_grounder("some/dino")
    cached = tmp_path / "models--some--dino"
    shutil.copytree(folders["grounding-dino"], cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    assert load_grounder("some/dino").ground(image, "a mug") == load_grounder(
        str(folders["grounding-dino"])).ground(image, "a mug")


def test_what_cannot_be_loaded_is_one_line_that_says_what_to_do(folders, tmp_path, monkeypatch):
    def refused(words: str, name) -> None:
        with pytest.raises(WeightsError, match=words) as error:
            load_grounder(str(name))
        assert "\n" not in str(error.value)

    fetch = "fetch one once with: hf download IDEA-Research/grounding-dino-tiny --local-dir"
    refused(f"grounder folder {tmp_path}/no is missing: {fetch} {tmp_path}/no", tmp_path / "no")
    refused(f"grounder folder {tmp_path} has no config.json: {fetch} {tmp_path}", tmp_path)
    refused("grounder folder nonsense is missing", "nonsense")

    def damaged(name: str, file: str, data: bytes | None):
        shutil.copytree(folders["owlv2"], tmp_path / name)
        (tmp_path / name / file).unlink() if data is None else (tmp_path / name / file).write_bytes(data)
        return tmp_path / name

    refused("no-weights cannot be read .*fetch one once", damaged("no-weights", "model.safetensors", None))
    weights = (folders["owlv2"] / "model.safetensors").read_bytes()
    refused("cut cannot be read", damaged("cut", "model.safetensors", weights[:5000]))
    refused("bad cannot be read", damaged("bad", "config.json", b"{"))
    refused("is a bert: known are grounding-dino, owlv2", damaged("other", "config.json", b'{"model_type": "bert"}'))
    refused("no-words cannot be read", damaged("no-words", "tokenizer.json", b"{}"))
    from safetensors.torch import load_file, save_file

    path = damaged("lacking", "README.md", b"")
    tensors = load_file(path / "model.safetensors")
    tensors.pop("box_head.dense0.weight")
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    refused("lacking lacks 1 tensors, box_head.dense0.weight first: fetch one", path)
    # Without torchvision OWLv2 resizes with scipy.
    monkeypatch.setattr("transformers.utils.import_utils.is_scipy_available", lambda: False)
    monkeypatch.setitem(__import__("transformers").utils.import_utils.BACKENDS_MAPPING, "scipy", (
        lambda: False, "{0} requires the scipy library but it was not found. `pip install scipy`"))
    refused("owlv2 needs a package that is not installed: pip install scipy", folders["owlv2"])
