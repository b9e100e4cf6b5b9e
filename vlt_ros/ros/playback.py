# SPDX-License-Identifier: Apache-2.0
"""The other side of the node for recordings: its process, a camera that plays images, an operator's command.

Needs rclpy; what it plays has ``time_ns`` (when in the recording), ``stamp_ns`` (its header's) and ``raw`` (the
serialized message).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NAMESPACE = "/playback"
START_TIMEOUT_S, COMMAND_TIMEOUT_S, STOP_TIMEOUT_S, SETTLE_S = 180.0, 15.0, 20.0, 3.0


class PlaybackError(RuntimeError):
    """Playing cannot go on; the message is one clear line."""


def environment() -> None:
    """ROS settings of both processes: this machine only, a domain of our own, large shared memory."""
    from vlt_ros.networks.weights import models_folder

    # Beside the weights in a checkout as well as under share/.
    profile = models_folder().parent / "config" / "fastdds.xml"
    if not profile.is_file():
        raise PlaybackError(f"{profile} is missing; use a whole checkout or build the ROS 2 package")
    # The variable changed its name after Jazzy; newer versions warn of the old one.
    old = os.environ.get("ROS_DISTRO") in ("humble", "jazzy")
    os.environ["FASTRTPS_DEFAULT_PROFILES_FILE" if old else "FASTDDS_DEFAULT_PROFILES_FILE"] = str(profile)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    # Up to 100 the ports are safe on every system; two players at once must not see each other.
    os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)


class Node:
    """The tracker node's process.

    Args:
        log: file for its output. parameters: go before those of ``params_file``.
    """

    def __init__(self, log: Path, parameters: dict[str, str], params_file: Path | None = None) -> None:
        self.log = log
        command = [sys.executable, "-m", "vlt_ros.ros.node", "--ros-args", "-r", f"__ns:={NAMESPACE}"]
        if params_file is not None:
            command += ["--params-file", str(params_file)]
        for name, value in parameters.items():
            command += ["-p", f"{name}:={value}"]
        with open(log, "wb") as output:
            # A session of its own: Ctrl-C in the terminal reaches this script alone, which stops the node.
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT,
                                            start_new_session=True)

    def check(self) -> None:
        """Raise PlaybackError when the process has ended."""
        if self.process.poll() is not None:
            raise PlaybackError(f"the node ended with exit code {self.process.returncode}: {self.reason()}")

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
    """A ROS node of this process: publishes images and the command, records targets.

    Args:
        process: the tracker's. compressed: the kind of images, sensor_msgs/CompressedImage or sensor_msgs/Image.
    """

    def __init__(self, process: Node, compressed: bool = True) -> None:
        import rclpy
        from lifecycle_msgs.srv import GetState
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import CompressedImage, Image
        from std_msgs.msg import String

        from vlt_ros.msg import Target, TargetCommand  # type: ignore[attr-defined]  # generated

        rclpy.init()
        self.process = process
        self.node = rclpy.create_node("player", namespace=NAMESPACE)
        reliable, durable = ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL
        camera = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        operator = QoSProfile(depth=1, reliability=reliable)
        kind = (CompressedImage, "image/compressed") if compressed else (Image, "image")
        self.images = self.node.create_publisher(*kind, camera)
        self.commands = self.node.create_publisher(String, "command", operator)
        self.boxes = self.node.create_publisher(TargetCommand, "target_command", operator)
        self.node.create_subscription(
            Target, "target", self._on_target, QoSProfile(depth=1000, reliability=reliable))
        self.node.create_subscription(
            Target, "status", self._on_status, QoSProfile(depth=1, reliability=reliable, durability=durable))
        self.state_client: Any = self.node.create_client(GetState, "vlt_tracker/get_state")
        self.accepted, self.rejected, self.pending = (
            Target.COMMAND_ACCEPTED, Target.COMMAND_REJECTED, Target.COMMAND_PENDING)
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

    def wait(self, condition, timeout: float, what: str) -> None:
        """Wait for a condition. Raises PlaybackError when the node dies or the time is up, saying ``what``."""
        end = time.monotonic() + timeout
        while not condition():
            self.process.check()
            if time.monotonic() > end:
                raise PlaybackError(f"{what} within {timeout:g} s; the node's log is {self.process.log}")
            time.sleep(0.02)

    def wait_until_active(self) -> None:
        """The node configures and activates itself before it answers, so its first answer tells."""
        from lifecycle_msgs.msg import State
        from lifecycle_msgs.srv import GetState

        self.wait(self.state_client.service_is_ready, START_TIMEOUT_S, "the node did not appear")
        answer = self.state_client.call_async(GetState.Request())
        self.wait(answer.done, START_TIMEOUT_S, "the node did not say its state")
        state = answer.result().current_state
        if state.id != State.PRIMARY_STATE_ACTIVE:
            raise PlaybackError(f"the node is {state.label}, not active: {self.process.reason()}")
        self.wait(lambda: self.images.get_subscription_count() and self.commands.get_subscription_count()
                   and self.boxes.get_subscription_count()
                   and self.node.count_publishers(f"{NAMESPACE}/target"), COMMAND_TIMEOUT_S,
                   "the node's topics were not found")

    def command(self, text: str, box: tuple[float, float, float, float] | None = None) -> None:
        """Send the sentence, or the box x, y, w, h [px] in the next image, and wait for the node's answer."""
        from std_msgs.msg import String

        from vlt_ros.msg import BoundingBox, TargetCommand  # type: ignore[attr-defined]  # generated

        if box is None:
            self.commands.publish(String(data=text))
        else:
            self.boxes.publish(TargetCommand(text=text, box=BoundingBox(
                **dict(zip(("x", "y", "width", "height"), map(float, box), strict=True)))))
        self.wait(lambda: self.status is not None and (
            self.status.command_result in (self.rejected, self.pending)
            or (self.status.command_result == self.accepted and self.status.text == text.strip())),
            COMMAND_TIMEOUT_S, "the node did not answer the command")
        self.check_command()

    def check_command(self) -> None:
        """Raise PlaybackError when the node has rejected the command: a box only once it has seen an image."""
        if self.status is not None and self.status.command_result == self.rejected:
            raise PlaybackError(f"the node rejected the command: {self.status.reason}")

    def play(self, images: Iterable[Any], total: int | None, what: str = "playing the bag") -> dict[int, int]:
        """Publish the images at the recording's pace. Returns header stamp -> monotonic time of publishing, ns.

        Args:
            images: see the top of this file. total: how many, where it is known. what: title of the progress bar.
        """
        from tqdm import tqdm

        sent: dict[int, int] = {}
        start = first = last = None
        for image in tqdm(images, desc=what, unit="image", total=total):
            if start is None:
                start, first = time.monotonic_ns(), image.time_ns
            time.sleep(max(0, start + image.time_ns - first - time.monotonic_ns()) * 1e-9)
            self.process.check()
            last = image.stamp_ns
            sent[last] = time.monotonic_ns()
            self.images.publish(image.raw)
        end = time.monotonic() + SETTLE_S
        while time.monotonic() < end and all(header_stamp_ns(m) != last for _, m in list(self.received)):
            time.sleep(0.02)
        self.process.check()
        return sent


