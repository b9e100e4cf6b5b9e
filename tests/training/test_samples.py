# SPDX-License-Identifier: Apache-2.0
"""Samples: the same by index, true to their words, without a leak of which candidate is the target."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from vlt_ros.training.assets import AssetsError, emoji_name, make_assets, trim
from vlt_ros.training.datasets.given import HELDOUT_STILLS
from vlt_ros.training.library import HELDOUT_OBJECTS, Library, is_heldout
from vlt_ros.training.phrases import (
    COLOURS,
    alike,
    coloured_noun,
    measured_colour,
    mirror,
    place,
    placed_noun,
    sentence,
    tint,
)
from vlt_ros.training.samples import KINDS, SampleGenerator

NAMES = ["mug", "lamp", "boat", "drum", "kite", "person", "shoe", "bell", "car", "vase"]


def picture(seed: int, height: int = 120, width: int = 160) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A small data folder and assets folder in the layout of the real ones."""
    root = tmp_path_factory.mktemp("samples")
    data, assets = root / "data", root / "assets"
    (data / "stills").mkdir(parents=True)
    rows = []
    for i in range(120):
        file = f"still_{i:03d}.webp"
        cv2.imwrite(str(data / "stills" / file), picture(i))
        row = {"file": file, "source": f"source{i % 4}", "width": 160, "height": 120}
        if i % 5:
            row["objects"] = [{"name": NAMES[(i + k) % len(NAMES)], "box": [10 + 50 * k, 20 + 5 * k, 40, 60]}
                              for k in range(1 + i % 3)]
        rows.append(row)
    (data / "stills.json").write_text(json.dumps(rows))
    for name in ("clip_a", "davis16_goat"):
        (data / "videos" / name / "img").mkdir(parents=True)
        for t in range(12):
            cv2.imwrite(str(data / "videos" / name / "img" / f"{t:04d}.webp"), picture(500 + t))
        boxes = "\n".join(f"{20 + 3 * t},30,40,50" for t in range(12))
        (data / "videos" / name / "groundtruth.txt").write_text(boxes)
        (data / "videos" / name / "language.txt").write_text(f"the thing of {name}")
    for part, suffix in (("emoji", ""), ("cutouts", "__x")):
        (assets / part).mkdir(parents=True)
        for i in range(100):
            rgba = np.zeros((60, 50, 4), np.uint8)
            cv2.ellipse(rgba, (25, 30), (22, 27), 0, 0, 360, (40 + i, 200 - i, 90, 255), -1)
            name = f"{NAMES[i % len(NAMES)]}{i // len(NAMES) if part == 'emoji' else ''}"
            cv2.imwrite(str(assets / part / f"{name}{suffix}{i if suffix else ''}.webp"), rgba)
    (assets / "backgrounds").mkdir()
    for i in range(4):
        cv2.imwrite(str(assets / "backgrounds" / f"b{i}.jpg"), picture(900 + i, 200, 300))
    return data, assets


def generator(folders, **options) -> SampleGenerator:
    return SampleGenerator(*folders, template_size=56, search_size=112, **options)


def test_a_sample_depends_on_seed_and_index_alone(folders):
    one, two, other = generator(folders, seed=3), generator(folders, seed=3), generator(folders, seed=4)
    two.sample(50)          # an order of its own must not matter
    differs = 0
    for i in range(12):
        a, b, c = one.sample(i), two.sample(i), other.sample(i)
        assert a.text == b.text and a.kind == b.kind
        np.testing.assert_array_equal(a.search, b.search)
        np.testing.assert_array_equal(a.template, b.template)
        np.testing.assert_array_equal(a.box, b.box)
        differs += not np.array_equal(a.search, c.search)
    assert differs == 12


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_well_formed(folders, kind):
    samples = [generator(folders, mix={kind: 1.0}).sample(i) for i in range(40)]
    for sample in samples:
        assert sample.kind == kind
        assert sample.search.shape == (112, 112, 3) and sample.search.dtype == np.uint8
        assert sample.template.shape == (56, 56, 3) and sample.template.dtype == np.uint8
        assert sample.template_blank == (kind in ("phrase", "photo"))
        assert sample.template_blank == (not sample.template.any())
        if sample.present:
            cx, cy, w, h = sample.box
            assert w > 0 and h > 0
            assert cx - w / 2 >= -1e-5 and cy - h / 2 >= -1e-5 and cx + w / 2 <= 1 + 1e-5 and cy + h / 2 <= 1 + 1e-5
        else:
            assert not sample.box.any() and (sample.text or not sample.template_blank)
    absent = np.mean([not sample.present for sample in samples])
    assert absent < 0.5 and (absent > 0 or kind in ("still", "clip", "paste"))


def test_the_target_of_a_phrase_scene_cannot_be_guessed(folders):
    """Without the phrase all candidates are alike: place, size and drawing order tell nothing."""
    maker = generator(folders)
    ranks = {"x": [], "size": [], "middle": []}
    jitter = np.random.default_rng(0)       # breaks ties, which would all count as low ranks
    for index in range(400):
        scene = maker.candidates(index, "colour", 3)
        boxes = scene.boxes
        measures = {"x": boxes[:, 0], "size": boxes[:, 2] * boxes[:, 3],
                    "middle": np.hypot(*(boxes[:, :2] + boxes[:, 2:] / 2 - 56).T)}
        for name, values in measures.items():
            values = values + jitter.uniform(0, 1e-3, 3)
            ranks[name].append(int((values < values[scene.target]).sum()))
    for name, values in ranks.items():
        counts = np.bincount(values, minlength=3)
        # Chi-squared with two degrees of freedom: 13.8 is passed by chance once in a thousand.
        assert ((counts - 400 / 3) ** 2 / (400 / 3)).sum() < 13.8, (name, counts)


