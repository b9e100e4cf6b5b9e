# SPDX-License-Identifier: Apache-2.0
"""What annotation files really hold: boxes, labels, sentences and frames, read with tolerance."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from vlt_ros.training.datasets.form import Frames, Omissions, Video

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def read_boxes(path: Path) -> np.ndarray:
    """Boxes (T, 4) of a text file, one a line, separated by commas, tabs or spaces; NaN where a line is no box.

    Raises:
        OSError: the file cannot be read.
    """
    text = path.read_text(errors="replace").rstrip()
    if not text:
        return np.empty((0, 4), np.float32)
    lines = text.split("\n")
    try:
        boxes = np.loadtxt(lines, delimiter="," if "," in lines[0] else None, ndmin=2, dtype=np.float32)
        if boxes.shape == (len(lines), 4):      # loadtxt passes over empty lines: a shift nobody would notice
            return boxes
    except ValueError:
        pass
    boxes = np.full((len(lines), 4), np.nan, np.float32)
    for row, line in enumerate(lines):
        try:
            numbers = [float(part) for part in re.split(r"[,\s]+", line.strip().strip(","))]
        except ValueError:
            continue
        if len(numbers) == 4:
            boxes[row] = numbers
    return boxes


def read_labels(path: Path, count: int, fill: float = 0) -> np.ndarray | None:
    """Numbers of a label file (one line with commas, or one a line), cut or filled with ``fill`` to ``count``.

    Returns None when the file is missing or holds something else.
    """
    try:
        numbers = [float(part) for part in re.split(r"[,\s]+", path.read_text().strip()) if part]
    except (OSError, ValueError):
        return None
    labels = np.full(count, fill, np.float32)
    labels[:len(numbers)] = numbers[:count]
    return labels


def read_sentence(path: Path) -> str:
    """The first line that is not empty, '' when there is none or no file."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((" ".join(line.split()) for line in lines if line.strip()), "")


def _natural(name: str) -> list:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def find_frames(folder: Path, count: int, first: int | None = None) -> tuple[Frames, np.ndarray, int]:
    """The frames that belong to ``count`` boxes.

    As many files as boxes: in order. Otherwise by the number in the name, box 0 being frame ``first`` (or the first
    file, where the numbers span just as many frames); where numbers do not tell, in order as far as both go.

    Returns:
        T paths with T <= count, (T,) bool whether the file is there, and how many files there are.

    Raises:
        OSError: the folder cannot be read.
    """
    files = sorted((name for name in os.listdir(folder) if name.lower().endswith(PICTURES)), key=_natural)
    if len(files) != count and files:
        numbers = [re.findall(r"\d+", os.path.splitext(name)[0]) for name in files]
        if all(numbers):
            index = [int(found[-1]) for found in numbers]
            start = index[0] if first is None and index[-1] - index[0] + 1 == count else first
            if start is not None:
                names = [""] * count
                for name, number in zip(files, index, strict=True):
                    if 0 <= number - start < count:
                        names[number - start] = name
                return Frames(folder, names), np.array([bool(name) for name in names]), len(files)
    names = files[:count]
    return Frames(folder, names), np.ones(len(names), bool), len(files)


def make_video(name: str, folder: Path, truth: Path, text: str, omissions: Omissions, *, gone=None,
               first: int | None = None, empty_is_gone: bool = False) -> Video | None:
    """A video out of its files; None, and counted, when nothing of it can be used.

    Args:
        folder: of the frames. truth: file of boxes. text: its sentence.
        gone: function of the number of boxes: (T,) bool, frames whose label says that the target is not to be seen;
            or None where there are no labels. first: see :func:`find_frames`.
        empty_is_gone: an empty box means that the target is gone.
    """
    try:
        boxes = read_boxes(truth)
    except OSError:
        omissions.add("videos left out without boxes", truth)
        return None
    try:
        frames, there, found = find_frames(folder, len(boxes), first)
    except OSError:
        omissions.add("videos left out without frames", folder)
        return None
    if not there.any():
        omissions.add("videos left out without frames" if not found else "videos left out without boxes",
                      folder if not found else truth)
        return None
    if found != len(boxes):
        omissions.add("videos with another number of frames than of boxes", folder)
    count = len(frames)
    boxes = boxes[:count]
    absent = np.zeros(count, bool)
    if gone is not None:
        labels = gone(count)
        if labels is None:
            omissions.add("videos without labels of absence", truth.parent)
        else:
            absent |= labels
    sound = np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1)
    if empty_is_gone:
        absent |= np.isfinite(boxes).all(1) & ~sound
    present = sound & there & ~absent
    if not present.any():
        omissions.add("videos left out as the target is in no frame", truth)
        return None
    omissions.add("frames left out without a sound box", truth, int((~sound & ~absent).sum()))
    if not text:
        omissions.add("videos without a sentence", truth.parent)
    return Video(name, frames, boxes, present, absent & there, text)
