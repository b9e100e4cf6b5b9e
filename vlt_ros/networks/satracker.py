# SPDX-License-Identifier: Apache-2.0
"""SATracker: a synchronous learning backbone in which vision and text advance together.

Ge, Chen, Cao, Zhu and Liu, "Beyond Visual Cues: Synchronously Exploring Target-Centric Semantics for Vision-Language
Tracking", arXiv 2311.17085 (TOMM 21(5)).

**A reconstruction.** Only the abstract was to be had: no equation and no code. It names a Synchronous Learning Backbone
(SLB) of a Target Enhance Module (TEM) and a Semantic Aware Module (SAM), which perceive the target's semantics and the
context of both modalities "at the same pace" and at different semantic levels, and a dense matching loss. All else is a
choice made here:

* SLB: BERT's layers are spread over the ViT's so that both towers end together, and a text layer runs when its turn
  comes, over text that vision has changed by then ("at the same pace"). Text layers up to the first joint level have
  seen no vision and are computed once per command; the others run on every frame.
* SAM: text tokens ask the template's and the search region's tokens by cross attention, so that "the left one" can mean
  something different in every frame. It stands before TEM, which needs the text of this level.
* TEM: search tokens ask template and words at once, in one softmax over both ("target-centric semantics" are whichever
  of the two says more), and take the answer in the measure in which they look like the fused target: the cosine between
  the token's query and the mean of the template's central values and the words' values.
* Levels: after every joint layer in the small configuration, after every third in the base one: "different semantic
  levels", at a cost of a few per cent.
* Dense matching: multi-positive InfoNCE of exactly that cosine at every level (see ``training.alignment``), so that the
  measure is learned and not only used. Weight 0.5 in all: about as much as the GIoU term has in early training.
* Cross attention in a latent space of a third of the width with a half-open gate, as the other systems here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlt_ros.networks.base import LanguageConfig, Matching, TrackingNetwork
from vlt_ros.networks.noise import SampleNoise
from vlt_ros.networks.text import SemanticTokens
from vlt_ros.networks.vit import CrossAttention, attend


@dataclass(frozen=True)
class SATrackerConfig(LanguageConfig):
    """Everything that fixes a SATracker network. Raises ValueError when the numbers do not fit together.

    levels: joint layers (1-based) that SAM and TEM follow. latent_dim, latent_heads: their attention.
    matching_weight: of the dense matching loss, all levels together.
    """

    name: str = "satracker_b"
    levels: tuple[int, ...] = (3, 6, 9, 12)
    latent_dim: int = 256
    latent_heads: int = 4
    matching_weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("latent_dim", "latent_heads")
        self._positive("matching_weight", least=0)
        self._multiples(("latent_dim", "latent_heads"))
        self._joint("levels")
        if not self.levels:
            raise ValueError(f"{self.name}: levels are empty: text and vision would never meet")

    @property
    def static_text_layers(self) -> int:
        """BERT layers that run before vision has reached the text."""
        return self.language_layer(self.levels[0])


class Text(NamedTuple):
    """The text tokens (B, T, Ct) of one level and which of them are words (B, T)."""

    tokens: Tensor
    mask: Tensor


class TargetEnhanceModule(nn.Module):
    """TEM: template and words strengthen those search tokens that look like the target."""

    # Cosines are told apart in steps of about this size; the dense matching loss uses the same.
    TEMPERATURE = 0.1

    def __init__(self, config: SATrackerConfig) -> None:
        super().__init__()
        dim, latent = config.dim, config.latent_dim
        self.heads = config.latent_heads
        self.norm, self.template_norm = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.text_norm = nn.LayerNorm(config.text_dim, eps=1e-6)
        self.query = nn.Linear(dim, latent)
        self.template_key, self.template_value = nn.Linear(dim, latent, bias=False), nn.Linear(dim, latent)
        self.text_key, self.text_value = nn.Linear(config.text_dim, latent, bias=False), nn.Linear(config.text_dim,
                                                                                                   latent)
        self.out = nn.Linear(latent, dim)
        self.gate = nn.Parameter(torch.full((dim,), 0.5))

    def _split(self, tokens: Tensor) -> Tensor:
        batch, length, dim = tokens.shape
        return tokens.view(batch, length, self.heads, dim // self.heads).transpose(1, 2)

    def forward(self, search: Tensor, template: Tensor, text: Text, central: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Enhanced search tokens (B, Nx, C), their queries (B, Nx, latent), the fused target (B, latent).

        central: indices of the template's tokens that show the target.
        """
        template, words = self.template_norm(template), self.text_norm(text.tokens)
        query = self.query(self.norm(search))
        appearance, meaning = self.template_value(template), self.text_value(words)
        key = torch.cat((self.template_key(template), self.text_key(words)), dim=1)
        mask = torch.cat((torch.ones(template.shape[:2], dtype=torch.bool, device=text.mask.device), text.mask), dim=1)
        attended = attend(self._split(query), self._split(key),
                          self._split(torch.cat((appearance, meaning), dim=1)), mask[:, None, None, :])
        valid = text.mask.unsqueeze(-1)
        target = appearance[:, central].mean(dim=1) + (meaning * valid).sum(dim=1) / valid.sum(dim=1)
        cosine = (F.normalize(query, dim=-1) * F.normalize(target, dim=-1)[:, None]).sum(dim=-1)
        likeness = torch.sigmoid(cosine / self.TEMPERATURE)
        answer = self.out(attended.transpose(1, 2).reshape(query.shape))
        return search + self.gate * likeness.unsqueeze(-1) * answer, query, target


