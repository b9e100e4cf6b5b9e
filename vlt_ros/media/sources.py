# SPDX-License-Identifier: Apache-2.0
"""Video files, image folders and cameras, all read as the same stream of frames."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from vlt_ros.media.errors import MediaError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
FOLDER_FPS = 30.0
# A decoder that fails on so many frames in a row has reached the end of what can be read.
MAX_BAD_FRAMES = 30

log = logging.getLogger(__name__)


class Frame(NamedTuple):
    """One image: its number in the source (from 0), its time in seconds, and BGR uint8 (H, W, 3) pixels."""

    index: int  # type: ignore[assignment]  # tuple has a method of this name
    stamp: float
    image: np.ndarray


class Source:
    """Frames to iterate over once.

    Attributes:
        name: what was opened, for messages.
        fps: frames a second.
        length: number of frames where known before reading, else None (cameras, some videos).
        skipped: frames that could not be decoded so far. They are left out, their numbers are not reused.
    """

    def __init__(self, name: str, fps: float, length: int | None) -> None:
        self.name, self.fps, self.length, self.skipped = name, fps, length, 0

    def __iter__(self) -> Iterator[Frame]:
        """Raises MediaError when not one frame could be read, and for a camera that stops."""
        delivered = 0
        for frame in self._frames():
            delivered += 1
            yield frame
        if not delivered:
            raise MediaError(f"no frame can be read from {self.name}: the file is empty or damaged; "
                             "try it in a video player or re-encode it")

    def _frames(self) -> Iterator[Frame]:
        raise NotImplementedError

    def _skip(self, index: int, what: str) -> None:
        self.skipped += 1
        log.warning("%s: frame %d cannot be decoded and is left out (%d so far): %s",
                    self.name, index, self.skipped, what)


class ImageFiles(Source):
    """Image files in the given order; stamps are index / fps."""

    def __init__(self, name: str, files: list[Path], fps: float = FOLDER_FPS) -> None:
        super().__init__(name, fps, len(files))
        self.files = files

    def _frames(self) -> Iterator[Frame]:
        for index, file in enumerate(self.files):
            try:
                image = read_image(file)
            except MediaError as error:
                self._skip(index, str(error))
                continue
            yield Frame(index, index / self.fps, image)


class VideoFrames(Source):
    """A video file; stamps are index / fps. Decoded by OpenCV's FFmpeg."""

    def __init__(self, path: Path) -> None:
        self.capture = _capture(str(path))
        if not self.capture.isOpened():
            raise MediaError(f"cannot open {path} as a video: it is damaged, cut short or of an unknown "
                             "kind; check that a video player opens it, or pass a folder of images")
        count = int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT))
        fps = float(self.capture.get(cv2.CAP_PROP_FPS))
        super().__init__(str(path), fps if 0 < fps <= 1000 else FOLDER_FPS, count if count > 0 else None)

    def _frames(self) -> Iterator[Frame]:
        index = 0
        bad: list[int] = []
        while bad == [] or (self.length is not None and index < self.length and len(bad) < MAX_BAD_FRAMES):
            ok, image = self.capture.read()
            if ok:
                for number in bad:
                    self._skip(number, "the decoder gave no image")
                bad = []
                yield Frame(index, index / self.fps, image)
            else:
                bad.append(index)
            index += 1
        # What was unreadable up to the end is a shorter film, not so many broken frames: headers over-count.
        missing = self.length - bad[0] if self.length is not None and bad else 0
        if missing > 0:
            log.warning("%s: ends after %d frames, its header says %d", self.name, bad[0], self.length)
        self.capture.release()


