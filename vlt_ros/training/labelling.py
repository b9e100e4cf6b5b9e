# SPDX-License-Identifier: Apache-2.0
"""Labels for one's own clips: boxes that a person gives, the tracker between them, and the folder that training reads.

FOLDER/NAME/{img/000000.jpg, groundtruth.txt, language.txt} is what ``--data clips=FOLDER`` and ``vlt evaluate`` read.
labels.jsonl beside them is what was given and tracked, a line each, written as it comes: a run that was killed, or one
with more boxes, goes on from there. sheet.jpg shows the result.

A frame is labelled when a person gave its box, or when it is TRACKING. Between two given boxes the tracker goes forward
from the first and backward from the second; where both are TRACKING they must agree, and the nearer one's box is taken.
Every other frame is left for review: its box is NaN, which training passes over. It is not written as absent, because
training learns from absent frames that nothing is there, and a tracker's doubt is no proof of that; only a person marks
absence, from a frame to the next given one.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlt_ros.media import ContactSheet, annotate, make_folder, open_source, save_image
from vlt_ros.media.sources import CameraFrames, list_images, read_image
from vlt_ros.tracker import Box, CommandError, State, Target, validate_box, validate_text
from vlt_ros.tracker.geometry import overlap

# Two ways to one frame agree from this overlap on.
AGREEMENT = 0.5
SHEET_FRAMES = 24
# What stands for the start by text, which no frame was given for.
BY_TEXT = -1
MOUSE = "mouse"


class LabelError(ValueError):
    """A clip cannot be labelled so; the message says why and what to do. What was saved stays."""


@dataclass(frozen=True)
class Label:
    """What is said of one frame. kind: given, tracked, absent or review. target: what the picture of it shows."""

    kind: str
    target: Target

    @property
    def box(self) -> Box | None:
        """x, y, width, height in pixels; None in a frame that is absent or for review."""
        return self.target.box if self.kind in ("given", "tracked") else None

    def line(self) -> str:
        """Its line of groundtruth.txt."""
        if self.kind == "absent":
            return "0,0,0,0"
        return "nan,nan,nan,nan" if self.box is None else ",".join(f"{value:.2f}" for value in self.box)


class Clip:
    """A clip's folder. frames: its image files by their number in the source. given: box of a frame, None for absent.

    Raises:
        LabelError, MediaError: what is saved there is of another source, or cannot be read.
    """

    def __init__(self, folder: Path, source: str) -> None:
        self.folder, self.log = make_folder(folder), folder / "labels.jsonl"
        self.source, self.fps, self.text = "", 0.0, ""      # fps: 0 until all frames are read
        self.given: dict[int, Box | None] = {}
        self.tracked: defaultdict[tuple[int, int], dict[int, Target]] = defaultdict(dict)
        self._read_log()
        if self.source and self.source != source:
            raise LabelError(f"{folder} holds the frames of {self.source}, not of {source}: give another --name")
        self.frames: dict[int, Path] = self._saved_frames() if self.fps else {}

    def _saved_frames(self) -> dict[int, Path]:
        return {int(file.stem): file for file in list_images(self.folder / "img") if file.stem.isdecimal()}

    def _read_log(self) -> None:
        number = 0
        try:
            lines = self.log.read_text(encoding="utf-8").split("\n") if self.log.exists() else []
            # What follows the last line's end was cut off by a kill.
            if lines and lines.pop():
                self.log.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
            for number, line in enumerate(lines, start=1):      # noqa: B007 (the error names it)
                self._take(json.loads(line))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise LabelError(f"{self.log} line {number} cannot be read ({error}): mend it, or give another "
                             "--name") from error

    def _take(self, line: dict[str, Any]) -> None:
        """One line of the log: source, with fps once its frames are saved; sentence; given box; or tracked frame."""
        if "source" in line:
            self.source, self.fps = line["source"], line["fps"]
        elif "text" in line:
            self.text = line["text"]
            self.tracked.clear()
        elif "given" in line:
            frame, box = line["frame"], line["given"]
            self.given[frame] = None if box is None else tuple(box)
            for begin in (frame, BY_TEXT):
                self.tracked.pop((begin, 1), None)
                self.tracked.pop((begin, -1), None)
        else:
            frame, begin, box = line["frame"], line["from"], line["box"]
            self.tracked[begin, 1 if frame > begin else -1][frame] = Target(
                State[line["state"]], None if box is None else tuple(box), line["confidence"])

    def add(self, **line: Any) -> None:
        """Take a line, and keep it whatever happens next."""
        self._take(line)
        try:
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise LabelError(f"cannot write {self.log}: {error.strerror}") from error

    def read_frames(self, source: str, max_frames: int | None = None) -> None:
        """Save the source's frames, if they are not there. Ctrl-C ends a camera.

        Raises:
            LabelError: the folder holds frames that were not read here.
        """
        from tqdm import tqdm

        if self.fps:
            return
        frames = open_source(source)
        images = make_folder(self.folder / "img")
        if not self.source and any(images.iterdir()):
            raise LabelError(f"{images} holds frames that vlt label did not read: give another --name or --out")
        self.add(source=source, fps=0.0)
        for old in images.iterdir():            # of a run that did not come to the end of its source
            old.unlink()
        total = min(filter(None, (frames.length, max_frames)), default=None)
        try:
            for frame in itertools.islice(tqdm(frames, "read", total, unit="frame", leave=False, disable=None),
                                          max_frames):
                save_image(images / f"{frame.index:06d}.jpg", frame.image)
        except KeyboardInterrupt:
            if not isinstance(frames, CameraFrames):
                raise
        self.frames = self._saved_frames()
        self.add(source=source, fps=frames.fps)

    def give(self, frame: int, box: Box | str | None) -> None:
        """A frame's box from a person: x, y, width, height in pixels, MOUSE to draw it, or None for absent.

        Raises:
            LabelError: there is no such frame, or the box is not in it.
        """
        if frame not in self.frames:
            raise LabelError(f"frame {frame} is not in the clip, whose frames are {min(self.frames)} to "
                             f"{max(self.frames)}")
        if box is not None:
            image = read_image(self.frames[frame])
            try:
                box = validate_box(draw_box(image, f"frame {frame}") if isinstance(box, str) else box,
                                   image.shape[1], image.shape[0])
            except CommandError as error:
                raise LabelError(f"frame {frame}: {error}") from error
        if frame not in self.given or self.given[frame] != box:
            self.add(frame=frame, given=box)

    def runs(self) -> list[tuple[int, list[int]]]:
        """Where the tracker must go: from a given frame (or :data:`BY_TEXT`) over frames in that order."""
        numbers, begins = sorted(self.frames), sorted(self.given)
        if not begins:
            return [(BY_TEXT, numbers)] if self.text else []
        runs = []
        for before, begin, after in zip([None, *begins], begins, [*begins[1:], None], strict=False):
            if self.given[begin] is None:
                continue
            runs.append((begin, [n for n in numbers if n > begin and (after is None or n < after)]))
            # From an absent frame on the target is known to be gone.
            if before is None or self.given[before] is not None:
                runs.append((begin, [n for n in reversed(numbers) if n < begin and (before is None or n > before)]))
        return [(begin, frames) for begin, frames in runs if frames]

    def track(self, make_tracker: Callable[[], Any]) -> None:
        """Track the frames that no earlier run has tracked from the same box. make_tracker: called if there are any."""
        from tqdm import tqdm

        missing = [(begin, frames) for begin, frames in self.runs()
                   if not set(frames) <= set(self.tracked[begin, 1 if frames[0] > begin else -1])]
        if not missing:
            return
        tracker = make_tracker()
        with tqdm(total=sum(len(frames) for _, frames in missing), desc="track", unit="frame", disable=None) as bar:
            for begin, frames in missing:
                if begin == BY_TEXT:
                    tracker.start(self.text)
                else:
                    tracker.start(self.text, image=read_image(self.frames[begin]), box=self.given[begin], stamp=0.0)
                for frame in frames:
                    # Backward in the clip is forward for the tracker.
                    target = tracker.track(read_image(self.frames[frame]), abs(frame - begin) / self.fps)
                    self.add(**{"frame": frame, "from": begin, "state": target.state.name,
                                "box": None if target.box is None else [round(v, 2) for v in target.box],
                                "confidence": round(target.confidence, 4)})
                    bar.update()

    def labels(self) -> dict[int, Label]:
        """The label of every frame, from what was given and tracked."""
        begins = np.array(sorted(self.given), int)
        return {frame: self._label(frame, begins) for frame in sorted(self.frames)}

    def _label(self, frame: int, begins: np.ndarray) -> Label:
        before = int(begins[begins <= frame][-1]) if (begins <= frame).any() else None
        after = int(begins[begins > frame][0]) if (begins > frame).any() else None
        if before is not None and self.given[before] is None:
            return Label("absent", Target(State.LOST))
        if before == frame:
            return Label("given", Target(State.TRACKING, self.given[frame], 1.0))
        ways = {begin: self.tracked[begin, 1 if frame > begin else -1][frame]
                for begin in ((before, after) if len(begins) else (BY_TEXT,))
                if begin is not None and frame in self.tracked[begin, 1 if frame > begin else -1]}
        tracked = {abs(frame - begin): target for begin, target in sorted(ways.items())
                   if target.state is State.TRACKING}
        if not tracked:
            return Label("review", next(iter(ways.values()), Target(State.LOST)))
        nearest = tracked[min(tracked)]
        if any(overlap(nearest.box, other.box) < AGREEMENT for other in ways.values() if other.state is State.TRACKING):
            return Label("review", Target(State.UNCERTAIN, nearest.box, nearest.confidence))
        return Label("tracked", nearest)

    def write(self) -> dict[int, Label]:
        """Write groundtruth.txt, language.txt and sheet.jpg; returns the labels."""
        labels = self.labels()
        lines = "".join(label.line() + "\n" for label in labels.values())
        for name, content in (("language.txt", self.text + "\n"), ("groundtruth.txt", lines)):
            partial = self.folder / f"{name}.partial"
            try:
                partial.write_text(content, encoding="utf-8")
                partial.replace(self.folder / name)
            except OSError as error:
                raise LabelError(f"cannot write {self.folder / name}: {error.strerror}") from error
        save_image(self.folder / "sheet.jpg", self._sheet(labels))
        return labels

    def _sheet(self, labels: dict[int, Label]) -> np.ndarray:
        """Frames spread over the clip, half of them over what is left for review."""
        def spread(frames: list[int]) -> set[int]:
            chosen = np.linspace(0, len(frames) - 1, min(SHEET_FRAMES // 2, len(frames))).round().astype(int)
            return {frames[i] for i in chosen}

        review = [frame for frame, label in labels.items() if label.kind == "review"]
        sheet = ContactSheet(SHEET_FRAMES)
        for frame in sorted(spread(list(labels)) | spread(review)):
            label = labels[frame]
            shown = Target(label.target.state, label.target.box, label.target.confidence,
                           text=f"frame {frame}: {label.kind}")
            sheet.add(annotate(read_image(self.frames[frame]), shown))
        return sheet.image()


def label_clip(source: str, out: str | Path, *, make_tracker: Callable[[], Any], name: str = "", text: str = "",
               first: Box | str | None = None, given: Mapping[int, Box | str | None] | None = None,
               max_frames: int | None = None) -> tuple[Clip, dict[int, Label]]:
    """Label a clip, or go on with one.

    Args:
        source: video file, folder of images or camera. out: the folder of the clips.
        make_tracker: gives the tracker; called once, if there is anything to track.
        name: of the clip's folder; without it, the source's. text: its sentence; '' keeps the saved one.
        first: box of the first frame. given: boxes by frame, see :meth:`Clip.give`. max_frames: of the source.

    Raises:
        LabelError, MediaError, CommandError and the tracker's own: what was confirmed before stays saved.
    """
    text = validate_text(text)
    if not str(source).isdigit() and not str(source).startswith("/dev/video"):
        source = str(Path(source).absolute())
    if not name:
        path = Path(source)
        # The frames of a sequence lie in NAME/img.
        name = path.parent.name if path.name in ("img", "imgs") else path.stem
    if name != Path(name).name or name in ("", ".", ".."):
        raise LabelError(f"--name is {name!r}: give the name of a folder to be made in {out}")
    clip = Clip(Path(out) / name, source)
    if not (text or first or given or clip.text or clip.given):
        raise LabelError("nothing to follow: give --box X,Y,W,H, --box mouse to draw it, or --text")
    clip.read_frames(source, max_frames)
    if text and text != clip.text:
        clip.add(text=text)
    boxes = dict(given or {})
    if first is not None:
        boxes.setdefault(min(clip.frames), first)
    for frame, box in sorted(boxes.items()):
        clip.give(frame, box)
    clip.track(make_tracker)
    return clip, clip.write()


def ranges(frames: list[int]) -> str:
    """Numbers in words: 3-7, 9."""
    parts = []
    for _, group in itertools.groupby(enumerate(sorted(frames)), lambda pair: pair[1] - pair[0]):
        run = [frame for _, frame in group]
        parts.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ", ".join(parts)


def draw_box(image: np.ndarray, title: str) -> Box:
    """A box that a person draws with the mouse in a window, and confirms by closing it.

    Args:
        image: BGR uint8 (H, W, 3). title: of the window.

    Raises:
        LabelError: there is no screen, or nothing was drawn.
    """
    from matplotlib import pyplot
    from matplotlib.widgets import RectangleSelector

    figure, axes = pyplot.subplots(num=f"{title}: draw the box, then close the window")
    try:
        if figure.canvas.required_interactive_framework is None:
            raise LabelError("there is no screen, or no window toolkit for matplotlib (such as Debian's python3-tk): "
                             "give the box as X,Y,W,H")
        axes.imshow(image[..., ::-1])
        axes.set_axis_off()
        selector = RectangleSelector(axes, lambda *_: None, useblit=True, interactive=True)
        pyplot.show(block=True)
        left, right, top, bottom = selector.extents
    finally:
        pyplot.close(figure)
    if right - left < 1 or bottom - top < 1:
        raise LabelError(f"{title}: no box was drawn in the window")
    # The middle of the first pixel is 0 in the plot.
    return left + 0.5, top + 0.5, right - left, bottom - top
