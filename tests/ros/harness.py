# SPDX-License-Identifier: Apache-2.0
"""A node in its own process, and a robot's side of its interface, for the tests."""

from __future__ import annotations

import array
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.executors import ExternalShutdownException, ShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from vlt_ros.msg import Target, TargetCommand

LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
PICTURE = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
# Upper bounds alone: a machine that does much else takes minutes to start a process.
PATIENCE_S, START_S = 60.0, 180.0
BOX = (40.0, 30.0, 30.0, 40.0)


def fill(message: Any, values: dict) -> None:
    """As `ros2 topic pub` does: YAML into a message; rclpy's field checks refuse what does not fit."""
    for name, value in values.items():
        field = getattr(message, name)
        if isinstance(value, dict):
            fill(field, value)
        else:
            setattr(message, name, type(field)(value) if isinstance(field, float) else value)


def kind_of(name: str) -> Any:
    """The class of a type's full name, package/msg/Name."""
    package, folder, kind = name.split("/")
    return getattr(import_module(f"{package}.{folder}"), kind)


class NodeProcess:
    """`vlt_tracker` as a robot runs it; its output goes to a file.

    Args:
        namespace, log: its namespace ("": as the program says), and the file for its output. parameters: of the node.
        program: what Python runs. before: a command that starts it. env: changes of the environment.
    """

    def __init__(
        self,
        namespace: str,
        log: Path,
        *,
        program: Sequence[str] = ("-m", "vlt_ros.ros.node"),
        before: Sequence[str] = (),
        env: dict[str, str] | None = None,
        **parameters: Any,
    ) -> None:
        arguments = ["--ros-args", *(["-r", f"__ns:={namespace}"] if namespace else [])]
        for name, value in parameters.items():
            text = str(value).lower() if isinstance(value, bool) else value
            arguments += ["-p", f"{name}:={text}"]
        self.log = log
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                [*before, sys.executable, *program, *arguments],
                env=os.environ | (env or {}),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def wait_for(self, text: str, timeout: float = START_S) -> None:
        """Wait for a text in the output."""
        end = time.monotonic() + timeout
        while text not in self.output():
            assert time.monotonic() < end and self.alive, f"waited in vain for {text!r}: {self.output()}"
            time.sleep(0.05)

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def interrupt(self) -> int:
        """One SIGINT, as Ctrl-C sends it; the exit status."""
        return self.send(signal.SIGINT)

    def send(self, number: signal.Signals) -> int:
        """A signal that ends the process; the exit status."""
        if self.alive:
            os.kill(self.process.pid, number)
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


