# SPDX-License-Identifier: Apache-2.0
"""A click on a person in a real recording, with the shipped weights, and clicks that are none."""

from pathlib import Path

import numpy as np
import pytest

from vlt_ros.tracker import CommandError, Tracker
from vlt_ros.tracker.geometry import overlap

BAG = Path(__file__).resolve().parents[2] / "demo" / "data" / "vtest_excerpt"
# Drawn by hand in image 60: the woman in the red jacket, and the man right of the lamp.
WOMAN, MAN = (391.0, 199.0, 25.0, 81.0), (481.0, 240.0, 37.0, 98.0)


@pytest.fixture(scope="module")
def scene():
    from vlt_ros.evaluation.bags import Bag

    return next(image for image in Bag(BAG, None) if image.index == 60).picture()


@pytest.fixture(scope="module")
def tracker():
    from vlt_ros.networks import load_network

    return Tracker(load_network(None, device="cpu", precision="fp32"))


@pytest.mark.parametrize("person", [WOMAN, MAN], ids=["woman", "man"])
def test_click_on_a_person_gives_the_box_of_that_person(tracker, scene, person):
    x, y, w, h = person
    box = tracker.box_at(scene, (x + 0.5 * w, y + 0.5 * h))
    assert overlap(box, person) >= 0.4


@pytest.mark.parametrize("point", [(-1, 5), (5, 1e9), (float("nan"), 5)])
def test_points_outside_are_refused(tracker, scene, point):
    with pytest.raises(CommandError, match="outside the 768 x 576 image"):
        tracker.box_at(scene, point)


def test_a_network_that_does_not_listen_asks_for_a_box():
    from vlt_ros.networks import CONFIGS
    from vlt_ros.networks.systems import build_network

    tracker = Tracker(build_network(CONFIGS["ostrack_tiny"]))
    with pytest.raises(CommandError, match="give a box"):
        tracker.box_at(np.zeros((40, 60, 3), np.uint8), (5, 5))
