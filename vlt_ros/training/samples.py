# SPDX-License-Identifier: Apache-2.0
"""Training samples: pairs that teach following, and text-only pictures that teach listening.

A tracker trained on pairs alone ignores its sentence, because the template says it all. So half of the samples have
no template, and in most of those several equal candidates are placed before the target is drawn among them: nothing
but the phrase tells which it is.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from vlt_ros.networks.preprocess import MEAN
from vlt_ros.training.datasets import DataSet, Picture, Thing, Video
from vlt_ros.training.library import Library, PictureError
from vlt_ros.training.phrases import (
    COLOURS,
    PEOPLE,
    alike,
    coloured_noun,
    content_words,
    measured_colour,
    mirror,
    place,
    placed_noun,
    same_kind,
    sentence,
    tint,
)

KINDS = ("still", "clip", "paste", "phrase", "photo")
DEFAULT_MIX = {"still": 0.17, "clip": 0.19, "paste": 0.12, "phrase": 0.32, "photo": 0.20}
# What tells the candidates of a phrase scene apart; names need far more data than colours and places.
PHRASE_SHARES = {"colour": 0.42, "position": 0.30, "name": 0.13, "both": 0.15}
# Pairs whose search region does not show the target: a template alone must not promise one either.
ABSENT_PAIRS = 0.16
# Share of those with another object in the target's place; something is nearly always there.
REPLACED = 0.6
PADDING = tuple(round(255 * value) for value in MEAN)
PASTE_CANVAS = 420
# Draws for one sample: boxes may be too small, places taken, pictures broken.
ATTEMPTS = 100
# Frames between template and search region: of the long videos' causal pairs, and of the given clips' both ways.
MAX_GAP, MAX_CLIP_GAP = 200, 40
# Pairs of videos that show where the target was, in frames in which it is known to be gone.
GONE_PAIRS = 0.07
# Share of videos' frames among the photographs that text alone searches.
VIDEO_PHOTOS = 0.15
# A sentence of so many words describes one thing; a shorter one may be true of anything of that class.
DESCRIPTION_WORDS = 3


@dataclass
class Sample:
    """One training sample.

    template (z, z, 3) and search (x, x, 3): RGB uint8. template_blank: no template, the text alone decides.
    text: the sentence, may be ''. box: float32 (4,) centre x, centre y, width, height as fractions of the search
    crop, zeros when not present. present: False when what the text names is not in the search crop.
    kind: one of :data:`KINDS`.
    """

    template: np.ndarray
    search: np.ndarray
    template_blank: bool
    text: str
    box: np.ndarray
    present: bool
    kind: str


@dataclass
class CandidateScene:
    """A picture with equal candidates and two phrases, for measuring whether the phrase decides.

    image: RGB uint8 (x, x, 3). boxes: (K, 4) x, y, w, h in pixels. names: K. target, wrong_target: indices of the
    candidates that the right and the wrong phrase describe.
    """

    image: np.ndarray
    boxes: np.ndarray
    names: tuple[str, ...]
    right: str
    wrong: str
    target: int
    wrong_target: int


@dataclass
class Photograph:
    """A whole photograph and two phrases, for measuring whether words lead to their thing in real scenes.

    image: RGB uint8 (H, W, 3). boxes: (K, 4) x, y, w, h in pixels of the things of one name. target: index of the
    one that the right phrase describes, None when its name is all that it says. right, absent: the phrase, and one
    for something that is not in the photograph ('' where there is none to be had).
    """

    image: np.ndarray
    boxes: np.ndarray
    target: int | None
    right: str
    absent: str


def _window(image: np.ndarray, left: float, top: float, side: float, size: int,
            around: np.ndarray | None = None) -> np.ndarray:
    """Square window of a picture at ``size`` x ``size``; outside is ``around`` stretched, or the mean colour."""
    height, width = image.shape[:2]
    x, y, side = int(round(left)), int(round(top)), max(2, int(round(side)))
    x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + side, width), min(y + side, height)
    if around is None:
        canvas = np.empty((side, side, 3), np.uint8)
        canvas[:] = PADDING
    else:
        canvas = cv2.resize(around, (side, side), interpolation=cv2.INTER_LINEAR)
    if x1 < x2 and y1 < y2:
        canvas[y1 - y:y2 - y, x1 - x:x2 - x] = image[y1:y2, x1:x2]
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)


def _fractions(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    """Corners as fractions, cut to the crop, to the centre form of :class:`Sample`."""
    x1, y1, x2, y2 = np.clip([x1, y1, x2, y2], 0, 1)
    return np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], np.float32)


class SampleGenerator:
    """Samples by index: the same (seed, index) always gives the same sample, in any process.

    Args:
        data_dir, assets_dir: see :class:`vlt_ros.training.library.Library`; either may be None.
        template_size, search_size: crop sides in pixels. seed: of all randomness.
        split: 'train' or 'heldout'; objects, pictures and videos of one never appear in the other.
        mix: share of each kind, :data:`DEFAULT_MIX` when None, of the kinds that the data allow.
        phrase_shares: what tells the candidates of phrase scenes apart, :data:`PHRASE_SHARES` when None.
        datasets: others than data_dir, see :mod:`vlt_ros.training.datasets`.
        dataset_shares: share of each of them (and of data_dir, by the name 'data') among those that can give a
            sample; without, each source has the square root of its size.

    Raises:
        FileNotFoundError: data or assets are missing. ValueError: an unknown kind, sort or data set, or a kind that
            the data do not allow.
    """

    def __init__(self, data_dir, assets_dir, template_size: int = 112, search_size: int = 224, seed: int = 0,
                 split: str = "train", mix: dict[str, float] | None = None,
                 phrase_shares: dict[str, float] | None = None, datasets: Sequence[DataSet] = (),
                 dataset_shares: dict[str, float] | None = None) -> None:
        phrase_shares = phrase_shares or PHRASE_SHARES
        if set(phrase_shares) - set(PHRASE_SHARES):
            raise ValueError(f"phrase_shares names unknown sorts {sorted(set(phrase_shares) - set(PHRASE_SHARES))}: "
                             f"known are {', '.join(PHRASE_SHARES)}")
        if set(mix or ()) - set(KINDS):
            raise ValueError(f"mix names unknown kinds {sorted(set(mix) - set(KINDS))}: known are {', '.join(KINDS)}")
        if data_dir is None and not datasets:
            raise ValueError("there is nothing to train on: give the folder of stills and clips as data, or datasets")
        groups = [*(["data"] if data_dir is not None else []), *(dataset.group for dataset in datasets)]
        if dataset_shares and set(dataset_shares) != set(groups):
            raise ValueError(f"dataset_shares must name each of {', '.join(groups)} and nothing else, "
                             f"not {', '.join(dataset_shares)}")
        self.library = library = Library(data_dir, assets_dir, split, datasets)
        self.template_size, self.search_size, self.seed, self.split = template_size, search_size, seed, split
        total = sum(phrase_shares.values())
        self._phrase_shares = {sort: share / total for sort, share in phrase_shares.items()}
        # Sentences that only name a class do not say which of the things in a whole photograph is meant.
        self._described = [d for d in library.videos if d.describes and any(video.text for video in d.videos)]
        self._picture_shares = _shares(library.pictures, dataset_shares)
        self._video_shares = _shares(library.videos, dataset_shares)
        self._described_shares = _shares(self._described, dataset_shares)
        self._kinds, self._shares = self._possible(mix)
        self._everyday = {name for dataset in library.pictures if dataset.boxed == "every"
                          for picture in dataset.pictures for name in picture.names}
        cutouts = library.cutouts
        self._pools = [pool for pool in (
            [i for i, c in enumerate(cutouts) if not c.real],
            [i for i, c in enumerate(cutouts) if c.real and c.name not in PEOPLE],
            [i for i, c in enumerate(cutouts) if c.person]) if pool]
        pool_shares = np.array([0.45, 0.3, 0.25] if len(self._pools) == 3 else [1.0] * len(self._pools))
        self._pool_shares = pool_shares / max(pool_shares.sum(), 1.0)
        self._named: dict[str, list[int]] = {}
        for i, cutout in enumerate(cutouts):
            self._named.setdefault(cutout.name, []).append(i)

    def _possible(self, mix: dict[str, float] | None) -> tuple[list[str], np.ndarray]:
        """Kinds that the data allow, and their shares.

        Raises:
            ValueError: one that ``mix`` asks for in training is not among them, or there is none.
        """
        library = self.library
        possible = {"still": bool(library.pictures or library.plain), "clip": bool(library.videos),
                    "paste": bool(library.cutouts), "phrase": bool(library.cutouts),
                    "photo": bool(library.pictures or self._described)}
        wanted = {kind: share for kind, share in (mix or DEFAULT_MIX).items() if share > 0}
        lacking = [kind for kind in wanted if not possible[kind]]
        if mix and lacking and self.split == "train":
            raise ValueError(f"mix asks for {', '.join(lacking)}, which the data do not allow: still and photo need "
                             "pictures, clip needs videos, paste and phrase need assets")
        kinds = [kind for kind in wanted if possible[kind]]
        if not kinds:
            raise ValueError(f"the {self.split} part of the data allows none of {', '.join(wanted)}: give more data")
        shares = np.array([wanted[kind] for kind in kinds], float)
        return kinds, shares / shares.sum()

    def sample(self, index: int) -> Sample:
        """The sample of an index; pictures that cannot be read are passed over (see ``library.unreadable``)."""
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng([self.seed, index, attempt, 7 if self.split == "heldout" else 3])
            kind = self._kinds[rng.choice(len(self._kinds), p=self._shares)]
            try:
                sample = getattr(self, f"_{kind}")(rng)
            except PictureError:
                continue
            if sample is not None:
                return sample
        broken = len(self.library.unreadable)
        raise RuntimeError(f"no sample could be made for seed {self.seed}, index {index}"
                           + (f"; {broken} pictures cannot be read" if broken else ""))

    def candidates(self, index: int, by: str = "colour", count: int = 3) -> CandidateScene:
        """The index-th scene of ``count`` equal candidates told apart by 'colour', 'position' or 'name' alone.

        Raises:
            ValueError: unknown ``by``.
        """
        if by not in ("colour", "position", "name"):
            raise ValueError(f"candidates differ by colour, position or name, not by {by!r}")
        for attempt in range(200):
            rng = np.random.default_rng([self.seed, index, attempt, 11, ("colour", "position", "name").index(by)])
            scene = self._scene(rng, by, count)
            if scene is None:
                continue
            image, boxes, nouns, _, names = scene
            # All or none: dropping scenes for the target's sake alone would favour outer places.
            if any(noun is None for noun in nouns):
                continue
            target, wrong = (int(i) for i in rng.permutation(count)[:2])
            return CandidateScene(image, np.array(boxes, float), tuple(names), f"the {nouns[target]}",
                                  f"the {nouns[wrong]}", target, wrong)
        raise RuntimeError(f"no scene could be made for seed {self.seed}, index {index}")

    def photograph(self, index: int, told_apart: bool = False) -> Photograph:
        """The index-th whole photograph with a phrase for something in it; every source has the same share.

        Args:
            told_apart: False for a class phrase. True for one of 2 to 8 things of one name, told from the others by
                its colour or place.

        Raises:
            ValueError: the data have no such photographs.
        """
        sources = [dataset for dataset in self.library.pictures
                   if dataset.boxed != "some" and not dataset.describes
                   and (not told_apart or any(len(set(p.names)) < len(p.names) for p in dataset.pictures))]
        if not sources:
            raise ValueError(f"the {self.split} part of the data has no photographs with named boxes")
        for attempt in range(500):
            rng = np.random.default_rng([self.seed, index, attempt, 13 + told_apart])
            # Sources go round, so that all have their share even where one's photographs are mostly passed over.
            dataset = sources[(index + attempt // 20) % len(sources)]
            picture = dataset.pictures[rng.integers(len(dataset.pictures))]
            try:
                photograph = self._photograph(rng, dataset, picture, told_apart)
            except PictureError:
                continue
            if photograph is not None:
                return photograph
        raise RuntimeError(f"no photograph was found for seed {self.seed}, index {index}")

    def _photograph(self, rng, dataset: DataSet, picture: Picture, told_apart: bool) -> Photograph | None:
        things = picture.things
        thing = things[rng.integers(len(things))]
        image = self._read(dataset, picture.file)
        side = max(image.shape[:2])
        same = [other for other in things if other.name == thing.name]
        if not _within(image, thing.box) or math.sqrt(thing.box[2] * thing.box[3]) < 0.05 * side:
            return None
        boxes, right, target = np.array([other.box for other in same], float), thing.name, None
        if told_apart:
            if not 2 <= len(same) <= 8:
                return None
            left, top, side = (int(round(value)) for value in self._whole(image.shape))
            words = [text for text, _ in self._true_words(rng, image, things, thing, left, top, side)]
            if not words:
                return None
            right = words[rng.integers(len(words))]
            target = next(i for i, other in enumerate(same) if other is thing)
        absent = self._absent_words(rng, image, things, thing, 0, 0, max(image.shape[:2]), dataset)
        return Photograph(image, boxes, target, f"the {right}", f"the {absent[0][0]}" if absent else "")

    # pieces -----------------------------------------------------------------------------------------------
    def _boxed(self, rng) -> tuple[DataSet, Picture]:
        """Any picture with boxes."""
        dataset = _draw(self.library.pictures, self._picture_shares, rng)
        return dataset, dataset.pictures[rng.integers(len(dataset.pictures))]

    def _read(self, dataset: DataSet, path) -> np.ndarray:
        return self.library.image(path, dataset.keep)[..., :3]

    def _background(self, rng, size: int | None = None, without: tuple[str, ...] = ()) -> np.ndarray:
        """A piece of a photograph; ``without``: names that nothing boxed in it may have."""
        library, which = self.library, rng.random()
        if which < 0.25 and library.backgrounds:
            image = library.image(library.backgrounds[rng.integers(len(library.backgrounds))])
        elif (which < 0.6 and library.plain) or not library.pictures:
            image = self._unboxed(rng)
        else:
            dataset, picture = self._boxed(rng)
            if any(same_kind(there, name) for there in picture.names for name in without):
                image = self._unboxed(rng)
            else:
                image = self._read(dataset, picture.file)
        height, width = image.shape[:2]
        side = int(min(height, width) * rng.uniform(0.35, 1))
        x, y = rng.integers(0, width - side + 1), rng.integers(0, height - side + 1)
        image = image[y:y + side, x:x + side]
        if rng.random() < 0.5:
            image = image[:, ::-1]
        return cv2.resize(image, (size or self.search_size,) * 2,
                          interpolation=cv2.INTER_AREA if side > self.search_size else cv2.INTER_LINEAR)

    def _unboxed(self, rng) -> np.ndarray:
        """A picture without boxes; where there is none, a background, a video's frame or any picture."""
        library = self.library
        if library.plain:
            dataset, picture = library.plain[rng.integers(len(library.plain))]
            return self._read(dataset, picture.file)
        if library.backgrounds:
            return library.image(library.backgrounds[rng.integers(len(library.backgrounds))])
        if library.videos:
            dataset = _draw(library.videos, self._video_shares, rng)
            video = dataset.videos[rng.integers(len(dataset.videos))]
            there = np.flatnonzero(video.present)
            return self._read(dataset, video.frames[there[rng.integers(len(there))]])
        dataset, picture = self._boxed(rng)
        return self._read(dataset, picture.file)

    @staticmethod
    def _photometric(image: np.ndarray, rng, strength: float = 1.0, colour: bool = True) -> np.ndarray:
        """Light, colour (not where the phrase is about colour), resolution, blur, noise, JPEG."""
        pixels = image.astype(np.float32)
        if rng.random() < 0.7:
            pixels = ((pixels - 128) * rng.uniform(1 - 0.3 * strength, 1 + 0.3 * strength) + 128
                      + rng.uniform(-30, 30) * strength)
        if rng.random() < 0.3:
            pixels = 255 * np.clip(pixels / 255, 0, 1) ** rng.uniform(0.7, 1.45)
        if colour and rng.random() < 0.5:
            pixels = pixels * rng.uniform(0.9, 1.1, 3).astype(np.float32)
        if colour and rng.random() < 0.05:
            pixels = np.repeat(pixels.mean(2, keepdims=True), 3, 2)
        pixels = np.clip(pixels, 0, 255).astype(np.uint8)
        side = pixels.shape[0]
        if rng.random() < 0.3:
            factor = rng.uniform(1.3, 4)
            small = cv2.resize(pixels, (int(side / factor),) * 2, interpolation=cv2.INTER_AREA)
            pixels = cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR)
        if rng.random() < 0.15:
            pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.5, 1.6))
        if rng.random() < 0.12:
            length = int(rng.integers(3, 10))
            kernel = np.zeros((length, length), np.float32)
            kernel[length // 2] = 1 / length
            turn = cv2.getRotationMatrix2D(((length - 1) / 2,) * 2, rng.uniform(0, 180), 1)
            kernel = cv2.warpAffine(kernel, turn, (length, length))
            kernel /= max(kernel.sum(), 1e-3)
            pixels = cv2.filter2D(pixels, -1, kernel)
        if rng.random() < 0.25:
            noise = rng.normal(0, rng.uniform(2, 10), pixels.shape)
            pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
        if rng.random() < 0.25:
            _, code = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 80))])
            pixels = cv2.imdecode(code, cv2.IMREAD_COLOR)
        return pixels

    def _occlude(self, search: np.ndarray, box: np.ndarray, rng) -> None:
        """Cover a part of the target with a piece of another picture."""
        size = self.search_size
        share = rng.uniform(0.25, 0.5)
        width, height = box[2] * size * share, box[3] * size * share
        x = int((box[0] + rng.uniform(-0.4, 0.4) * box[2]) * size - width / 2)
        y = int((box[1] + rng.uniform(-0.4, 0.4) * box[3]) * size - height / 2)
        rows = slice(max(y, 0), max(0, int(y + height)))
        columns = slice(max(x, 0), max(0, int(x + width)))
        search[rows, columns] = cv2.resize(self._background(rng, 64), (size, size))[rows, columns]

    def _another(self, rng, name: str) -> tuple[np.ndarray, tuple[float, ...]]:
        """A picture and the box of an object in it that is nothing that ``name`` may stand for."""
        for _ in range(ATTEMPTS):
            if self.library.videos and (rng.random() < 0.5 or not self.library.pictures):
                dataset = _draw(self.library.videos, self._video_shares, rng)
                video = dataset.videos[rng.integers(len(dataset.videos))]
                there = np.flatnonzero(video.present)
                frame = there[rng.integers(len(there))]
                what, box, file = video.text, tuple(video.boxes[frame].tolist()), video.frames[frame]
            else:
                dataset, picture = self._boxed(rng)
                thing = picture.things[rng.integers(len(picture.things))]
                what, box, file = thing.name, thing.box, picture.file
            if min(box[2:]) >= 6 and not same_kind(what, name):
                return self._read(dataset, file), box
        raise PictureError(f"nothing but {name!r} is in the data")

    def _pair(self, template_image, template_box, search_image, search_box, text: str, kind: str, rng,
              name: str = "", gone: bool = False) -> Sample | None:
        """Crop template (factor 2) and search region (about 4, off centre) as a tracker meets them.

        name: what the target is, where that is known. gone: the target is not in the search image; the box says
        where it was.
        """
        x, y, w, h = template_box
        scale = math.sqrt(w * h)
        side = 2 * scale * math.exp(rng.normal(0, 0.06))
        cx, cy = x + w / 2 + rng.normal(0, 0.03) * scale, y + h / 2 + rng.normal(0, 0.03) * scale
        template = _window(template_image, cx - side / 2, cy - side / 2, side, self.template_size)
        present = rng.random() >= ABSENT_PAIRS and not gone
        replaced = not present and not gone and rng.random() < REPLACED
        if replaced:
            search_image, search_box = self._another(rng, name)
        x, y, w, h = search_box
        scale = math.sqrt(w * h)
        side = 4 * scale * math.exp(np.clip(rng.normal(0, 0.25), -0.5, 0.6))
        # Mostly near the middle, as a target is from one frame to the next, up to the region's edge.
        limit = max(0.0, side / 2 - 0.55 * scale)
        radius, angle = limit * rng.random() ** 1.3, rng.uniform(0, 2 * math.pi)
        shift_x = np.clip(radius * math.cos(angle) * 1.2, -limit, limit)
        shift_y = np.clip(radius * math.sin(angle) * 1.2, -limit, limit)
        left, top = x + w / 2 - shift_x - side / 2, y + h / 2 - shift_y - side / 2
        around = self._background(rng) if rng.random() < 0.5 else None
        search = _window(search_image, left, top, side, self.search_size, around)
        if not present and not replaced and not gone:
            search = self._background(rng)
        left, top, side = int(round(left)), int(round(top)), max(2, int(round(side)))
        cx, cy, fw, fh = np.array([(x + w / 2 - left) / side, (y + h / 2 - top) / side, w / side, h / side],
                                  np.float32)
        box = _fractions(cx - fw / 2, cy - fh / 2, cx + fw / 2, cy + fh / 2)
        if min(box[2:]) < 0.02:
            return None
        template = self._photometric(template, rng, 0.7)
        search = self._photometric(search, rng)
        if present and rng.random() < 0.12:
            self._occlude(search, box, rng)
        if rng.random() < 0.5:
            template, search, text = template[:, ::-1], search[:, ::-1], mirror(text)
            box[0] = 1 - box[0]
        if not present:
            box[:] = 0
        return Sample(np.ascontiguousarray(template), np.ascontiguousarray(search), False, text, box, present, kind)

    def _text_only(self, search, box: np.ndarray, text: str, present: bool, kind: str, rng) -> Sample:
        if rng.random() < 0.5:
            search, text = search[:, ::-1], mirror(text)
            box[0] = 1 - box[0]
        if not present:
            box[:] = 0
        blank = np.zeros((self.template_size, self.template_size, 3), np.uint8)
        return Sample(blank, np.ascontiguousarray(search), True, text, box, present, kind)

    # following --------------------------------------------------------------------------------------------
    def _still(self, rng) -> Sample | None:
        """Template and search region from one still, around a named object or any textured box."""
        if self.library.plain and (rng.random() < 0.3 or not self.library.pictures):
            dataset, picture = self.library.plain[rng.integers(len(self.library.plain))]
            image = self._read(dataset, picture.file)
            height, width = image.shape[:2]
            for _ in range(6):
                scale = math.exp(rng.uniform(math.log(14), math.log(0.5 * min(height, width))))
                aspect = math.exp(rng.normal(0, 0.45))
                w, h = scale * aspect, scale / aspect
                if w > 0.8 * width or h > 0.8 * height:
                    continue
                x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
                patch = image[int(y):int(y + h), int(x):int(x + w)]
                if patch.size and patch.std() > 28:
                    return self._pair(image, (x, y, w, h), image, (x, y, w, h), "", "still", rng)
            return None
        dataset, picture = self._boxed(rng)
        things = [thing for thing in picture.things if not thing.crowd]
        thing = things[rng.integers(len(things))]
        x, y, w, h = thing.box
        if min(w, h) < 6:
            return None
        image = self._read(dataset, picture.file)
        if max(w / image.shape[1], h / image.shape[0]) > 0.95 or not _within(image, thing.box):
            return None
        text = self._words(thing, rng) if rng.random() < 0.5 else ""
        return self._pair(image, thing.box, image, thing.box, text, "still", rng, thing.name)

    @staticmethod
    def _words(thing: Thing, rng) -> str:
        return thing.texts[rng.integers(len(thing.texts))] if thing.texts else sentence(thing.name, rng)

    def _clip(self, rng) -> Sample | None:
        """Two frames of a video: real motion, and frames from which the target is gone."""
        dataset = _draw(self.library.videos, self._video_shares, rng)
        video = dataset.videos[rng.integers(len(dataset.videos))]
        moments = (self._causal_moments if dataset.causal else self._near_moments)(video, rng)
        if moments is None:
            return None
        first, second, shown = moments
        if min(video.boxes[first][2:]) < 4 or min(video.boxes[second][2:]) < 4:
            return None
        template_image = self._read(dataset, video.frames[first])
        search_image = self._read(dataset, video.frames[shown])
        if not (_within(template_image, video.boxes[first]) and _within(search_image, video.boxes[second])):
            return None
        return self._pair(template_image, video.boxes[first], search_image, video.boxes[second],
                          video.text if rng.random() < 0.5 else "", "clip", rng, video.text,
                          gone=shown != second)

    @staticmethod
    def _near_moments(video: Video, rng) -> tuple[int, int, int] | None:
        """See :meth:`_causal_moments`: for short clips, forwards or backwards in time."""
        length = len(video.frames)
        first = rng.integers(length)
        second = int(np.clip(first + rng.integers(-MAX_CLIP_GAP, MAX_CLIP_GAP + 1), 0, length - 1))
        return (first, second, second) if video.present[first] and video.present[second] else None

    @staticmethod
    def _causal_moments(video: Video, rng) -> tuple[int, int, int] | None:
        """Template frame, the frame of the search box, and the frame to search: at most MAX_GAP later.

        The last two differ when the target is gone from the frame to search: the box says where it was last.
        """
        usable = np.flatnonzero(video.present)
        first = usable[rng.integers(len(usable))]
        if video.absent.any() and rng.random() < GONE_PAIRS:
            gone = first + 1 + np.flatnonzero(video.absent[first + 1:first + 1 + MAX_GAP])
            if not len(gone):
                return None
            shown = gone[rng.integers(len(gone))]
            return first, usable[np.searchsorted(usable, shown) - 1], shown
        later = usable[(usable > first) & (usable <= first + MAX_GAP)]
        if not len(later):
            return None
        second = later[rng.integers(len(later))]
        return first, second, second

    def _cutout(self, index: int) -> np.ndarray:
        return self.library.image(self.library.cutouts[index].file)

    def _pick(self, rng) -> int:
        pool = self._pools[rng.choice(len(self._pools), p=self._pool_shares)]
        return int(pool[rng.integers(len(pool))])

    @staticmethod
    def _put(canvas: np.ndarray, cutout: np.ndarray, cx: float, cy: float, size: float, rng,
             turn: float = 8) -> tuple[int, int, int, int] | None:
        """Paste a cut-out with sqrt(w h) = ``size`` pixels, turned by up to ``turn`` degrees.

        Returns the visible box x, y, w, h in pixels, None when next to nothing is visible.
        """
        height, width = cutout.shape[:2]
        scale = size / math.sqrt(width * height)
        piece = cv2.resize(cutout, (max(2, int(round(width * scale))), max(2, int(round(height * scale)))),
                           interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        height, width = piece.shape[:2]
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-turn, turn), 1)
        cosine, sine = abs(matrix[0, 0]), abs(matrix[0, 1])
        wide, high = int(width * cosine + height * sine) + 1, int(height * cosine + width * sine) + 1
        matrix[0, 2] += wide / 2 - width / 2
        matrix[1, 2] += high / 2 - height / 2
        piece = cv2.warpAffine(piece, matrix, (wide, high), flags=cv2.INTER_LINEAR)
        rows, columns = np.nonzero(piece[..., 3] > 90)
        if len(rows) < 8:
            return None
        piece = piece[rows.min():rows.max() + 1, columns.min():columns.max() + 1]
        height, width = piece.shape[:2]
        x, y = int(round(cx - width / 2)), int(round(cy - height / 2))
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, canvas.shape[1]), min(y + height, canvas.shape[0])
        if right - left < 3 or bottom - top < 3:
            return None
        part = piece[top - y:bottom - y, left - x:right - x]
        alpha = part[..., 3:].astype(np.float32) / 255
        canvas[top:bottom, left:right] = (part[..., :3] * alpha
                                          + canvas[top:bottom, left:right] * (1 - alpha)).astype(np.uint8)
        return left, top, right - left, bottom - top

    def _paste(self, rng) -> Sample | None:
        """A cut-out on two backgrounds, among distractors that may be of its class, drawn in any order."""
        index = self._pick(rng)
        name, target = self.library.cutouts[index].name, self._cutout(index)
        n = PASTE_CANVAS
        template_image, search_image = self._background(rng, n), self._background(rng, n)
        size = math.exp(rng.uniform(math.log(24), math.log(130)))
        template_box = self._put(template_image, target, n / 2, n / 2, size, rng)
        pieces: list[tuple[bool, np.ndarray]] = []
        for _ in range(rng.integers(0, 4)):
            if rng.random() < 0.2:
                other = index
            elif rng.random() < 0.3:
                other = self._named[name][rng.integers(len(self._named[name]))]
            else:
                other = self._pick(rng)
            distractor = self._cutout(other)
            if other == index:
                colour = list(COLOURS)[rng.integers(len(COLOURS))]
                distractor = np.dstack([tint(distractor[..., :3], colour, rng), distractor[..., 3]])
            pieces.append((False, distractor))
        if rng.random() < 0.3:
            target = np.ascontiguousarray(target[:, ::-1])
        pieces.insert(0, (True, target))
        search_box = None
        for k in rng.permutation(len(pieces)):
            is_target, piece = pieces[k]
            if is_target:
                height, width = piece.shape[:2]
                aspect = math.exp(rng.normal(0, 0.1))
                piece = cv2.resize(piece, (max(2, int(width * aspect)), max(2, int(height / aspect))))
                search_box = self._put(search_image, piece, n / 2, n / 2, size * math.exp(rng.normal(0, 0.15)), rng, 15)
            else:
                angle, distance = rng.uniform(0, 2 * math.pi), size * rng.uniform(0.9, 2)
                self._put(search_image, piece, n / 2 + distance * math.cos(angle), n / 2 + distance * math.sin(angle),
                          size * math.exp(rng.normal(0, 0.25)), rng)
        if template_box is None or search_box is None:
            return None
        text = sentence(name, rng) if rng.random() < 0.5 else ""
        return self._pair(template_image, template_box, search_image, search_box, text, "paste", rng, name)

    # listening --------------------------------------------------------------------------------------------
    def _coloured(self, index: int, colour: str, rng) -> np.ndarray:
        cutout = self._cutout(index)
        if self.library.cutouts[index].name in PEOPLE and rng.random() < 0.75:
            height = cutout.shape[0]
            clothes = slice(int(0.15 * height), int(rng.uniform(0.5, 0.62) * height))
            rgb = tint(cutout[..., :3], colour, rng, clothes)
        else:
            rgb = tint(cutout[..., :3], colour, rng)
        return np.dstack([rgb, cutout[..., 3]])

    def _scene(self, rng, by: str, count: int):
        """Equal candidates on a photograph.

        Args:
            by: 'colour', 'position', 'name', or 'both' for colour and position.

        Returns:
            picture, boxes (x, y, w, h in pixels), a true noun phrase of each (None where there is none), a noun phrase
            true of no candidate (or None), and the candidates' names; or None when the scene did not work out.
        """
        n = self.search_size
        if rng.random() < 0.4:
            size = math.exp(rng.uniform(math.log(0.10), math.log(0.18)))
        else:
            size = math.exp(rng.uniform(math.log(0.18), math.log(0.42)))
        size = n * min(size, 0.62 / math.sqrt(count))
        colours: list[str] = []
        spare = None
        if by in ("colour", "both"):
            pool = list(COLOURS)
            rng.shuffle(pool)
            for colour in pool:
                if not any(alike(colour, chosen) for chosen in colours):
                    colours.append(colour)
            spare, colours = next(iter(colours[count:]), None), colours[:count]
            if len(colours) < count:
                return None
            indices = [self._pick(rng)] * count if rng.random() < 0.6 else [self._pick(rng) for _ in range(count)]
            pieces = [self._coloured(i, colour, rng) for i, colour in zip(indices, colours, strict=True)]
        else:
            if by == "position" and rng.random() < 0.6:
                indices = [self._pick(rng)] * count
            else:
                indices = self._different(rng, count)
            if len(indices) < count:
                return None
            pieces = [self._cutout(i) for i in indices]
        names = [self.library.cutouts[i].name for i in indices]
        centres = self._spread(rng, count, size)
        if len(centres) < count:
            return None
        canvas = self._background(rng, without=tuple(names))
        boxes: list = [None] * count
        for k in rng.permutation(count):
            piece = pieces[k] if rng.random() >= 0.5 else np.ascontiguousarray(pieces[k][:, ::-1])
            boxes[k] = self._put(canvas, piece, *centres[k], size * math.exp(rng.normal(0, 0.08)), rng)
        if any(box is None for box in boxes):
            return None
        middles = np.array([[x + w / 2, y + h / 2] for x, y, w, h in boxes]) / n
        places = [place(middles, k, rng) for k in range(count)]
        nouns: list[str | None] = []
        for k in range(count):
            if by == "colour":
                nouns.append(coloured_noun(names[k], colours[k], rng))
            elif by == "name":
                nouns.append(names[k])
            elif places[k] is None:
                nouns.append(None)
            else:
                noun = names[k] if rng.random() < 0.5 else str(rng.choice(["one", "object", "thing"]))
                if by == "both":
                    noun = coloured_noun(names[k], colours[k], rng)
                nouns.append(placed_noun(places[k], noun))
        absent = None
        if by == "colour" and spare:
            absent = coloured_noun(names[rng.integers(count)], spare, rng)
        if by == "name":
            for _ in range(20):
                name = self.library.cutouts[self._pick(rng)].name
                if not any(same_kind(name, other) for other in names):
                    absent = name
                    break
        return canvas, boxes, nouns, absent, names

    def _different(self, rng, count: int) -> list[int]:
        """Cut-outs of different names (fewer than ``count`` when it did not work out)."""
        indices: list[int] = []
        for _ in range(40):
            index = self._pick(rng)
            name = self.library.cutouts[index].name
            if not any(same_kind(name, self.library.cutouts[other].name) for other in indices):
                indices.append(index)
            if len(indices) == count:
                break
        return indices

    def _spread(self, rng, count: int, size: float) -> list[np.ndarray]:
        """Centres that keep candidates apart (fewer than ``count`` when it did not work out)."""
        centres: list[np.ndarray] = []
        for _ in range(count):
            for _ in range(60):
                centre = rng.uniform(0.55 * size, self.search_size - 0.55 * size, 2)
                if all(max(abs(centre - other)) > 1.15 * size and math.hypot(*(centre - other)) > 1.45 * size
                       for other in centres):
                    centres.append(centre)
                    break
        return centres

    def _phrase(self, rng) -> Sample | None:
        """Equal candidates of which only the phrase names one, or none of them."""
        by = str(rng.choice(list(self._phrase_shares), p=list(self._phrase_shares.values())))
        count = int(rng.integers(2, 5))
        scene = self._scene(rng, by, count)
        if scene is None:
            return None
        image, boxes, nouns, absent, _ = scene
        n = self.search_size
        target = int(rng.integers(count))
        present, noun = True, nouns[target]
        if by in ("colour", "name") and absent and rng.random() < 0.3:
            present, noun = False, absent
        if noun is None:
            return None
        x, y, w, h = boxes[target]
        box = np.array([(x + w / 2) / n, (y + h / 2) / n, w / n, h / n], np.float32)
        image = self._photometric(image, rng, 0.6, colour=False)
        return self._text_only(image, box, sentence(noun, rng), present, "phrase", rng)

    def _photo(self, rng) -> Sample | None:
        """A real photograph or frame, and words that are true of one object in it, or of none."""
        library = self.library
        if self._described and (not library.pictures or rng.random() < VIDEO_PHOTOS):
            dataset = _draw(self._described, self._described_shares, rng)
            video = dataset.videos[rng.integers(len(dataset.videos))]
            frame = int(rng.integers(len(video.frames)))
            if not video.text or not (video.present[frame] or video.absent[frame]):
                return None
            file, gone = video.frames[frame], bool(video.absent[frame])
            box = (0.0, 0.0, 0.0, 0.0) if gone else tuple(video.boxes[frame].tolist())
            things = targets = [Thing(video.text, box, (video.text,))]
        else:
            dataset, picture = self._boxed(rng)
            if dataset.boxed == "some":
                return None
            file, gone, things = picture.file, False, picture.things
            targets = [thing for thing in things if not thing.crowd and (thing.texts or not dataset.describes)]
        image = self._read(dataset, file)
        thing = targets[int(rng.integers(len(targets)))]
        x, y, w, h = thing.box
        if gone:
            return self._whole_without(rng, image, thing.texts[0])
        if min(w, h) < 7 or not _within(image, thing.box):
            return None
        # A phrase of somebody who saw the whole picture may be wrong of a part of it.
        whole = dataset.describes and bool(dataset.pictures)
        left, top, side = self._whole(image.shape) if whole else self._photo_window(rng, image.shape, thing.box)
        if math.sqrt(w * h) / side < 0.05:
            return None
        left, top, side = int(round(left)), int(round(top)), int(round(side))
        present = True
        if dataset.describes:
            words = [(text, True) for text in thing.texts]
        else:
            words = self._true_words(rng, image, things, thing, left, top, side)
        if rng.random() < 0.22:
            absent = self._absent_words(rng, image, things, thing, left, top, side, dataset)
            present, words = (False, absent) if absent else (True, words)
        if not words:
            return None
        text, complete = words[rng.integers(len(words))]
        around = self._background(rng) if rng.random() < 0.3 else None
        search = _window(image, left, top, side, self.search_size, around)
        box = _fractions((x - left) / side, (y - top) / side, (x + w - left) / side, (y + h - top) / side)
        if present and box[2] * box[3] < 0.5 * w * h / side ** 2:
            return None
        search = self._photometric(search, rng, 0.6, colour=False)
        return self._text_only(search, box, text if complete else sentence(text, rng), present, "photo", rng)

    def _whole_without(self, rng, image: np.ndarray, text: str) -> Sample:
        """A whole frame from which the target of ``text`` is gone."""
        left, top, side = (int(round(value)) for value in self._whole(image.shape))
        around = self._background(rng) if rng.random() < 0.3 else None
        search = self._photometric(_window(image, left, top, side, self.search_size, around), rng, 0.6, colour=False)
        return self._text_only(search, np.zeros(4, np.float32), text, False, "photo", rng)

    def letterboxed(self, image: np.ndarray) -> tuple[np.ndarray, int, int, int]:
        """A whole picture as a search crop; and its window's left, top and side in the picture's pixels."""
        left, top, side = (int(round(value)) for value in self._whole(image.shape))
        return _window(image, left, top, side, self.search_size), left, top, side

    @staticmethod
    def _whole(shape) -> tuple[float, float, float]:
        """The whole picture letterboxed: left, top, side in pixels."""
        height, width = shape[:2]
        side = max(height, width)
        return (width - side) / 2, (height - side) / 2, side

    @classmethod
    def _photo_window(cls, rng, shape, box) -> tuple[float, float, float]:
        """The whole picture letterboxed, or a window that holds the box: left, top, side in pixels."""
        height, width = shape[:2]
        x, y, w, h = box
        if rng.random() < 0.4:
            return cls._whole(shape)
        wanted = math.sqrt(w * h) / math.exp(rng.uniform(math.log(0.08), math.log(0.5)))
        side = min(max(height, width), max(1.15 * max(w, h), wanted))
        low, high = sorted((x + w - side, x))
        left = rng.uniform(low, high)
        low, high = sorted((y + h - side, y))
        top = rng.uniform(low, high)
        if side < width:
            left = np.clip(left, 0, width - side)
        if side < height:
            top = np.clip(top, 0, height - side)
        return left, top, side

    @staticmethod
    def _visible(things, left: int, top: int, side: int) -> list[tuple[Thing, float, np.ndarray]]:
        """Objects in a window: object, visible share, centre of the visible part as fractions of the window."""
        visible = []
        for thing in things:
            x, y, w, h = thing.box
            x1, y1, x2, y2 = max(x, left), max(y, top), min(x + w, left + side), min(y + h, top + side)
            if x2 > x1 and y2 > y1:
                centre = np.array([((x1 + x2) / 2 - left) / side, ((y1 + y2) / 2 - top) / side])
                visible.append((thing, (x2 - x1) * (y2 - y1) / (w * h), centre))
        return visible

    def _true_words(self, rng, image, things, thing: Thing, left: int, top: int, side: int) -> list[tuple[str, bool]]:
        """Words that are true of ``thing`` and of no other object of its name in the window.

        Returns:
            noun phrases and sentences; the bool tells the latter.
        """
        same = [entry for entry in self._visible(things, left, top, side) if entry[0].name == thing.name]
        nouns: list[str] = []
        if len(same) == 1:
            nouns += [thing.name] * 3
        colour = measured_colour(image, thing.box, thing.name in PEOPLE)
        if colour:
            others = [measured_colour(image, other.box, other.name in PEOPLE)
                      for other, _, _ in same if other is not thing]
            if all(other is not None and not alike(other, colour) for other in others):
                nouns += [coloured_noun(thing.name, colour, rng)] * (6 if len(same) > 1 else 4)
        if len(same) > 1:
            own = [i for i, (other, _, _) in enumerate(same) if other is thing]
            if own and all(share > 0.6 for _, share, _ in same):
                where = place(np.array([centre for _, _, centre in same]), own[0], rng)
                if where:
                    nouns += [placed_noun(where, thing.name)] * 3
        return [(noun, False) for noun in nouns] + [(text, True) for text in thing.texts if len(same) == 1]

    def _absent_words(self, rng, image, things, thing: Thing, left: int, top: int, side: int,
                      dataset: DataSet) -> list[tuple[str, bool]]:
        """Words that are true of nothing in the picture, in the form of :meth:`_true_words`.

        Another thing's name or sentence, or a colour that ``thing`` has not. Where sentences are the data set's own,
        so are these: the manner of speaking must not tell that they are wrong.
        """
        words: list[tuple[str, bool]] = []
        for _ in range(10):
            other = self._other(rng, dataset if thing.texts else None)
            if not other.name:
                continue
            text = other.texts[rng.integers(len(other.texts))] if thing.texts and other.texts else other.name
            described = len(content_words(text)) >= DESCRIPTION_WORDS and text in other.texts
            if dataset.boxed != "every" and not described and any(same_kind(text, name) for name in self._everyday):
                continue
            if not any(same_kind(f"{other.name} {text}", there.name) for there in things):
                words = [(text, text in other.texts)]
                break
        if dataset.describes:
            return words
        colour = measured_colour(image, thing.box, thing.name in PEOPLE)
        same = [entry for entry in self._visible(things, left, top, side) if entry[0].name == thing.name]
        if colour and rng.random() < 0.4 and len(same) == 1:
            pool = [other for other in COLOURS if not alike(other, colour)]
            words = [(coloured_noun(thing.name, pool[rng.integers(len(pool))], rng), False)]
        return words

    def _other(self, rng, dataset: DataSet | None) -> Thing:
        """Something in any picture with boxes, or in any video or picture of one data set."""
        if dataset is not None and dataset.videos:
            video = dataset.videos[rng.integers(len(dataset.videos))]
            return Thing(video.text, (0.0, 0.0, 0.0, 0.0), (video.text,))
        if dataset is None:
            _, picture = self._boxed(rng)
        else:
            picture = dataset.pictures[rng.integers(len(dataset.pictures))]
        things = picture.things
        if dataset is not None:
            things = [thing for thing in things if thing.texts]
        return things[rng.integers(len(things))]


