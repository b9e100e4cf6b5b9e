# SPDX-License-Identifier: Apache-2.0
"""Pictures for people: the target on its frame, a film, and a contact sheet. Colours are BGR throughout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from vlt_ros.media.errors import MediaError
from vlt_ros.media.sources import quiet_opencv

if TYPE_CHECKING:
    from vlt_ros.tracker import Target

# In the order of the numbers in vlt_ros/msg/Target.
STATE_COLOURS = {
    "IDLE": (160, 160, 160),
    "SEARCHING": (0, 200, 255),
    "TRACKING": (80, 220, 60),
    "UNCERTAIN": (0, 140, 255),
    "LOST": (60, 60, 235),
    "INPUT_TIMEOUT": (200, 60, 200),
}
FONT = cv2.FONT_HERSHEY_SIMPLEX
# Text height as a part of the image's shorter side, and what still reads on a tiny image.
TEXT_PART, MIN_TEXT_PIXELS = 1 / 30, 9
MAX_SENTENCE_LINES = 2


@dataclass(frozen=True)
class Shown:
    """What is drawn of a target: as the tracker's, with any name for its state. Box x, y, w, h in pixels or None."""

    name: str
    box: tuple[float, float, float, float] | None
    confidence: float
    text: str

    @property
    def state(self) -> Shown:
        """Has the name, as an enumeration's member has."""
        return self

    @classmethod
    def of(cls, message: Any) -> Shown:
        """What a vlt_ros/msg/Target says, from rclpy or out of a bag."""
        name = list(STATE_COLOURS)[message.state] if message.state < len(STATE_COLOURS) else str(message.state)
        box = (message.box.x, message.box.y, message.box.width, message.box.height)
        return cls(name, box if name in ("TRACKING", "UNCERTAIN") else None, message.confidence, message.text)


def annotate(image: np.ndarray, target: Target | Shown, latency_ms: float | None = None) -> np.ndarray:
    """Draw the target's box, state, confidence bar and sentence on a copy of the image.

    Args:
        image: BGR uint8 (H, W, 3), any size.
        target: box x, y, w, h in the image's pixels, or None where there is none.
        latency_ms: time that the frame took, printed beside the state where given.
    """
    image = image.copy()
    height, width = image.shape[:2]
    colour = STATE_COLOURS.get(target.state.name, (255, 255, 255))
    text_height = max(MIN_TEXT_PIXELS, round(min(height, width) * TEXT_PART))
    label = target.state.name if latency_ms is None else f"{target.state.name}  {latency_ms:.0f} ms"
    _caption(image, label, target.confidence, target.text, colour, text_height)
    if target.box is not None:
        x, y, w, h = target.box
        corners = (round(x), round(y)), (round(x + w), round(y + h))
        line = max(1, round(text_height / 7))
        # A dark line under the coloured one keeps the box visible on any background, and on the caption.
        cv2.rectangle(image, *corners, (0, 0, 0), line + 2, cv2.LINE_AA)
        cv2.rectangle(image, *corners, colour, line, cv2.LINE_AA)
    return image


