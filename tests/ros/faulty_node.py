# SPDX-License-Identifier: Apache-2.0
"""The real node with a network that fails on demand: what the file named by FAULT_FILE says goes wrong.

With DENY_SOCKETS set, every socket that Python code asks for ends the process: Fast DDS, which is no Python, keeps
its own.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path


def deny_sockets() -> None:
    """End the process with status 77 as soon as Python code opens, binds or connects a socket or looks up a name."""

    def hook(event: str, arguments: tuple) -> None:
        if event.startswith(("socket.", "urllib.", "http.client.", "ftplib.", "smtplib.")):
            sys.stderr.write(f"DENIED {event} {arguments}\n")
            sys.stderr.flush()
            os._exit(77)

    sys.addaudithook(hook)


def break_network(switch: Path) -> None:
    """Let the tracker's calls of the network fail as the file says: raise, nan, hang, oom, lost or nothing."""
    import torch

    from vlt_ros.networks import Maps
    from vlt_ros.tracker.look import Looker

    ends = switch.with_name("ends")     # a hang lasts until this file is there
    right_seen, right_words = Looker._seen, Looker.words

    def fault() -> str:
        what = switch.read_text() if switch.exists() else ""
        if what.endswith(" once"):
            switch.write_text("")
        return what.removesuffix(" once")

    def fail(what: str) -> None:
        if what == "raise":
            raise RuntimeError("kernel failed")
        if what == "oom":
            raise torch.OutOfMemoryError("CUDA out of memory")
        if what == "lost":
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")
        while what == "hang" and not ends.exists():
            time.sleep(0.01)

    def seen(self, *arguments):
        what = fault()
        fail(what)
        maps, tokens = right_seen(self, *arguments)
        return Maps(*(torch.full_like(one, float("nan")) for one in maps)) if what == "nan" else maps, tokens

    def words(self, text):
        what = fault()
        fail(what)
        return right_words(self, text)

    Looker._seen, Looker.words = seen, words


if __name__ == "__main__":
    if os.environ.get("DENY_SOCKETS"):
        deny_sockets()
    from vlt_ros.ros.node import main

    if "FAULT_FILE" in os.environ:
        break_network(Path(os.environ["FAULT_FILE"]))
    sys.exit(main())
