# SPDX-License-Identifier: Apache-2.0
"""The ROS-free tracker: commands and frames in, targets out."""

from vlt_ros.tracker.commands import CommandError, validate_box, validate_text
from vlt_ros.tracker.look import ground
from vlt_ros.tracker.target import Box, State, Target, TrackerSettings
from vlt_ros.tracker.targets import Targets
from vlt_ros.tracker.tracker import Following, Tracker

__all__ = ["Box", "CommandError", "Following", "State", "Target", "Targets", "Tracker", "TrackerSettings", "ground",
           "validate_box", "validate_text"]
