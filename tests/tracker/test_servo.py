# SPDX-License-Identifier: Apache-2.0
"""The loop of camera, tracker and servo, closed by a virtual camera that moves over a large photograph."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from vlt_ros.evaluation.bags import Bag
from vlt_ros.ros.control import STOP, Servo, ServoSettings, Velocity
from vlt_ros.tracker import Tracker, TrackerSettings

RECORDING = Path(__file__).resolve().parents[2] / "demo" / "data" / "vtest_excerpt"
WIDTH, HEIGHT = 320, 240
PERIOD_S = 0.1


class World:
    """A photograph before a robot's camera, which turns (the window moves) and drives (it narrows)."""

    PIXELS_PER_RADIAN = 500.0
    WANTED = 2.0            # distance at which the target is half as high as the image [m]
    TALL, WIDE = 104, 40    # the target [px of the photograph]

    def __init__(self) -> None:
        picture = next(iter(Bag(RECORDING, "/image/compressed"))).picture()
        # Grey, because the network of these tests follows the only colour.
        self.photograph = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        self.place, self.row = 560.0, 248       # the target's middle and top [px]
        self.is_there = True
        self.heading, self.metres = 0.0, 3.5

    def _window(self) -> tuple[float, float, float]:
        """Left, top and scale (photograph's pixels in one of the camera's)."""
        scale = 2 * self.TALL * self.metres / self.WANTED / HEIGHT
        return 480 - self.PIXELS_PER_RADIAN * self.heading - scale * WIDTH / 2, 300 - scale * HEIGHT / 2, scale

    def see(self) -> np.ndarray:
        """The camera's image (HEIGHT, WIDTH, 3)."""
        picture = self.photograph.copy()
        if self.is_there:
            left = round(self.place - self.WIDE / 2)
            picture[self.row:self.row + self.TALL, left:left + self.WIDE] = (0, 0, 255)
        left, top, scale = self._window()
        return cv2.warpAffine(picture, np.array([[scale, 0, left], [0, scale, top]]), (WIDTH, HEIGHT),
                              flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Where the target truly is in the camera's image [px]."""
        left, top, scale = self._window()
        return ((self.place - self.WIDE / 2 - left) / scale, (self.row - top) / scale, self.WIDE / scale,
                self.TALL / scale)

    @property
    def offset(self) -> float:
        """The target's place: -1 at the image's left edge, 1 at the right one."""
        x, _, w, _ = self.box
        return 2 * (x + w / 2) / WIDTH - 1

    def drive(self, velocity: Velocity) -> None:
        """What a robot does in one period."""
        self.heading += velocity.yaw * PERIOD_S
        self.metres -= velocity.forward * PERIOD_S


def test_the_loop_converges_holds_follows_and_stops_on_loss(network):
    world, now = World(), 0.0
    servo = Servo(ServoSettings(max_acceleration=2.0, yaw_gain=1.5, distance_gain=1.0, max_reverse_speed=0.2))
    tracker = Tracker(network, TrackerSettings(lost_after_s=0.5))
    tracker.start("the red coat", world.see(), world.box, now)

    def run(steps: int, walk: float = 0.0) -> list[Velocity]:
        """Let so many periods pass, the target walking so many pixels in each."""
        nonlocal now
        driven = []
        for _ in range(steps):
            now, world.place = now + PERIOD_S, world.place + walk
            tracker.track(world.see(), now)
            target = tracker.target
            servo.see(target.state.name, target.box or (0.0,) * 4, WIDTH, HEIGHT, now)
            driven.append(servo.velocity(now))
            world.drive(driven[-1])
        return driven

    assert world.offset > 0.3 and world.metres > 3
    assert np.array(run(5))[1:, 1].max() < 0        # it turns right
    run(65)
    assert abs(world.offset) < 0.1 and abs(world.metres - world.WANTED) < 0.15 * world.WANTED
    place = world.offset, world.metres
    assert np.abs(run(10)).max() < 0.05 and np.allclose((world.offset, world.metres), place, atol=0.05)
    followed = [velocity.yaw for velocity in run(30, walk=-5)]      # 0.1 rad/s to the left
    assert min(followed[10:]) > 0 and abs(world.offset) < 0.4
    run(20)
    assert abs(world.offset) < 0.15
    world.is_there = False
    moving = run(8)
    assert tracker.target.state.name == "LOST" and moving[-1] == STOP and servo.reason == "LOST"
    before = world.heading, world.metres
    run(10)
    assert (world.heading, world.metres) == before
    world.is_there = True                           # seen again, it is followed again
    world.place += 30
    assert STOP not in run(15)[-5:] and servo.reason == ""
