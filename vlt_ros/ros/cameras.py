# SPDX-License-Identifier: Apache-2.0
"""Several cameras in one process: their names, and the networks that their nodes share."""

from __future__ import annotations

import threading
from argparse import ArgumentParser, ArgumentTypeError
from collections import Counter
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary


def node_arguments(arguments: list[str]) -> list[dict[str, Any]]:
    """The keyword arguments of the nodes that a command line without its ROS part asks for.

    Args:
        arguments: without the program's name. Ends the process with one line when they cannot be read.

    Returns:
        One for each camera of ``--cameras``; without it one, with nothing in it.
    """
    parser = ArgumentParser(prog="vlt_tracker", description="Follow what a phrase or a box names; see docs/robot.md.")
    parser.add_argument("--cameras", type=_cameras, metavar="NAMESPACE[=IMAGE_TOPIC],...", default=[{}],
                        help="a node for each camera in this one process, which share what they can")
    return parser.parse_args(arguments).cameras


def _cameras(text: str) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for one in filter(None, (part.strip() for part in text.split(","))):
        name, _, topic = one.partition("=")
        namespace = "/" + name.strip("/")
        if namespace == "/" or namespace in found:
            raise ArgumentTypeError(f"{text!r} must name each camera once, as in front,rear or "
                                    "front=/oak_1/rgb/image_raw,rear")
        # Only for this node, so that one camera's topic is not the others'.
        remapped = ["--ros-args", "-r", f"image:={topic}", "-r", f"image/compressed:={topic}/compressed"]
        found[namespace] = {"namespace": namespace, "cli_args": remapped if topic else None}
    if not found:
        raise ArgumentTypeError("it names no camera")
    return list(found.values())


class Networks:
    """Networks by what was asked for: nodes that ask for the same weights, device and precision share one in memory.

    A network of this package holds nothing between two calls, so threads may use it at the same time. One that no
    node holds any more is freed.
    """

    def __init__(self) -> None:
        self._loaded: WeakValueDictionary = WeakValueDictionary()
        self._active: Counter = Counter()       # nodes that run it, by its id
        self._lock = threading.Lock()

    def load(self, weights: str | Path | None = None, **wanted: Any) -> Any:
        """As :func:`vlt_ros.networks.load_network`."""
        from vlt_ros.networks import load_network

        file = Path(weights) if weights else None
        # A file that was written anew is another one.
        state = (file.stat().st_mtime_ns, file.stat().st_size) if file and file.is_file() else None
        key = str(weights or ""), state, tuple(sorted(wanted.items()))
        with self._lock:
            network = self._loaded.get(key)
            if network is None:
                network = self._loaded[key] = load_network(weights, **wanted)
            return network

    def enter(self, network: Any) -> None:
        """A node begins to run it; it is moved to its device."""
        with self._lock:
            self._active[id(network)] += 1
            network.to(network.device)

    def leave(self, network: Any) -> None:
        """That node has stopped."""
        with self._lock:
            self._active[id(network)] -= 1
            self._active += Counter()       # drops those that nobody runs

    def free_device(self, network: Any) -> None:
        """Move it off its device, unless another node runs it."""
        with self._lock:
            if not self._active[id(network)]:
                network.to("cpu")