class Robot:
    """Publishes images and commands, and keeps what the tracker says."""

    def __init__(self, namespace: str) -> None:
        self.node = rclpy.create_node("robot", namespace=namespace)
        self.targets: list[Target] = []
        self.statuses: list[Target] = []
        self.diagnostics: dict[str, Any] = {}
        self._second = 1000
        self._clients: dict[str, Any] = {}
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.image = self.node.create_publisher(Image, "image", best_effort)
        # Reliable: fits any subscriber, also one with its reliability overridden.
        self.compressed = self.node.create_publisher(CompressedImage, "image/compressed", 1)
        self.command = self.node.create_publisher(String, "command", 1)
        self.target_command = self.node.create_publisher(TargetCommand, "target_command", 1)
        self.node.create_subscription(Target, "target", self.targets.append, 100)
        self.node.create_subscription(Target, "status", self.statuses.append, LATCHED)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._keep_diagnostics, 10)
        self._prefix = f"{namespace}/vlt_tracker"
        # Made early: a server that has just discovered a client may lose its first answer.
        for kind, name in ((ChangeState, "change_state"), (GetState, "get_state")):
            self._clients[name] = self.node.create_client(kind, f"{self._prefix}/{name}")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException, ShutdownException):
            self._executor.spin()

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(5)
        self.node.destroy_node()

    def _keep_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.hardware_id == self._prefix:
                values = {pair.key: pair.value for pair in status.values}
                self.diagnostics[status.name.split(": ")[1]] = (status.level, status.message, values)

    # Waiting

    def wait(self, condition: Callable[[], Any], timeout: float = PATIENCE_S, what: str = "") -> Any:
        """What the condition returns once it holds."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            with contextlib.suppress(KeyError):  # diagnostics that have not come yet
                if found := condition():
                    return found
            time.sleep(0.005)
        last = self.statuses[-1] if self.statuses else None
        raise AssertionError(f"waited {timeout} s in vain for {what}; last status {last}; {self.diagnostics}")

    def wait_for_subscriber(self, publisher: Any) -> None:
        self.wait(
            lambda: publisher.get_subscription_count() > 0, what=f"a subscriber of {publisher.topic_name}"
        )

    def wait_for_status(self, what: str = "a status", **wanted: Any) -> Target:
        def last() -> Target | None:
            status = self.statuses[-1] if self.statuses else None
            return status if status and all(getattr(status, k) == v for k, v in wanted.items()) else None

        return self.wait(last, what=f"{what} {wanted}")

    # Services

    def call(self, kind: type, name: str, request: Any, timeout: float = PATIENCE_S) -> Any:
        if name not in self._clients:       # kept: destroying one below a spinning executor is a race
            self._clients[name] = self.node.create_client(kind, f"{self._prefix}/{name}")
        client = self._clients[name]
        self.wait(client.service_is_ready, timeout, f"service {name}")
        done = client.call_async(request)
        self.wait(done.done, timeout, f"answer of {name}")
        return done.result()

    def transition(self, name: str) -> bool:
        number = getattr(Transition, f"TRANSITION_{name.upper()}")
        return self.call(
            ChangeState, "change_state", ChangeState.Request(transition=Transition(id=number))
        ).success

    def state(self) -> str:
        for last in (False, False, True):
            try:
                return self.call(GetState, "get_state", GetState.Request(), PATIENCE_S).current_state.label
            except AssertionError:
                if last:
                    raise
        return ""

    def to_unconfigured(self) -> None:
        for label, name in (("active", "deactivate"), ("inactive", "cleanup")):
            if self.state() == label:
                assert self.transition(name)
        assert self.state() == "unconfigured"

    def to_active(self) -> None:
        for label, name in (("unconfigured", "configure"), ("inactive", "activate")):
            if self.state() == label:
                assert self.transition(name), name
        assert self.state() == "active"

    def set(self, **parameters: Any) -> SetParametersResult:
        request = SetParametersAtomically.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg() for name, value in parameters.items()]
        )
        return self.call(SetParametersAtomically, "set_parameters_atomically", request).result

    def reset(self) -> Any:
        return self.call(Trigger, "reset", Trigger.Request())

    def enable(self, on: bool) -> Any:
        return self.call(SetBool, "enable", SetBool.Request(data=on))

    # Images and commands

    def picture_message(self, picture: np.ndarray = PICTURE, stamp: tuple[int, int] | None = None) -> Image:
        self._second += 1
        message = Image(
            height=picture.shape[0],
            width=picture.shape[1],
            encoding="bgr8",
            step=picture.shape[1] * 3,
            data=array.array("B", picture.tobytes()),
        )
        message.header.frame_id = "camera_optical_frame"
        message.header.stamp.sec, message.header.stamp.nanosec = stamp or (self._second, 123456789)
        return message

    def show(self, message: Image | CompressedImage | None = None) -> tuple[Any, Target]:
        """Publish an image until the tracker answers it; the image and the answer."""
        message = message or self.picture_message()
        publisher = self.compressed if isinstance(message, CompressedImage) else self.image
        self.wait_for_subscriber(publisher)
        seen = len(self.targets)

        def answer() -> Target | None:
            return next((t for t in self.targets[seen:] if t.header.stamp == message.header.stamp), None)

        for _ in range(20):  # best effort: a single image may be lost
            publisher.publish(message)
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                if found := answer():
                    return message, found
                time.sleep(0.002)
        raise AssertionError(f"no answer to the image; diagnostics {self.diagnostics}")

    def say(self, text: str) -> None:
        self.wait_for_subscriber(self.command)
        self.command.publish(String(data=text))

    def follow(self, text: str = "") -> Target:
        """Point at BOX and show images until it is tracked; the status that says so."""
        self.show()
        self.wait(lambda: self.statuses, what="the status that late subscribers are given")
        before = self.statuses[-1].target_id
        self.point(BOX, text)
        for _ in range(200):
            self.image.publish(self.picture_message())
            status = self.statuses[-1]
            if status.target_id != before and (status.state, status.text) == (Target.TRACKING, text):
                return status
            time.sleep(0.05)
        raise AssertionError(f"the box is not tracked; last status {self.statuses[-1]}; {self.diagnostics}")

    def point(self, box: tuple = BOX, text: str = "", stamp: Any = None) -> None:
        self.wait_for_subscriber(self.target_command)
        command = TargetCommand(text=text)
        command.box.x, command.box.y, command.box.width, command.box.height = map(float, box)
        if stamp is not None:
            command.header.stamp = stamp
        self.target_command.publish(command)
