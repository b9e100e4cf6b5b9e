# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node `vlt_tracker`: images and commands in, the target out.

Threads: the executor's callbacks only hand over, the inference thread owns the tracker and publishes what it
says. So an image never waits behind another, and everything the tracker sees happens between two images.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import resource
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from rclpy.timer import Timer
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String
from std_srvs.srv import SetBool, Trigger

from vlt_ros.msg import Target, TargetCommand  # type: ignore[attr-defined]  # generated, in the ament prefix
from vlt_ros.ros.cameras import Networks, node_arguments
from vlt_ros.ros.clicked_point import ClickedPoint
from vlt_ros.ros.debug_image import DebugImage
from vlt_ros.ros.detections import Detections
from vlt_ros.ros.images import ImageError, to_bgr
from vlt_ros.ros.inference import Abandoned, Counters, Frame, InferenceThread, RecentFrames
from vlt_ros.ros.messages import STATE_NAMES, box_of, diagnostic, target_message
from vlt_ros.ros.parameters import Parameters, ParameterServer
from vlt_ros.ros.position import TargetPosition
from vlt_ros.ros.targets import MoreTargets

if TYPE_CHECKING:
    from vlt_ros.tracker import Targets, Tracker

RCLError = rclpy_implementation.RCLError

RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                     durability=DurabilityPolicy.TRANSIENT_LOCAL)

RECENT_FRAMES_BYTES = 64 << 20     # two seconds of VGA at 30 Hz; a box is drawn on an image of a moment ago
WATCHDOG_PERIOD_S = 0.05
WARN_EVERY_S = 5.0
JOIN_TIMEOUT_S = 5.0
# What keeps images from being answered.
SILENT, UNUSABLE, STUCK = "silent", "unusable", "stuck"


def _transition(failure: TransitionCallbackReturn) -> Callable:
    """rclpy swallows what a transition callback raises: say it, and end the transition with `failure`.

    FAILURE goes back to the state before; ERROR calls on_error, which frees everything.
    """
    def decorate(callback: Callable) -> Callable:
        @functools.wraps(callback)
        def guarded(self: VltTracker, state: LifecycleState) -> TransitionCallbackReturn:
            try:
                callback(self, state)
            except Exception as error:
                self.failure = f"{callback.__name__} failed: {error}"
                self.get_logger().error(self.failure)
                return failure
            return TransitionCallbackReturn.SUCCESS
        return guarded
    return decorate