def _draw(datasets: Sequence[DataSet], shares: np.ndarray, rng) -> DataSet:
    return datasets[rng.choice(len(datasets), p=shares)] if len(datasets) > 1 else datasets[0]


def _shares(datasets: Sequence[DataSet], given: dict[str, float] | None) -> np.ndarray:
    """Share of each data set among these.

    The square root of its size: large single-class sources do not drown the small varied ones. ``given``: shares of
    groups, inside which that goes on.
    """
    sizes = np.array([len(d.videos or d.pictures) ** 0.5 for d in datasets])
    if given and len(sizes):
        groups = [d.group for d in datasets]
        sizes = np.array([given[group] * size / sum(s for s, g in zip(sizes, groups, strict=True) if g == group)
                          for size, group in zip(sizes, groups, strict=True)])
        if not sizes.any():
            raise ValueError(f"dataset_shares leaves nothing of {', '.join(sorted(set(groups)))}: give a share above 0")
    return sizes / sizes.sum() if len(sizes) else sizes


def _within(image: np.ndarray, box) -> bool:
    """Whether the box has its middle in the picture: annotations may belong to another size of it."""
    x, y, w, h = box
    return 0 <= x + w / 2 <= image.shape[1] and 0 <= y + h / 2 <= image.shape[0]


