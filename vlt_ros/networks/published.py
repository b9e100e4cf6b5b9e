# SPDX-License-Identifier: Apache-2.0
"""Published checkpoints as their authors released them: OSTrack-256 and -384, All-in-One.

Their parameter names are this package's, but for All-in-One's embeddings; the files are torch pickles ``{"net": ...}``
with the training's statistics beside, which are read without their code.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from vlt_ros.networks.base import TrackingNetwork
from vlt_ros.networks.checkpoints import WeightsError, file_sha256, fill_module, read_checkpoint
from vlt_ros.networks.systems import CONFIGS, build_network

SUFFIXES = (".pth", ".pt", ".tar")


def _renamed(name: str) -> str:
    """A published parameter's name here: All-in-One keeps its projections in the backbone, and embeddings alone."""
    name = re.sub(r"^backbone\.((language|language_xz|vision_x|vision_z)_proj\.)", r"\1", name)
    return name.replace("language_embeddings.", "text.bert.embeddings.")


def published_model(tensors: dict[str, torch.Tensor], path: Path) -> str:
    """Name of the configuration that a published checkpoint's tensors are of, by their names and the search grid."""
    positions = tensors.get("backbone.pos_embed_x", torch.empty(0))
    if "backbone.language_proj.weight" in tensors:
        return "all_in_one_released"
    grids = {CONFIGS[name].search_grid ** 2: name for name in ("ostrack_256", "ostrack_384")}
    if positions.ndim != 3 or positions.shape[1] not in grids:
        raise WeightsError(f"weights file {path} is no published checkpoint of OSTrack-256, OSTrack-384 or All-in-One")
    return grids[positions.shape[1]]


def read_published(path: str | Path, model: str | None = None, sha256: str = "") -> TrackingNetwork:
    """The network of a published checkpoint, in float32 on the CPU.

    Args:
        model: the configuration to fill, None for the one that the tensors tell.

    Raises:
        WeightsError: missing, damaged, wrong hash, more in it than tensors and statistics, or tensors that do not fit.
    """
    path = Path(path)
    tensors = read_checkpoint(path)
    if sha256 and file_sha256(path) != sha256.lower():
        raise WeightsError(f"weights file {path} has SHA-256 {file_sha256(path)}, not {sha256}: wrong or altered file")
    network = build_network(CONFIGS[model or published_model(tensors, path)])
    wanted = network.state_dict()
    named = {_renamed(name): tensor for name, tensor in tensors.items()}
    positions = "text.bert.embeddings.position_embeddings.weight"
    if positions in named and positions in wanted and len(named[positions]) < len(wanted[positions]):
        # Theirs has a row for each of 40 words, BERT's has 512; the rest is never used.
        rest = wanted[positions][len(named[positions]):]
        named[positions] = torch.cat((named[positions], torch.zeros_like(rest)))
    # They know no text-only start; a blank template is then that of ImageNet's mean colour.
    if "blank_template" in wanted and "backbone.patch_embed.proj.bias" in named:
        named["blank_template"] = named["backbone.patch_embed.proj.bias"].expand_as(wanted["blank_template"])
    fill_module(network, named, path)
    return network
