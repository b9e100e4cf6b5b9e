# SPDX-License-Identifier: Apache-2.0
"""Centre head: score, offset and size maps from the search tokens (PJVLT section III-E; OSTrack's head)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Maps(NamedTuple):
    """The head's output over an S x S grid of the search region.

    score: (B, 1, S, S) in [1e-4, 1 - 1e-4], P of eq. 12.
    offset: (B, 2, S, S), x then y, in cells.
    size: (B, 2, S, S), width then height as fractions of the search region. (Eq. 13 writes h, w; OSTrack's
        order w, h is kept so that its checkpoints load.)
    """

    score: Tensor
    offset: Tensor
    size: Tensor


class CentreHead(nn.Module):
    """Three branches of four Conv-BN-ReLU layers and a 1x1 convolution; parameter names are OSTrack's.

    Args:
        dim: channels of the search tokens.
        channels: width of the first layer; it halves with each of the four layers.
    """

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        widths = (dim, channels, channels // 2, channels // 4, channels // 8)
        for branch, outputs in (("ctr", 1), ("offset", 2), ("size", 2)):
            for i in range(4):
                layer = nn.Sequential(nn.Conv2d(widths[i], widths[i + 1], 3, padding=1),
                                      nn.BatchNorm2d(widths[i + 1]), nn.ReLU(inplace=True))
                self.add_module(f"conv{i + 1}_{branch}", layer)
            self.add_module(f"conv5_{branch}", nn.Conv2d(widths[4], outputs, 1))
        # A score that starts low everywhere keeps the focal loss of the many empty cells small (CornerNet).
        nn.init.constant_(self.conv5_ctr.bias, -2.19)

    def _branch(self, name: str, grid: Tensor) -> Tensor:
        for i in range(1, 6):
            grid = getattr(self, f"conv{i}_{name}")(grid)
        return grid

    def forward(self, grid: Tensor) -> Maps:
        """Search tokens as a grid (B, C, S, S) to :class:`Maps`, in float32 whatever the precision."""
        score = torch.sigmoid(self._branch("ctr", grid).float()).clamp(1e-4, 1 - 1e-4)
        size = torch.sigmoid(self._branch("size", grid).float()).clamp(1e-4, 1 - 1e-4)
        return Maps(score, self._branch("offset", grid).float(), size)


def decode(maps: Maps, score: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Best box of each map (eqs. 12, 13).

    Args:
        maps: the head's output.
        score: the map to take the maximum of, (B, 1, S, S), when it is not ``maps.score`` itself (windowed).

    Returns:
        boxes (B, 4): centre x, centre y, width, height as fractions of the search region.
        index (B,): the flat cell index of the maximum.
    """
    score = maps.score if score is None else score
    batch, _, side, _ = score.shape
    index = score.view(batch, -1).argmax(1)
    pick = index.view(batch, 1, 1).expand(-1, 2, 1)
    offset = maps.offset.view(batch, 2, -1).gather(2, pick).squeeze(2)
    size = maps.size.view(batch, 2, -1).gather(2, pick).squeeze(2)
    cell = torch.stack((index % side, index // side), dim=1).to(offset.dtype)
    return torch.cat(((cell + offset) / side, size), dim=1), index
