# SPDX-License-Identifier: Apache-2.0
"""The cache of converted graphs, and what tells which network a graph was made from.

The cache is a convenience: what is damaged there is made anew, what is of another network or version is not found, and
where nothing can be written, nothing is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

from vlt_ros.networks.base import TrackingNetwork

log = logging.getLogger(__name__)

T = TypeVar("T")

# Entries that the cache keeps, those used last.
KEPT = 12
MANIFEST, MAKING = "manifest.json", ".making_"


def cache_folder() -> Path:
    """Where compiled graphs are kept: vlt_ros in the XDG cache folder (XDG_CACHE_HOME, else ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "vlt_ros")


def fingerprint(network: TrackingNetwork) -> str:
    """Hash of a plain network's configuration and of every weight in it, 64 hexadecimal digits."""
    digest = hashlib.sha256(json.dumps(asdict(network.config), sort_keys=True).encode())
    for name, tensor in sorted(network.state_dict().items()):
        if network.frozen_text and name.startswith("text."):
            continue                                            # its package's, and no part of a frame
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


@cache
def code_version(*packages: str) -> str:
    """What a cached graph depends on beside the network: the code that makes graphs, and versions of packages."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    for package in ("torch", *packages):
        try:
            digest.update(f"{package}=={version(package)}".encode())
        except PackageNotFoundError:
            digest.update(f"{package} without a version".encode())
    return digest.hexdigest()


def _sums(folder: Path) -> dict[str, str]:
    sums = {}
    for file in sorted(folder.iterdir()):
        if file.name != MANIFEST:
            with open(file, "rb") as content:
                sums[file.name] = hashlib.file_digest(content, "sha256").hexdigest()
    return sums


def cached(key: str, make: Callable[[], T], store: Callable[[T, Path], object], read: Callable[[Path], T]) -> T:
    """What a cache entry holds, made anew where there is none, or a damaged one.

    Args:
        key: a hash of all that the entry depends on.
        make: makes it. store: writes it into an empty folder. read: reads it from there.
    """
    folder = cache_folder() / key
    if folder.exists():
        try:
            if json.loads((folder / MANIFEST).read_text(encoding="utf-8")) != _sums(folder):
                raise ValueError("its files are not the ones that were written")
            found = read(folder)
            with contextlib.suppress(OSError):    # of a cache that may only be read
                os.utime(folder)
            return found
        except (OSError, ValueError, RuntimeError) as error:
            log.warning("cache entry %s is damaged and made anew: %s", folder, str(error).partition("\n")[0])
    made = make()
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=MAKING, dir=folder.parent))
        store(made, temporary)
        (temporary / MANIFEST).write_text(json.dumps(_sums(temporary)), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        entries = sorted((e for e in folder.parent.iterdir() if e.is_dir() and not e.name.startswith(MAKING)),
                         key=lambda e: e.stat().st_mtime)
        for old in entries[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    except (OSError, RuntimeError) as error:    # OpenVINO's is a RuntimeError
        log.info("not kept in %s: %s", folder.parent, error)
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return made
