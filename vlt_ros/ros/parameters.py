# SPDX-License-Identifier: Apache-2.0
"""The node's parameters: one dataclass declares, describes, bounds and validates them."""

from __future__ import annotations

import re
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

MAX_COMMAND_LENGTH = 256    # the tracker's own limit
# Those of vlt_ros.networks.runtimes, which imports torch.
RUNTIMES = ("auto", "eager", "folded", "compile", "cudagraphs", "openvino", "onnxruntime")


def _parameter(default: Any, description: str, *, runtime: bool = False, low: float | None = None,
               high: float | None = None) -> Any:
    return field(default=default, metadata={"description": description, "runtime": runtime,
                                            "low": low, "high": high})


@dataclass(frozen=True)
class Parameters:
    """Values of all parameters. Those not marked `runtime` are read by the configure transition."""

    model: str = _parameter("", "Network, a name that `vlt models` lists; empty takes what the weights file holds")
    weights: str = _parameter("", "Weights file (.safetensors); empty takes the shipped one")
    weights_sha256: str = _parameter("", "Expected SHA-256 of the weights file, hexadecimal; empty: none")
    device: str = _parameter("auto", "auto, cpu or cuda:N; auto takes CUDA where there is one and says so")
    precision: str = _parameter("auto", "auto, fp32, bf16, fp16 or int8")
    runtime: str = _parameter("auto", "What computes a frame: auto, eager, folded, compile, cudagraphs, openvino or "
                              "onnxruntime")
    grounder: str = _parameter("", "Proposes where a sentence's target is (Grounding DINO or OWLv2): a folder, "
                               "or a hub id in the hub's cache; empty: none")
    allow_cpu_fallback: bool = _parameter(False, "Run on the CPU if the CUDA device asked for is not there")
    image_transport: str = _parameter("raw", "raw subscribes to `image`, compressed to `image/compressed`")
    initial_command: str = _parameter("", "Phrase to follow from activation on, if there is no target yet")
    autostart: bool = _parameter(True, "Configure and activate at start; false under a lifecycle manager")
    release_device_on_deactivate: bool = _parameter(
        False, "Free the CUDA memory while inactive; the next activation takes longer", runtime=True)
    max_command_length: int = _parameter(256, "Longest accepted phrase [characters]",
                                         low=1, high=MAX_COMMAND_LENGTH)
    track_threshold: float = _parameter(0.45, "Confidence from which the box is trusted (TRACKING)",
                                        runtime=True, low=0.0, high=1.0)
    lost_threshold: float = _parameter(0.35, "Confidence below which the target counts as not seen; at most "
                                       "track_threshold", runtime=True, low=0.0, high=1.0)
    lost_after_s: float = _parameter(0.6, "Time after which what is unseen, or became another thing, is LOST; three "
                                     "times as long for one thing that is followed but not recognised [s]",
                                     runtime=True, low=0.0, high=3600.0)
    reacquire: bool = _parameter(True, "Search the whole image again for a lost target", runtime=True)
    max_targets: int = _parameter(8, "Most targets at once: that of `command`, whose place is kept, and those of "
                                  "`add_target`", low=1, high=32)
    search_interval_frames: int = _parameter(1, "While searching, look only at every n-th frame",
                                             runtime=True, low=1, high=1000)
    max_rate_hz: float = _parameter(0.0, "Most frames processed a second; 0: no limit",
                                    runtime=True, low=0.0, high=1000.0)
    image_timeout_s: float = _parameter(1.0, "Time without an image after which INPUT_TIMEOUT is said [s]",
                                        runtime=True, low=0.05, high=3600.0)
    max_image_age_s: float = _parameter(
        0.0, "Drop images whose stamp is older, or farther in the future, than this [s]; 0: off (needs "
        "synchronised clocks)", runtime=True, low=0.0, high=3600.0)
    inference_timeout_s: float = _parameter(5.0, "Time for one image or command after which the network counts "
                                            "as stuck [s]", runtime=True, low=0.1, high=3600.0)
    use_depth: bool = _parameter(False, "Publish `target_pose` and `target_3d` from `depth`, which must be registered "
                                 "to the colour image, and `camera_info`")
    depth_scale: float = _parameter(0.001, "Metres in one unit of a 16UC1 depth image (32FC1 is in metres)",
                                    low=1e-6, high=1.0)
    target_frame: str = _parameter("", "TF frame of `target_pose` and `target_3d`; empty: the camera's optical frame")
    sync_slop_s: float = _parameter(0.05, "Largest difference of the stamps of an image and its depth [s]",
                                    runtime=True, low=0.0, high=10.0)
    debug_rate_hz: float = _parameter(10.0, "Most images a second on `debug_image`, drawn only while somebody "
                                      "subscribes; 0: none", runtime=True, low=0.0, high=1000.0)

    def problem(self) -> str:
        """What is wrong with these values together, with what to do; empty when nothing is."""
        if not re.fullmatch(r"auto|cpu|cuda:\d+", self.device):
            return f"device is {self.device!r}: give auto, cpu or cuda:N"
        if self.precision not in ("auto", "fp32", "bf16", "fp16", "int8"):
            return f"precision is {self.precision!r}: give auto, fp32, bf16, fp16 or int8"
        if self.runtime not in RUNTIMES:
            return f"runtime is {self.runtime!r}: give {', '.join(RUNTIMES[:-1])} or {RUNTIMES[-1]}"
        if self.image_transport not in ("raw", "compressed"):
            return f"image_transport is {self.image_transport!r}: give raw or compressed"
        if self.weights_sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", self.weights_sha256):
            return "weights_sha256 is not 64 hexadecimal digits"
        for spec in fields(self):
            value, low, high = getattr(self, spec.name), spec.metadata["low"], spec.metadata["high"]
            # Written so that NaN, which passes rclpy's own range check, fails here.
            if low is not None and not low <= value <= high:
                return f"{spec.name} is {value}: give {low} to {high}"
        if self.lost_threshold > self.track_threshold:
            return (f"lost_threshold {self.lost_threshold} is above track_threshold {self.track_threshold}: "
                    "set both together, atomically")
        return ""


