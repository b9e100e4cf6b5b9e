# SPDX-License-Identifier: Apache-2.0
"""The demo: a recorded camera, the real node, one sentence.

    python demo/run.py [--text "the man in the black coat"]

Starts the node in a process of its own, waits until it is active, sends the sentence on `command`, plays a
rosbag2 with compressed images in real time and records `target`. Writes to --out:

target.jsonl   a line for each image that was answered: frame, stamp, state, box [x,y,w,h] in pixels or null,
               confidence, target_id, latency_ms (in the node), end_to_end_ms (from publishing to receiving)
demo.mp4       the images with the published targets drawn in, matched by header stamp
demo.json      frames, tracked_fraction (share of the played frames answered TRACKING), first_lock_frame,
               p50 and p95 latency, dropped (frames without an answer)
contact_sheet.png, node.log
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
NAMESPACE = "/demo"
START_TIMEOUT_S, COMMAND_TIMEOUT_S, STOP_TIMEOUT_S, SETTLE_S = 180.0, 15.0, 20.0, 3.0


class DemoError(RuntimeError):
    """The demo cannot go on; the message is one clear line."""


@dataclass
class Image:
    """One image of the bag: serialized message, time in the bag and header stamp in ns, JPEG bytes."""

    raw: bytes
    time_ns: int
    stamp_ns: int
    jpeg: np.ndarray


def read_images(bag: Path) -> list[Image]:
    """All compressed images of a bag, in the order of recording."""
    from rosbags.rosbag2 import Reader
    from rosbags.typesys import Stores, get_typestore

    if not (bag / "metadata.yaml").is_file():
        raise DemoError(f"{bag} is no rosbag2 folder (no metadata.yaml in it); give another one with --bag")
    types = get_typestore(Stores.ROS2_JAZZY)
    images = []
    try:
        with Reader(bag) as reader:
            wanted = [c for c in reader.connections if c.msgtype == "sensor_msgs/msg/CompressedImage"]
            for connection, time_ns, raw in reader.messages(wanted[:1]) if wanted else ():
                message = types.deserialize_cdr(raw, connection.msgtype)
                stamp = message.header.stamp
                images.append(Image(bytes(raw), time_ns, stamp.sec * 10**9 + stamp.nanosec, message.data))
    except Exception as error:      # a damaged file makes the library raise whatever comes
        raise DemoError(f"{bag} cannot be read ({error}); "
                        "copy it again or give another one with --bag") from error
    if not images:
        raise DemoError(f"{bag} has no sensor_msgs/CompressedImage messages; give a bag with such a topic")
    return images


def environment() -> None:
    """ROS settings of both processes: this machine only, a domain of our own, large shared memory."""
    profile = HERE.parent / "config" / "fastdds.xml"
    if not profile.is_file():
        raise DemoError(f"{profile} is missing; run the demo from a whole checkout")
    # The variable changed its name after Jazzy; newer versions warn of the old one.
    old = os.environ.get("ROS_DISTRO") in ("humble", "jazzy")
    os.environ["FASTRTPS_DEFAULT_PROFILES_FILE" if old else "FASTDDS_DEFAULT_PROFILES_FILE"] = str(profile)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    # Up to 100 the ports are safe on every system; two demos at once must not see each other.
    os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)


class Node:
    """The tracker node's process."""

    def __init__(self, log: Path, parameters: dict[str, str]) -> None:
        self.log = log
        command = [sys.executable, "-m", "vlt_ros.ros.node", "--ros-args", "-r", f"__ns:={NAMESPACE}"]
        for name, value in parameters.items():
            command += ["-p", f"{name}:={value}"]
        with open(log, "wb") as output:
            # A session of its own: Ctrl-C in the terminal reaches this script alone, which stops the node.
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT,
                                            start_new_session=True)

    def check(self) -> None:
        """Raise DemoError when the process has ended."""
        if self.process.poll() is not None:
            raise DemoError(f"the node ended with exit code {self.process.returncode}: {self.reason()}")

    def reason(self) -> str:
        """The last error in its log, without the logger's time and name."""
        lines = self.log.read_text(errors="replace").splitlines()
        errors = [line.strip() for line in lines if any(m in line for m in ("[ERROR]", "[FATAL]", "rror: "))]
        # What the node prints after its logger is gone has no level; it is then the last line.
        if not errors and lines and not lines[-1].startswith("["):
            errors = [lines[-1].strip()]
        reason = re.sub(r"^(\[[^]]*\] ?)+: ", "", errors[-1]) if errors else "it gave no reason"
        return f"{reason} (its log: {self.log})"

    def stop(self) -> None:
        """SIGINT, as Ctrl-C and ros2 launch do; the process is ended by force only when it does not obey."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                print(f"warning: the node did not stop within {STOP_TIMEOUT_S:g} s of SIGINT and was killed",
                      file=sys.stderr)


class Player:
    """The demo's own ROS node: publishes images and the command, records targets."""

    def __init__(self, process: Node) -> None:
        import rclpy
        from lifecycle_msgs.srv import GetState
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import CompressedImage
        from std_msgs.msg import String
        from vlt_ros.msg import Target

        rclpy.init()
        self.process = process
        self.node = rclpy.create_node("demo", namespace=NAMESPACE)
        reliable, durable = ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL
        camera = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        operator = QoSProfile(depth=1, reliability=reliable)
        self.images = self.node.create_publisher(CompressedImage, "image/compressed", camera)
        self.commands = self.node.create_publisher(String, "command", operator)
        self.node.create_subscription(
            Target, "target", self._on_target, QoSProfile(depth=1000, reliability=reliable))
        self.node.create_subscription(
            Target, "status", self._on_status, QoSProfile(depth=1, reliability=reliable, durability=durable))
        self.state_client = self.node.create_client(GetState, "vlt_tracker/get_state")
        self.accepted, self.rejected = Target.COMMAND_ACCEPTED, Target.COMMAND_REJECTED
        self.received: list[tuple[int, Target]] = []      # arrival by the monotonic clock in ns, message
        self.status: Target | None = None
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self.executor.spin, daemon=True)
        self.thread.start()

    def close(self) -> None:
        import rclpy

        self.executor.shutdown()
        self.thread.join(timeout=5)
        self.node.destroy_node()
        rclpy.try_shutdown()

    def _on_target(self, message) -> None:
        self.received.append((time.monotonic_ns(), message))

    def _on_status(self, message) -> None:
        self.status = message

    def _wait(self, condition, timeout: float, what: str) -> None:
        end = time.monotonic() + timeout
        while not condition():
            self.process.check()
            if time.monotonic() > end:
                raise DemoError(f"{what} within {timeout:g} s; the node's log is {self.process.log}")
            time.sleep(0.02)

    def wait_until_active(self) -> None:
        """The node configures and activates itself before it answers, so its first answer tells."""
        from lifecycle_msgs.msg import State
        from lifecycle_msgs.srv import GetState

        self._wait(self.state_client.service_is_ready, START_TIMEOUT_S, "the node did not appear")
        answer = self.state_client.call_async(GetState.Request())
        self._wait(answer.done, START_TIMEOUT_S, "the node did not say its state")
        state = answer.result().current_state
        if state.id != State.PRIMARY_STATE_ACTIVE:
            raise DemoError(f"the node is {state.label}, not active: {self.process.reason()}")
        self._wait(lambda: self.images.get_subscription_count() and self.commands.get_subscription_count()
                   and self.node.count_publishers(f"{NAMESPACE}/target"), COMMAND_TIMEOUT_S,
                   "the node's topics were not found")

    def command(self, text: str) -> None:
        """Send the sentence and wait for the node's answer."""
        from std_msgs.msg import String

        self.commands.publish(String(data=text))
        self._wait(lambda: self.status is not None and (
            self.status.command_result == self.rejected
            or (self.status.command_result == self.accepted and self.status.text == text.strip())),
            COMMAND_TIMEOUT_S, "the node did not answer the command")
        if self.status.command_result == self.rejected:
            raise DemoError(f"the node rejected the command: {self.status.reason}")

    def play(self, images: list[Image]) -> dict[int, int]:
        """Publish the images at the bag's pace. Returns header stamp -> monotonic time of publishing, ns."""
        from tqdm import tqdm

        sent: dict[int, int] = {}
        start = time.monotonic_ns()
        for image in tqdm(images, desc="playing the bag", unit="image"):
            due = start + image.time_ns - images[0].time_ns
            time.sleep(max(0, due - time.monotonic_ns()) * 1e-9)
            self.process.check()
            sent[image.stamp_ns] = time.monotonic_ns()
            self.images.publish(image.raw)
        end, last = time.monotonic() + SETTLE_S, images[-1].stamp_ns
        while time.monotonic() < end and all(_stamp_ns(m) != last for _, m in list(self.received)):
            time.sleep(0.02)
        self.process.check()
        return sent


