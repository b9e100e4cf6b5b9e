# SPDX-License-Identifier: Apache-2.0
"""The tracker behind the node, the command line and the evaluation: one frame in, one :class:`Target` out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import NamedTuple

import numpy as np

from vlt_ros.tracker.commands import CommandError, validate_box, validate_text
from vlt_ros.tracker.geometry import clip, overlap, window_around
from vlt_ros.tracker.look import Look, Looker, Looking, Sighting, Template, Words, needs_listening
from vlt_ros.tracker.point import box_at
from vlt_ros.tracker.search import AppearanceSearch, TextSearch
from vlt_ros.tracker.target import Box, State, Target, TrackerSettings

FRAME_INTERVAL_S = 1 / 30
# The search region's largest growth: training saw targets as small in it.
MAX_GROWTH = 1.75
# Time over which frames speak together for or against the target [s], and how loudly one may: a logit, 1 to 20.
SETTLE_S = 0.1
SAY = 3.0
# As many times lost_after_s may something be followed that is not recognised, while it is one thing from frame to
# frame: the target, turned, perhaps. Once it became another thing (a probability of the same under SAME), it is not.
DOUBT = 3
SAME = 0.5


# Looks that measure an extent: shifts in target sizes, factor on the search region.
EXTENT_LOOKS = ((0, 0, 1.0), (0.25, 0.25, 1.0), (-0.25, -0.25, 1.0), (0.2, -0.2, 0.85), (-0.2, 0.2, 1.2))
# Below this overlap with the given box a look saw something else.
EXTENT_OVERLAP = 0.3


class Extent(NamedTuple):
    """How a given box differs from what the network takes for the thing: with or without its legs, or its load.

    dx, dy: shift of the centre in widths and heights of the network's box. dw, dh: logarithms of the size ratios.
    """

    dx: float = 0.0
    dy: float = 0.0
    dw: float = 0.0
    dh: float = 0.0

    def apply(self, box: Box) -> Box:
        """The network's box with the given box's extent."""
        x, y, w, h = box
        wide, high = w * math.exp(self.dw), h * math.exp(self.dh)
        return x + w / 2 + self.dx * w - wide / 2, y + h / 2 + self.dy * h - high / 2, wide, high


    @classmethod
    def between(cls, box: Box, seen: Sequence[Box], share: float) -> Extent:
        """A ``share`` of the mean difference of a given box from what was seen of it; none where most saw another."""
        x, y, w, h = box
        found = [((x + w / 2 - u - a / 2) / a, (y + h / 2 - v - b / 2) / b, math.log(w / a), math.log(h / b))
                 for u, v, a, b in seen if overlap((u, v, a, b), box) >= EXTENT_OVERLAP]
        if 2 * len(found) <= len(seen):
            return cls()
        return cls(*(share * float(value) for value in np.mean(found, axis=0)))


@dataclass(frozen=True)
class Following:
    """How a target is followed from frame to frame; chosen on held-out training clips, see the model card.

    search_factor: side of the search region over the target's size sqrt(w h).
    centre_weight: share of the Hann window in the score that picks the cell.
    size_smoothing: share of the new size in the next one, from a confidence of 0.5 on; 1 takes every size as it is.
    extent_share: share of :class:`Extent` that is believed.
    search_growth: factor on the search region's side for every frame in a row without the target.
    about_centre: map boxes back about the last box's centre itself. The crop's corner is rounded to pixels, so that is
        up to half a pixel off; OSTrack does it.
    """

    search_factor: float = 4.0
    centre_weight: float = 0.3
    size_smoothing: float = 0.35
    extent_share: float = 0.6
    search_growth: float = 1.25
    about_centre: bool = False


# Ye et al., ECCV 2022, as their released tracker does it.
OSTRACK_FOLLOWING = Following(search_factor=4.0, centre_weight=1.0, size_smoothing=1.0, extent_share=0.0,
                              search_growth=1.0, about_centre=True)


def check_image(image: np.ndarray) -> None:
    """Raise ValueError unless the image is BGR uint8 (H, W, 3) with pixels in it."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"image must be a uint8 array (height, width, 3) in BGR order, not {got}")
    if image.shape[0] < 2 or image.shape[1] < 2:
        raise ValueError(f"image must have at least 2 x 2 pixels, not {image.shape[1]} x {image.shape[0]}")


