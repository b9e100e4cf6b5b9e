# SPDX-License-Identifier: Apache-2.0
"""The one form that every data set is read into, and the words for what could not be read."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

log = logging.getLogger(__name__)

# Of every data set whose own held-out part is a benchmark's test set: what training never sees.
HELDOUT_SHARE = 0.02


class DataSetError(FileNotFoundError):
    """A file or folder that a data set needs is missing, or holds something else: what, where, what to do."""


class Frames(Sequence):
    """Paths of a video's frames in order, kept as bare names: a data set has millions of them.

    An empty name stands for a frame whose file is missing.
    """

    def __init__(self, folder: str | Path, names: Sequence[str]) -> None:
        self.folder, self._names = str(folder), np.array([os.fsencode(name) for name in names], dtype=np.bytes_)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Path:
        return Path(self.folder, os.fsdecode(bytes(self._names[index])))


@dataclass(frozen=True, eq=False)
class Video:
    """A target followed through frames.

    frames: T paths. boxes: (T, 4) x, y, w, h in pixels, anything where not present. present: (T,) bool, the target
    is to be seen, its box and its frame can be used. absent: (T,) bool, the target is known to be gone.
    text: its sentence, '' when there is none.
    """

    name: str
    frames: Sequence[Path]
    boxes: np.ndarray
    present: np.ndarray
    absent: np.ndarray
    text: str


@dataclass(frozen=True, eq=False, slots=True)
class Thing:
    """An object in a picture. name: its class. box: x, y, w, h in pixels. texts: sentences of its own, if any.

    crowd: a region of many that cannot be a target, though things of its class cannot be called the only one.
    """

    name: str
    box: tuple[float, float, float, float]
    texts: tuple[str, ...] = ()
    crowd: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Picture:
    """A picture and its K objects. boxes: (K, 4), x, y, w, h in pixels. The rest: see :class:`Thing`."""

    file: str
    boxes: np.ndarray
    names: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...] = ()
    crowds: frozenset[int] = frozenset()

    @property
    def things(self) -> list[Thing]:
        """Its objects, made anew at each call."""
        texts = self.texts or ((),) * len(self.names)
        return [Thing(name, tuple(box), own, k in self.crowds)
                for k, (name, box, own) in enumerate(zip(self.names, self.boxes.tolist(), texts, strict=True))]


@dataclass(frozen=True)
class DataSet:
    """Videos, pictures with boxes, or pictures without.

    group: name under which it gets its share of the samples.
    describes: sentences tell the target from everything else in the picture; without, they are words for its class.
    boxed: what the boxes cover. 'every': each thing of an everyday class. 'own': each thing of the data set's own
    few classes. 'some': not even these.
    causal: video pairs go forward in time, up to samples.MAX_GAP frames; without, a little both ways.
    keep: small enough for its decoded pictures to stay in memory.
    """

    name: str
    group: str
    videos: Sequence[Video] = ()
    pictures: Sequence[Picture] = ()
    plain: Sequence[Picture] = ()
    describes: bool = True
    boxed: str = "own"
    causal: bool = True
    keep: bool = False


def is_heldout(name: str, share: float) -> bool:
    """Whether a file of this name belongs to the held-out part: fixed by the name alone."""
    return _rank(name) < share * 1000


def _rank(name: str) -> int:
    return int(hashlib.md5(name.encode()).hexdigest(), 16) % 1000


def part(dataset: DataSet, split: str) -> DataSet:
    """The 'train' or the 'heldout' part of a data set, fixed by names.

    Held out are :data:`HELDOUT_SHARE` of the entries, at least one where there are two. Pictures go by their number,
    so that one photograph falls on the same side in COCO and in all RefCOCOs.
    """
    def choose(entries, key):
        ranks = [_rank(key(entry)) for entry in entries]
        limit = HELDOUT_SHARE * 1000
        if len(entries) > 1 and not any(rank < limit for rank in ranks):
            limit = min(ranks) + 1
        out = [rank < limit and len(entries) > 1 for rank in ranks]
        return [entry for entry, held in zip(entries, out, strict=True) if held == (split == "heldout")]

    return replace(dataset, videos=choose(dataset.videos, lambda video: video.name),
                   pictures=choose(dataset.pictures, lambda picture: Path(picture.file).stem.rsplit("_", 1)[-1]))


class Omissions:
    """Counts what a reader leaves out or has to do without, with the first place of each kind."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, what: str, where: str | Path, count: int = 1) -> None:
        """Count ``what`` (plural words, as in 'videos without boxes'), met at ``where``."""
        if count:
            self.counts[what] += count
            self._first.setdefault(what, str(where))

    def report(self, summary: str) -> None:
        """One log line: a warning when anything was counted."""
        if self.counts:
            counted = ", ".join(f"{count} {what} (first: {self._first[what]})" for what, count in self.counts.items())
            log.warning("%s; %s", summary, counted)
        else:
            log.info("%s", summary)


def need(path: Path, remedy: str) -> Path:
    """The path, which must exist.

    Raises:
        DataSetError: it is missing.
    """
    if not path.exists():
        raise DataSetError(f"{path} is missing: {remedy}")
    return path
