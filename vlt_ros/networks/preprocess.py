# SPDX-License-Identifier: Apache-2.0
"""Pixels to network input: ImageNet's mean and deviation, as every pretrained ViT here expects."""

from __future__ import annotations

import torch
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


def normalise(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """RGB uint8 (B, 3, H, W) to normalised values of ``dtype``, same shape and device."""
    mean = torch.tensor(MEAN, device=images.device).view(3, 1, 1) * 255
    scale = 1 / (torch.tensor(DEVIATION, device=images.device).view(3, 1, 1) * 255)
    # Planes of bytes first: on interleaved ones the arithmetic takes three times as long.
    return images.contiguous().to(torch.float32, copy=True).sub_(mean).mul_(scale).to(dtype)
