# SPDX-License-Identifier: Apache-2.0
"""Environment of the tests: a ROS 2 domain of their own on this machine alone, set before rclpy is loaded."""

from __future__ import annotations

import os
import random
import socket
import tempfile
from pathlib import Path

import pytest


def _free_domain() -> int:
    """A ROS 2 domain whose discovery port nobody on this machine listens on."""
    # Beyond, the ports fall into the range of outgoing connections. Test processes beside each other (pytest-xdist:
    # gw0, gw1, ...) draw from different ones, as both may look before either listens.
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    candidates = [domain for domain in range(1, 101) if domain % 4 == worker % 4]
    random.SystemRandom().shuffle(candidates)
    for domain in candidates:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", 7400 + 250 * domain))
            except OSError:
                continue
            return domain
    raise RuntimeError("no free ROS_DOMAIN_ID from 1 to 100")


# The variable that names the Fast DDS profile was renamed after Jazzy, which knows the old name only.
_PROFILE_VARIABLE = (
    f"FAST{'RTPS' if os.environ.get('ROS_DISTRO') == 'jazzy' else 'DDS'}_DEFAULT_PROFILES_FILE"
)

os.environ.update(
    {
        "ROS_DOMAIN_ID": str(_free_domain()),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_PYTHON_CHECK_FIELDS": "1",  # off by default in the wheels: wrong types would become zeros
        "ROS_LOG_DIR": tempfile.mkdtemp(prefix="vlt_ros_log_"),
        _PROFILE_VARIABLE: str(Path(__file__).resolve().parents[1] / "config" / "fastdds.xml"),
    }
)
# Two workers share two cores: with two threads each, on tensors as small as these, they mostly wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """A weights file of a real network with random numbers in it, small enough to run in milliseconds."""
    import torch

    from vlt_ros.networks import CONFIGS, PJVLT, save_network

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_network(PJVLT(CONFIGS["pjvlt_tiny"]), path)
    return path
