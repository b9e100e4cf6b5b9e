# SPDX-License-Identifier: Apache-2.0
"""Between the tracker's plain values and the messages on the wire."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from std_msgs.msg import Header

from vlt_ros import msg

if TYPE_CHECKING:
    from vlt_ros.tracker import Target

STATE_NAMES = {getattr(msg.Target, name): name
               for name in ("IDLE", "SEARCHING", "TRACKING", "UNCERTAIN", "LOST", "INPUT_TIMEOUT")}


def target_message(target: Target, header: Header, size: tuple[int, int], latency_ms: float,
                   command_result: int, reason: str, state: int | None = None) -> msg.Target:
    """A tracker's answer as a message.

    Args:
        target: the tracker's answer; its states have the message's numbers.
        header: of the image it is about; used as it is.
        size: (width, height) of that image [px].
        latency_ms: since the image's arrival.
        command_result: what became of the latest command (Target.COMMAND_*).
        reason: why, or what else there is to say.
        state: one that only the node knows (INPUT_TIMEOUT, or IDLE while paused): then the tracker's box and
            confidence, which belong to an earlier image, are left out. None: the tracker's state.

    Raises:
        ValueError: box or confidence is not finite.
    """
    box, confidence = (0.0, 0.0, 0.0, 0.0), 0.0
    if state is None:
        state, box, confidence = target.state, target.box or box, target.confidence
    if not all(math.isfinite(value) for value in (*box, confidence)):
        raise ValueError(f"the network's output is not finite: box {box}, confidence {confidence}")
    # Every number is cast: rclpy turns a wrong type silently into zero when its field checks are off.
    return msg.Target(
        header=header, target_id=int(target.target_id), text=target.text, state=int(state),
        command_result=command_result, reason=reason,
        confidence=min(max(float(confidence), 0.0), 1.0),
        box=msg.BoundingBox(x=float(box[0]), y=float(box[1]), width=float(box[2]), height=float(box[3])),
        last_seen=time_message(target.last_seen, header),
        image_width=int(size[0]), image_height=int(size[1]), latency_ms=float(latency_ms))


def time_message(seconds: float | None, header: Header) -> Time:
    """A stamp; exactly the header's own when it is the same one (a double cannot hold nanoseconds)."""
    if seconds is None:
        return Time()
    if seconds == header.stamp.sec + header.stamp.nanosec * 1e-9:
        return header.stamp
    whole = math.floor(seconds)
    return Time(sec=int(whole), nanosec=min(int((seconds - whole) * 1e9), 999_999_999))


def box_of(command: msg.TargetCommand) -> tuple[float, float, float, float] | None:
    """The box x, y, width, height [px] of a command as it was sent, None when all four are zero."""
    box = (command.box.x, command.box.y, command.box.width, command.box.height)
    return None if box == (0.0, 0.0, 0.0, 0.0) else box


def diagnostic(name: str, hardware_id: str, problems: list[tuple[bytes, str]], values: dict[str, object],
               fine: str = "ok") -> DiagnosticStatus:
    """One diagnostics entry: the level of its worst problem, all their texts, and the values."""
    level = max((level for level, _ in problems), default=DiagnosticStatus.OK)
    return DiagnosticStatus(level=level, name=name, hardware_id=hardware_id,
                            message="; ".join(text for _, text in problems) or fine,
                            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()])
