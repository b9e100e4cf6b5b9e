# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node `vlt_tracker`: images and commands in, the target out.

Threads: the executor's callbacks only hand over, the inference thread owns the tracker and publishes what it
says. So an image never waits behind another, and everything the tracker sees happens between two images.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String
from std_srvs.srv import SetBool, Trigger

from vlt_ros.msg import Target, TargetCommand
from vlt_ros.ros.images import ImageError, to_bgr
from vlt_ros.ros.inference import Counters, Frame, InferenceThread, RecentFrames
from vlt_ros.ros.messages import box_of, diagnostic, target_message
from vlt_ros.ros.parameters import Parameters, ParameterServer

RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                     durability=DurabilityPolicy.TRANSIENT_LOCAL)

RECENT_FRAMES_BYTES = 64 << 20     # two seconds of VGA at 30 Hz; a box is drawn on an image of a moment ago
WATCHDOG_PERIOD_S = 0.05
WARN_EVERY_S = 5.0


def _transition(callback: Callable) -> Callable:
    """rclpy swallows what a transition callback raises: say it, and fail the transition."""
    @functools.wraps(callback)
    def guarded(self: VltTracker, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            callback(self, state)
        except Exception as error:
            self.failure = f"{callback.__name__} failed: {error}"
            self.get_logger().error(self.failure)
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS
    return guarded


class VltTracker(LifecycleNode):
    """Follows what a phrase or a box names through a camera's images. See README.md for its interface."""

    def __init__(self, **kwargs) -> None:
        super().__init__("vlt_tracker", **kwargs)
        self._tracker = None                         # made by configure
        self._thread: InferenceThread | None = None  # runs while active
        self._inputs, self._watchdog = [], None
        self._parameter_server = ParameterServer(self, is_configured=lambda: self._tracker is not None,
                                                 on_change=self._parameters_changed)
        self.failure = ""                            # of the last transition, for diagnostics
        self._counters = Counters()
        self._recent = RecentFrames(RECENT_FRAMES_BYTES)
        self._command = (Target.COMMAND_NONE, "")
        self._forget_images()
        self._enabled = True
        # In every state, so that a failed configure can be seen from outside. Steady time: a simulated clock
        # may stand still.
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(1.0, self._publish_diagnostics, clock=self._steady)
        self._counters_before = Counters()

    @property
    def parameters(self) -> Parameters:
        """The values in force."""
        return self._parameter_server.values

    # Lifecycle

    @_transition
    def on_configure(self, state: LifecycleState) -> None:
        """Load the network and warm it up; make publishers and services."""
        from vlt_ros.networks import load_network
        from vlt_ros.tracker import Tracker

        values = self.parameters
        if problem := values.problem():
            raise ValueError(problem)
        network = load_network(values.weights or None, model=values.model or None, device=values.device,
                               precision=values.precision, sha256=values.weights_sha256,
                               allow_cpu_fallback=values.allow_cpu_fallback)
        self.get_logger().info(f"network {network.name} on {network.device} in {network.precision}")
        if values.device.startswith("cuda") and network.device.type == "cpu":
            self.get_logger().warning(f"device {values.device} is not there: running on the CPU as allowed")
        tracker = Tracker(network, self._tracker_settings(values))
        tracker.warm_up()
        self._target_publisher = self.create_publisher(Target, "target", RELIABLE)
        self._status_publisher = self.create_publisher(Target, "status", LATCHED)
        self._own_services = [self.create_service(Trigger, "~/reset", self._reset),
                          self.create_service(SetBool, "~/enable", self._enable)]
        self._network, self._tracker = network, tracker
        self._command, self._last_status, self.failure = (Target.COMMAND_NONE, ""), None, ""

    @_transition
    def on_activate(self, state: LifecycleState) -> None:
        """Subscribe and start the inference thread."""
        values = self.parameters
        self._network.to(self._network.device)
        self._counters = Counters()
        self._counters_before = Counters()
        self._forget_images()
        self._last_arrival = time.monotonic()
        self._thread = InferenceThread(self._process, self._inference_failed,
                                       max_rate_hz=lambda: self.parameters.max_rate_hz)
        if self._tracker.target.state or not values.initial_command:
            self._thread.post(self._resume)
        else:
            self._thread.post(lambda: self._start(values.initial_command))
        try:
            self._subscribe(values)
        except Exception:
            self._stop_input()
            raise
        self._thread.start()
        self.failure = ""
        self.get_logger().info(f"active: images from {self._inputs[0].topic_name}, "
                               f"commands from {self._inputs[1].topic_name}")

    @_transition
    def on_deactivate(self, state: LifecycleState) -> None:
        """Unsubscribe and stop the inference thread; the command stays."""
        self._stop_input()
        self._instead = (Target.IDLE, "the node was deactivated")
        self._publish()
        if self.parameters.release_device_on_deactivate:
            self._network.to("cpu")
            _free_device_memory()

    @_transition
    def on_cleanup(self, state: LifecycleState) -> None:
        """Free the network, publishers and services."""
        self._release()

    @_transition
    def on_shutdown(self, state: LifecycleState) -> None:
        """Stop and free everything, from any state."""
        self._release()

    @_transition
    def on_error(self, state: LifecycleState) -> None:
        """Free everything: the node is unconfigured again and can be configured anew."""
        self._release()

    def autostart(self) -> None:
        """Configure and activate; after a failure the node stays as it is, alive."""
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def _subscribe(self, values: Parameters) -> None:
        compressed = values.image_transport == "compressed"
        image = (CompressedImage, "image/compressed") if compressed else (Image, "image")
        overridable = QoSOverridingOptions.with_default_policies()
        # A fresh profile each time: the overrides are written into it.
        newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._inputs = []
        self._inputs.append(self.create_subscription(*image, self._on_image, newest,
                                                     qos_overriding_options=overridable))
        self._inputs.append(self.create_subscription(String, "command", self._on_command, RELIABLE))
        self._inputs.append(self.create_subscription(TargetCommand, "target_command", self._on_target_command,
                                                     RELIABLE))
        self._watchdog = self.create_timer(WATCHDOG_PERIOD_S, self._watch_input, clock=self._steady)

    def _stop_input(self) -> None:
        if self._thread is None:
            return
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        if self._watchdog is not None:
            self.destroy_timer(self._watchdog)
        self._inputs, self._watchdog = [], None
        self._thread.stop()
        self._thread = None
        self._recent.clear()

    def _release(self) -> None:
        self._stop_input()
        if self._tracker is None:
            return
        self._network = self._tracker = None
        _free_device_memory()
        self.destroy_publisher(self._target_publisher)
        self.destroy_publisher(self._status_publisher)
        for service in self._own_services:
            self.destroy_service(service)

    # Executor's callbacks: they hand over to the inference thread

    def _on_image(self, message: Image | CompressedImage) -> None:
        frame = Frame(message)
        self._counters.received += 1
        self._last_arrival, self._timed_out = frame.arrival, False
        self._recent.add(frame)
        if self._enabled:
            self._thread.offer(frame)

    def _on_command(self, message: String) -> None:
        self._thread.post(lambda: self._start(message.data))

    def _on_target_command(self, message: TargetCommand) -> None:
        self._thread.post(lambda: self._start(message.text, box_of(message), message.header))

    def _reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._thread is None:
            response.message = "the node is not active"
        elif self._tracker.target.state == Target.IDLE:
            response.message = "there is no target to search for: send a command first"
        else:
            self._thread.post(self._search_again)
            response.success, response.message = True, f"searching again for {self._tracker.target.text!r}"
        return response

    def _enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if self._thread is None:
            response.message = "the node is not active"
            return response
        if request.data and not self._enabled:
            self._last_arrival, self._timed_out = time.monotonic(), False
            self._thread.post(self._resume)
        elif not request.data:
            self._thread.discard_frame()
            self._thread.post(self._say_paused)
        self._enabled = request.data
        response.success, response.message = True, "tracking" if request.data else "paused"
        return response

    def _watch_input(self) -> None:
        silent = time.monotonic() - self._last_arrival
        if self._enabled and not self._timed_out and silent > self.parameters.image_timeout_s:
            self._timed_out = True
            self._thread.post(self._say_input_timeout)

    def _parameters_changed(self, values: Parameters) -> None:
        if self._thread is not None:
            self._thread.post(lambda: self._set_tracker_settings(values))
        elif self._tracker is not None:
            self._set_tracker_settings(values)

    # Inference thread: the tracker's only user while the node is active

    def _process(self, frame: Frame) -> None:
        """Track in one image and publish."""
        header = frame.message.header
        oldest = self.parameters.max_image_age_s
        if oldest and frame.is_stamped:
            age = self.get_clock().now().nanoseconds * 1e-9 - frame.stamp
            if age > oldest:
                self._counters.too_old += 1
                self.get_logger().warning(f"image dropped: its stamp is {age:.2f} s old, max_image_age_s is "
                                          f"{oldest}", throttle_duration_sec=WARN_EVERY_S)
                return
        try:
            image = to_bgr(frame.message)
        except ImageError as error:
            self._counters.malformed += 1
            self.get_logger().warning(f"image dropped: {error}", throttle_duration_sec=WARN_EVERY_S)
            return
        if self._last_stamp is not None and frame.stamp < self._last_stamp:
            self.get_logger().warning(f"time went back by {self._last_stamp - frame.stamp:.3f} s (a looped "
                                      "bag?): what was remembered of the target's looks and place is dropped")
            self._tracker.clear()
            self._recent.clear()
            self._recent.add(frame)
        self._last_stamp = frame.stamp
        self._encoding = getattr(frame.message, "encoding", "") or frame.message.format
        if self._waiting_box is not None:
            self._start_on(frame, image, *self._waiting_box)
        self._tracker.track(image, frame.stamp)
        self._header, self._size, self._instead = header, (image.shape[1], image.shape[0]), None
        latency = (time.monotonic() - frame.arrival) * 1e3
        self._publish(latency, answers_image=True)
        self._counters.processed += 1
        self._counters.latencies.append(latency)
        self._out_of_memory = False

    def _start(self, text: str, box: tuple | None = None, header: Header | None = None) -> None:
        """Obey a command, or reject it and say why; a rejected one leaves the target as it is."""
        from vlt_ros.tracker import CommandError, validate_text

        try:
            if "\ufffd" in text:    # what rclpy makes of bytes that are no UTF-8
                raise CommandError("text is not valid UTF-8")
            text = validate_text(text, self.parameters.max_command_length)
            if box is None:
                self._waiting_box = None
                self._tracker.start(text) if text else self._tracker.stop()
                self._command = (Target.COMMAND_ACCEPTED, "")
            elif header.stamp.sec or header.stamp.nanosec:
                frame = self._recent.find(header.stamp)
                if frame is None:
                    raise CommandError(
                        f"no image with stamp {header.stamp.sec}.{header.stamp.nanosec:09d} among the last "
                        f"{len(self._recent)}: copy the stamp of the image that the box was drawn on, or "
                        "leave it zero")
                self._start_on(frame, to_bgr(frame.message), text, box)
            elif (frame := self._recent.newest()) is not None and not self._timed_out:
                self._start_on(frame, to_bgr(frame.message), text, box)
            else:
                self._waiting_box = (text, box)
                self._command = (Target.COMMAND_PENDING, "the box waits for the next image")
        except (CommandError, ImageError) as error:
            self._reject(error)
        self._publish()

    def _start_on(self, frame: Frame, image: np.ndarray, text: str, box: tuple) -> None:
        from vlt_ros.tracker import CommandError

        self._waiting_box = None
        try:
            self._tracker.start(text, image, box, frame.stamp)
            self._command = (Target.COMMAND_ACCEPTED, "")
            self._header, self._size = frame.message.header, (image.shape[1], image.shape[0])
        except CommandError as error:
            self._reject(error)

    def _reject(self, error: Exception) -> None:
        self._command = (Target.COMMAND_REJECTED, str(error))
        self.get_logger().warning(f"command rejected, the target stays as it is: {error}")

    def _search_again(self) -> None:
        self._tracker.search_again()
        self._publish()

    def _resume(self) -> None:
        """After a pause the target may be anywhere."""
        self._tracker.clear()
        self._instead = None
        self._publish()

    def _say_paused(self) -> None:
        self._instead = (Target.IDLE, "paused by ~/enable")
        self._publish(answers_image=True)

    def _say_input_timeout(self) -> None:
        topic = self._inputs[0].topic_name
        reason = f"no image on {topic} for {self.parameters.image_timeout_s:g} s"
        self.get_logger().error(f"{reason}: is the camera running, and does its QoS fit?")
        self._instead = (Target.INPUT_TIMEOUT, reason)
        self._publish(answers_image=True)

    def _set_tracker_settings(self, values: Parameters) -> None:
        self._tracker.settings = self._tracker_settings(values)

    def _inference_failed(self, error: Exception) -> None:
        self._counters.failed += 1
        if not _is_out_of_memory(error):
            self.get_logger().error(f"image or command dropped, {type(error).__name__}: {error}",
                                    throttle_duration_sec=WARN_EVERY_S)
            return
        _free_device_memory()
        if self._out_of_memory:
            self.failure = f"out of memory twice in a row, deactivated: {error}"
            self.get_logger().error(self.failure)
            self.executor.create_task(self.trigger_deactivate)
        else:
            self._out_of_memory = True
            self.get_logger().warning(f"out of memory: image dropped, memory freed, trying again ({error})")

    # What goes out

    def _publish(self, latency_ms: float = 0.0, *, answers_image: bool = False) -> None:
        """The one place that sends a target: about the image it was last seen or searched in, never another.

        Args:
            latency_ms: since that image's arrival.
            answers_image: send it on `target` too, for a controller; else only on `status`, if it is news.
        """
        result, reason = self._command
        state, instead = self._instead or (None, "")
        message = target_message(self._tracker.target, self._header, self._size, latency_ms, result,
                                 "; ".join(filter(None, (instead, reason))), state)
        if answers_image:
            self._target_publisher.publish(message)
        status = (message.state, message.target_id, message.text, message.command_result, message.reason)
        if status != self._last_status:
            self._last_status = status
            self._status_publisher.publish(message)

    def _publish_diagnostics(self) -> None:
        where, active = self.get_fully_qualified_name(), self._thread is not None
        counters, latencies, before = self._counters, sorted(self._counters.latencies), self._counters_before
        error, warn = DiagnosticStatus.ERROR, DiagnosticStatus.WARN
        age = time.monotonic() - self._last_arrival
        malformed, failed = counters.malformed - before.malformed, counters.failed - before.failed
        problems = []
        if active and self._timed_out:
            problems.append((error, f"no image for {age:.1f} s"))
        if malformed:
            problems.append((warn, f"{malformed} malformed images in the last second"))
        status = [diagnostic(f"{self.get_name()}: input", where, problems, {
            "fps": counters.received - before.received, "age_s": f"{age:.3f}" if active else "",
            "received": counters.received, "processed": counters.processed,
            "dropped": self._thread.dropped if active else 0, "malformed": counters.malformed,
            "too_old": counters.too_old, "encoding": self._encoding, "enabled": self._enabled,
            "size": "{}x{}".format(*self._size)}, "ok" if active else "not active")]
        self._counters_before = replace(counters)
        problems = [(error, self.failure)] if self.failure else []
        if failed:
            problems.append((warn, f"{failed} images or commands failed in the last second"))
        network = self._network if self._tracker is not None else None
        status.append(diagnostic(f"{self.get_name()}: inference", where, problems, {
            "network": network.name if network else "", "device": network.device if network else "",
            "precision": network.precision if network else "", "failed": counters.failed,
            "p50_ms": f"{latencies[len(latencies) // 2]:.1f}" if latencies else "",
            "p95_ms": f"{latencies[len(latencies) * 95 // 100]:.1f}" if latencies else "",
            "device_memory_mb": _device_memory_mb(network)}, "ok" if network else "not configured"))
        if self._tracker is not None:
            target = self._tracker.target
            status.append(diagnostic(f"{self.get_name()}: target", where, [], {
                "state": target.state.name, "confidence": f"{target.confidence:.3f}", "id": target.target_id,
                "text": target.text, "command": self._command[1] or "ok"}, target.state.name))
        array = DiagnosticArray(status=status)
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)

    # Small things

    def _forget_images(self) -> None:
        self._header, self._size, self._encoding = Header(), (0, 0), ""    # of the image the target is about
        self._instead: tuple[int, str] | None = None    # (state, reason) that hides the tracker's own state
        self._last_stamp: float | None = None
        self._last_arrival, self._timed_out = time.monotonic(), False
        self._waiting_box: tuple | None = None
        self._out_of_memory = False
        self._recent.clear()

    @staticmethod
    def _tracker_settings(values: Parameters):
        from vlt_ros.tracker import TrackerSettings

        return TrackerSettings(track_threshold=values.track_threshold, lost_threshold=values.lost_threshold,
                               lost_after_s=values.lost_after_s, reacquire=values.reacquire,
                               search_interval_frames=values.search_interval_frames)

    def stop(self) -> None:
        """End the inference thread; for the end of the process."""
        self._stop_input()


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    return isinstance(error, (torch.OutOfMemoryError, MemoryError))


def _free_device_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _device_memory_mb(network) -> str:
    if network is None or network.device.type != "cuda":
        return ""
    import torch

    return f"{torch.cuda.memory_allocated(network.device) / 1e6:.0f}"


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM.

    Returns:
        0, or 2 when a parameter given at start has a wrong type or is out of its range.
    """
    rclpy.init(args=args)
    node = None
    try:
        node = VltTracker()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        if node.parameters.autostart:
            node.autostart()
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (InvalidParameterTypeException, InvalidParameterValueException) as error:
        print(f"vlt_tracker: {error}", file=sys.stderr)
        return 2
    finally:
        # A second SIGINT may arrive in here: what is left then goes with the process.
        try:
            if node is not None:
                node.stop()
                node.destroy_node()
            rclpy.try_shutdown()
        except (KeyboardInterrupt, ExternalShutdownException):
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
