# SPDX-License-Identifier: Apache-2.0
"""The node under a camera's load, measured from outside: a camera here, the node in its own process, real messages.

Needs rclpy. The other side is that of recordings, see ``playback``.
"""

from __future__ import annotations

import array
import itertools
import struct
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlt_ros.ros.playback import (
    START_TIMEOUT_S,
    Node,
    PlaybackError,
    Player,
    environment,
    header_stamp_ns,
    serialized,
)

DIAGNOSTICS_S = 3.0
SAMPLE_S = 0.5


@dataclass(frozen=True)
class Shot:
    """An image to play: when [ns], its header's stamp [ns], and the serialized message."""

    time_ns: int
    stamp_ns: int
    raw: bytes


class Camera:
    """Plays a few pictures round and round, with new stamps.

    Args:
        pictures: BGR uint8 (H, W, 3). rate_hz: of the images.
    """

    def __init__(self, pictures: Sequence[np.ndarray], rate_hz: float) -> None:
        from sensor_msgs.msg import Image

        self.period_ns = round(1e9 / rate_hz)
        self.count = 0          # images so far
        self._first_ns = time.time_ns()
        self._raw = []
        for picture in pictures:
            height, width = picture.shape[:2]
            message = Image(height=height, width=width, encoding="bgr8", step=3 * width)
            message.data = array.array("B", picture.tobytes())
            self._raw.append(bytearray(serialized(message)))

    def shots(self) -> Iterator[Shot]:
        """Images without end; a later call goes on with later stamps."""
        # A pause between two calls is one in the stamps too.
        self._first_ns = max(self._first_ns, time.time_ns() - self.count * self.period_ns)
        while True:
            after_ns = self.count * self.period_ns
            stamp_ns = self._first_ns + after_ns
            raw = self._raw[self.count % len(self._raw)]
            # The header's stamp stands first, behind CDR's four bytes.
            struct.pack_into("<iI", raw, 4, *divmod(stamp_ns, 10**9))
            self.count += 1
            yield Shot(after_ns, stamp_ns, bytes(raw))


def measure(pictures: Sequence[np.ndarray], boxes: Sequence[tuple[float, float, float, float]], rate_hz: float,
            seconds: float, log: Path, *, text: str = "", parameters: dict[str, str] | None = None) -> dict:
    """Start the node before a running camera, let it follow a box for a while, and stop it.

    Args:
        pictures: what the camera sees, BGR uint8 (H, W, 3). boxes: x, y, w, h [px] of the target in each.
        rate_hz: the camera's. seconds: how long the target is followed. log: file for the node's output.
        text: what to look for from the start on and to follow with the box; '' for the box alone.
        parameters: the node's, beside those that keep it following.

    Returns:
        cold_start_s, from starting the process to the first target that came here; images, answered, dropped;
        answers_hz; age_ms {p50, p95} of a target that comes here, from before its image was published;
        latency_ms {p50, p95}, the same from the image's arrival in the node to publishing the target;
        transport_p50_ms, the difference of the two; network_p50_ms and own_p50_ms, the network's part of it and that
        of the node's other work, from its diagnostics; memory_peak_mb of the process, memory_growth_mb from the second
        to the last quarter; states {name: answers}.

    Raises:
        PlaybackError: the node does not start, dies, rejects the command, or answers nothing.
    """
    environment()
    # No threshold: whatever the weights, every image is one look at a target.
    settings = {"image_transport": "raw", "image_timeout_s": "60.0", "track_threshold": "0.0", "lost_threshold": "0.0",
                **({"initial_command": text} if text else {}), **(parameters or {})}
    camera = Camera(pictures, rate_hz)
    started = time.monotonic_ns()
    process = Node(log, settings)
    player = None
    try:
        player = Player(process, compressed=False)
        diagnostics = _listen(player)
        end = time.monotonic() + START_TIMEOUT_S
        player.play(itertools.takewhile(lambda shot: not player.received and time.monotonic() < end, camera.shots()),
                    None, "starting the node")
        if not player.received:
            raise PlaybackError(f"the node answered no image within {START_TIMEOUT_S:g} s; its log is {log}")
        cold_start_s = (player.received[0][0] - started) * 1e-9
        player.wait_until_active()
        player.status = None
        player.command(text, boxes[(camera.count - 2) % len(boxes)])       # of the last image that was played
        memory = _Memory(process.process.pid)
        count = max(2, round(seconds * rate_hz))
        height, width = pictures[0].shape[:2]
        sent = player.play(memory.watch(itertools.islice(camera.shots(), count)), count,
                           f"{width}x{height} at {rate_hz:g} Hz")
        diagnostics.clear()
        player.wait(lambda: "inference" in diagnostics, DIAGNOSTICS_S, "the node's diagnostics did not come")
        answers = [(arrived, message) for arrived, message in player.received if header_stamp_ns(message) in sent]
        if len(answers) < 2:
            raise PlaybackError(f"the node answered {len(answers)} of {count} images; its log is {log}")
        return {"cold_start_s": round(cold_start_s, 2), "images": count, **_summary(sent, answers),
                "network_p50_ms": float(diagnostics["inference"]["network_p50_ms"]),
                "own_p50_ms": float(diagnostics["inference"]["own_p50_ms"]), **memory.summary()}
    finally:
        if player is not None:
            player.close()
        process.stop()