class SATracker(TrackingNetwork):
    """The whole network. Static per command: the text tokens of the layers before vision reaches the text. Static per
    target: the template's tokens before the first joint layer.
    """

    Config = SATrackerConfig
    CONFIGS = (
        # The size of the other base configurations: ViT-B/16 and BERT-base.
        SATrackerConfig(),
        # As small as pjvlt_s, and from the same start.
        SATrackerConfig(name="satracker_s", template_size=112, search_size=224, patch_size=14, dim=384, depth=10,
                        num_heads=6, layer_scale=True, text_dim=384, text_depth=6, text_heads=12, frozen_minilm=True,
                        separate_layers=6, levels=(7, 8, 9, 10), latent_dim=128, latent_heads=4, matching_prior=True,
                        head_channels=96),
        # For tests: the third text layer runs over text that vision has changed.
        SATrackerConfig(name="satracker_tiny", template_size=28, search_size=56, patch_size=7, dim=32, depth=3,
                        num_heads=2, layer_scale=True, text_dim=32, text_depth=3, text_heads=2, separate_layers=1,
                        levels=(2, 3), latent_dim=16, latent_heads=2, matching_prior=True, head_channels=16),
    )

    def _add_parts(self) -> None:
        config = self.config
        self.sam = nn.ModuleDict({str(j): CrossAttention(config.text_dim, config.dim, config.latent_dim,
                                                         config.latent_heads) for j in config.levels})
        self.tem = nn.ModuleDict({str(j): TargetEnhanceModule(config) for j in config.levels})

    def words(self, semantic: SemanticTokens, noise: SampleNoise | None = None) -> Text:
        """The text tokens that vision meets at the first level."""
        tokens = semantic.layers[self.config.static_text_layers - 1]
        return Text(tokens.to(self.backbone.norm.weight.dtype), semantic.mask)

    def encode(self, search: Tensor, template: Tensor, words: Text) -> dict[str, Any]:
        """The synchronous learning backbone."""
        config, text = self.config, words
        count, reached = template.shape[1], config.static_text_layers
        vision = torch.cat(self._enter(search, template), dim=1)
        matches = {}
        for j in range(config.separate_layers + 1, config.depth + 1):
            vision = self.backbone.blocks[j - 1](vision)
            while reached < config.language_layer(j):
                reached += 1
                text = text._replace(tokens=self.text.layer(reached, text.tokens, text.mask))
            if j in config.levels:
                text = text._replace(tokens=self.sam[str(j)](text.tokens, vision))
                enhanced, query, target = self.tem[str(j)](vision[:, count:], vision[:, :count], text, self.central)
                vision = torch.cat((vision[:, :count], enhanced), dim=1)
                matches[f"matching_{j}"] = (query, target)
        return {"search": self.backbone.norm(vision[:, count:]), "matches": matches}

    def terms(self, encoded: dict[str, Any]) -> dict[str, Matching]:
        """Dense matching at every level."""
        weight = self.config.matching_weight / len(self.config.levels)
        return {name: Matching(query, target, weight, TargetEnhanceModule.TEMPERATURE)
                for name, (query, target) in encoded["matches"].items()}
