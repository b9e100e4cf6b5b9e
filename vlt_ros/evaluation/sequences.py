# SPDX-License-Identifier: Apache-2.0
"""Folders of sequences with ground truth.

ROOT/NAME/ holds ``img/`` (or ``video.mp4``), ``groundtruth.txt`` with one box x,y,w,h a frame,
``language.txt`` with the sentence, and optionally ``absent.txt`` with 1 on the line of each frame without the
target, and ``attributes.txt`` with names or flags. Numbers are separated by commas, tabs or spaces.

Benchmarks have other names for the same things, which are read too: ``imgs/`` (TNL2K) or images beside the ground
truth (GOT-10k), ``groundtruth_rect.txt`` (OTB, WebUAV-3M), ``nlp.txt``, ``full_occlusion.txt`` and
``out_of_view.txt`` (LaSOT), ``cover.label`` (GOT-10k: 0 is absent), ``attrs.txt`` (OTB), and ROOT/att/NAME.txt or
NAME_attribute.txt (the annos/att of LaSOT's and TNL2K's toolkits). Where sequences lie one folder deeper, as
LaSOT's CLASS/CLASS-N do, they are found there; of LaSOT's own only the testing set is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlt_ros.evaluation.metrics import has_area
from vlt_ros.media.errors import MediaError

TRUTHS = ("groundtruth.txt", "groundtruth_rect.txt")
MEDIA = ("img", "imgs", "video.mp4")


class SequenceError(ValueError):
    """Ground truth that cannot be used; the message names file and line and says what to do."""


@dataclass(frozen=True)
class Sequence:
    """One video with its ground truth.

    Attributes:
        name: folder name. folder: where it is. media: its folder of images or video file, None without.
        truth: the file of its boxes.
        boxes: (T, 4) float64, x, y, w, h in pixels; rows of absent frames have no meaning.
        absent: (T,) bool, True where the target is not in the frame.
        text: the sentence, '' where there is no language.txt.
        attributes: what its attribute file says, names or numbers, and that file; see ``Protocol.attribute_names``.
    """

    name: str
    folder: Path
    media: Path | None
    truth: Path
    boxes: np.ndarray
    absent: np.ndarray
    text: str
    attributes: tuple[tuple[str, ...], Path] | None = None

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

    def images_at(self, indices: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Some of its images with their numbers, in order; of a folder only they are read. Raises SequenceError."""
        from vlt_ros.media.sources import list_images, read_image

        if not self.media.is_dir():
            yield from ((index, image) for index, image in enumerate(self.images()) if index in indices)
            return
        try:
            files = list_images(self.media)
            for index in sorted(set(indices)):
                yield index, read_image(files[index])
        except MediaError as error:
            raise SequenceError(str(error)) from error

    def size(self) -> tuple[int, int]:
        """Width and height of its images, by GOT-10k's meta_info.ini or the first image.

        Raises:
            SequenceError: there is neither.
        """
        meta = self.folder / "meta_info.ini"
        found = re.search(r"resolution\s*:\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)", _text(meta)) if meta.exists() else None
        if found:
            return int(found[1]), int(found[2])
        if self.media is None:
            raise SequenceError(f"{self.folder} has no images, but the protocol clips boxes to them; "
                                "put img/ or GOT-10k's meta_info.ini there")
        image = next(self.images())
        return image.shape[1], image.shape[0]

    def shown(self) -> list[Path]:
        """The media that its images come from."""
        return [self.media]

    def _mismatch(self, images: str) -> str:
        return (f"{self.media} has {images} images but {self.truth} has {len(self)} "
                "lines; there must be one box a frame")


def read_sequences(root: str | Path, images: bool = True) -> list[Sequence]:
    """All sequences below a folder, sorted by name; the folder of a single sequence is taken as that one.

    Args:
        root: the folder. images: whether every sequence needs its images (or video).

    Raises:
        SequenceError: no sequence there, one whose files do not fit together, or two of one name.
    """
    root = Path(root)
    if not root.is_dir():
        raise SequenceError(f"{root} is not a folder; give the folder that holds the sequences' folders")
    if _first(root, *TRUTHS):
        return [read_sequence(root, images)]
    folders = _sequence_folders(root) or _deeper(root)
    if not folders:
        raise SequenceError(f"no sequences in {root}; each needs a folder NAME with img/ or video.mp4, "
                            "groundtruth.txt and language.txt")
    return [read_sequence(folder, images) for folder in folders]


