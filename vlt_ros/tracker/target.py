# SPDX-License-Identifier: Apache-2.0
"""What a tracker says of its target after a frame, and the settings that may change between two frames."""

from __future__ import annotations

import enum
from dataclasses import dataclass

Box = tuple[float, float, float, float]


class State(enum.IntEnum):
    """What the tracker knows. The numbers are those of vlt_ros/msg/Target."""

    IDLE = 0
    """No command."""
    SEARCHING = 1
    """A command, and nothing found for it yet."""
    TRACKING = 2
    """Confidence is at least track_threshold."""
    UNCERTAIN = 3
    """Confidence is below track_threshold, for less than lost_after_s below lost_threshold."""
    LOST = 4
    """Confidence stayed below lost_threshold for lost_after_s; the target is being looked for."""


@dataclass(frozen=True)
class Target:
    """The target after one frame.

    state: see :class:`State`.
    box: (x, y, width, height) in pixels of the frame, top-left corner first; only in TRACKING and UNCERTAIN.
        In UNCERTAIN with a confidence below lost_threshold it is not to be trusted: the last box believed, or something
        that may be the target.
    confidence: in [0, 1], of this frame, and of those just before where the network recognises its target; while
        SEARCHING or LOST that of the one window looked at in this frame.
    target_id: changes only with a new command or box; 0 before the first.
    text: the command's sentence.
    last_seen: stamp in seconds of the newest frame in which the target was seen (confidence at least
        lost_threshold), None before.
    """

    state: State = State.IDLE
    box: Box | None = None
    confidence: float = 0.0
    target_id: int = 0
    text: str = ""
    last_seen: float | None = None

    def __post_init__(self) -> None:
        if (self.box is not None) != (self.state in (State.TRACKING, State.UNCERTAIN)):
            raise ValueError(f"a box belongs to TRACKING and UNCERTAIN, not to {self.state.name} with {self.box}")

    def record(self, frame: int, latency_ms: float) -> dict:
        """A line of track.jsonl: frame, state, box [x,y,w,h] in pixels or None, confidence, latency_ms."""
        return {"frame": frame, "state": self.state.name,
                "box": None if self.box is None else [round(v, 2) for v in self.box],
                "confidence": round(self.confidence, 4), "latency_ms": round(latency_ms, 2)}


@dataclass(frozen=True)
class TrackerSettings:
    """Thresholds of the state machine. Raises ValueError when one is out of its range.

    track_threshold: confidence from which the target counts as tracked, in [0, 1].
    lost_threshold: confidence below which a frame shows no target, in [0, track_threshold].
    lost_after_s: seconds until what is unseen, or became another thing, is LOST; three times as long for one thing
        that is followed but not recognised.
    reacquire: look for a lost target in the whole frame.
    search_interval_frames: while searching, run the network on every n-th frame only.
    """

    track_threshold: float = 0.45
    lost_threshold: float = 0.35
    lost_after_s: float = 0.6
    reacquire: bool = True
    search_interval_frames: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.lost_threshold <= self.track_threshold <= 1:
            raise ValueError(f"thresholds must satisfy 0 <= lost_threshold ({self.lost_threshold}) <= "
                             f"track_threshold ({self.track_threshold}) <= 1")
        if not 0 <= self.lost_after_s < float("inf"):
            raise ValueError(f"lost_after_s must be at least 0, not {self.lost_after_s}")
        if self.search_interval_frames < 1:
            raise ValueError(f"search_interval_frames must be at least 1, not {self.search_interval_frames}")