def _listen(player: Player) -> dict[str, dict[str, str]]:
    """The node's last diagnostics by the ends of their names, filled as they come."""
    from diagnostic_msgs.msg import DiagnosticArray

    last: dict[str, dict[str, str]] = {}

    def keep(message: DiagnosticArray) -> None:
        for status in message.status:
            last[status.name.rpartition(": ")[2]] = {pair.key: pair.value for pair in status.values}

    player.node.create_subscription(DiagnosticArray, "/diagnostics", keep, 10)
    return last


def _summary(sent: dict[int, int], answers: list[tuple[int, Any]]) -> dict:
    names = {getattr(answers[0][1], name): name for name in ("IDLE", "SEARCHING", "TRACKING", "UNCERTAIN", "LOST")}
    ages = [(arrived - sent[header_stamp_ns(message)]) * 1e-6 for arrived, message in answers]
    latencies = [message.latency_ms for _, message in answers]
    between = [age - latency for age, latency in zip(ages, latencies, strict=True)]
    took_s = (answers[-1][0] - answers[0][0]) * 1e-9
    return {"answered": len(answers), "dropped": len(sent) - len(answers),
            "answers_hz": round((len(answers) - 1) / took_s, 1), "age_ms": _percentiles(ages),
            "latency_ms": _percentiles(latencies), "transport_p50_ms": _percentiles(between)["p50"],
            "states": dict(sorted(Counter(names[message.state] for _, message in answers).items()))}


def _percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{rank}": round(float(np.percentile(values, rank)), 2) for rank in (50, 95)}


class _Memory:
    """A process's memory while images are played to it, from /proc [MB]."""

    def __init__(self, pid: int) -> None:
        self._file = Path(f"/proc/{pid}/status")
        self._samples: list[float] = []
        self._peak = 0.0

    def watch(self, shots: Iterator[Shot]) -> Iterator[Shot]:
        """The same images; a sample every half second."""
        due = 0.0
        for shot in shots:
            if time.monotonic() >= due:
                due = time.monotonic() + SAMPLE_S
                self._sample()
            yield shot
        self._sample()

    def _sample(self) -> None:
        lines = dict(line.split(":", 1) for line in self._file.read_text().splitlines())
        self._samples.append(int(lines["RssAnon"].split()[0]) / 1024)
        self._peak = int(lines["VmHWM"].split()[0]) / 1024

    def summary(self) -> dict[str, float]:
        """The peak of all that is resident, and how much of its own the process has gained."""
        quarter = max(1, len(self._samples) // 4)
        first, last = self._samples[quarter:2 * quarter] or self._samples, self._samples[-quarter:]
        return {"memory_peak_mb": round(self._peak, 1),
                "memory_growth_mb": round(float(np.median(last) - np.median(first)), 1)}