def _sequence_folders(root: Path) -> list[Path]:
    return [f for f in sorted(root.iterdir()) if f.is_dir() and _first(f, "img", "imgs", "video.mp4", *TRUTHS)]


def _deeper(root: Path) -> list[Path]:
    from vlt_ros.training.datasets.videos import LASOT_TEST

    found: dict[str, Path] = {}
    for folder in (f for one in sorted(root.iterdir()) if one.is_dir() for f in _sequence_folders(one)):
        if folder.name in found:
            raise SequenceError(f"{found[folder.name]} and {folder} have one name; results are kept by name, "
                                "so give one of the folders above them")
        found[folder.name] = folder
    return [found[name] for name in sorted(LASOT_TEST & found.keys() or found)]


def read_sequence(folder: Path, images: bool = True) -> Sequence:
    """One sequence's ground truth; :meth:`Sequence.images` opens the images. Raises SequenceError."""
    truth = _first(folder, *TRUTHS) or folder / TRUTHS[0]
    boxes = read_boxes(truth)
    absent = ~has_area(boxes)
    for name, gone in (("absent.txt", 1), ("full_occlusion.txt", 1), ("out_of_view.txt", 1), ("cover.label", 0)):
        flags = folder / name
        if not flags.exists():
            continue
        values = [value for number, line in _lines(flags) for value in _flags(flags, number, line)]
        if len(values) != len(boxes):
            raise SequenceError(f"{flags} has {len(values)} lines but {truth} has {len(boxes)}; "
                                "both need one line for each frame")
        absent |= np.array(values) == gone
    language = _first(folder, "language.txt", "nlp.txt")
    text = " ".join(line.strip() for _, line in _lines(language)) if language else ""
    media = _media(folder, truth, len(boxes)) if images or _first(folder, *MEDIA) else None
    return Sequence(folder.name, folder, media, truth, boxes, absent, text, _attributes(folder))


def read_boxes(file: Path) -> np.ndarray:
    """One box x,y,w,h a line: (T, 4) float64. Raises SequenceError naming the line."""
    rows = [_box(file, number, line) for number, line in _lines(file)]
    if not rows:
        raise SequenceError(f"{file} is empty; it needs one line x,y,w,h for each frame")
    return np.array(rows, dtype=np.float64)


def _first(folder: Path, *names: str) -> Path | None:
    return next((folder / name for name in names if (folder / name).exists()), None)


def _attributes(folder: Path) -> tuple[tuple[str, ...], Path] | None:
    file = (_first(folder, "attributes.txt", "attrs.txt")
            or _first(folder.parent / "att", f"{folder.name}.txt", f"{folder.name}_attribute.txt"))
    if file is None:
        return None
    words = [part.strip() for _, line in _lines(file) for part in re.split(r"[,\t]", line)]
    if len(words) == 1:
        words = words[0].split()
    return tuple(word for word in words if word), file


def _media(folder: Path, truth: Path, frames: int) -> Path:
    from vlt_ros.media.sources import IMAGE_SUFFIXES, list_images

    images = _first(folder, "img", "imgs")
    if images is None and (folder / "video.mp4").is_file():
        return folder / "video.mp4"
    if images is None and any(f.suffix.lower() in IMAGE_SUFFIXES for f in folder.iterdir()):
        images = folder
    if images is None:
        raise SequenceError(f"{folder} has neither img/ nor video.mp4; put the frames or the video there")
    try:
        count = len(list_images(images))
    except MediaError as error:
        raise SequenceError(str(error)) from error
    if count != frames:
        raise SequenceError(f"{images} has {count} images but {truth} has {frames} lines; "
                            "there must be one box a frame")
    return images


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise SequenceError(f"{file} is missing; every sequence needs it") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SequenceError(f"cannot read {file}: {error}; it must be a readable UTF-8 text file") from error


def _lines(file: Path) -> list[tuple[int, str]]:
    """Line numbers (from 1) and lines; empty ones at the end do not count."""
    text = _text(file)
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


def _flags(file: Path, number: int, line: str) -> list[int]:
    """The numbers of one line: LaSOT writes them all on one."""
    parts = [part for part in re.split(r"[,\s]+", line.strip()) if part] or [""]
    if file.suffix == ".txt" and not {"0", "1"} >= {*parts} or not all(part.isdigit() for part in parts):
        raise SequenceError(f"{file} line {number}: {line.strip()!r} is neither 0 nor 1; "
                            "write 1 for an absent frame")
    return [int(part) for part in parts]
