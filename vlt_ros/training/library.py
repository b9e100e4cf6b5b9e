# SPDX-License-Identifier: Apache-2.0
"""The pictures that samples are made of: data sets, cut-outs and backgrounds of one split."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from vlt_ros.training.datasets import DataSet, is_heldout, part, stills_and_clips
from vlt_ros.training.phrases import PEOPLE

log = logging.getLogger(__name__)

HELDOUT_OBJECTS = 0.12
_JPEG_END = b"\xff\xd9"


class PictureError(OSError):
    """A picture file is missing, broken or cut short."""


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


class Library:
    """Data sets, cut-outs and backgrounds of one split.

    Args:
        data: folder of stills and clips, or None. assets: folder made by training.assets, or None.
        split: 'train' or 'heldout'. datasets: others, whole; the split's part is taken here.

    Attributes:
        pictures, videos: the data sets that have such. plain: (data set, picture) without boxes.
        unreadable: how often each broken picture was met.

    Raises:
        FileNotFoundError: a folder or file is missing; the message names it.
    """

    def __init__(self, data: str | Path | None, assets: str | Path | None, split: str,
                 datasets: Sequence[DataSet] = ()) -> None:
        sets = stills_and_clips(data, split) if data is not None else []
        sets += [part(dataset, split) for dataset in datasets]
        self.pictures = [dataset for dataset in sets if dataset.pictures]
        self.videos = [dataset for dataset in sets if dataset.videos]
        self.plain = [(dataset, picture) for dataset in sets for picture in dataset.plain]
        self.cutouts: list[Cutout] = []
        self.backgrounds: list[Path] = []
        if assets is not None:
            assets = Path(assets)
            for needed in (assets / "emoji", assets / "cutouts"):
                if not needed.exists():
                    raise FileNotFoundError(f"{needed} is missing: run 'make assets'")
            self.cutouts = [Cutout(file.stem.split("__")[0].replace("_", " "), file, real)
                            for folder, real in (("emoji", False), ("cutouts", True))
                            for file in sorted((assets / folder).glob("*.webp"))
                            if is_heldout(file.stem, HELDOUT_OBJECTS) == (split == "heldout")]
            self.backgrounds = sorted((assets / "backgrounds").glob("*.jpg"))
        self.unreadable: Counter[str] = Counter()
        self._cache: dict[str, np.ndarray] = {}

    def image(self, path: str | Path, keep: bool = True) -> np.ndarray:
        """A picture as RGB or RGBA uint8; ``keep``: decoded it stays in memory.

        Raises:
            PictureError: it cannot be read; counted in ``unreadable`` and said in the log now and then.
        """
        key = str(path)
        if key in self._cache:
            return self._cache[key]
        image = _read(key)
        if image is None:
            self.unreadable[key] += 1
            count = len(self.unreadable)
            if self.unreadable[key] == 1 and count in (1, 10, 100, 1000, 10_000, 100_000):
                log.warning("%d pictures cannot be read and are left out so far; the last: %s", count, key)
            raise PictureError(f"picture {path} cannot be read")
        if keep:
            self._cache[key] = image
        return image


def _read(path: str) -> np.ndarray | None:
    """The picture; None when it is missing, broken, or a JPEG cut short (older OpenCVs fill such with grey)."""
    try:
        code = np.fromfile(path, np.uint8)
    except OSError:
        return None
    if not code.size or (path.lower().endswith((".jpg", ".jpeg")) and _JPEG_END not in code[-4096:].tobytes()):
        return None
    try:
        image = cv2.imdecode(code, cv2.IMREAD_UNCHANGED)
        if image is not None and image.dtype != np.uint8:
            image = cv2.imdecode(code, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:       # sizes that cannot be
        return None
    if image is None:
        return None
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    return (cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA) if image.shape[2] == 4
            else np.ascontiguousarray(image[..., ::-1]))
