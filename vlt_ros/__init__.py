# SPDX-License-Identifier: Apache-2.0
"""Vision-language tracking for ROS 2: networks, tracker, training, evaluation and the node."""

from pkgutil import extend_path

# The generated messages (vlt_ros.msg) are installed apart from the sources; this joins the two.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
