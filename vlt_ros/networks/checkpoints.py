# SPDX-License-Identifier: Apache-2.0
"""Files of tensors by name: safetensors, and torch's pickles without running what they hold."""

from __future__ import annotations

import hashlib
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


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name of a .safetensors file or of a torch checkpoint, which is read without running its code."""
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    if not path.is_file():
        raise WeightsError(f"weights file {path} is missing")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(f"weights file {path} holds more than tensors, or is damaged ({reason}): "
                           "convert it to safetensors") from error
    for wrapper in ("model", "state_dict"):
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