def _caption(image: np.ndarray, label: str, confidence: float, sentence: str, colour: tuple[int, int, int],
             text_height: int) -> None:
    """State, confidence bar and sentence on a dark strip along the bottom edge."""
    height, width = image.shape[:2]
    pad = max(2, text_height // 2)
    scale, thickness = _font(text_height)
    step = text_height + pad
    room = width - 2 * pad
    lines = _wrap(sentence, room, scale, thickness)
    strip = min(height, pad + step * (1 + len(lines)))
    top = height - strip
    image[top:] = (image[top:] * 0.3).astype(np.uint8)
    baseline = top + pad + text_height
    cv2.putText(image, label, (pad, baseline), FONT, scale, colour, thickness, cv2.LINE_AA)
    value = f"{confidence:.2f}"
    value_width = _width("0.00", scale, thickness)
    bar_end = width - 2 * pad - value_width
    bar_start = max(2 * pad + _width(label, scale, thickness) + pad, bar_end - width // 4)
    if bar_end - bar_start > text_height:
        box_top, box_bottom = baseline - text_height, baseline
        filled = bar_start + round((bar_end - bar_start) * min(max(confidence, 0.0), 1.0))
        cv2.rectangle(image, (bar_start, box_top), (filled, box_bottom), colour, cv2.FILLED)
        cv2.rectangle(image, (bar_start, box_top), (bar_end, box_bottom), (220, 220, 220), 1)
        cv2.putText(image, value, (width - pad - value_width, baseline), FONT, scale, (255, 255, 255),
                    thickness, cv2.LINE_AA)
    for number, text in enumerate(lines, start=1):
        cv2.putText(image, text, (pad, baseline + number * step), FONT, scale, (255, 255, 255), thickness,
                    cv2.LINE_AA)


def _font(text_height: int) -> tuple[float, int]:
    thickness = max(1, round(text_height / 12))
    return cv2.getFontScaleFromHeight(FONT, text_height, thickness), thickness


def _width(text: str, scale: float, thickness: int) -> int:
    return cv2.getTextSize(text, FONT, scale, thickness)[0][0]


def _wrap(sentence: str, room: int, scale: float, thickness: int) -> list[str]:
    """At most two lines that fit into ``room`` pixels; what does not fit ends in dots."""
    lines: list[str] = []
    words = sentence.split()
    while words and len(lines) < MAX_SENTENCE_LINES:
        taken = 1
        while taken < len(words) and _width(" ".join(words[: taken + 1]), scale, thickness) <= room:
            taken += 1
        lines.append(" ".join(words[:taken]))
        words = words[taken:]
    if words:
        lines[-1] += " ..."
    for number, line in enumerate(lines):
        while len(line) > 4 and _width(line, scale, thickness) > room:
            line = line.removesuffix("...").rstrip()[:-1] + "..."
        lines[number] = line
    return lines


class VideoFile:
    """An mp4 film (MPEG-4 part 2), opened with the first image's size; later images are brought to that size.

    Use as a context manager; ``write`` BGR uint8 images. Raises MediaError when the file cannot be written.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        self.path, self.fps = Path(path), fps
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, image: np.ndarray) -> None:
        """Append one image, BGR uint8 (H, W, 3)."""
        if self._writer is None:
            self._open(image)
        if image.shape[1::-1] != self._size:
            width, height = self._size
            if image.shape[1] // 2 * 2 == width and image.shape[0] // 2 * 2 == height:
                image = image[:height, :width]
            else:
                image = cv2.resize(image, self._size, interpolation=cv2.INTER_AREA)
        assert self._writer is not None     # _open raises without one
        self._writer.write(np.ascontiguousarray(image))

    def _open(self, image: np.ndarray) -> None:
        # MPEG-4 stores colour at half resolution, so it takes even sizes only: the odd row or column is cut.
        self._size = (max(2, image.shape[1] // 2 * 2), max(2, image.shape[0] // 2 * 2))
        with quiet_opencv():
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self.path), codec, self.fps, self._size)
        if not self._writer.isOpened():
            self._writer = None
            raise MediaError(f"cannot write the video {self.path}; check that its folder exists, may be "
                             "written to and has space, and that this OpenCV has FFmpeg")

    def close(self) -> None:
        """Finish the file. Calling it again does nothing."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None


class ContactSheet:
    """A grid of pictures spread evenly over a film of any length, kept small in memory while it is read."""

    def __init__(self, count: int = 12, columns: int = 4, cell_width: int = 480) -> None:
        if count < 1 or columns < 1 or cell_width < 16:
            raise ValueError(f"a sheet of {count} pictures of {cell_width} pixels in {columns} columns "
                             "cannot be drawn")
        self.count, self.columns, self.cell_width = count, columns, cell_width
        self._cells: list[np.ndarray] = []
        self._step, self._seen = 1, 0

    def add(self, image: np.ndarray) -> None:
        """Offer the next image, BGR uint8 (H, W, 3)."""
        if self._seen % self._step == 0:
            scale = self.cell_width / image.shape[1]
            size = self.cell_width, max(1, round(image.shape[0] * scale))
            interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
            self._cells.append(cv2.resize(image, size, interpolation=interpolation))
            # Twice as many as needed: every second one will do from here on.
            if len(self._cells) >= 4 * self.count:
                self._cells, self._step = self._cells[::2], 2 * self._step
        self._seen += 1

    def image(self) -> np.ndarray:
        """The sheet, BGR uint8, first picture top left. Raises MediaError when no image was added."""
        if not self._cells:
            raise MediaError("a contact sheet needs at least one image; none was given")
        chosen = np.linspace(0, len(self._cells) - 1, min(self.count, len(self._cells))).round().astype(int)
        cells = [self._cells[i] for i in chosen]
        columns = min(self.columns, len(cells))
        height = max(cell.shape[0] for cell in cells)
        gap = 4
        rows = -(-len(cells) // columns)
        size = rows * (height + gap) + gap, columns * (self.cell_width + gap) + gap, 3
        sheet = np.full(size, 24, np.uint8)
        for number, cell in enumerate(cells):
            y = gap + number // columns * (height + gap)
            x = gap + number % columns * (self.cell_width + gap)
            sheet[y:y + cell.shape[0], x:x + self.cell_width] = cell
        return sheet


def save_image(path: str | Path, image: np.ndarray) -> None:
    """Write an image file, its kind by the suffix. Raises MediaError when it cannot be written."""
    path = Path(path)
    try:
        ok, data = cv2.imencode(path.suffix, image)
    except cv2.error:
        ok = False
    if not ok:
        raise MediaError(f"cannot write {path}: unknown image kind {path.suffix!r}; use .png or .jpg")
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise MediaError(f"cannot write {path}: {error.strerror}; "
                         "check that its folder exists and may be written to"
                         ) from error


def make_folder(folder: str | Path) -> Path:
    """The folder for results, made where it is not there. Raises MediaError."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"cannot make the folder {folder}: {error.strerror}; give another one with --out"
                              ) from error
    return folder