def contact_sheet(generator: SampleGenerator, count: int = 40, columns: int = 8) -> np.ndarray:
    """Samples 0 .. count - 1 side by side with box, text and template, BGR uint8."""
    tiles = []
    for index in range(count):
        sample = generator.sample(index)
        side = sample.search.shape[0]
        tile = np.zeros((side + 20, side, 3), np.uint8)
        tile[:side] = sample.search
        if not sample.template_blank:
            tile[:56, :56] = cv2.resize(sample.template, (56, 56))
        if sample.present:
            cx, cy, w, h = sample.box * side
            cv2.rectangle(tile, (int(cx - w / 2), int(cy - h / 2)), (int(cx + w / 2), int(cy + h / 2)), (0, 255, 0), 1)
        text = ("" if sample.present else "ABSENT ") + sample.text[:40]
        cv2.putText(tile, text, (2, side + 14), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (255, 255, 255), 1)
        tiles.append(tile)
    rows = [np.hstack(tiles[i:i + columns]) for i in range(0, len(tiles) - columns + 1, columns)]
    return np.vstack(rows)[..., ::-1]


def main() -> None:
    """Draw a contact sheet: look at the data before training on it."""
    parser = argparse.ArgumentParser(description="Draw training samples.")
    parser.add_argument("--sheet", required=True, help="picture to write")
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--assets", default="build/assets")
    arguments = parser.parse_args()
    generator = SampleGenerator(arguments.data, arguments.assets, mix={arguments.kind: 1.0})
    cv2.imwrite(arguments.sheet, contact_sheet(generator))


if __name__ == "__main__":
    main()