class Tracker:
    """Follows what a sentence names, or a box shows, or both.

    A command starts it (:meth:`start`), every frame goes to :meth:`track`. By text alone it is SEARCHING until
    the network, with a blank template, is sure of a place twice; the box found there becomes the template. A box
    does not move on a confidence below ``settings.lost_threshold``.

    Not thread-safe: one thread calls it.

    Args:
        network: from ``vlt_ros.networks.load_network``.
        settings: thresholds; assign :attr:`settings` between frames to change them.
        following: how it follows, see :class:`Following`; without it, as the network's ``config.inference`` says.
        grounder: proposes where a sentence's target may be, at the begin of a sweep of a search; an object with
            ``ground(image, text)`` as ``vlt_ros.networks.load_grounder`` gives it. The network checks what it proposes.

    Attributes:
        looker: its looks, alone or with those of trackers made by :meth:`another`.
    """

    def __init__(self, network, settings: TrackerSettings | None = None, following: Following | None = None,
                 grounder=None) -> None:
        self.settings = settings or TrackerSettings()
        self._grounder = grounder
        self.looker = Looker(network)
        self._ids: Iterator[int] = count(1)
        self.following = following or (OSTRACK_FOLLOWING if self.looker.as_ostrack else Following())
        self._target = Target()
        self._forget()

    def another(self) -> Tracker:
        """An idle tracker for one target more, with the same network, settings and counter of ids."""
        other = Tracker(self.network, self.settings, self.following, self._grounder)
        other.looker, other._ids = self.looker, self._ids
        return other

    @property
    def network(self):
        """The network it runs."""
        return self.looker.network

    @property
    def network_seconds(self) -> float:
        """Time spent in the network's looks so far [s]."""
        return self.looker.network_seconds

    @property
    def target(self) -> Target:
        """The newest result."""
        return self._target

    def _forget(self) -> None:
        """Drop command, appearance and motion (not the id counter)."""
        self._words: Words | None = None        # of the command
        self._guide: Words | None = None        # that the target is followed with: those or none
        self._template: Template | None = None
        self._extent = Extent()
        self._box: Box | None = None
        self._search: TextSearch | AppearanceSearch | None = None
        self._below_since: float | None = None
        self._unseen_since: float | None = None
        self._believed: Box | None = None       # the last one that was not doubted
        self._belief: tuple[float, float] | None = None
        self._before: Sighting | None = None    # of the frame before, if it was followed
        self._has_changed = False               # into another thing, since it was last trusted
        self._misses = 0
        self._clock = 0.0
        self._frames_searched = 0

    def _proposer(self, text: str):
        """What proposes boxes for a sentence in a frame; None without a grounder or a sentence."""
        return partial(self._grounder.ground, text=text) if self._grounder is not None and text else None

    def warm_up(self) -> None:
        """Run every part of the network once, so that the first frame is as fast as the next."""
        looker = self.looker
        frame = np.zeros((looker.size, looker.size, 3), np.uint8)
        box = (0.25 * looker.size, 0.25 * looker.size, 0.5 * looker.size, 0.5 * looker.size)
        for template in (looker.template(frame, box), None):
            looker.look(frame, window_around(box, 2.0), template, looker.words("the target"))

    # commands ---------------------------------------------------------------------------------------------
    def start(self, text: str = "", image: np.ndarray | None = None, box: Sequence[float] | None = None,
              stamp: float | None = None) -> Target:
        """Follow a new target, under a new id.

        Args:
            text: the sentence; may be '' when a box is given.
            image: the frame that the box was drawn on, BGR uint8 (H, W, 3); not needed without a box.
            box: x, y, width, height in that frame's pixels. stamp: that frame's time in seconds.

        Raises:
            CommandError: neither text nor box, a bad text, a bad box or image. The old target stays.
        """
        text = validate_text(text)
        if box is None and not text:
            raise CommandError("a command needs a text or a box")
        if box is None:
            needs_listening(self.network)
        if box is not None:
            try:
                check_image(image)
            except ValueError as error:
                raise CommandError(f"a box needs the frame it was drawn on: {error}") from error
            box = validate_box(box, image.shape[1], image.shape[0])
        words = self.looker.words(text)
        if box is None:
            self._forget()
            self._search = TextSearch(self.looker.size, words, self._proposer(text))
            self._target = Target(State.SEARCHING, None, 0.0, next(self._ids), text)
        else:
            template = self.looker.template(image, box)
            guide, extent = self._tried(image, box, template, words)
            self._forget()
            self._adopt(template, guide, box)
            self._extent = extent
            self._target = Target(State.TRACKING, box, 1.0, next(self._ids), text, self._now(stamp))
        self._words = words
        return self._target

    def box_at(self, image: np.ndarray, point: Sequence[float]) -> Box:
        """The box of what is at a point x, y [px] of an image, to :meth:`start` with; see :func:`point.box_at`."""
        check_image(image)
        return box_at(self.looker, image, point)

    def stop(self) -> Target:
        """Forget the target: IDLE."""
        self._forget()
        self._target = Target(target_id=self._target.target_id)
        return self._target

    def search_again(self) -> Target:
        """Look for the same target in the whole frame, under the same id: by its words, else by its appearance.

        Raises:
            CommandError: there is no target.
        """
        if self._words is None:
            raise CommandError("there is no target to search for: send a command first")
        old = self._target
        if old.text and self.network.listens:
            words = self._words
            self._forget()
            self._words, self._search = words, TextSearch(self.looker.size, words, self._proposer(old.text))
        else:
            self._search = AppearanceSearch(self._template, self._guide, self._box, self._proposer(old.text))
            self._frames_searched = 0
        self._target = Target(State.SEARCHING, None, 0.0, old.target_id, old.text, old.last_seen)
        return self._target

    def clear(self) -> Target:
        """Time jumped: appearance and motion no longer hold. With a text search again, box alone goes IDLE."""
        if self._words is None or not self._target.text or not self.network.listens:
            return self.stop()
        self._target = replace(self.search_again(), last_seen=None)
        return self._target

    # frames -----------------------------------------------------------------------------------------------
    def track(self, image: np.ndarray, stamp: float | None = None) -> Target:
        """The target in the next frame.

        Args:
            image: BGR uint8 (H, W, 3). stamp: its time in seconds; None counts frames at 30 Hz.

        Raises:
            ValueError: not such an image; nothing changes.
        """
        return self.looker.run([self.work(image, stamp)])[0]

    def work(self, image: np.ndarray, stamp: float | None = None) -> Looking[Target]:
        """What :meth:`track` does, as looks that somebody else takes; see :meth:`Looker.run`."""
        check_image(image)
        now = self._now(stamp)
        if self._target.state is not State.IDLE:
            work = self._followed if self._search is None else self._searched
            self._target = yield from work(image, now)
        return self._target

    def _now(self, stamp: float | None) -> float:
        self._clock = self._clock + FRAME_INTERVAL_S if stamp is None else float(stamp)
        return self._clock

    def _adopt(self, template: Template, guide: Words, box: Box) -> None:
        self._template, self._guide = template, guide
        self._box = self._believed = box
        self._search, self._below_since, self._unseen_since, self._misses, self._belief = None, None, None, 0, None
        self._before, self._has_changed = None, False

    def _tried(self, image: np.ndarray, box: Box, template: Template, words: Words) -> tuple[Words, Extent]:
        """Which words a given box is followed with, its sentence's or none, and its extent.

        A sentence may name a whole of which the box shows a part, or something else: the box would be pulled there. So
        the network is tried with it and without in the box's own frame, and that is taken which sees the box better.
        """
        if not self.following.extent_share:
            return words, Extent()
        seen = self._seen_around(image, box, template, words)
        if words.text:
            none = self.looker.words("")
            without = self._seen_around(image, box, template, none)
            if sum(overlap(one, box) for one in without) > sum(overlap(one, box) for one in seen):
                words, seen = none, without
        return words, Extent.between(box, seen, self.following.extent_share)

    def _seen_around(self, image: np.ndarray, box: Box, template: Template, words: Words) -> list[Box]:
        """What the network makes of a given box in its own frame, from a few looks around it."""
        x, y, w, h = box
        scale = math.sqrt(w * h)
        windows = [window_around((x + shift_x * scale, y + shift_y * scale, w, h),
                                 factor * self.following.search_factor) for shift_x, shift_y, factor in EXTENT_LOOKS]
        return [self.looker.look(image, window, template, words, self.following.centre_weight).box
                for window in windows]

    def _searched(self, image: np.ndarray, now: float) -> Looking[Target]:
        """A frame in SEARCHING or LOST."""
        old = self._target
        if old.state is State.LOST and not self.settings.reacquire:
            return old
        self._frames_searched += 1
        if (self._frames_searched - 1) % self.settings.search_interval_frames:
            return old
        sighting = yield from self._search.step(image, self.settings.track_threshold)
        if sighting is None:
            return replace(old, confidence=self._search.confidence)
        height, width = image.shape[:2]
        box = clip(sighting.box, width, height, min(10, width, height))
        if isinstance(self._search, TextSearch):
            self._adopt(self.looker.template(image, box), self._words, box)
        else:
            self._adopt(self._template, self._guide, box)
        return Target(State.TRACKING, box, sighting.confidence, old.target_id, old.text, now)

    def _followed(self, image: np.ndarray, now: float) -> Looking[Target]:
        """A frame in TRACKING or UNCERTAIN."""
        old, settings = self._target, self.settings
        height, width = image.shape[:2]
        following = self.following
        growth = min(following.search_growth**self._misses, MAX_GROWTH)
        window = window_around(self._box, following.search_factor * growth)
        sighting = yield Look(image, window, self._template, self._guide, following.centre_weight / growth)
        confidence = self._settled(sighting.confidence, now)
        believed = sighting.confidence > 0 and confidence >= settings.lost_threshold
        is_seen = sighting.confidence > 0 and sighting.score >= settings.lost_threshold
        if believed:
            self._below_since = None
        elif self._below_since is None:
            self._below_since = now
        if is_seen:
            self._unseen_since = None
        elif self._unseen_since is None:
            self._unseen_since = now
        # Over a gap it says nothing: the target may have turned while it was not seen.
        if is_seen and self._before is not None and self.looker.continues(self._before, sighting) < SAME:
            self._has_changed = True
        self._before = sighting if is_seen else None
        patience = settings.lost_after_s if self._has_changed else DOUBT * settings.lost_after_s
        if self._below_since is not None and (
                now - self._below_since >= patience
                or self._unseen_since is not None and now - self._unseen_since >= settings.lost_after_s):
            self._search = AppearanceSearch(self._template, self._guide, self._believed, self._proposer(old.text))
            self._frames_searched = 0
            return Target(State.LOST, None, confidence, old.target_id, old.text, old.last_seen)
        if not is_seen:
            self._misses += 1
            return replace(old, state=State.UNCERTAIN, confidence=confidence)
        # What looks right is followed even while it is doubted: it may be the target, turned.
        self._misses = 0
        x, y, w, h = self._box
        seen = sighting.box
        if following.about_centre:
            seen = (seen[0] + x + w / 2 - window.side / 2 - window.x, seen[1] + y + h / 2 - window.side / 2 - window.y,
                    *seen[2:])
        box = self._smooth(self._extent.apply(seen), sighting.score)
        self._box = clip(box, width, height, min(10, width, height))
        if believed:
            self._believed = self._box
        trusted = believed and confidence >= settings.track_threshold
        if trusted:
            self._has_changed = False
        state = State.TRACKING if trusted else State.UNCERTAIN
        return Target(state, self._box, confidence, old.target_id, old.text, now if believed else old.last_seen)

    def _settled(self, confidence: float, now: float) -> float:
        """A probability by this frame and those just before: a logit's mean over about SETTLE_S.

        Single frames mislead, of an impostor as of the target turned. The head's score alone is as it is.
        """
        if not self.network.config.recognition or not confidence:
            return confidence
        logit = min(max(math.log(max(confidence, 1e-4) / max(1 - confidence, 1e-4)), -SAY), SAY)
        if self._belief is not None:
            before, then = self._belief
            logit = before + (logit - before) * (1 - math.exp(min(then - now, 0.0) / SETTLE_S))
        self._belief = logit, now
        return 1 / (1 + math.exp(-logit))

    def _smooth(self, box: Box, score: float) -> Box:
        """The new centre with a size between the old and the new one: sizes jump more than targets do."""
        if self.following.size_smoothing == 1:
            return box
        x, y, w, h = box
        share = self.following.size_smoothing * min(1.0, score / 0.5)
        smooth_w = math.exp((1 - share) * math.log(self._box[2]) + share * math.log(max(w, 1.0)))
        smooth_h = math.exp((1 - share) * math.log(self._box[3]) + share * math.log(max(h, 1.0)))
        return x + (w - smooth_w) / 2, y + (h - smooth_h) / 2, smooth_w, smooth_h