def _stamp_ns(message) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


@dataclass
class Shown:
    """What is drawn on a frame: as the tracker's Target, with a state that only has a name."""

    name: str
    box: tuple[float, float, float, float] | None
    confidence: float
    text: str

    @property
    def state(self) -> Shown:
        return self


def write_results(out: Path, images: list[Image], sent: dict[int, int], received: list, text: str) -> dict:
    """Write the files named at the top and return demo.json's content."""
    import cv2
    from vlt_ros.msg import Target

    from vlt_ros.media import ContactSheet, VideoFile, annotate, save_image

    names = {value: name for name, value in (
        (name, getattr(Target, name)) for name in ("IDLE", "SEARCHING", "TRACKING", "UNCERTAIN", "LOST"))}
    # INPUT_TIMEOUT is about the silence before and after the images, not about one of them.
    answers = {_stamp_ns(m): (arrived, m) for arrived, m in received
               if _stamp_ns(m) in sent and m.state in names}
    span = (images[-1].time_ns - images[0].time_ns) * 1e-9
    fps = (len(images) - 1) / span if span > 0 else 10.0
    sheet, rows = ContactSheet(count=12, columns=4), []
    with open(out / "target.jsonl", "w", encoding="utf-8") as lines, VideoFile(out / "demo.mp4", fps) as film:
        for number, image in enumerate(images):
            picture = cv2.imdecode(image.jpeg, cv2.IMREAD_COLOR)
            if picture is None:
                raise DemoError(f"image {number} of the bag cannot be decoded; give another bag with --bag")
            latency_ms, shown = None, Shown("DROPPED", None, 0.0, text)
            if image.stamp_ns in answers:
                arrived, m = answers[image.stamp_ns]
                box = None
                if m.state in (Target.TRACKING, Target.UNCERTAIN):
                    box = (m.box.x, m.box.y, m.box.width, m.box.height)
                latency_ms, shown = m.latency_ms, Shown(names[m.state], box, m.confidence, m.text)
                row = {"frame": number, "stamp": image.stamp_ns * 1e-9, "state": shown.name,
                       "box": None if box is None else [round(v, 2) for v in box],
                       "confidence": round(m.confidence, 4), "target_id": m.target_id,
                       "latency_ms": round(latency_ms, 2),
                       "end_to_end_ms": round((arrived - sent[image.stamp_ns]) * 1e-6, 2)}
                lines.write(json.dumps(row) + "\n")
                rows.append(row)
            drawn = annotate(picture, shown, latency_ms)
            film.write(drawn)
            sheet.add(drawn)
    if not rows:
        raise DemoError(f"the node answered none of {len(images)} images; its log is {out / 'node.log'}")
    save_image(out / "contact_sheet.png", sheet.image())
    tracked = [row["frame"] for row in rows if row["state"] == "TRACKING"]
    p50, p95 = np.percentile([row["latency_ms"] for row in rows], (50, 95))
    end_to_end = np.percentile([row["end_to_end_ms"] for row in rows], (50, 95))
    summary = {"text": text, "frames": len(images), "tracked_fraction": round(len(tracked) / len(images), 4),
               "first_lock_frame": tracked[0] if tracked else None, "p50_latency_ms": round(float(p50), 2),
               "p95_latency_ms": round(float(p95), 2), "p50_end_to_end_ms": round(float(end_to_end[0]), 2),
               "p95_end_to_end_ms": round(float(end_to_end[1]), 2), "dropped": len(images) - len(rows)}
    (out / "demo.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def run(text: str, bag: Path, out: Path, parameters: dict[str, str]) -> dict:
    """The whole demo; returns demo.json's content. Raises DemoError."""
    images = read_images(bag)
    out.mkdir(parents=True, exist_ok=True)
    for name in ("target.jsonl", "demo.mp4", "demo.json", "contact_sheet.png"):
        (out / name).unlink(missing_ok=True)   # an old result must not pass for a new one
    environment()
    process = Node(out / "node.log", {"image_transport": "compressed", **parameters})
    player = None
    try:
        player = Player(process)
        print("starting the node ...", file=sys.stderr)
        player.wait_until_active()
        player.command(text)
        sent = player.play(images)
        received = list(player.received)
    finally:
        if player is not None:
            player.close()
        process.stop()
    return write_results(out, images, sent, received, text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", default="the woman in the red jacket", help="what to follow (%(default)s)")
    parser.add_argument("--bag", type=Path, default=HERE / "data" / "vtest_excerpt", help="rosbag2 folder")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="results' folder (%(default)s)")
    parser.add_argument("--weights", help="weights file; without it, the shipped one")
    parser.add_argument("--device", help="auto, cpu or cuda:N")
    arguments = parser.parse_args()
    # The node is in a session of its own: ended by SIGTERM, this script still has to stop it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parameters = {name: value for name in ("weights", "device") if (value := getattr(arguments, name))}
    try:
        summary = run(arguments.text, arguments.bag, arguments.out, parameters)
    except ImportError as error:
        print(f"error: {error}: ROS 2 or the built messages are not in this Python; run `make setup` and use "
              ".venv/bin/python, or source your ROS 2 workspace", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: stopped before the end", file=sys.stderr)
        return 130
    except (DemoError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(json.dumps(summary, indent=2))
    print(f"see {arguments.out / 'demo.mp4'} and {arguments.out / 'contact_sheet.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
