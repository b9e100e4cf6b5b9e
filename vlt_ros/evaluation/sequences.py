# SPDX-License-Identifier: Apache-2.0
"""Folders of sequences with ground truth.

ROOT/NAME/ holds ``img/`` (or ``video.mp4``), ``groundtruth.txt`` with one box x,y,w,h a frame,
``language.txt`` with the sentence, and optionally ``absent.txt`` with 1 on the line of each frame without the
target. This is the layout of LaSOT, TNL2K and OTB99-Lang with one name for each thing. Numbers are separated
by commas, tabs or spaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlt_ros.media.errors import MediaError


class SequenceError(ValueError):
    """Ground truth that cannot be used; the message names file and line and says what to do."""


@dataclass(frozen=True)
class Sequence:
    """One video with its ground truth.

    Attributes:
        name: folder name. folder: where it is. media: its img/ folder or video file.
        boxes: (T, 4) float64, x, y, w, h in pixels; rows of absent frames have no meaning.
        absent: (T,) bool, True where the target is not in the frame.
        text: the sentence, '' where there is no language.txt.
    """

    name: str
    folder: Path
    media: Path
    boxes: np.ndarray
    absent: np.ndarray
    text: str

    def __len__(self) -> int:
        return len(self.boxes)

    def images(self) -> Iterator[np.ndarray]:
        """Its T images in order, BGR uint8.

        Raises:
            SequenceError: an image is unreadable or the number differs from the ground truth's: a left-out
                image would shift every later box.
        """
        from vlt_ros.media import open_source

        count = 0
        try:
            for frame in open_source(self.media):
                if frame.index != count:
                    raise SequenceError(f"{self.media}: frame {count} cannot be decoded; "
                                        "replace the file or leave the sequence out")
                if count == len(self):
                    raise SequenceError(self._mismatch(f"more than {count}"))
                yield frame.image
                count += 1
        except MediaError as error:
            raise SequenceError(str(error)) from error
        if count != len(self):
            raise SequenceError(self._mismatch(str(count)))

    def _mismatch(self, images: str) -> str:
        return (f"{self.media} has {images} images but {self.folder / 'groundtruth.txt'} has {len(self)} "
                "lines; there must be one box a frame")


def read_sequences(root: str | Path) -> list[Sequence]:
    """All sequences below a folder, sorted by name; the folder of a single sequence is taken as that one.

    Raises:
        SequenceError: no sequence there, or one whose files do not fit together.
    """
    root = Path(root)
    if not root.is_dir():
        raise SequenceError(f"{root} is not a folder; give the folder that holds the sequences' folders")
    if (root / "groundtruth.txt").exists():
        return [read_sequence(root)]
    folders = [f for f in sorted(root.iterdir())
               if f.is_dir() and any((f / part).exists() for part in ("img", "video.mp4", "groundtruth.txt"))]
    if not folders:
        raise SequenceError(f"no sequences in {root}; each needs a folder NAME with img/ or video.mp4, "
                            "groundtruth.txt and language.txt")
    return [read_sequence(folder) for folder in folders]


def read_sequence(folder: Path) -> Sequence:
    """One sequence's ground truth; :meth:`Sequence.images` opens the images. Raises SequenceError."""
    truth = folder / "groundtruth.txt"
    rows = [_box(truth, number, line) for number, line in _lines(truth)]
    if not rows:
        raise SequenceError(f"{truth} is empty; it needs one line x,y,w,h for each frame")
    boxes = np.array(rows, dtype=np.float64)
    absent = ~np.isfinite(boxes).all(axis=1) | (boxes[:, 2:] <= 0).any(axis=1)
    flags = folder / "absent.txt"
    if flags.exists():
        values = [_flag(flags, number, line) for number, line in _lines(flags)]
        if len(values) != len(boxes):
            raise SequenceError(f"{flags} has {len(values)} lines but {truth} has {len(boxes)}; "
                                "both need one line for each frame")
        absent |= np.array(values, dtype=bool)
    language = folder / "language.txt"
    text = " ".join(line.strip() for _, line in _lines(language)) if language.exists() else ""
    return Sequence(folder.name, folder, _media(folder, len(boxes)), boxes, absent, text)


def _media(folder: Path, frames: int) -> Path:
    images, video = folder / "img", folder / "video.mp4"
    if images.is_dir():
        from vlt_ros.media.sources import list_images

        try:
            count = len(list_images(images))
        except MediaError as error:
            raise SequenceError(str(error)) from error
        if count != frames:
            raise SequenceError(f"{images} has {count} images but {folder / 'groundtruth.txt'} has {frames} "
                                "lines; there must be one box a frame")
        return images
    if video.is_file():
        return video
    raise SequenceError(f"{folder} has neither img/ nor video.mp4; put the frames or the video there")


def _lines(file: Path) -> list[tuple[int, str]]:
    """Line numbers (from 1) and lines; empty ones at the end do not count."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise SequenceError(f"{file} is missing; every sequence needs it") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SequenceError(f"cannot read {file}: {error}; it must be a readable UTF-8 text file") from error
    return list(enumerate(text.rstrip().splitlines(), start=1)) if text.strip() else []


def _box(file: Path, number: int, line: str) -> list[float]:
    parts = [part for part in re.split(r"[,\s]+", line.strip()) if part]
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if len(values) != 4:
        raise SequenceError(f"{file} line {number}: {line.strip()!r} is not a box; "
                            "write four numbers x,y,w,h")
    return values


def _flag(file: Path, number: int, line: str) -> bool:
    if line.strip() not in ("0", "1"):
        raise SequenceError(f"{file} line {number}: {line.strip()!r} is neither 0 nor 1; "
                            "write 1 for an absent frame")
    return line.strip() == "1"
