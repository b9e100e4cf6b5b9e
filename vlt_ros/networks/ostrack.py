# SPDX-License-Identifier: Apache-2.0
"""OSTrack: the one-stream tracker without language, the baseline of the systems here.

Ye, Chang, Ma, Shan and Chen, "Joint Feature Learning and Relation Modeling for Tracking: A One-Stream Framework",
ECCV 2022. Template and search tokens go through one ViT together, the search tokens to a centre head; some layers drop
the search tokens that the target attends to least ("candidate elimination"). The released weights load, see
``published.py``.

The sentence is ignored, so a target is given by its box. A blank template, which mixed training batches have, is a crop
of ImageNet's mean colour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlt_ros.networks.base import NetworkConfig, TrackingNetwork


@dataclass(frozen=True)
class OSTrackConfig(NetworkConfig):
    """Everything that fixes an OSTrack network. Raises ValueError when the numbers do not fit together.

    elimination_layers: layers (1-based) with candidate elimination. keep_ratio: share that each keeps, in (0, 1].
    """

    name: str = "ostrack_256"
    inference: str = "ostrack"
    elimination_layers: tuple[int, ...] = (4, 7, 10)
    keep_ratio: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        self._joint("elimination_layers")
        if not 0 < self.keep_ratio <= 1:
            raise ValueError(f"{self.name}: keep_ratio must be above 0 and at most 1, not {self.keep_ratio}")


class OSTrack(TrackingNetwork):
    """The whole network. Static per command: nothing. Static per target: the template's tokens before the first joint
    layer.
    """

    Config = OSTrackConfig
    CONFIGS = (
        # The paper's two: ViT-B/16 (MAE), candidate elimination.
        OSTrackConfig(),
        OSTrackConfig(name="ostrack_384", template_size=192, search_size=384),
        # As small as pjvlt_s, and from the same start: what the sentence adds is the difference.
        OSTrackConfig(name="ostrack_s", template_size=112, search_size=224, patch_size=14, dim=384, depth=10,
                      num_heads=6, layer_scale=True, separate_layers=6, matching_prior=True, head_channels=96,
                      elimination_layers=(), inference="vlt"),
        # For tests.
        OSTrackConfig(name="ostrack_tiny", template_size=28, search_size=56, patch_size=7, dim=32, depth=3,
                      num_heads=2, layer_scale=True, separate_layers=1, matching_prior=True, head_channels=16,
                      elimination_layers=(), inference="vlt"),
    )

    def encode_template(self, template: Tensor | None, blank: Tensor | None = None, batch: int = 1) -> Tensor:
        """As in the base class; a blank template's pixels are ImageNet's mean."""
        if template is None:
            size, weight = self.config.template_size, self.backbone.norm.weight
            template = torch.zeros(batch, 3, size, size, dtype=weight.dtype, device=weight.device)
        elif blank is not None:
            template = template * ~blank.view(-1, 1, 1, 1)
        return self._separate(self._embed_template(template))

    def encode(self, search: Tensor, template: Tensor, words: Any) -> dict[str, Tensor]:
        """Joint feature learning and relation modelling."""
        config = self.config
        return {"search": self.backbone.joint(*self._enter(search, template), config.separate_layers,
                                              config.elimination_layers, config.keep_ratio)}
