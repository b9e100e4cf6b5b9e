# SPDX-License-Identifier: Apache-2.0
"""The pictures that samples are made of, split once and for all into training and held-out parts."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from vlt_ros.training.phrases import PEOPLE

# Clips kept out of training, to choose inference settings on.
HELDOUT_CLIPS = frozenset({"davis16_goat", "davis16_scooter-black", "davis16_parkour", "otb_Woman", "otb_Car1",
                           "davis16_car-shadow"})
HELDOUT_STILLS, HELDOUT_OBJECTS = 0.10, 0.12


def is_heldout(name: str, share: float) -> bool:
    """Whether a file of this name belongs to the held-out part: fixed by the name alone."""
    return int(hashlib.md5(name.encode()).hexdigest(), 16) % 1000 < share * 1000


@dataclass(frozen=True)
class Cutout:
    """An object with alpha. name: what people call it. file: where it is. real: cut from a photograph."""

    name: str
    file: Path
    real: bool

    @property
    def person(self) -> bool:
        """A person cut from a photograph, whose clothes can be tinted apart."""
        return self.real and self.name in PEOPLE


@dataclass(frozen=True)
class Clip:
    """Frames in order, boxes (T, 4) x, y, w, h in pixels, the target's sentence."""

    name: str
    frames: list[Path]
    boxes: np.ndarray
    text: str


class Library:
    """Stills, clips, cut-outs and backgrounds of one split; decoded pictures stay in memory.

    Args:
        data: folder with stills.json, stills/ and videos/. assets: folder made by training.assets.
        split: 'train' or 'heldout'.

    Raises:
        FileNotFoundError: a folder or file is missing; the message names it.
    """

    def __init__(self, data: str | Path, assets: str | Path, split: str) -> None:
        data, assets, heldout = Path(data), Path(assets), split == "heldout"
        for needed, remedy in ((data / "stills.json", "give the folder of stills and clips as data"),
                               (data / "videos", "give the folder of stills and clips as data"),
                               (assets / "emoji", "run 'make assets'"), (assets / "cutouts", "run 'make assets'")):
            if not needed.exists():
                raise FileNotFoundError(f"{needed} is missing: {remedy}")
        self._folder = data / "stills"
        self._cache: dict[str, np.ndarray] = {}
        with open(data / "stills.json") as file:
            rows = [row for row in json.load(file) if is_heldout(row["file"], HELDOUT_STILLS) == heldout]
        self.boxed = [row for row in rows if row.get("objects")]
        self.plain = [row for row in rows if not row.get("objects")]
        self.sources: dict[str, list[int]] = {}
        for index, row in enumerate(self.boxed):
            self.sources.setdefault(row["source"], []).append(index)
        self.clips = []
        for folder in sorted((data / "videos").iterdir()):
            if (folder.name in HELDOUT_CLIPS) == heldout:
                frames = sorted((folder / "img").iterdir())
                boxes = np.loadtxt(folder / "groundtruth.txt", delimiter=",", ndmin=2)
                text = (folder / "language.txt").read_text().strip().split("\n")[0]
                self.clips.append(Clip(folder.name, frames, boxes, text))
        self.cutouts = [Cutout(file.stem.split("__")[0].replace("_", " "), file, real)
                        for part, real in (("emoji", False), ("cutouts", True))
                        for file in sorted((assets / part).glob("*.webp"))
                        if is_heldout(file.stem, HELDOUT_OBJECTS) == heldout]
        self.backgrounds = sorted((assets / "backgrounds").glob("*.jpg"))

    def image(self, path: Path) -> np.ndarray:
        """A picture as RGB or RGBA uint8.

        Raises:
            OSError: it cannot be read.
        """
        key = str(path)
        if key not in self._cache:
            image = cv2.imread(key, cv2.IMREAD_UNCHANGED)
            if image is None:
                raise OSError(f"picture {path} cannot be read")
            if image.ndim == 2:
                image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
            self._cache[key] = (cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA) if image.shape[2] == 4
                                else np.ascontiguousarray(image[..., ::-1]))
        return self._cache[key]

    def still(self, row: dict) -> np.ndarray:
        """The picture of a row of stills.json, RGB uint8."""
        return self.image(self._folder / row["file"])