@pytest.mark.parametrize("by", ["colour", "position", "name"])
def test_candidates_have_two_different_true_phrases(folders, by):
    maker = generator(folders, split="heldout")
    for index in range(20):
        scene = maker.candidates(index, by, 3)
        assert scene.target != scene.wrong_target and scene.boxes.shape == (3, 4)
        assert scene.right.startswith("the ") and scene.right != scene.wrong
    with pytest.raises(ValueError, match="smell"):
        maker.candidates(0, "smell")


def test_the_splits_share_nothing(folders):
    train, heldout = Library(*folders, "train"), Library(*folders, "heldout")
    files = [{picture.file for dataset in library.pictures for picture in dataset.pictures}
             | {picture.file for _, picture in library.plain} for library in (train, heldout)]
    assert len(files[0]) > 90 and files[1] and not files[0] & files[1]
    assert not {c.file for c in train.cutouts} & {c.file for c in heldout.cutouts} and heldout.cutouts
    clips = [[video.name for dataset in library.videos for video in dataset.videos] for library in (train, heldout)]
    assert clips == [["clip_a"], ["davis16_goat"]]
    share = np.mean([is_heldout(f"name {i}", HELDOUT_STILLS) for i in range(4000)])
    assert abs(share - HELDOUT_STILLS) < 0.02 < HELDOUT_OBJECTS


def test_missing_folders_are_named(folders, tmp_path):
    with pytest.raises(FileNotFoundError, match="stills.json is missing"):
        SampleGenerator(tmp_path, folders[1])
    with pytest.raises(FileNotFoundError, match="make assets"):
        SampleGenerator(folders[0], tmp_path)
    with pytest.raises(ValueError, match="rubbish"):
        generator(folders, mix={"rubbish": 1.0})
    with pytest.raises(AssetsError, match="stills.json is missing"):
        make_assets(tmp_path, tmp_path / "out")


def test_mirroring_swaps_left_and_right():
    assert mirror("the leftmost mug on the right") == "the rightmost mug on the left"
    assert mirror(mirror("left right upright bright")) == "left right upright bright"
    assert mirror("Left mug") == "Right mug"
    assert mirror("guy on left, facing right.") == "guy on right, facing left."
    assert mirror("LEFT-most left-hand lefty") == "Right-most right-hand righty"


@pytest.mark.parametrize("colour", COLOURS)
def test_a_tint_is_measured_as_its_own_colour(colour):
    rng = np.random.default_rng(1)
    grey = np.full((40, 40, 3), 128, np.uint8)
    grey[10:30] += rng.integers(0, 30, (20, 40, 1), np.uint8)
    found = [measured_colour(tint(grey, colour, rng), [0, 0, 40, 40], False) for _ in range(10)]
    # Measuring is careful (pale pinks get no name, brown has no range of its own), but never says another colour.
    assert all(name is None or name == colour or alike(name, colour) for name in found)
    if colour != "brown":
        assert found.count(colour) >= 3


def test_a_person_is_tinted_in_the_clothes_only():
    grey = np.full((60, 20, 3), 150, np.uint8)
    tinted = tint(grey, "red", np.random.default_rng(0), slice(10, 30))
    assert (tinted[12:28, :, 0].astype(int) - tinted[12:28, :, 2] > 60).all()
    np.testing.assert_array_equal(tinted[40:], grey[40:])
    assert measured_colour(np.full((9, 9, 3), 128, np.uint8), [0, 0, 2, 2], False) is None


def test_places_are_true_of_one_candidate_only():
    rng = np.random.default_rng(0)
    centres = np.array([[0.2, 0.5], [0.8, 0.5], [0.5, 0.5]])
    left = {place(centres, 0, rng) for _ in range(40)}
    assert all("left" in words for words, _ in left)
    assert {words for words, _ in {place(centres, 2, rng) for _ in range(20)}} == {"in the middle", "middle"}
    assert place(np.array([[0.5, 0.5], [0.52, 0.5]]), 0, rng) is None      # too near to say
    assert placed_noun(("on the left", False), "mug") == "mug on the left"
    assert placed_noun(("leftmost", True), "mug") == "leftmost mug"


def test_sentences_keep_their_noun():
    rng = np.random.default_rng(0)
    assert all("red mug" in sentence("red mug", rng).lower() for _ in range(30))
    people = {coloured_noun("person", "blue", rng) for _ in range(60)}
    assert all("blue" in phrase for phrase in people) and len(people) > 8
    assert any(phrase.startswith("woman in the blue") for phrase in people)


def test_assets_helpers():
    assert emoji_name("1f697") == "automobile"
    assert emoji_name("1f1e6") is None and emoji_name("1f468-200d-1f469") is None and emoji_name("0023") is None
    image = np.zeros((100, 400, 4), np.uint8)
    image[20:80, 10:390] = 255
    assert trim(image).shape == (25, 160, 4)
    assert trim(np.zeros((50, 50, 4), np.uint8)) is None
