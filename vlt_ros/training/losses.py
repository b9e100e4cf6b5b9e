# SPDX-License-Identifier: Apache-2.0
"""PJVLT's training objective: Gaussian-weighted focal loss + 2 GIoU + 5 L1 (eqs. 14 to 17)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vlt_ros.networks.head import Maps


def gaussian_radius(height: float, width: float, min_overlap: float = 0.7) -> float:
    """Radius in cells of a target's Gaussian, as OSTrack's released code computes it.

    CornerNet (Law and Deng 2018) asks how far both corners may move outwards while the box keeps ``min_overlap``
    IoU, the positive root of 4 o r^2 + 2 o (h + w) r - (1 - o) h w. The released trackers divide by 2 where the
    root divides by 8 o, so their radius is 4 o times the root's. That is kept: by the root itself every target
    under 12 cells, which is every target in a search region, would have a Gaussian of one cell.
    """
    linear = 2 * min_overlap * (height + width)
    return (math.sqrt(linear**2 + 16 * min_overlap * (1 - min_overlap) * height * width) - linear) / 2


def gaussian_maps(boxes: Tensor, present: Tensor, side: int) -> Tensor:
    """Target score maps (eq. 14): a peak of 1 at the cell of each box's centre.

    Args:
        boxes: (B, 4) centre x, centre y, width, height as fractions of the search region.
        present: (B,) False where the named thing is not there: that map is empty.
        side: cells a side S.

    Returns:
        (B, 1, S, S). The peak is the cell that holds the centre, so that offsets lie in [0, 1) as the paper has
        them (OSTrack rounds to the nearest cell corner instead, and loses centres that round to S).
    """
    maps = torch.zeros(len(boxes), 1, side, side, device=boxes.device)
    cells = torch.arange(side, device=boxes.device, dtype=torch.float32)
    for i, (box, here) in enumerate(zip(boxes.tolist(), present.tolist(), strict=True)):
        column, row = math.floor(box[0] * side), math.floor(box[1] * side)
        if not here or not (0 <= column < side and 0 <= row < side):
            continue
        radius = int(gaussian_radius(math.ceil(box[3] * side), math.ceil(box[2] * side)))
        sigma = (2 * radius + 1) / 6
        peak = torch.exp(-((cells - column)[None, :] ** 2 + (cells - row)[:, None] ** 2) / (2 * sigma**2))
        maps[i, 0] = peak.masked_fill(peak < torch.finfo(torch.float32).eps * peak.max(), 0)
    return maps


def focal_loss(score: Tensor, target: Tensor, total: Callable[[Tensor], Tensor] = lambda count: count) -> Tensor:
    """Eq. 15 with a = 2, b = 4, summed over cells and divided by the number of peaks (at least one).

    total: makes the number of peaks of this process that of all processes, see :func:`tracking_loss`.
    """
    peak = target.eq(1)
    positive = torch.log(score) * (1 - score) ** 2 * peak
    negative = torch.log(1 - score) * score**2 * (1 - target) ** 4 * ~peak
    return -(positive.sum() + negative.sum()) / total(peak.sum().float()).clamp(min=1)


def _corners(boxes: Tensor) -> Tensor:
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def giou(boxes: Tensor, others: Tensor) -> Tensor:
    """Generalised IoU of boxes (..., 4) in centre form, pairwise along the leading axes, in (-1, 1]; eq. 16."""
    a, b = _corners(boxes), _corners(others)
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    union = boxes[..., 2:].prod(-1) + others[..., 2:].prod(-1) - inner
    return inner / union.clamp(min=1e-9) - (hull - union) / hull.clamp(min=1e-9)


def tracking_loss(maps: Maps, boxes: Tensor, present: Tensor, total: Callable[[Tensor], Tensor] = lambda count: count,
                  ) -> tuple[Tensor, dict[str, Tensor]]:
    """Eq. 17: classification + 2 GIoU + 5 L1.

    The box is read off the true centre's cell and its eight neighbours, weighted by the Gaussian map, so that a
    maximum one cell off still gives a good box.

    Args:
        maps: the head's output. boxes: (B, 4) centre form, fractions of the search region. present: (B,).
        total: what this process counts (peaks, weights; scalars without gradient) to what all processes count. Each
            process then returns its share of the loss: their sum is the loss of the whole batch, which a mean of
            their own losses would not be, because absent targets fall unevenly.

    Returns:
        the loss, and its detached parts by name.
    """
    side = maps.score.shape[-1]
    target = gaussian_maps(boxes, present, side)
    classification = focal_loss(maps.score, target, total)
    peak = target.eq(1).float()
    near = F.max_pool2d(peak, 3, stride=1, padding=1).flatten(1)
    weight = near * (0.25 + 0.75 * target.flatten(1))
    cells = torch.arange(side, device=boxes.device, dtype=torch.float32)
    grid = torch.stack(torch.meshgrid(cells, cells, indexing="xy")).flatten(1)              # 2, S*S: column, row
    centre = (grid + maps.offset.flatten(2)) / side
    predicted = torch.cat((centre, maps.size.flatten(2)), dim=1).transpose(1, 2)            # B, S*S, 4
    expected = boxes[:, None, :].expand_as(predicted)
    weights = total(weight.sum()).clamp(min=1e-6)
    overlap = ((1 - giou(predicted, expected)) * weight).sum() / weights
    distance = ((predicted - expected).abs().mean(-1) * weight).sum() / weights
    loss = classification + 2 * overlap + 5 * distance
    return loss, {"loss": loss.detach(), "focal": classification.detach(), "giou": overlap.detach(),
                  "l1": distance.detach()}
