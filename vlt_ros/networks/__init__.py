# SPDX-License-Identifier: Apache-2.0
"""Networks and their weights. Nothing here knows of tracking over time, of files of frames, or of ROS."""

from vlt_ros.networks.head import CentreHead, Maps, decode
from vlt_ros.networks.pjvlt import CONFIGS, PJVLT, PJVLTConfig
from vlt_ros.networks.weights import (
                                      DEFAULT_MODEL,
                                      DeviceError,
                                      WeightsError,
                                      choose_device,
                                      load_network,
                                      save_network,
                                      start_from_dinov2,
                                      start_from_files,
)

__all__ = ["CONFIGS", "DEFAULT_MODEL", "CentreHead", "DeviceError", "Maps", "PJVLT", "PJVLTConfig", "WeightsError",
           "choose_device", "decode", "load_network", "save_network", "start_from_dinov2",
           "start_from_files"]