def _descriptor(spec: Field) -> ParameterDescriptor:
    when = "applies between two frames" if spec.metadata["runtime"] else "read when the node is configured"
    descriptor = ParameterDescriptor(description=f"{spec.metadata['description']} ({when})")
    low, high = spec.metadata["low"], spec.metadata["high"]
    if isinstance(spec.default, float) and low is not None:
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    elif isinstance(spec.default, int) and low is not None:
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    return descriptor


class ParameterServer:
    """Declares the parameters on a node, guards every change, and holds the values in force.

    Args:
        node: the node to declare them on.
        is_configured: tells whether the parameters read at configuration are in use now.
        on_change: called with the new values after an accepted change.
    """

    def __init__(self, node: Node, is_configured, on_change) -> None:
        self._node, self._is_configured, self._on_change = node, is_configured, on_change
        self._fields = {spec.name: spec for spec in fields(Parameters)}
        assert all(spec.default is not MISSING for spec in self._fields.values())
        for spec in self._fields.values():
            node.declare_parameter(spec.name, spec.default, _descriptor(spec))
        self.values = Parameters(**{name: node.get_parameter(name).value for name in self._fields})
        # Only now: the declarations above arrive one by one, and make sense only together.
        node.add_on_set_parameters_callback(self._validate)
        node.add_post_set_parameters_callback(self._apply)

    def _ours(self, parameters: list[Parameter]) -> dict[str, Any]:
        return {parameter.name: parameter.value for parameter in parameters if parameter.name in self._fields}

    def _validate(self, parameters: list[Parameter]) -> SetParametersResult:
        changes = self._ours(parameters)
        if self._is_configured():
            for name, value in changes.items():
                if not self._fields[name].metadata["runtime"] and value != getattr(self.values, name):
                    return SetParametersResult(successful=False, reason=f"{name} is read when the node is "
                                               "configured: deactivate and clean up the node first")
        reason = replace(self.values, **changes).problem() if changes else ""
        return SetParametersResult(successful=not reason, reason=reason)

    def _apply(self, parameters: list[Parameter]) -> None:
        changes = self._ours(parameters)
        if changes:
            self.values = replace(self.values, **changes)
            self._on_change(self.values)
