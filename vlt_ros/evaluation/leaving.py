# SPDX-License-Identifier: Apache-2.0
"""Sequences in which the target leaves the picture and comes back, made from any sequences with ground truth.

Few labelled videos have a target that is gone for seconds. So two sequences are put side by side, and a virtual camera
with the first one's field of view follows its target, turns to the other scene, stays there and turns back. Pixels,
motion and the other scene's things, which a tracker may mistake for its target, are real; the turn and the seam between
the scenes are not. Sequences shorter than that are played forwards and backwards.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlt_ros.evaluation.errors import EvaluationError
from vlt_ros.evaluation.runs import FPS
from vlt_ros.evaluation.sequences import Sequence

# Seconds that the camera follows, turns, looks elsewhere, turns back, and stays.
FOLLOW_S, TURN_S, AWAY_S, STAY_S = 2.0, 0.5, 2.0, 3.0
# Of a scene at most so many frames are played: they are held in memory.
SCENE = 60
# The target counts as gone when less than this share of its box is in view.
LEAST_VIEW = 0.2

FRAMES = round((FOLLOW_S + 2 * TURN_S + AWAY_S + STAY_S) * FPS)


@dataclass(frozen=True)
class Leaving(Sequence):
    """A sequence's target, left and found again.

    Attributes:
        here: the sequence itself. elsewhere: that of the scene that the camera turns to. left: whether it lies there.
        first, other_first: first frames played of both scenes; played, other_played: how many of them.
        width, height: of the view.
    """

    here: Sequence | None = None
    elsewhere: Sequence | None = None
    left: bool = False
    first: int = 0
    played: int = 0
    other_first: int = 0
    other_played: int = 0
    width: int = 0
    height: int = 0

    def images(self) -> Iterator[np.ndarray]:
        """The views, BGR uint8. Raises SequenceError as a plain sequence does."""
        yield from (image for _, image in self.images_at(list(range(len(self)))))

    def images_at(self, indices: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Some of its views with their numbers, in order. Raises SequenceError."""
        here = _frames(self.here, self.first, self.played)
        there = [_cover(image, self.width, self.height)
                 for image in _frames(self.elsewhere, self.other_first, self.other_played)]
        for index in sorted(set(indices)):
            scenes = here[_swing(index, self.played)], there[_swing(index, self.other_played)]
            turned = round(_turn(index) * self.width)
            panorama = np.hstack(scenes[::-1] if self.left else scenes)
            x = self.width - turned if self.left else turned
            yield index, np.ascontiguousarray(panorama[:, x:x + self.width])

    def size(self) -> tuple[int, int]:
        """Width and height of the views."""
        return self.width, self.height

    def shown(self) -> list[Path]:
        """The media of both scenes."""
        return [self.here.media, self.elsewhere.media]


def leaving(sequences: list[Sequence]) -> list[Leaving]:
    """One such sequence for each of these; each turns to the scene of the next, every other one to the left.

    Raises:
        EvaluationError: fewer than two sequences. SequenceError: an image cannot be read.
    """
    if len(sequences) < 2:
        raise EvaluationError("a camera that turns away needs another scene to turn to: give at least two sequences")
    return [_leaving(one, sequences[(number + 1) % len(sequences)], left=bool(number % 2))
            for number, one in enumerate(sequences)]


def _leaving(one: Sequence, elsewhere: Sequence, left: bool) -> Leaving:
    first, played = _scene(one)
    # What is there need not be labelled, and a target of its own may be absent.
    other_played = min(len(elsewhere), SCENE)
    width, height = one.size()
    boxes, absent = np.zeros((FRAMES, 4)), np.zeros(FRAMES, bool)
    for index in range(FRAMES):
        x, y, w, h = one.boxes[first + _swing(index, played)]
        x += round(_turn(index) * width) * (1 if left else -1)
        near, far = max(x, 0.0), min(x + w, float(width))
        # The part in view is the truth; the rest of the picture's edges cut nothing that the labels did not cut.
        absent[index] = (far - near) < LEAST_VIEW * w
        boxes[index] = (0, 0, 0, 0) if absent[index] else (near, y, far - near, h) if _turn(index) else (x, y, w, h)
    plain = {field.name: getattr(one, field.name) for field in dataclasses.fields(Sequence)}
    return Leaving(**plain | {"boxes": boxes, "absent": absent}, here=one, elsewhere=elsewhere, left=left, first=first,
                   played=played, other_first=0, other_played=other_played, width=width, height=height)


def _scene(one: Sequence) -> tuple[int, int]:
    """First frame and length of what is played of it: the longest run with the target, cut to :data:`SCENE`."""
    from vlt_ros.evaluation.behaviour import spans
    from vlt_ros.evaluation.sequences import SequenceError

    runs = spans(~one.absent)
    if not runs:
        raise SequenceError(f"{one.truth}: the target is in no frame")
    first, end = max(runs, key=lambda run: run[1] - run[0])
    return first, min(end - first, SCENE)


def _frames(one: Sequence, first: int, count: int) -> list[np.ndarray]:
    return [image for _, image in one.images_at(list(range(first, first + count)))]


def _cover(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """The middle of an image, scaled to fill a view."""
    import cv2

    scale = max(width / image.shape[1], height / image.shape[0])
    size = max(width, math.ceil(scale * image.shape[1])), max(height, math.ceil(scale * image.shape[0]))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    x, y = (size[0] - width) // 2, (size[1] - height) // 2
    return image[y:y + height, x:x + width]


def _swing(index: int, count: int) -> int:
    """Which of ``count`` frames is shown when they are played forwards and backwards for ever."""
    index %= max(1, 2 * count - 2)
    return min(index, 2 * count - 2 - index) if count > 1 else 0


def _turn(index: int) -> float:
    """How far the camera has turned at a frame, from 0, on the target, to 1, on the other scene."""
    time = index / FPS - FOLLOW_S
    if time > TURN_S + AWAY_S:
        time = 2 * TURN_S + AWAY_S - time
    return 0.5 - 0.5 * math.cos(math.pi * min(max(time / TURN_S, 0.0), 1.0))
