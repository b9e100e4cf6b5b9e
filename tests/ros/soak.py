# SPDX-License-Identifier: Apache-2.0
"""A long run of the real node at full rate, with commands, bad images and parameter changes in between.

    python tests/ros/soak.py --seconds 3600 --out out/soak

Writes OUT/soak.json and OUT/soak.png: memory, threads, descriptors and latency over time. Exits 1 when one of the
first three grows.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

RATE_HZ = 30.0
SIZE = (640, 480)
MAX_GROWTH_MB = 10.0


def scene(index: int, background: np.ndarray) -> np.ndarray:
    """A red square that wanders over a noisy picture; (H, W, 3) uint8."""
    image = background.copy()
    x, y = (int(300 + 200 * np.sin(index / 50)), int(220 + 120 * np.cos(index / 70)))
    image[y - 25 : y + 25, x - 25 : x + 25] = (30, 30, 220)
    return image


def read_process(pid: int) -> dict[str, float]:
    """Memory of its own [MB] (shared memory of the transport left out), threads and open descriptors."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        "memory_mb": int(lines["RssAnon"].split()[0]) / 1024,
        "threads": int(lines["Threads"]),
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
    }


def growth(samples: list[dict]) -> dict[str, float]:
    """Last quarter's median minus the second quarter's (the first is warming up) of everything that is recorded."""
    quarter = max(1, len(samples) // 4)

    def median(part: list[dict], key: str) -> float:
        return float(np.median([sample[key] for sample in part if sample[key] is not None]))

    keys = ("memory_mb", "threads", "descriptors", "p50_ms", "p95_ms")
    return {
        key: round(median(samples[-quarter:], key) - median(samples[quarter : 2 * quarter], key), 3)
        for key in keys
    }


def problems(report: dict) -> list[str]:
    """What is not flat. Latency is recorded and plotted, but depends on what else the machine does."""
    limits = {"memory_mb": MAX_GROWTH_MB, "threads": 0, "descriptors": 0}
    grown = report["growth"]
    bad = [f"the node ended with {report['exit_status']}"] if report["exit_status"] else []
    return bad + [f"{key} grew by {grown[key]:g}" for key, limit in limits.items() if grown[key] > limit]


def disturb(robot, second: int) -> None:
    """Something else in every second: commands good and bad, services, parameters, broken images."""
    from sensor_msgs.msg import CompressedImage, Image
    from std_msgs.msg import String
    from vlt_ros.msg import TargetCommand

    kind = second % 6
    if kind == 0:
        robot.command.publish(String(data="the red square" if second % 12 else "the bad\x07 one"))
    elif kind == 1:
        command = TargetCommand(text=f"square {second}")
        command.box.x, command.box.y, command.box.width, command.box.height = 275.0, 195.0, 50.0, 50.0
        robot.target_command.publish(command)
    elif kind == 2:
        robot.image.publish(Image(height=480, width=640, step=5, encoding="bgr8"))
    elif kind == 3:
        robot.set(lost_threshold=0.0 if second % 12 < 6 else 0.05)
    elif kind == 4:
        robot.reset()
    else:
        robot.compressed.publish(CompressedImage(format="jpeg"))
        robot.set(track_threshold=float("nan"))


def soak(seconds: float, log: Path, **parameters) -> dict:
    """Run it.

    Args:
        seconds: how long. log: file for the node's output. parameters: the node's.

    Returns:
        {"seconds", "images", "answers", "states", "exit_status", "growth",
        "samples": [{"t", "memory_mb", "threads",
        "descriptors", "p50_ms", "p95_ms"}, ...]}, one sample a second.
    """
    from harness import START_S, NodeProcess, Robot
    from vlt_ros.msg import Target

    background = np.random.default_rng(0).integers(60, 180, (SIZE[1], SIZE[0], 3), np.uint8)
    images = [scene(index, background) for index in range(300)]
    process = NodeProcess("/soak", log, **parameters)
    robot = Robot("/soak")
    samples, published, answers, states = [], 0, 0, set()
    try:
        robot.wait(lambda: robot.state() == "active", START_S, "autostart")
        robot.wait_for_subscriber(robot.image)
        start = due = time.monotonic()
        while (now := time.monotonic() - start) < seconds:
            if now >= len(samples) + 1:
                targets = robot.targets[:]
                del robot.targets[: len(targets)], robot.statuses[:-1]
                answers += len(targets)
                states |= {target.state for target in targets}
                latencies = [target.latency_ms for target in targets if target.latency_ms > 0] or None
                samples.append(
                    {"t": round(now, 2)}
                    | read_process(process.process.pid)
                    | {f"p{p}_ms": latencies and float(np.percentile(latencies, p)) for p in (50, 95)}
                )
                disturb(robot, len(samples))
            robot.image.publish(robot.picture_message(images[published % len(images)]))
            published += 1
            due = max(due + 1 / RATE_HZ, time.monotonic() - 1)     # no long burst after it fell behind
            time.sleep(max(0.0, due - time.monotonic()))
    finally:
        robot.close()
        ended = process.interrupt()
    names = {getattr(Target, n): n for n in ("IDLE", "SEARCHING", "TRACKING", "UNCERTAIN", "LOST", "INPUT_TIMEOUT")}
    return {
        "seconds": round(seconds),
        "exit_status": ended,
        "images": published,
        "answers": answers,
        "states": sorted(names[state] for state in states),
        "growth": growth(samples),
        "samples": samples,
    }


def plot(report: dict, path: Path) -> None:
    """Four curves over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(4, 1, figsize=(9, 9), sharex=True)
    times = [sample["t"] / 60 for sample in report["samples"]]
    for axis, keys, label in zip(
        axes,
        (("memory_mb",), ("threads",), ("descriptors",), ("p50_ms", "p95_ms")),
        ("memory [MB]", "threads", "descriptors", "latency [ms]"),
        strict=True,
    ):
        for key in keys:
            values = [np.nan if sample[key] is None else sample[key] for sample in report["samples"]]
            axis.plot(times, values, label=key, linewidth=1)
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[-1].legend()
    axes[-1].set_xlabel("time [min]")
    axes[0].set_title(f"{report['images']} images sent, {report['answers']} answered in {report['seconds']} s")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def main() -> int:
    """Parse arguments, run, write, judge."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import conftest  # noqa: F401 (the environment: a domain of its own, the transport's profile)
    import rclpy

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--weights", default="", help="a weights file; without it, the shipped one")
    parser.add_argument("--out", type=Path, default=Path("out/soak"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rclpy.init()
    parameters = {"weights": arguments.weights} if arguments.weights else {}
    report = soak(arguments.seconds, arguments.out / "node.txt", track_threshold=0.1, lost_threshold=0.0, **parameters)
    rclpy.try_shutdown()
    (arguments.out / "soak.json").write_text(json.dumps(report))
    plot(report, arguments.out / "soak.png")
    bad = problems(report)
    print(f"{report['answers']} of {report['images']} images answered, growth {report['growth']}: "
          f"{'; '.join(bad) or 'flat'}; see {arguments.out / 'soak.png'}")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
