# SPDX-License-Identifier: Apache-2.0
"""Finding a target anywhere in the frame with one look a frame, so that the frame rate holds.

By text alone (a new command) and by appearance (a lost target). Both go from few windows to many and give up
nothing: when a sweep ends without a find, the next begins.

A grounder, where the tracker has one, is asked at the begin of a sweep. Its proposals say where to look first and no
more: the network looks there in the same frame, and its own confidence and thresholds decide as they do anywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from vlt_ros.tracker.geometry import Window, overlap, tiles, whole_frame, window_around
from vlt_ros.tracker.look import Look, Looking, Sighting, Template, Words
from vlt_ros.tracker.target import Box

# A box must be found again in the next frames at about the same place.
CONFIRM_OVERLAP = 0.3
# Smaller tiles than this share of the network's input are blown up for nothing.
MIN_TILE = 0.6
# Windows of a level that are looked at again, best first.
CANDIDATES = 2
# A grounder's proposals that are looked at, best first, and how: side of the window over the box's size, and share of
# the Hann window, as the target should be in its middle.
PROPOSALS = 3
PROPOSAL_FACTOR = 4.0
PROPOSAL_CENTRE = 0.3

# From a frame, BGR uint8 (H, W, 3), to boxes with the proposer's confidence, best first.
Propose = Callable[[np.ndarray], Sequence[tuple[Box, float]]]
T = TypeVar("T")
# A search over frames: yields a look and is sent its sighting, or yields what a frame came to and is sent the next
# frame and its threshold.
Sweep = Generator[Look | Sighting | None, Any, T]


def needed(threshold: float, windows: int) -> float:
    """Confidence that a find among so many windows must have, for a tracking threshold in [0, 1].

    Every further window is a further chance of a false alarm: a third more for the 35 of a quarter's tiles; never more
    than half way to 1.
    """
    return min(threshold * windows**0.08, (1 + threshold) / 2)


def search_levels(width: int, height: int, input_size: int) -> list[list[Window]]:
    """Windows for a search by text: the whole frame, then tiles of a half, then of a quarter of its longer side.

    No tile is larger than the shorter side. A person 30 pixels high in a VGA frame is 10 pixels of an input of 224
    in the whole frame and 42 in a quarter tile.
    """
    levels = [[whole_frame(width, height)]]
    for divisor in (2, 4):
        side = min(math.ceil(max(width, height) / divisor), min(width, height))
        if MIN_TILE * input_size <= side < levels[-1][0].side:
            levels.append(tiles(width, height, side))
    return levels


def check_proposals(propose: Propose, image: np.ndarray, template: Template | None,
                    words: Words) -> Looking[list[Sighting]]:
    """What the network sees where a grounder proposes something, surest first.

    A look at each of the best proposals; one whose box is elsewhere does not count. Proposals that overlap a better one
    by half and more are the same thing.
    """
    boxes: list[Box] = []
    for box, _ in propose(image):
        if len(boxes) < PROPOSALS and all(overlap(box, other) < 0.5 for other in boxes):
            boxes.append(box)
    seen = []
    for box in boxes:
        seen.append((box, (yield Look(image, window_around(box, PROPOSAL_FACTOR), template, words, PROPOSAL_CENTRE))))
    return sorted((sighting for box, sighting in seen if overlap(sighting.box, box) >= CONFIRM_OVERLAP),
                  key=lambda sighting: -sighting.confidence)


class TextSearch:
    """Search by text: what a level's best windows, or a grounder's proposals, show in two frames more is the target.

    Thresholds are tracking's; how sure a find must be follows from them, see :func:`needed`. input_size: side of the
    network's search crop.
    """

    def __init__(self, input_size: int, words: Words, propose: Propose | None = None) -> None:
        self.input_size, self.words, self.propose = input_size, words, propose
        self.confidence = 0.0
        self._ask = propose is not None
        self._frames = self._sweep()
        next(self._frames)

    def step(self, image: np.ndarray, threshold: float) -> Looking[Sighting | None]:
        """One look at a new frame; returns a sighting in this frame when the target is found.

        ``confidence`` is the look's own.
        """
        try:
            answer = self._frames.send((image, threshold))
            while isinstance(answer, Look):
                answer = self._frames.send((yield answer))
            return answer
        except BaseException:   # the network failed, and the sweep waits for a sighting in vain: it begins anew
            self._frames = self._sweep()
            next(self._frames)
            raise

    def _look(self, image: np.ndarray, window: Window, centre_weight: float = 0.0) -> Looking[Sighting]:
        sighting = yield Look(image, window, None, self.words, centre_weight)
        self.confidence = sighting.confidence
        return sighting

    def _sweep(self) -> Sweep[None]:
        image, threshold = yield None
        while True:
            if self._ask and self.propose is not None:
                self._ask = False       # a grounder that fails is asked again only after a sweep without it
                sightings = yield from check_proposals(self.propose, image, None, self.words)
                promising = [(s.confidence, window_around(s.box, PROPOSAL_FACTOR)) for s in sightings
                             if s.reaches(needed(threshold, 1))]
                if promising:
                    self.confidence = promising[0][0]
                    image, threshold = yield None
                    image, threshold = yield from self._confirm(promising, image, threshold, PROPOSAL_CENTRE)
            for windows in search_levels(image.shape[1], image.shape[0], self.input_size):
                promising = []
                for window in windows:
                    sighting = yield from self._look(image, window)
                    if sighting.reaches(needed(threshold, len(windows))):
                        promising.append((sighting.confidence, window))
                    image, threshold = yield None
                image, threshold = yield from self._confirm(promising, image, threshold)
            self._ask = self.propose is not None

    def _confirm(self, promising: list[tuple[float, Window]], image: np.ndarray, threshold: float,
                 centre_weight: float = 0.0) -> Sweep[tuple[np.ndarray, float]]:
        """Look anew at the best windows; returns the first frame after that, and its threshold."""
        # A level takes many frames, in which a target moves on: its windows are looked at anew.
        for _, window in sorted(promising, reverse=True)[:CANDIDATES]:
            first = yield from self._look(image, window, centre_weight)
            image, threshold = yield None
            if not first.reaches(needed(threshold, 1)):
                continue
            # A closer look gives a better box, and the words often match better; but "the left one" is
            # central in it, so where it disagrees the wide view decides.
            closer = window_around(first.box, 4.0)
            for again in ([closer] if closer.side < 0.7 * window.side else []) + [window]:
                second = yield from self._look(image, again, centre_weight)
                agrees = overlap(second.box, first.box) >= CONFIRM_OVERLAP
                sure = second.reaches(needed(threshold, 1))
                image, threshold = yield second if agrees and sure else None
        return image, threshold


class AppearanceSearch:
    """Search for a lost target by its template (and words): near its last place in every other look."""

    def __init__(self, template: Template, words: Words, last: Box, propose: Propose | None = None) -> None:
        self.template, self.words, self.last, self.propose = template, words, last, propose
        self.confidence = 0.0
        self._windows: Iterator[Window] = iter(())
        self._near = False

    def step(self, image: np.ndarray, threshold: float) -> Looking[Sighting | None]:
        """One look at a new frame; returns a sighting when it is at least ``threshold`` sure."""
        height, width = image.shape[:2]
        self._near = not self._near
        if self._near:
            window = window_around(self.last, 5.0)
        else:
            following = next(self._windows, None)
            if following is not None:
                window = following
            else:
                longer = max(width, height)
                side = min(max(window_around(self.last, 6.0).side, math.ceil(longer / 4)), longer)
                x, y = self.last[0] + self.last[2] / 2, self.last[1] + self.last[3] / 2
                self._windows = iter(sorted(tiles(width, height, side), key=lambda w: math.hypot(
                    w.x + side / 2 - x, w.y + side / 2 - y)))
                window = next(self._windows)
                if self.propose is not None:
                    seen = yield from check_proposals(self.propose, image, self.template, self.words)
                    for sighting in seen[:1]:
                        self.confidence = sighting.confidence
                        if sighting.reaches(threshold):
                            return sighting
        sighting = yield Look(image, window, self.template, self.words)
        self.confidence = sighting.confidence
        return sighting if sighting.reaches(threshold) else None
