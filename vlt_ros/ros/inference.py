# SPDX-License-Identifier: Apache-2.0
"""The thread that the network runs in, and the one-slot mailbox before it. No ROS calls here."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MAX_JOBS = 64


class Abandoned(Exception):
    """Raised in a thread that came back from the network after the node had gone on without it."""


@dataclass(frozen=True)
class Frame:
    """An image message on its way to the tracker."""

    message: Any                    # sensor_msgs/Image or CompressedImage
    arrival: float = field(default_factory=time.monotonic)    # [s]

    @property
    def stamp(self) -> float:
        """The image's stamp [s]; the time of arrival for drivers that leave it zero."""
        stamp = self.message.header.stamp
        return stamp.sec + stamp.nanosec * 1e-9 if self.is_stamped else self.arrival

    @property
    def is_stamped(self) -> bool:
        """Whether the driver gave the image a stamp."""
        return bool(self.message.header.stamp.sec or self.message.header.stamp.nanosec)


@dataclass
class Counters:
    """What became of the images since activation.

    latencies: of the last ones, from arrival to answer [ms]. network: of that the network's. own: the inference
    thread's other work on them; what is missing to the latency an image waited for the one before it.
    """

    received: int = 0
    processed: int = 0
    malformed: int = 0
    too_old: int = 0
    failed: int = 0                 # the network raised, or its output was not finite
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=300))
    network: deque[float] = field(default_factory=lambda: deque(maxlen=300))
    own: deque[float] = field(default_factory=lambda: deque(maxlen=300))


class RecentFrames:
    """The last images by their stamp, for boxes that were drawn a moment ago; bounded in bytes.

    Args:
        max_bytes: oldest images go when their data exceeds this. The newest always stays.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._frames: OrderedDict[tuple[int, int], Frame] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, frame: Frame) -> None:
        """Keep an image; one with the same stamp is replaced."""
        stamp = frame.message.header.stamp
        with self._lock:
            old = self._frames.pop((stamp.sec, stamp.nanosec), None)
            self._bytes += len(frame.message.data) - (len(old.message.data) if old else 0)
            self._frames[stamp.sec, stamp.nanosec] = frame
            while self._bytes > self._max_bytes and len(self._frames) > 1:
                _, oldest = self._frames.popitem(last=False)
                self._bytes -= len(oldest.message.data)

    def find(self, stamp: Any) -> Frame | None:
        """The image with exactly this stamp (builtin_interfaces/Time)."""
        with self._lock:
            return self._frames.get((stamp.sec, stamp.nanosec))

    def around(self, stamp: Any) -> tuple[Frame | None, Frame | None]:
        """The last image not after this stamp and the first not before it: twice the same where one has it."""
        wanted = (stamp.sec, stamp.nanosec)
        with self._lock:
            before = max((key for key in self._frames if key <= wanted), default=None)
            after = min((key for key in self._frames if key >= wanted), default=None)
            return self._frames.get(before), self._frames.get(after)    # type: ignore[arg-type]

    def newest(self) -> Frame | None:
        """The image that came last."""
        with self._lock:
            return next(reversed(self._frames.values()), None)

    def clear(self) -> None:
        """Forget all images."""
        with self._lock:
            self._frames.clear()
            self._bytes = 0

    def __len__(self) -> int:
        return len(self._frames)


class InferenceThread:
    """Runs `process` on the newest image, and jobs between two images, one at a time.

    Everything that touches the tracker runs here, so the tracker needs no lock.

    Args:
        process: called with each image taken from the mailbox.
        on_error: called with an exception that `process` or a job raised; the thread goes on.
        max_rate_hz: asked before each image; 0 for no limit.

    Attributes:
        dropped: images replaced in the mailbox by a newer one.
        dropped_jobs: jobs that gave way to newer ones because `MAX_JOBS` waited.
        busy_since: when the running image or job began, by the monotonic clock [s]; None between two.
    """

    def __init__(self, process: Callable[[Frame], None], on_error: Callable[[Exception], None],
                 max_rate_hz: Callable[[], float]) -> None:
        self._process, self._on_error, self._max_rate_hz = process, on_error, max_rate_hz
        self._frame: Frame | None = None
        self._jobs: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._last_start = -float("inf")
        # A daemon: a network that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self.dropped = self.dropped_jobs = 0
        self.busy_since: float | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float | None = None) -> bool:
        """Let the current image or job finish, forget the others, and end the thread.

        Args:
            timeout: how long to wait for it [s]; None: as long as it takes.

        Returns:
            Whether it ended. If not it is left alone: it takes nothing more and reports no error.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)
            return not self._thread.is_alive()
        return True

    def offer(self, frame: Frame) -> None:
        """Put an image into the mailbox; one that still waits there is dropped and counted."""
        with self._changed:
            self.dropped += self._frame is not None
            self._frame = frame
            self._changed.notify()

    def discard_frame(self) -> None:
        """Forget the image that waits."""
        with self._changed:
            self._frame = None

    def post(self, job: Callable[[], None]) -> None:
        """Run a job before the next image.

        A job that waits already moves to the end, and beyond `MAX_JOBS` the oldest goes: memory stays bounded
        however many commands come while the network is busy.
        """
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)
            elif len(self._jobs) == MAX_JOBS:
                self._jobs.popleft()
                self.dropped_jobs += 1
            self._jobs.append(job)
            self._changed.notify()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._stopping:
                if self._jobs:
                    return self._jobs.popleft()
                rate = self._max_rate_hz()
                wait = self._last_start + 1 / rate - time.monotonic() if rate > 0 else 0.0
                if self._frame is not None and wait <= 0:
                    frame, self._frame = self._frame, None
                    self._last_start = time.monotonic()
                    return lambda: self._process(frame)
                self._changed.wait(wait if self._frame is not None else None)
            return None

    def _run(self) -> None:
        while (task := self._next()) is not None:
            self.busy_since = time.monotonic()
            try:
                task()
            except Exception as error:    # one image or command is lost, the node lives on
                if not self._stopping:
                    self._on_error(error)
            finally:
                self.busy_since = None
