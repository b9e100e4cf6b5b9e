# SPDX-License-Identifier: Apache-2.0
"""Several targets followed at once: a tracker for each, whose looks at a frame are one batch of the network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlt_ros.tracker.commands import CommandError
from vlt_ros.tracker.target import State, Target, TrackerSettings
from vlt_ros.tracker.tracker import Tracker


class Targets:
    """The target of a main tracker, and others that come and go beside it under ids of their own.

    Each has its own sentence, template and state; they share the network, the settings and the counter of ids. Not
    thread-safe: one thread calls it.

    Args:
        main: takes its commands as if it were alone; its place is kept for it. most: of targets, with the main one.
    """

    def __init__(self, main: Tracker, most: int = 8) -> None:
        self.main, self.most = main, most
        self._others: list[Tracker] = []

    @property
    def others(self) -> list[Target]:
        """The newest results of the targets beside the main one, in the order in which they were added."""
        return [tracker.target for tracker in self._others]

    @property
    def settings(self) -> TrackerSettings:
        """The thresholds of all of them; may be assigned between frames."""
        return self.main.settings

    @settings.setter
    def settings(self, settings: TrackerSettings) -> None:
        for tracker in (self.main, *self._others):
            tracker.settings = settings

    def add(self, text: str = "", image: np.ndarray | None = None, box: Sequence[float] | None = None,
            stamp: float | None = None) -> Target:
        """Follow one target more; arguments as in :meth:`Tracker.start`.

        Raises:
            CommandError: as there, or there are as many as may be. Nothing changes.
        """
        if len(self._others) + 1 >= self.most:
            raise CommandError(f"at most {self.most} targets are followed, the main one among them: remove one first")
        tracker = self.main.another()
        target = tracker.start(text, image, box, stamp)
        self._others = [*self._others, tracker]
        return target

    def remove(self, target_id: int = 0) -> None:
        """Forget a target; the main one goes IDLE, as with :meth:`Tracker.stop`.

        Args:
            target_id: its id; 0: all of them.

        Raises:
            CommandError: no target has that id. Nothing changes.
        """
        known = [target.target_id for target in self.others]
        is_main = self.main.target.state is not State.IDLE and target_id in (0, self.main.target.target_id)
        if target_id and not is_main and target_id not in known:
            if self.main.target.state is not State.IDLE:
                known.insert(0, self.main.target.target_id)
            raise CommandError(f"no target has the id {target_id}: there " + (
                f"is {', '.join(map(str, known))}" if known else "is none"))
        if is_main:
            self.main.stop()
        self._others = [one for one in self._others if target_id and one.target.target_id != target_id]

    def clear(self) -> None:
        """Time jumped, see :meth:`Tracker.clear`; those given by a box alone are gone."""
        for tracker in (self.main, *self._others):
            tracker.clear()
        self._others = [tracker for tracker in self._others if tracker.target.state is not State.IDLE]

    def track(self, image: np.ndarray, stamp: float | None = None) -> list[Target]:
        """All targets in the next frame, the main one first (IDLE where it has no command).

        Arguments and errors as in :meth:`Tracker.track`. Where the network fails none of them is moved on.
        """
        trackers = [self.main, *self._others]
        return self.main.looker.run([tracker.work(image, stamp) for tracker in trackers])