class VltTracker(LifecycleNode):
    """Follows what a phrase or a box names through a camera's images. See docs/reference.md for its interface."""

    _instead: tuple[int, str] | None            # (state, reason) that hides the tracker's own state
    _last_stamp: float | None                   # of the image before [s]
    _unusable: tuple[float, str] | None         # since when images were dropped [s], why the last one was
    _waiting_box: tuple | None                  # (text, box) for the next image
    _trouble: tuple[str, str]                   # what keeps images from being answered, and why
    _last_status: tuple | None                  # as it was last published

    def __init__(self, networks: Networks | None = None, **kwargs) -> None:
        super().__init__("vlt_tracker", **kwargs)
        self._networks = networks or Networks()
        self._tracker: Tracker | None = None         # of `command` and `target`; made by configure
        self._targets: Targets | None = None         # that tracker and those of `add_target`
        self._thread: InferenceThread | None = None  # runs while active
        self._inputs: list[Subscription] = []
        self._outputs: list = []                     # beside target and status; made by configure
        self._more_inputs: list = []                 # beside images and commands; made by configure
        self._watchdog: Timer | None = None
        self._parameter_server = ParameterServer(self, is_configured=lambda: self._tracker is not None,
                                                 on_change=self._parameters_changed)
        self.failure = ""                            # of the last transition, for diagnostics
        self._counters = Counters()
        self._recent = RecentFrames(RECENT_FRAMES_BYTES)
        self._command = (Target.COMMAND_NONE, "")
        self._publishing = threading.Lock()          # the inference thread publishes, and the watchdog when that hangs
        self._last_logged: tuple[int | None, str] = None, ""    # state, and the reason when it is not the tracker's own
        self._namesakes = 0                          # other nodes of this name
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

    @_transition(TransitionCallbackReturn.FAILURE)
    def on_configure(self, state: LifecycleState) -> None:
        """Load the network and warm it up; make publishers and services."""
        from vlt_ros.networks import load_grounder
        from vlt_ros.tracker import Targets, Tracker

        values, load_network = self.parameters, self._networks.load
        if problem := values.problem():
            raise ValueError(problem)
        network = load_network(values.weights or None, model=values.model or None, device=values.device,
                               precision=values.precision, sha256=values.weights_sha256,
                               allow_cpu_fallback=values.allow_cpu_fallback, runtime=values.runtime)
        self.get_logger().info(f"network {network.name} on {network.device} in {network.precision}, runtime "
                               f"{network.runtime}")
        if values.device.startswith("cuda") and network.device.type == "cpu":
            self.get_logger().warning(f"device {values.device} is not there: running on the CPU as allowed")
        grounder = load_grounder(values.grounder, network.device) if values.grounder else None
        tracker = Tracker(network, self._tracker_settings(values), grounder=grounder)
        tracker.warm_up()
        _return_memory()
        self._target_publisher = self.create_publisher(Target, "target", RELIABLE)
        self._status_publisher = self.create_publisher(Target, "status", LATCHED)
        self._own_services = [self.create_service(Trigger, "~/reset", self._reset),
                          self.create_service(SetBool, "~/enable", self._enable)]
        self._network, self._tracker, self._grounder = network, tracker, grounder
        self._targets = Targets(tracker, values.max_targets)
        self._command, self.failure = (Target.COMMAND_NONE, ""), ""
        self._last_status, self._last_logged = None, (None, "")
        self._more_targets = MoreTargets(
            self, lambda message: self._thread.post(lambda: self._add(message)),
            lambda target_id: self._thread.post(lambda: self._remove(target_id)))
        self._more_inputs.append(self._more_targets)
        self._outputs.append(Detections(self))
        if values.use_depth:
            position = TargetPosition(self, values.depth_scale, values.target_frame,
                                      sync_slop_s=lambda: self.parameters.sync_slop_s)
            self._outputs.append(position)
            self._more_inputs.append(position)
        self._outputs.append(DebugImage(self, rate_hz=lambda: self.parameters.debug_rate_hz))
        self._more_inputs.append(ClickedPoint(
            self, lambda *point: self._thread.post(lambda: self._start_at(*point))))

    @_transition(TransitionCallbackReturn.FAILURE)
    def on_activate(self, state: LifecycleState) -> None:
        """Subscribe and start the inference thread."""
        values = self.parameters
        self._networks.enter(self._network)
        if self._grounder is not None:
            self._grounder.to(self._network.device)
        self._counters = Counters()
        self._counters_before = Counters()
        self._forget_images()
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

    @_transition(TransitionCallbackReturn.ERROR)
    def on_deactivate(self, state: LifecycleState) -> None:
        """Unsubscribe and stop the inference thread; the command stays.

        A network that hangs cannot be used again: then everything is freed and the node is unconfigured.
        """
        self._stop_input()
        self._instead = (Target.IDLE, "the node was deactivated")
        self._publish()
        if self.parameters.release_device_on_deactivate:
            self._networks.free_device(self._network)
            if self._grounder is not None:
                self._grounder.to("cpu")
            _free_device_memory()

    @_transition(TransitionCallbackReturn.ERROR)
    def on_cleanup(self, state: LifecycleState) -> None:
        """Free the network, publishers and services."""
        self._release()

    @_transition(TransitionCallbackReturn.ERROR)
    def on_shutdown(self, state: LifecycleState) -> None:
        """Stop and free everything, from any state."""
        self._release()

    @_transition(TransitionCallbackReturn.FAILURE)
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
        for more in self._more_inputs:
            more.subscribe()
        self._watchdog = self.create_timer(WATCHDOG_PERIOD_S, self._watch, clock=self._steady)

    def _stop_input(self) -> None:
        """Raises RuntimeError when the inference thread does not come back."""
        if self._thread is None:
            return
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        for more in self._more_inputs:
            more.unsubscribe()
        if self._watchdog is not None:
            self.destroy_timer(self._watchdog)
        self._inputs, self._watchdog = [], None
        thread, self._thread = self._thread, None
        self._networks.leave(self._network)
        self._recent.clear()
        limit = self.parameters.inference_timeout_s
        since = thread.busy_since
        if not thread.stop(max(0.1, limit - (time.monotonic() - since if since else 0.0))):
            raise RuntimeError(f"the network did not come back within {limit:g} s: it is given up")

    def _release(self) -> None:
        with contextlib.suppress(RuntimeError):    # a thread that hangs is left behind with its network
            self._stop_input()
        if self._tracker is None:
            return
        self._network = self._tracker = self._targets = self._grounder = None
        _free_device_memory()
        self.destroy_publisher(self._target_publisher)
        self.destroy_publisher(self._status_publisher)
        self._more_targets.destroy()
        for service in self._own_services:
            self.destroy_service(service)
        for output in self._outputs:
            output.destroy()
        self._outputs, self._more_inputs = [], []

    # Executor's callbacks: they hand over to the inference thread

    def _on_image(self, message: Image | CompressedImage) -> None:
        frame = Frame(message)
        self._counters.received += 1
        self._last_arrival = frame.arrival
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
            self._last_arrival, self._unusable = time.monotonic(), None
            self._thread.post(self._resume)
        elif not request.data:
            self._thread.discard_frame()
            self._thread.post(self._say_paused)
        self._enabled = request.data
        response.success, response.message = True, "tracking" if request.data else "paused"
        return response

    def _watch(self) -> None:
        """Say it once when no image is answered any more: a controller must not take silence for "nothing new"."""
        kind = self._find_trouble()
        if kind == self._trouble[0]:
            return
        reason = self._explain(kind)
        self._trouble = kind, reason
        if kind == STUCK:
            self._say_input_timeout(reason)     # here, because the inference thread hangs
        elif kind:
            self._thread.post(functools.partial(self._say_input_timeout, reason))

    def _find_trouble(self) -> str:
        """What keeps images from being answered: SILENT, UNUSABLE, STUCK, or empty when nothing does."""
        values, now = self.parameters, time.monotonic()
        busy_since, unusable = self._thread.busy_since, self._unusable
        if busy_since is not None and now - busy_since > values.inference_timeout_s:
            return STUCK
        if self._enabled and now - self._last_arrival > values.image_timeout_s:
            return SILENT
        if self._enabled and unusable is not None and now - unusable[0] > values.image_timeout_s:
            return UNUSABLE
        return ""

    def _explain(self, kind: str) -> str:
        values, topic = self.parameters, self._inputs[0].topic_name
        if kind == STUCK:
            return f"the network has not come back for {values.inference_timeout_s:g} s"
        if kind == SILENT:
            return "; ".join([f"no image on {topic} for {values.image_timeout_s:g} s",
                              *self._misfits(self._inputs[:1])])
        if kind == UNUSABLE:
            _, reason = self._unusable or (0.0, "")         # an image may have become usable just now
            return f"no usable image on {topic} for {values.image_timeout_s:g} s: {reason}"
        return ""

    def _misfits(self, inputs: list) -> list[str]:
        """Publishers whose QoS keeps their messages from us."""
        return [f"{info.node_name}'s QoS on {one.topic_name} does not fit: {reason.strip(' ;')}"
                for one in inputs for info in self.get_publishers_info_by_topic(one.topic_name)
                for fit, reason in [qos_check_compatible(info.qos_profile, one.qos_profile)]
                if fit == QoSCompatibility.ERROR]

    def _parameters_changed(self, values: Parameters) -> None:
        if self._thread is not None:
            self._thread.post(self._set_tracker_settings)
        elif self._tracker is not None:
            self._set_tracker_settings()

    # Inference thread: the tracker's only user while the node is active

    def _process(self, frame: Frame) -> None:
        """Track in one image and publish."""
        began, network_before = time.monotonic(), self._tracker.network_seconds
        header = frame.message.header
        oldest = self.parameters.max_image_age_s
        if oldest and frame.is_stamped:
            now = self.get_clock().now().nanoseconds * 1e-9
            age = now - frame.stamp
            if now and abs(age) > oldest:       # a simulated clock is zero until its first tick
                self._counters.too_old += 1
                where = f"{age:.2f} s old" if age > 0 else f"{-age:.2f} s in the future"
                self._drop(f"its stamp is {where}, max_image_age_s is {oldest:g}")
                return
        try:
            image = to_bgr(frame.message)
        except ImageError as error:
            self._counters.malformed += 1
            self._drop(str(error))
            return
        if self._last_stamp is not None and frame.stamp < self._last_stamp:
            self.get_logger().warning(f"time went back by {self._last_stamp - frame.stamp:.3f} s (a looped "
                                      "bag?): what was remembered of the target's looks and place is dropped")
            self._targets.clear()
            self._recent.clear()
            self._recent.add(frame)
        self._last_stamp = frame.stamp
        self._encoding = getattr(frame.message, "encoding", "") or frame.message.format
        if self._waiting_box is not None:
            self._start_on(frame, image, *self._waiting_box)
        self._ask(self._targets.track, image, frame.stamp)
        self._header, self._size, self._instead = header, (image.shape[1], image.shape[0]), None
        self._unusable = None
        latency = (time.monotonic() - frame.arrival) * 1e3
        message = self._publish(latency, answers_image=True)
        for output in self._outputs:
            output.publish(message, image)
        self._counters.processed += 1
        self._counters.latencies.append(latency)
        network = (self._tracker.network_seconds - network_before) * 1e3
        self._counters.network.append(network)
        self._counters.own.append((time.monotonic() - began) * 1e3 - network)
        self._out_of_memory = False

    def _drop(self, reason: str) -> None:
        """Count an image as unusable and say why, at most once in a while."""
        since = self._unusable[0] if self._unusable else time.monotonic()
        self._unusable = since, reason
        self.get_logger().warning(f"image dropped: {reason}", throttle_duration_sec=WARN_EVERY_S)

    def _ask(self, method: Callable, *arguments):
        """What a tracker's method answers. Raises Abandoned when the node has given this thread up in the meantime."""
        tracker = self._tracker
        answer = method(*arguments)
        if self._tracker is not tracker:
            raise Abandoned
        return answer

    def _start(self, text: str, box: tuple | None = None, header: Header | None = None) -> None:
        """Follow what a command says in place of the target, or stop."""
        def start() -> None:
            sentence = self._checked(text)
            if box is None:
                self._waiting_box = None
                self._ask(self._tracker.start, sentence) if sentence else self._ask(self._tracker.stop)
                self._command = (Target.COMMAND_ACCEPTED, "")
            elif (frame := self._frame_of(header)) is not None:
                self._start_on(frame, to_bgr(frame.message), sentence, box)
            else:
                self._waiting_box = (sentence, box)
                self._command = (Target.COMMAND_PENDING, "the box waits for the next image")

        self._obey(start)

    def _add(self, message: TargetCommand) -> None:
        """Follow what a command says beside the other targets."""
        def add() -> None:
            from vlt_ros.tracker import CommandError

            text, box = self._checked(message.text), box_of(message)
            if box is None:
                target = self._ask(self._targets.add, text)
            elif (frame := self._frame_of(message.header)) is not None:
                target = self._ask(self._targets.add, text, to_bgr(frame.message), box, frame.stamp)
            else:
                raise CommandError("there is no image yet that the box could be drawn on")
            self._command = (Target.COMMAND_ACCEPTED, f"target {target.target_id} is added")

        self._obey(add)

    def _remove(self, target_id: int) -> None:
        """Forget one of the targets, or with 0 all of them."""
        def remove() -> None:
            self._targets.remove(target_id)
            what = f"target {target_id} is" if target_id else "all targets are"
            self._command = (Target.COMMAND_ACCEPTED, f"{what} removed")

        self._obey(remove)

    def _checked(self, text: str) -> str:
        """A command's sentence. Raises CommandError."""
        from vlt_ros.tracker import CommandError, validate_text

        if "\ufffd" in text:    # what rclpy makes of bytes that are no UTF-8
            raise CommandError("text is not valid UTF-8")
        return validate_text(text, self.parameters.max_command_length)

    def _frame_of(self, header: Header) -> Frame | None:
        """The image with a header's stamp, without one the newest; None before there is any.

        Raises:
            CommandError: none has that stamp.
        """
        from vlt_ros.tracker import CommandError

        if not (header.stamp.sec or header.stamp.nanosec):
            return None if self._trouble[0] else self._recent.newest()
        frame = self._recent.find(header.stamp)
        if frame is None:
            raise CommandError(
                f"no image with stamp {header.stamp.sec}.{header.stamp.nanosec:09d} among the last "
                f"{len(self._recent)}: copy the stamp of the image that the box was drawn on, or leave it zero")
        return frame

    def _obey(self, command: Callable[[], None]) -> None:
        """Run a command, or reject it and say why; a rejected one leaves the targets as they are."""
        from vlt_ros.tracker import CommandError

        try:
            command()
        except (CommandError, ImageError) as error:
            self._reject(str(error))
        except Abandoned:
            raise
        except Exception as error:
            self._reject(f"the network failed on it, {type(error).__name__}: {error}")
            self._publish()
            raise
        self._publish()

    def _start_on(self, frame: Frame, image: np.ndarray, text: str, box: tuple) -> None:
        from vlt_ros.tracker import CommandError

        self._waiting_box = None
        try:
            self._ask(self._tracker.start, text, image, box, frame.stamp)
            self._command = (Target.COMMAND_ACCEPTED, "")
            self._header, self._size = frame.message.header, (image.shape[1], image.shape[0])
        except CommandError as error:
            self._reject(str(error))

    def _start_at(self, pixel: Callable[[str], tuple[float, float]], stamp: Time) -> None:
        """Follow what is at a point. Args: pixel: gives it for an image's frame id. stamp: of the image, if of any."""
        from vlt_ros.tracker import CommandError

        frame = self._recent.find(stamp) or self._recent.newest()
        try:
            if frame is None or self._trouble[0]:
                raise CommandError("there is no image yet to look for the point in")
            image = to_bgr(frame.message)
            box = self._ask(self._tracker.box_at, image, pixel(frame.message.header.frame_id))
            self._start_on(frame, image, "", box)
        except (CommandError, ImageError) as error:
            self._reject(str(error))
        self._publish()

    def _reject(self, reason: str) -> None:
        self._command = (Target.COMMAND_REJECTED, reason)
        self.get_logger().warning(f"command rejected, the target stays as it is: {reason}",
                                  throttle_duration_sec=WARN_EVERY_S)

    def _search_again(self) -> None:
        self._tracker.search_again()
        self._publish()

    def _resume(self) -> None:
        """After a pause the target may be anywhere."""
        self._targets.clear()
        self._instead = None
        self._publish()

    def _say_paused(self) -> None:
        self._instead = (Target.IDLE, "paused by ~/enable")
        self._publish(answers_image=True)

    def _say_input_timeout(self, reason: str) -> None:
        self._instead = (Target.INPUT_TIMEOUT, reason)
        self._publish(answers_image=True)

    def _set_tracker_settings(self) -> None:
        self._targets.settings = self._tracker_settings(self.parameters)

    def _inference_failed(self, error: Exception) -> None:
        self._counters.failed += 1
        reason = f"{type(error).__name__}: {error}"
        self._unusable = self._unusable[0] if self._unusable else time.monotonic(), reason
        if _is_device_lost(error):
            self._give_up(f"the device is lost, deactivated; start the process again: {reason}")
        elif not _is_out_of_memory(error):
            self.get_logger().error(f"image or command dropped, {reason}", throttle_duration_sec=WARN_EVERY_S)
        elif self._out_of_memory:
            _free_device_memory()
            self._give_up(f"out of memory twice in a row, deactivated: {error}")
        else:
            _free_device_memory()
            self._out_of_memory = True
            self.get_logger().warning(f"out of memory: image dropped, memory freed, trying again ({error})")

    def _give_up(self, reason: str) -> None:
        def deactivate() -> None:
            if self._thread is not None:        # not when somebody else was faster
                self.trigger_deactivate()

        self.failure = reason
        self.get_logger().error(reason)
        self.executor.create_task(deactivate)

    # What goes out

    def _publish(self, latency_ms: float = 0.0, *, answers_image: bool = False) -> Target:
        """The one place that sends a target: about the image it was last seen or searched in, never another.

        Args:
            latency_ms: since that image's arrival.
            answers_image: send it on `target` too, for a controller; else only on `status`, if it is news.

        Returns:
            The message.
        """
        with self._publishing:
            result, reason = self._command
            state, instead = self._instead or (None, "")
            message = target_message(self._tracker.target, self._header, self._size, latency_ms, result,
                                     "; ".join(filter(None, (instead, reason))), state)
            if answers_image:
                self._target_publisher.publish(message)
                others = [target_message(target, self._header, self._size, latency_ms, Target.COMMAND_ACCEPTED, instead,
                                         state) for target in self._targets.others]
                main = [message] if self._tracker.target.state else []
                self._more_targets.publish(self._header, main + others, len(others))
            status = (message.state, message.target_id, message.text, message.command_result, message.reason)
            if status != self._last_status:
                self._last_status = status
                self._status_publisher.publish(message)
            news = message.state, instead or ""     # silence may turn into a network that hangs: both are logged
            if news != self._last_logged:
                self._log_state(message, instead)
                self._last_logged = news
        return message

    def _log_state(self, message: Target, reason: str) -> None:
        """One line for a change of state, or of what keeps images from being answered."""
        line = f"{_state_name(self._last_logged[0])} -> {_state_name(message.state)}"
        if message.state == Target.INPUT_TIMEOUT:
            self.get_logger().error(f"{line}: {reason}")
        elif message.state == Target.LOST:
            self.get_logger().warning(f"{line}: target {message.target_id} {message.text!r}")
        else:
            about = f"target {message.target_id} {message.text!r}, confidence {message.confidence:.2f}"
            self.get_logger().info(f"{line}: {reason or about}")

    def _publish_diagnostics(self) -> None:
        where, active = self.get_fully_qualified_name(), self._thread is not None
        counters, before = self._counters, self._counters_before
        error, warn = DiagnosticStatus.ERROR, DiagnosticStatus.WARN
        age = time.monotonic() - self._last_arrival
        malformed, failed = counters.malformed - before.malformed, counters.failed - before.failed
        problems = []
        trouble, reason = self._trouble if active else ("", "")
        if trouble in (SILENT, UNUSABLE):
            problems.append((error, reason))
        elif active:
            problems += [(warn, misfit) for misfit in self._misfits(self._inputs)]
        if namesakes := self._count_namesakes():
            problems.append((error, f"{namesakes + 1} nodes are called {where}: each follows its own commands, "
                             "rename or stop one"))
        if malformed:
            problems.append((warn, f"{malformed} malformed images in the last second"))
        name = where.lstrip("/")
        status = [diagnostic(f"{name}: input", where, problems, {
            "fps": counters.received - before.received, "age_s": f"{age:.3f}" if active else "",
            "received": counters.received, "processed": counters.processed,
            "dropped": self._thread.dropped if active else 0, "malformed": counters.malformed,
            "too_old": counters.too_old, "encoding": self._encoding, "enabled": self._enabled,
            "size": "{}x{}".format(*self._size)}, "ok" if active else "not active")]
        self._counters_before = replace(counters)
        problems = [(error, self.failure)] if self.failure else []
        if trouble == STUCK:
            problems.append((error, reason))
        if failed:
            problems.append((warn, f"{failed} images or commands failed in the last second"))
        network = self._network if self._tracker is not None else None
        status.append(diagnostic(f"{name}: inference", where, problems, {
            "network": network.name if network else "", "device": network.device if network else "",
            "precision": network.precision if network else "", "failed": counters.failed,
            "runtime": network.runtime if network else "",
            "p50_ms": _percentile(counters.latencies, 50), "p95_ms": _percentile(counters.latencies, 95),
            "network_p50_ms": _percentile(counters.network, 50), "own_p50_ms": _percentile(counters.own, 50, 2),
            "memory_mb": _memory_mb(network), "dropped_commands": self._thread.dropped_jobs if active else 0},
            "ok" if network else "not configured"))
        if self._tracker is not None:
            target = self._tracker.target
            problems = [(warn, more.problem) for more in self._more_inputs if getattr(more, "problem", "")]
            status.append(diagnostic(f"{name}: target", where, problems, {
                "state": target.state.name, "confidence": f"{target.confidence:.3f}", "id": target.target_id,
                "text": target.text, "command": self._command[1] or "ok"}, target.state.name))
        array = DiagnosticArray(status=status)
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)

    # Small things

    def _count_namesakes(self) -> int:
        """Other nodes with this node's full name; says it once when their number changes."""
        own = (self.get_name(), self.get_namespace())
        count = self.get_node_names_and_namespaces().count(own) - 1
        if count > self._namesakes:
            self.get_logger().error(f"{count + 1} nodes are called {self.get_fully_qualified_name()}: each follows "
                                    "its own commands, rename or stop one")
        self._namesakes = max(count, 0)
        return self._namesakes

    def _forget_images(self) -> None:
        self._header, self._size, self._encoding = Header(), (0, 0), ""    # of the image the target is about
        self._instead = self._last_stamp = self._unusable = self._waiting_box = None
        self._last_arrival, self._trouble = time.monotonic(), ("", "")
        self._out_of_memory = False
        self._recent.clear()

    @staticmethod
    def _tracker_settings(values: Parameters):
        from vlt_ros.tracker import TrackerSettings

        return TrackerSettings(track_threshold=values.track_threshold, lost_threshold=values.lost_threshold,
                               lost_after_s=values.lost_after_s, reacquire=values.reacquire,
                               search_interval_frames=values.search_interval_frames)

    def stop(self) -> None:
        """End the inference thread; for the end of the process. One that hangs goes with the process."""
        with contextlib.suppress(RuntimeError):
            self._stop_input()