class CameraFrames(Source):
    """A live camera; stamps are seconds since its first frame, by the monotonic clock."""

    def __init__(self, device: int | str) -> None:
        self.capture = _capture(device)
        if not self.capture.isOpened():
            raise MediaError(f"cannot open camera {device}: no such camera, or another program uses it; "
                             "list the cameras with: ls /dev/video*")
        fps = float(self.capture.get(cv2.CAP_PROP_FPS))
        super().__init__(f"camera {device}", fps if 0 < fps <= 1000 else FOLDER_FPS, None)

    def _frames(self) -> Iterator[Frame]:
        start, index, bad = None, 0, 0
        try:
            while True:
                ok, image = self.capture.read()
                now = time.monotonic()
                if not ok:
                    bad += 1
                    if bad >= MAX_BAD_FRAMES:
                        raise MediaError(f"{self.name} stopped giving images after {index} frames; "
                                         "check its cable and that no other program uses it")
                    continue
                start, bad = now if start is None else start, 0
                yield Frame(index, now - start, image)
                index += 1
        finally:
            self.capture.release()


def open_source(source: str | Path) -> Source:
    """Open a video file, a folder of images, one image, or a camera.

    Args:
        source: path of a file or folder, a camera's number ("0") or its device ("/dev/video0"). Folders are
            read in natural order (2 before 10), their jpg, png, bmp and webp files.

    Raises:
        MediaError: it does not exist, is empty or cannot be opened.
    """
    text = str(source)
    if re.fullmatch(r"\d+", text) and not Path(text).exists():
        return CameraFrames(int(text))
    if text.startswith("/dev/video"):
        return CameraFrames(text)
    path = Path(text)
    if path.is_dir():
        return ImageFiles(str(path), list_images(path))
    if not path.exists():
        raise MediaError(f"{path} does not exist; give a video file, a folder of images, "
                         "or a camera such as 0")
    if not path.is_file():
        raise MediaError(f"{path} is neither a file nor a folder; give a video file, a folder of images, "
                         "or a camera")
    if path.stat().st_size == 0:
        raise MediaError(f"{path} is empty; copy or download it again")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ImageFiles(str(path), [path])
    return VideoFrames(path)


def list_images(folder: Path) -> list[Path]:
    """The image files of a folder in natural order. Raises MediaError when there is none."""
    try:
        files = [f for f in folder.iterdir()
                 if f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith(".")]
    except OSError as error:
        raise MediaError(f"cannot list {folder}: {error.strerror}; check its permissions") from error
    if not files:
        raise MediaError(f"{folder} has no images; it needs files ending in {' '.join(IMAGE_SUFFIXES)}")
    return sorted(files, key=_natural)


def _natural(file: Path) -> list[int | str]:
    """Numbers by value, so that 2 comes before 10; they are every second part, so kinds never meet."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", file.name.lower())]


def read_image(file: Path) -> np.ndarray:
    """An image file as BGR uint8 (H, W, 3). Raises MediaError."""
    try:
        data = np.fromfile(file, np.uint8)
    except OSError as error:
        raise MediaError(f"cannot read {file}: {error.strerror}; "
                         "check the path and its permissions") from error
    image = None
    if data.size:
        with quiet_opencv():
            try:
                image = cv2.imdecode(data, cv2.IMREAD_COLOR)
            except cv2.error:  # a header that claims an impossible size
                image = None
    if image is None:
        raise MediaError(f"{file} is not a readable image; it is empty, cut short or of an unknown kind")
    return image


class quiet_opencv:
    """Context in which OpenCV keeps its own lines off stderr: what went wrong is said once, by MediaError."""

    def __enter__(self) -> None:
        # FFmpeg inside OpenCV looks at it when a video is first opened in a process; -8 is "quiet".
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        # OpenCV 4 has the switch in a submodule, 5 at the top.
        self.module = cv2.utils.logging if hasattr(cv2.utils, "logging") else cv2
        self.level = self.module.getLogLevel()
        self.module.setLogLevel(0)

    def __exit__(self, *_: object) -> None:
        self.module.setLogLevel(self.level)


def _capture(what: str | int) -> cv2.VideoCapture:
    with quiet_opencv():
        backend = cv2.CAP_FFMPEG if isinstance(what, str) and not what.startswith("/dev/") else cv2.CAP_ANY
        return cv2.VideoCapture(what, backend)
