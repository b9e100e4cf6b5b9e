# SPDX-License-Identifier: Apache-2.0
"""All-in-One: language-injected vision tokens in one unified transformer.

Zhang, Sun, Liu, Yang, Liu, Zhou and Wang, "All in One: Exploring Unified Vision-Language Tracking with Multi-Modal
Alignment", ACM MM 2023, and its released code (MIT), whose weights load (see ``published.py``).

Where this differs from the released code:

* ``language``: the released code takes the [CLS] row of BERT's embedding layer, without gradient. That row is one
  constant, so no sentence can change its output; ``language="cls"`` does that. ``language="words"``, the default, takes
  the mean over the sentence's words of the text tower's last layer, so that language matters. Without layers
  (``text_depth=0``, the base configuration's) these are the raw word embeddings that the paper mixes in.
* ``separate_layers``: the paper mixes raw patches, before positions and the first layer. Where the first layers see the
  crops apart and frozen, as in the small configuration, they stand for the patch embedding, and the mixup takes place
  before the first joint layer: still before the unified transformer, and no gradient has to pass the frozen layers.
* ``mixup_gain``: the paper's token has length 1, which among C channels is 1 / sqrt(C) each: a change of a few per cent
  that 300 epochs amplify. For short runs a gain for each channel, learned from this start, multiplies it; 0 is the
  paper's token as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlt_ros.networks.base import Contrast, LanguageConfig, TrackingNetwork
from vlt_ros.networks.noise import SampleNoise
from vlt_ros.networks.text import SemanticTokens


@dataclass(frozen=True)
class AllInOneConfig(LanguageConfig):
    """Everything that fixes an All-in-One network. Raises ValueError when the numbers do not fit together.

    language, mixup_gain: see the module. alignment_dim: width of the space that modalities are aligned in.
    elimination_layers, keep_ratio: as OSTrack's.
    """

    name: str = "all_in_one_b"
    text_depth: int = 0
    language: str = "words"
    mixup_gain: float = 0.0
    alignment_dim: int = 256
    elimination_layers: tuple[int, ...] = (4, 7, 10)
    keep_ratio: float = 0.7

    least_text_depth: ClassVar[int] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("alignment_dim")
        self._positive("mixup_gain", least=0)
        self._joint("elimination_layers")
        if not 0 < self.keep_ratio <= 1:
            raise ValueError(f"{self.name}: keep_ratio must be above 0 and at most 1, not {self.keep_ratio}")
        if self.language not in ("words", "cls"):
            raise ValueError(f"{self.name}: language is 'words' or 'cls', not {self.language!r}")
        if self.language == "cls" and self.text_depth:
            raise ValueError(f"{self.name}: language 'cls' is a row of the embeddings: text_depth must be 0, not "
                             f"{self.text_depth}")


class AllInOne(TrackingNetwork):
    """The whole network. Static per command: the language token. Static per target: the template's tokens before the
    first joint layer, not yet mixed with language.
    """

    Config = AllInOneConfig
    CONFIGS = (
        # The paper's size, with a sentence that is heard.
        AllInOneConfig(),
        # The released code and weights: deaf to the sentence.
        AllInOneConfig(name="all_in_one_released", language="cls", inference="ostrack"),
        # As small as pjvlt_s, and from the same start.
        AllInOneConfig(name="all_in_one_s", template_size=112, search_size=224, patch_size=14, dim=384, depth=10,
                       num_heads=6, layer_scale=True, text_dim=384, text_depth=6, text_heads=12, frozen_minilm=True,
                       separate_layers=6, matching_prior=True, head_channels=96, mixup_gain=5.0, alignment_dim=32,
                       elimination_layers=()),
        # For tests.
        AllInOneConfig(name="all_in_one_tiny", template_size=28, search_size=56, patch_size=7, dim=32, depth=3,
                       num_heads=2, layer_scale=True, text_dim=32, text_depth=2, text_heads=2, separate_layers=1,
                       matching_prior=True, head_channels=16, mixup_gain=2.0, alignment_dim=16,
                       elimination_layers=()),
    )

    def _add_parts(self) -> None:
        config = self.config
        dim, aligned = config.dim, config.alignment_dim
        self.language_proj = nn.Linear(config.text_dim, dim)
        if config.mixup_gain:
            self.language_gain = nn.Parameter(torch.full((dim,), config.mixup_gain))
        # Multi-modal alignment: language, search region and template in one space. Not used when tracking.
        self.language_xz_proj = nn.Linear(dim, aligned)
        self.vision_x_proj = nn.Linear(config.search_grid ** 2 * dim, aligned)
        self.vision_z_proj = nn.Linear(config.template_grid ** 2 * dim, aligned)

    @property
    def listens(self) -> bool:
        """Not with the released code's constant."""
        return self.config.language == "words"

    def words(self, semantic: SemanticTokens, noise: SampleNoise | None = None) -> Tensor:
        """The language token l (B, 1, C), of length 1."""
        tokens = semantic.layers[-1].to(self.language_proj.weight.dtype)
        if self.config.language == "cls":
            embedding = tokens[:, :1].detach()
        else:
            valid = semantic.mask.unsqueeze(-1)
            embedding = (tokens * valid).sum(dim=1, keepdim=True) / valid.sum(dim=1, keepdim=True)
        return F.normalize(self.language_proj(embedding), dim=-1)

    def _embed_template(self, template: Tensor) -> Tensor:
        return super()._embed_template(template) if self.config.separate_layers else self.backbone.patch_embed(template)

    def _embed_search(self, search: Tensor) -> Tensor:
        return super()._embed_search(search) if self.config.separate_layers else self.backbone.patch_embed(search)

    def encode(self, search: Tensor, template: Tensor, words: Tensor) -> dict[str, Tensor]:
        """Modal mixup, then one unified transformer over both crops."""
        config = self.config
        z, x = self._enter(search, template)
        raw = {"language": words, "template": z, "region": x}
        mixed = (words * self.language_gain if config.mixup_gain else words).to(x.dtype)
        x, z = mixed * x + x, mixed * z + z
        if not config.separate_layers:
            x, z = x + self.backbone.pos_embed_x, z + self.backbone.pos_embed_z
        return raw | {"search": self.backbone.joint(z, x, config.separate_layers, config.elimination_layers,
                                                    config.keep_ratio)}

    def terms(self, encoded: dict[str, Tensor]) -> dict[str, Contrast]:
        """Multi-modal alignment, cross-modal (x, l), (z, l) and intra-modal (x, z), of what is not mixed yet.

        The weights are the released training code's.
        """
        language = self.language_xz_proj(encoded["language"].squeeze(1))
        search = self.vision_x_proj(encoded["region"].flatten(1))
        template = self.vision_z_proj(encoded["template"].flatten(1))
        return {"search_language": Contrast(search, language, ("search", "language"), 0.25),
                "template_language": Contrast(template, language, ("template", "language"), 0.25),
                "search_template": Contrast(search, template, ("search", "template"), 0.5)}
