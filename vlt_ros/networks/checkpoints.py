# SPDX-License-Identifier: Apache-2.0
"""Files of tensors by name: safetensors, and torch's pickles without running what they hold."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn


class WeightsError(ValueError):
    """A weights file is missing, damaged, unsafe, or belongs to another network."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Raises WeightsError when it is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise WeightsError(f"weights file {path} is missing: give the path of a .safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 (no dict)
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"weights file {path} is not a readable safetensors file ({error}): "
                           "fetch or copy it again") from error


# Whose classes a published checkpoint's statistics may be of: trackers' own code and numpy. They are not needed.
_STUBBED = ("lib.", "numpy.")


class _Stub:
    """Stands in a pickle for an object of code that is not here: takes whatever it is given and does nothing."""

    def __init__(self, *args, **kwargs) -> None:
        pass

    def __setstate__(self, state) -> None:
        pass


def _stubs(names: Iterable[str]) -> list[tuple[type, str]]:
    # One class for each name: torch's reader finds a class by its name and checks instances by their class.
    return [(type("Stub", (_Stub,), {}), name) for name in names if name.startswith(_STUBBED)]


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name of a .safetensors file or of a torch checkpoint, which is read without running its code.

    Objects of a tracker's own classes beside the tensors become stubs; anything else that is no plain data is refused.

    Raises:
        WeightsError: the file is missing, damaged, or holds something else.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    if not path.is_file():
        raise WeightsError(f"weights file {path} is missing")
    try:
        # Only the zip format, torch's since 1.6, tells its names beforehand.
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
        with torch.serialization.safe_globals(_stubs(foreign)):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Torch's advice in the same line is the one thing not to do: load it without the check.
        reason = str(error).partition("\n")[0].partition(". ")[0][:200]
        raise WeightsError(f"weights file {path} holds more than tensors, or is damaged ({reason}): "
                           "convert it to safetensors") from error
    for wrapper in ("model", "state_dict", "net"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise WeightsError(f"weights file {path} is no dictionary of tensors by name")
    return state


def fill_module(module: nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Load those of ``tensors`` that the module has; all of its own must be there and fit."""
    wanted = module.state_dict()
    for name, tensor in wanted.items():
        if name not in tensors:
            raise WeightsError(f"weights file {path} lacks tensor {name}")
        if tensors[name].shape != tensor.shape:
            raise WeightsError(f"weights file {path}: tensor {name} is {tuple(tensors[name].shape)}, "
                               f"{tuple(tensor.shape)} is needed")
    module.load_state_dict({name: tensors[name].float() for name in wanted})
