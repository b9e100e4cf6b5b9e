# SPDX-License-Identifier: Apache-2.0
"""Networks and their weights. Nothing here knows of tracking over time, of files of frames, or of ROS."""

from vlt_ros.networks.base import Contrast, Matching, NetworkConfig, TrackingNetwork
from vlt_ros.networks.checkpoints import WeightsError
from vlt_ros.networks.grounder import load_grounder
from vlt_ros.networks.head import CentreHead, Maps, decode
from vlt_ros.networks.pjvlt import PJVLT, PJVLTConfig
from vlt_ros.networks.systems import CONFIGS, SYSTEMS, build_network, describe
from vlt_ros.networks.weights import (
    DEFAULT_MODEL,
    DeviceError,
    choose_device,
    load_network,
    save_network,
    shipped_weights,
    start_from_dinov2,
    start_from_files,
    start_from_tracker,
)

__all__ = ["CONFIGS", "DEFAULT_MODEL", "SYSTEMS", "CentreHead", "Contrast", "DeviceError", "Maps", "Matching",
           "NetworkConfig", "PJVLT", "PJVLTConfig", "TrackingNetwork", "WeightsError", "build_network",
           "choose_device", "decode", "describe", "load_grounder", "load_network", "save_network",
           "shipped_weights", "start_from_dinov2", "start_from_files", "start_from_tracker"]