def _state_name(number: int | None) -> str:
    return "none" if number is None else STATE_NAMES[number]


def _is_device_lost(error: Exception) -> bool:
    """Whether the CUDA context is broken: nothing in this process can use it again."""
    import torch

    return isinstance(error, getattr(torch, "AcceleratorError", ())) and not _is_out_of_memory(error)


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    return isinstance(error, (torch.OutOfMemoryError, MemoryError))


def _free_device_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _return_memory() -> None:
    """Give back what loading needed and freed: glibc would keep it for the life of the process."""
    with contextlib.suppress(OSError, AttributeError):      # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _percentile(values: deque[float], rank: int, digits: int = 1) -> str:
    ordered = sorted(values.copy())       # the inference thread adds to them
    return f"{ordered[len(ordered) * rank // 100]:.{digits}f}" if ordered else ""


def _memory_mb(network) -> str:
    """Memory in use: the network's on a CUDA device, else the process's."""
    if network is not None and network.device.type == "cuda":
        import torch

        return f"{torch.cuda.memory_allocated(network.device) / 1e6:.0f}"
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return f"{pages * resource.getpagesize() / 1e6:.0f}"


def _init(args: list[str] | None) -> None:
    """rclpy.init that also works where nothing can be written: a full or read-only disk is no reason not to run."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        # PyTorch makes a folder for a compiler's cache, which is not used here, as soon as it is imported.
        os.environ["TMPDIR"] = tempfile.tempdir = "/dev/shm"
    try:
        rclpy.init(args=args)
    except RCLError as error:
        if "logging" not in str(error):
            raise
        rclpy.try_shutdown()
        print(f"vlt_tracker: no log file, logging to the terminal alone: {_first_part(error)}", file=sys.stderr)
        rclpy.init(args=[*(sys.argv if args is None else args), "--ros-args", "--disable-external-lib-logs"])


def _first_part(error: Exception) -> str:
    """rcl's reason without the places in its source code."""
    return str(error).partition(", at /")[0]