def header_stamp_ns(message) -> int:
    """A message's header stamp in ns."""
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def serialized(message) -> bytes:
    """A message's bytes, as bags hold them."""
    from rclpy.serialization import serialize_message

    return serialize_message(message)


def play_to_node(images: Iterable[Any], total: int, log: Path, *, compressed: bool, text: str,
                 box: tuple[float, float, float, float] | None = None, parameters: dict[str, str] | None = None,
                 params_file: Path | None = None) -> tuple[dict[int, int], list[tuple[int, Any]]]:
    """Start the node in its own process, tell it what to follow, play the images in real time, and stop it.

    Args:
        images: to play, see the top of this file. total: how many. log: file for the node's output.
        compressed: their kind. text, box: the command; the box [px] is in the first image.
        parameters, params_file: the node's.

    Returns:
        when each image was published, {header stamp [ns]: monotonic time [ns]}, and what came on `target`,
        [(monotonic time [ns], vlt_ros/Target)].

    Raises:
        PlaybackError: the node does not start, dies, or rejects the command.
    """
    environment()
    process = Node(log, {"image_transport": "compressed" if compressed else "raw", **(parameters or {})}, params_file)
    player = None
    try:
        player = Player(process, compressed)
        print("starting the node ...", file=sys.stderr)
        player.wait_until_active()
        player.command(text, box)
        sent = player.play(images, total)
        player.check_command()
        return sent, list(player.received)
    finally:
        if player is not None:
            player.close()
        process.stop()
