# SPDX-License-Identifier: Apache-2.0
"""Property-based abuse of every door, see abuse.py; `make fuzz` goes on for as long as one likes."""

from __future__ import annotations

import base64
import contextlib
import logging

import pytest

pytest.importorskip("rclpy", reason="needs a sourced ROS 2 or the wheels of `make setup`")

from abuse import CHECKS, Reader, check_image, check_text, check_weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

GOOD_IMAGE = b"\0" + 2 * b"\0\x20\0\0\0" + b"\0" * 5 + b"\1\0" + b"\x7f" * 3100
# Seeds that get past the first check of a door.
SEEDS = {
    "image": [GOOD_IMAGE, base64.b64decode("pgAg7AAAACEAAOwAAAAhf38hIX9/////////////////////////fw==")],   # odd yuv422
    "config": [b"steps: 10\nbatch_size: 2\n", b"steps: [1\n", b"a: &a [*a]\n",
               b"!!python/object/apply:os.system ['x']\n"],
    "sequence": [b"1,2,3,4\n5,6,7,8\n\xff\xff0\n1\n\xff\xffthe red mug", b"nan,1,2,3\n1 2 3 4\n"],
    "dataset": [b"1,2,3,4\n", b'{"images": [], "annotations": [], "categories": []}', b"(lp0\n.", b"[]",
                b'{"images": [3], "annotations": [], "categories": []}',
                b'{"images": [], "annotations": [{"id": [], "image_id": {}}], "categories": [{"id": 1, "name": "x"}]}'],
    "compressed": [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x7f\xff\0\0\x7f\xff\x08\x02\0\0\0", b"BM" + b"\xff" * 60],
    "text": ["the red mug".encode("utf-16-le"), "\ud800".encode("utf-16-le", "surrogatepass"), b"%s%n" * 99],
}
EXAMPLES = {"weights": 100, "bag": 60}


@pytest.fixture(autouse=True)
def quiet():
    """Thousands of warnings about broken files are right, and nobody reads them."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", CHECKS)
def test_any_input_gets_an_answer_or_one_clear_error(name, record_property):
    check, tried, seeds = CHECKS[name], 0, SEEDS.get(name, [])
    mutated = st.sampled_from(seeds or [b""]).flatmap(
        lambda seed: st.tuples(st.integers(0, len(seed)), st.integers(0, 3), st.binary(max_size=12)).map(
            lambda cut: seed[: cut[0]] + cut[2] + seed[cut[0] + cut[1] :]
        )
    )

    @settings(
        max_examples=EXAMPLES.get(name, 300), deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(mutated, st.binary(max_size=200)))
    def run(data: bytes) -> None:
        nonlocal tried
        tried += 1
        check(data)

    run()
    for seed in seeds:
        check(seed)
    record_property("inputs", tried)
    assert tried >= 50


def test_the_checks_reach_both_outcomes():
    assert check_image(GOOD_IMAGE) and not check_image(b"")
    assert check_text("the red mug".encode("utf-16-le"))
    assert not check_text("\ud800".encode("utf-16-le", "surrogatepass"))
    assert check_weights(b"\2\0\0\0\0\0") and not check_weights(b"\4")
    assert Reader(b"").integer() == 0


@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(text=st.one_of(st.text(max_size=40), st.text(min_size=257, max_size=300), st.sampled_from(
    ["\u202eright to left", "\U0001f9f8\u200d\U0001f534", "%s%n{}", "a" * 1_000_000, "\ud800", "\x00", " "])),
    box=st.one_of(st.none(), st.tuples(*[st.floats(width=32)] * 4)))
def test_a_command_starts_or_leaves_the_old_target(shared_tracker, text, box):
    from abuse import clear

    from vlt_ros.tracker import CommandError, State

    tracker, image = shared_tracker
    before = tracker.target
    try:
        after = tracker.start(text, image, box)
    except CommandError as error:
        clear(error)
        assert tracker.target is before
        return
    assert after.target_id == before.target_id + 1 and after.text == text.strip()
    assert after.state == (State.SEARCHING if box is None else State.TRACKING)
    with contextlib.suppress(CommandError):
        tracker.track(image)


@pytest.fixture(scope="module")
def shared_tracker(weights):
    import numpy as np

    from vlt_ros.networks import load_network
    from vlt_ros.tracker import Tracker

    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    return Tracker(load_network(weights, device="cpu")), image