def _spin(executor: SingleThreadedExecutor, node: VltTracker) -> None:
    """Run the callbacks for ever; one that raises is said and the node lives on."""
    while rclpy.ok():
        try:
            executor.spin()
        except (KeyboardInterrupt, ExternalShutdownException):
            return
        except Exception as error:
            node.get_logger().error(f"unexpected {type(error).__name__}: {error}", throttle_duration_sec=WARN_EVERY_S)


def main(args: list[str] | None = None) -> int:
    """Run the node, or one for each of ``--cameras``, until SIGINT or SIGTERM.

    Returns:
        0, or 2 when the arguments cannot be read, or a parameter given at start has a wrong type or is out of
        its range.
    """
    nodes: list[VltTracker] = []
    threads: list[threading.Thread] = []
    try:
        _init(args)
        networks = Networks()
        for names in node_arguments(remove_ros_args(args)[1:]):
            nodes.append(VltTracker(networks, **names))
        for node in nodes:
            executor = SingleThreadedExecutor()
            executor.add_node(node)
            if node.parameters.autostart:
                node.autostart()
            if node is nodes[-1]:
                _spin(executor, node)
            else:
                # A thread for each camera: one that waits for a stuck network does not hold the others up.
                threads.append(threading.Thread(target=_spin, args=(executor, node), daemon=True))
                threads[-1].start()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (InvalidParameterTypeException, InvalidParameterValueException) as error:
        print(f"vlt_tracker: {error}", file=sys.stderr)
        return 2
    except (RCLError, rclpy_implementation.UnknownROSArgsError) as error:
        print(f"vlt_tracker: {_first_part(error)}", file=sys.stderr)
        return 2
    finally:
        # A second SIGINT may arrive in here: what is left then goes with the process.
        with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
            for thread in threads:
                thread.join(JOIN_TIMEOUT_S)
            for node in nodes:
                node.stop()
                node.destroy_node()
            rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
