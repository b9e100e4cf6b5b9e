# SPDX-License-Identifier: Apache-2.0
"""The servo's control law: a target's place in the image to a robot's velocity. No ROS calls here.

Image-based visual servoing by two features (Chaumette and Hutchinson, "Visual servo control, part I", 2006): the
target's horizontal place turns the robot, its distance (or its height in the image) drives it, each in proportion
to its error. Directions are REP 103's: forward is positive, and so is turning left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

Box = tuple[float, float, float, float]
# After a longer pause the velocity changes no more than in this time [s].
LONGEST_STEP_S = 0.1


def _setting(default: Any, description: str, low: float | None = None, high: float | None = None) -> Any:
    return field(default=default, metadata={"description": description, "low": low, "high": high})


@dataclass(frozen=True)
class ServoSettings:
    """What the servo can be told. Raises ValueError when one is out of its range."""

    distance_from: str = _setting("box", "What the distance is taken from: box (its height), pose (target_pose, in a "
                                  "frame on the robot), or none (turn only)")
    box_height: float = _setting(0.5, "Wanted height of the box, in parts of the image's", 0.05, 0.9)
    distance: float = _setting(1.5, "Wanted distance from the frame of target_pose [m]", 0.1, 100.0)
    yaw_gain: float = _setting(1.0, "Turning for a target at the image's edge [rad/s]", 0.0, 10.0)
    distance_gain: float = _setting(0.5, "Speed for a target twice as far as wanted [m/s]", 0.0, 10.0)
    yaw_dead_band: float = _setting(0.05, "Error left alone, in parts of half the image's width", 0.0, 0.9)
    distance_dead_band: float = _setting(0.1, "Error left alone, in parts of the wanted distance", 0.0, 0.9)
    max_speed: float = _setting(0.5, "Forward speed [m/s]", 0.0, 10.0)
    max_reverse_speed: float = _setting(0.0, "Backward speed; 0: never drives backwards, where nobody looks [m/s]",
                                        0.0, 10.0)
    max_yaw_rate: float = _setting(1.0, "[rad/s]", 0.0, 10.0)
    max_acceleration: float = _setting(0.5, "A stop is not limited by it [m/s2]", 0.01, 100.0)
    max_yaw_acceleration: float = _setting(2.0, "A stop is not limited by it [rad/s2]", 0.01, 100.0)
    uncertain_after_s: float = _setting(0.5, "Time of UNCERTAIN after which the robot stops [s]", 0.0, 10.0)
    target_timeout_s: float = _setting(0.5, "Silence of target after which the robot stops [s]", 0.05, 10.0)

    def __post_init__(self) -> None:
        if self.distance_from not in ("box", "pose", "none"):
            raise ValueError(f"distance_from is {self.distance_from!r}: give box, pose or none")
        for spec in fields(self):
            value, low, high = getattr(self, spec.name), spec.metadata["low"], spec.metadata["high"]
            if low is not None and not low <= value <= high:        # NaN fails here too
                raise ValueError(f"{spec.name} is {value}: give {low} to {high}")


class Velocity(NamedTuple):
    """Of a robot on the ground: forward [m/s] and counter-clockwise [rad/s]."""

    forward: float = 0.0
    yaw: float = 0.0


STOP = Velocity()


def steer(box: Box, width: int, height: int, metres: float | None, settings: ServoSettings) -> Velocity:
    """The velocity that a target calls for, within the limits of speed.

    Args:
        box: x, y, width, height [px].
        width, height: of the image [px].
        metres: distance of the target, for distance_from "pose"; None: not known, then only the turn is wanted.
    """
    x, y, w, h = box
    offset = 2 * (x + w / 2) / width - 1            # -1 at the left edge, 1 at the right one
    yaw = -settings.yaw_gain * _outside(offset, settings.yaw_dead_band)
    error = 0.0                                     # of the distance, in parts of the wanted one
    if settings.distance_from == "box":
        error = settings.box_height * height / h - 1
        if y <= 1 or y + h >= height - 1:           # cut off, so it is nearer than its height says
            error = min(error, 0.0)
    elif settings.distance_from == "pose" and metres is not None:
        error = metres / settings.distance - 1
    # The less it lies ahead, the less is driven.
    forward = settings.distance_gain * _outside(error, settings.distance_dead_band) * max(0.0, 1 - abs(offset))
    return Velocity(_clamp(forward, -settings.max_reverse_speed, settings.max_speed),
                    _clamp(yaw, -settings.max_yaw_rate, settings.max_yaw_rate))


def approach(wanted: Velocity, before: Velocity, seconds: float, settings: ServoSettings) -> Velocity:
    """The velocity next to `wanted` that the limits of acceleration allow `seconds` after `before`."""
    forward, yaw = settings.max_acceleration * seconds, settings.max_yaw_acceleration * seconds
    return Velocity(_clamp(wanted.forward, before.forward - forward, before.forward + forward),
                    _clamp(wanted.yaw, before.yaw - yaw, before.yaw + yaw))


class Servo:
    """Remembers what was said of the target, and stops at once when it cannot be relied on.

    Times are in seconds of a clock that does not jump.

    Attributes:
        reason: why the robot stands; empty while it follows.
        following: whether somebody asked for a target, so that the robot is the servo's to drive.
    """

    def __init__(self, settings: ServoSettings) -> None:
        self.settings = settings
        self.reason, self.following = "no target yet", False
        self._heard = self._trusted = self._measured = self._last = -math.inf
        self._wanted_from: tuple[Box, int, int] | None = None
        self._metres: float | None = None
        self._state, self._velocity = "", STOP

    def see(self, state: str, box: Box, width: int, height: int, now: float) -> None:
        """Take in a vlt_ros/Target: its state's name, box [px] and the image's size."""
        self._state, self._heard = state, now
        self.following = state != "IDLE"
        if state == "TRACKING":
            self._trusted = now
        usable = all(map(math.isfinite, box)) and min(box[2:]) > 0 and width > 0 and height > 0
        self._wanted_from = (box, width, height) if usable else None

    def measure(self, metres: float, now: float) -> None:
        """Take in the distance of a target_pose."""
        if math.isfinite(metres):
            self._metres, self._measured = metres, now

    def velocity(self, now: float) -> Velocity:
        """What to drive now; to be asked at a steady rate."""
        seconds, self._last = min(max(now - self._last, 0.0), LONGEST_STEP_S), now
        self.reason = self._find_reason(now)
        if self.reason or self._wanted_from is None:
            self._velocity = STOP
        else:
            fresh = now - self._measured <= self.settings.target_timeout_s
            wanted = steer(*self._wanted_from, self._metres if fresh else None, self.settings)
            self._velocity = approach(wanted, self._velocity, seconds, self.settings)
        return self._velocity

    def _find_reason(self, now: float) -> str:
        settings = self.settings
        if self._heard == -math.inf:
            return "no target yet"
        if now - self._heard > settings.target_timeout_s:
            return f"no message on target for {settings.target_timeout_s:g} s"
        if self._state not in ("TRACKING", "UNCERTAIN"):
            return self._state
        if now - self._trusted > settings.uncertain_after_s and self._state == "UNCERTAIN":
            return f"UNCERTAIN for {settings.uncertain_after_s:g} s"
        return "" if self._wanted_from else "the target's box or image size is not usable"


def _outside(error: float, dead_band: float) -> float:
    """What of an error lies outside the dead band: it begins at zero there, so the velocity does not jump."""
    return math.copysign(max(0.0, abs(error) - dead_band), error)


def _clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
