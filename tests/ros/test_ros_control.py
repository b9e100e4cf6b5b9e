# SPDX-License-Identifier: Apache-2.0
"""The servo's control law; the loop around the tracker is closed in tests/tracker/test_servo.py."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from vlt_ros.ros.control import STOP, Servo, ServoSettings, Velocity, approach, steer

SETTINGS = ServoSettings()
WIDTH, HEIGHT = 320, 240


def box_at(offset: float, tall: float, wide: float = 0.1) -> tuple[float, float, float, float]:
    """A box in the middle row: its centre in halves of the width, its height in parts of the image's."""
    w, h = wide * WIDTH, tall * HEIGHT
    return (WIDTH * (1 + offset) / 2 - w / 2, HEIGHT / 2 - h / 2, w, h)


@pytest.mark.parametrize("offset, sign", [(-0.8, 1), (-0.2, 1), (-0.04, 0), (0.0, 0), (0.04, 0), (0.2, -1), (0.8, -1)])
def test_it_turns_towards_the_target(offset, sign):
    yaw = steer(box_at(offset, 0.5), WIDTH, HEIGHT, None, SETTINGS).yaw
    assert (yaw > 0) - (yaw < 0) == sign
    assert abs(yaw) == pytest.approx(max(0.0, abs(offset) - 0.05))


@pytest.mark.parametrize("settings, metres, tall, forward", [
    (SETTINGS, None, 0.25, 0.45), (SETTINGS, None, 0.5, 0.0), (SETTINGS, None, 0.48, 0.0), (SETTINGS, None, 0.05, 0.5),
    (SETTINGS, None, 0.8, 0.0), (replace(SETTINGS, max_reverse_speed=0.1), None, 0.8, -0.1),
    (SETTINGS, None, 1.0, 0.0),
    (replace(SETTINGS, distance_from="pose"), 3.0, 0.9, 0.45),
    (replace(SETTINGS, distance_from="pose"), None, 0.1, 0.0),
    (replace(SETTINGS, distance_from="none"), 9.0, 0.1, 0.0)])
def test_it_drives_to_its_distance(settings, metres, tall, forward):
    assert steer(box_at(0, tall), WIDTH, HEIGHT, metres, settings).forward == pytest.approx(forward)


def test_a_box_that_the_image_cuts_off_is_not_approached():
    x, _, w, h = box_at(0, 0.25)
    assert steer((x, HEIGHT - h - 5, w, h), WIDTH, HEIGHT, None, SETTINGS).forward > 0
    assert steer((x, HEIGHT - h, w, h), WIDTH, HEIGHT, None, SETTINGS).forward == 0
    assert steer((x, 0.0, w, h), WIDTH, HEIGHT, None, SETTINGS).forward == 0


def test_it_turns_before_it_drives():
    ahead, aside = (steer(box_at(offset, 0.3), WIDTH, HEIGHT, None, SETTINGS) for offset in (0.0, 0.9))
    assert aside.forward == pytest.approx(0.1 * ahead.forward)


def test_limits_of_speed_and_acceleration():
    fast = replace(SETTINGS, yaw_gain=9.0, distance_gain=9.0)
    wanted = steer(box_at(-1, 0.1), WIDTH, HEIGHT, None, fast)
    assert wanted.yaw == fast.max_yaw_rate
    assert steer(box_at(0, 0.1), WIDTH, HEIGHT, None, fast).forward == fast.max_speed
    assert approach(Velocity(0.5, -1.0), STOP, 0.1, SETTINGS) == pytest.approx((0.05, -0.2))
    assert approach(Velocity(0.0, 0.0), Velocity(0.5, 1.0), 0.1, SETTINGS) == pytest.approx((0.45, 0.8))


@pytest.mark.parametrize("change", [{"distance_from": "lidar"}, {"max_speed": math.nan}, {"yaw_gain": -1.0},
                                    {"target_timeout_s": 0.0}, {"box_height": 2.0}])
def test_settings_out_of_range_are_named(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        ServoSettings(**change)


def driven(servo: Servo, start: float, seconds: float, state: str | None = None, box=None) -> list[Velocity]:
    """What the servo says at 20 Hz; with a state, that is said before each."""
    velocities = []
    for step in range(round(seconds * 20)):
        if state is not None:
            servo.see(state, box or box_at(0.5, 0.3), WIDTH, HEIGHT, start + step / 20)
        velocities.append(servo.velocity(start + step / 20))
    return velocities


def test_velocity_grows_within_the_acceleration_and_stops_at_once_when_lost():
    servo = Servo(SETTINGS)
    assert driven(servo, 0, 0.5) == [STOP] * 10 and servo.reason == "no target yet" and not servo.following
    moving = driven(servo, 1, 2, "TRACKING")
    steps = np.diff(np.array([STOP, *moving]), axis=0)
    assert np.abs(steps[1:]).max(axis=0) == pytest.approx((0.5 / 20, 2.0 / 20), rel=1e-6)
    assert moving[-1].forward > 0 > moving[-1].yaw and servo.reason == ""
    assert driven(servo, 3, 0.1, "LOST") == [STOP] * 2 and servo.reason == "LOST"


@pytest.mark.parametrize("state", ["IDLE", "SEARCHING", "LOST", "INPUT_TIMEOUT", "unknown"])
def test_states_in_which_it_stands(state):
    servo = Servo(SETTINGS)
    assert driven(servo, 0, 1, "TRACKING")[-1] != STOP
    assert driven(servo, 1, 0.2, state) == [STOP] * 4 and servo.reason == state
    assert servo.following == (state != "IDLE")


def test_uncertain_for_a_moment_is_followed_for_long_is_not():
    servo = Servo(SETTINGS)
    driven(servo, 0, 1, "TRACKING")
    uncertain = driven(servo, 1, 1, "UNCERTAIN")
    assert STOP not in uncertain[:9] and uncertain[11:] == [STOP] * 9 and "UNCERTAIN for 0.5 s" in servo.reason
    assert driven(servo, 2, 0.5, "TRACKING")[-1] != STOP


def test_silence_of_target_stops_and_silence_of_its_pose_only_turns():
    servo = Servo(SETTINGS)
    driven(servo, 0, 1, "TRACKING")
    silent = driven(servo, 1, 1)
    assert STOP not in silent[:9] and silent[11:] == [STOP] * 9 and servo.reason == "no message on target for 0.5 s"
    servo = Servo(replace(SETTINGS, distance_from="pose"))
    servo.measure(4.0, 0)
    assert driven(servo, 0, 0.5, "TRACKING")[-1].forward > 0
    servo.measure(math.nan, 0.5)
    last = driven(servo, 0.5, 2, "TRACKING")[-1]
    assert last.forward == 0 and last.yaw < 0


@pytest.mark.parametrize("box", [(math.nan, 0, 9, 9), (0, 0, 0, 0), (0, 0, 9, -9)])
def test_boxes_that_are_none_stop(box):
    servo = Servo(SETTINGS)
    driven(servo, 0, 1, "TRACKING")
    assert driven(servo, 1, 0.1, "TRACKING", box)[-1] == STOP and "not usable" in servo.reason
