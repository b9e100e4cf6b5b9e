# SPDX-License-Identifier: Apache-2.0
"""The mailbox, the inference thread and the ring of recent images; no ROS needed."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from vlt_ros.ros.inference import MAX_JOBS, Frame, InferenceThread, RecentFrames


def frame(second: int, size: int = 10) -> Frame:
    stamp = SimpleNamespace(sec=second, nanosec=5)
    return Frame(SimpleNamespace(header=SimpleNamespace(stamp=stamp), data=b"x" * size))


@pytest.fixture
def made():
    threads = []

    def make(process, on_error=lambda error: None, rate=lambda: 0.0) -> InferenceThread:
        threads.append(InferenceThread(process, on_error, rate))
        threads[-1].start()
        return threads[-1]

    yield make
    for thread in threads:
        thread.stop()


def until(condition, timeout=5.0):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_under_a_slow_network_the_newest_image_wins_and_the_others_are_counted(made):
    seen, busy, go = [], threading.Event(), threading.Event()

    def slow(one: Frame) -> None:
        seen.append(one.message.header.stamp.sec)
        busy.set()
        go.wait(5)

    thread = made(slow)
    thread.offer(frame(1))
    assert busy.wait(5)
    for second in range(2, 7):
        thread.offer(frame(second))
    go.set()
    until(lambda: len(seen) == 2)
    assert seen == [1, 6] and thread.dropped == 4


def test_jobs_run_in_order_between_two_images_and_before_a_waiting_one(made):
    seen, busy, go = [], threading.Event(), threading.Event()

    def process(one: Frame) -> None:
        seen.append(one.message.header.stamp.sec)
        busy.set()
        go.wait(5)

    thread = made(process)
    thread.offer(frame(1))
    assert busy.wait(5)
    thread.offer(frame(2))
    thread.post(lambda: seen.append("a"))
    thread.post(lambda: seen.append("b"))
    go.set()
    until(lambda: len(seen) == 4)
    assert seen == [1, "a", "b", 2]


def test_an_exception_is_handed_over_and_the_thread_goes_on(made):
    errors, seen = [], []

    def process(one: Frame) -> None:
        if one.message.header.stamp.sec == 1:
            raise RuntimeError("one")
        seen.append(one)

    thread = made(process, errors.append)
    thread.offer(frame(1))
    until(lambda: errors)
    thread.offer(frame(2))
    until(lambda: seen)
    assert str(errors[0]) == "one"


def test_waiting_jobs_are_bounded_and_the_newest_stay(made):
    ran, busy, go = [], threading.Event(), threading.Event()
    thread = made(lambda one: (busy.set(), go.wait(5)))
    thread.offer(frame(1))
    assert busy.wait(5) and thread.busy_since is not None
    for number in range(MAX_JOBS + 36):
        thread.post(lambda number=number: ran.append(number))
    for _ in range(5):
        thread.post(ran.clear)      # the same one waits once, at the end
    assert thread.dropped_jobs == 37
    go.set()
    thread.post(lambda: ran.append("last"))
    until(lambda: ran == ["last"])


def test_stop_does_not_wait_for_ever_and_what_comes_later_is_not_reported(made):
    errors, busy, go = [], threading.Event(), threading.Event()

    def hang(one: Frame) -> None:
        busy.set()
        go.wait(20)
        raise RuntimeError("late")

    thread = made(hang, errors.append)
    thread.offer(frame(1))
    assert busy.wait(5)
    assert not thread.stop(0.05)
    go.set()
    assert thread.stop(5) and errors == []


def test_rate_limit(made):
    seen = []
    thread = made(lambda one: seen.append(time.monotonic()), rate=lambda: 20.0)
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        thread.offer(frame(1))
        time.sleep(0.002)
    assert 5 <= len(seen) <= 11
    assert min(b - a for a, b in zip(seen, seen[1:], strict=False)) > 0.045


def test_recent_frames_are_bounded_in_bytes_and_found_by_their_exact_stamp():
    recent = RecentFrames(max_bytes=100)
    for second in range(20):
        recent.add(frame(second, 30))
    assert len(recent) == 3
    assert recent.find(SimpleNamespace(sec=19, nanosec=5)).message.header.stamp.sec == 19
    assert recent.find(SimpleNamespace(sec=19, nanosec=6)) is None
    assert recent.find(SimpleNamespace(sec=1, nanosec=5)) is None
    assert recent.newest().message.header.stamp.sec == 19
    recent.add(frame(30, 1000))  # larger than all: the newest always stays
    assert len(recent) == 1 and recent.newest().message.header.stamp.sec == 30
    recent.add(frame(31, 60))
    recent.add(frame(31, 20))  # same stamp: replaced, its bytes freed
    recent.add(frame(32, 70))
    assert len(recent) == 2
    recent.clear()
    assert recent.newest() is None


def test_frames_around_a_stamp():
    recent = RecentFrames(max_bytes=1000)
    assert recent.around(SimpleNamespace(sec=3, nanosec=5)) == (None, None)
    for second in (2, 4, 3):        # as they came
        recent.add(frame(second))

    def seconds(sec: int, nanosec: int) -> tuple:
        return tuple(one and one.message.header.stamp.sec for one in recent.around(
            SimpleNamespace(sec=sec, nanosec=nanosec)))

    assert seconds(3, 5) == (3, 3)          # the very stamp
    assert seconds(3, 6) == (3, 4) and seconds(3, 4) == (2, 3)
    assert seconds(1, 0) == (None, 2) and seconds(9, 0) == (4, None)
