# SPDX-License-Identifier: Apache-2.0
"""LGTrack: early and multilevel guidance of vision by deep language, and decoding by a joint query.

Song, Zhang, Feng, Liu and Yang, "Language-guided Visual Tracking: Comprehensive and Effective Multimodal Information
Fusion", ACM TOMM 21(10) 290, 2025.

**A reconstruction.** Only the abstract was to be had: no equation, number or code. It names an Enhanced Multimodal
Interaction Module (EMIM), used for an Early Language Multilevel-guided Multimodal Encoding in which deep semantics
guide the vision encoding early and at several levels; a decoding based on a Joint Query made of global features of both
modalities; and contrastive vision-language alignment. Choices made here:

* EMIM: two cross attentions, vision asks language and language asks vision, each added through a gate for each channel.
  Both directions read the state before either ("interaction", not a chain).
* Deep semantics: the tokens of the text tower's last layer, projected to the vision tokens' width, guide every level,
  also the first, where a BERT layer of the same depth would know words only.
* Early and multilevel: one EMIM before the first joint layer and one before each of the further ``levels``. Language
  goes on from level to level as vision has changed it. In the small configuration the first six layers are frozen and
  see the crops apart, so "early" is the seventh: before it no gradient would be needed at all.
* Joint Query: one query, made of the mean of the template's central tokens, the mean of all search tokens and the mean
  of the words, refined by decoder layers that attend to all encoded tokens.
* What the query is for: its product with each search token, channel by channel in a latent space, is added to the token
  before the head (STARK, Yan et al., ICCV 2021, weighs search tokens by their similarity with its query; a product has
  that similarity in it and says besides in which channels they agree). Its way into the tokens starts at a tenth of the
  usual weights, so that a pretrained head is given what it knows and the query's say grows with training.
* Alignment: NT-Xent across modalities, as CLIP's, of the mean word with the mean of the search tokens inside the box,
  both from before the first EMIM (later vision holds the words already). Temperature 0.1 and weight 0.1, small because
  phrases of one batch may fit several of its targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlt_ros.networks.base import Contrast, LanguageConfig, TrackingNetwork
from vlt_ros.networks.noise import SampleNoise
from vlt_ros.networks.satracker import Text
from vlt_ros.networks.text import SemanticTokens
from vlt_ros.networks.vit import CrossAttention, Mlp


@dataclass(frozen=True)
class LGTrackConfig(LanguageConfig):
    """Everything that fixes an LGTrack network. Raises ValueError when the numbers do not fit together.

    levels: joint layers (1-based) that an EMIM stands before; the first is the early guidance.
    latent_dim, latent_heads: its attention and the decoder's. decoder_layers: of the Joint Query.
    alignment_dim, alignment_weight: width and weight of the contrastive alignment.
    """

    name: str = "lgtrack_b"
    levels: tuple[int, ...] = (1, 4, 7, 10)
    latent_dim: int = 256
    latent_heads: int = 4
    decoder_layers: int = 2
    alignment_dim: int = 256
    alignment_weight: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("latent_dim", "latent_heads", "decoder_layers", "alignment_dim")
        self._positive("alignment_weight", least=0)
        self._multiples(("latent_dim", "latent_heads"))
        self._joint("levels")
        if self.separate_layers + 1 not in self.levels:
            raise ValueError(f"{self.name}: levels {list(self.levels)} lack the first joint layer, "
                             f"{self.separate_layers + 1}: guidance is to be early")


class EMIM(nn.Module):
    """Enhanced Multimodal Interaction Module: two-way attention between modalities with gated residuals."""

    def __init__(self, config: LGTrackConfig) -> None:
        super().__init__()
        sizes = (config.dim, config.dim, config.latent_dim, config.latent_heads)
        self.vision_asks, self.language_asks = CrossAttention(*sizes), CrossAttention(*sizes)

    def forward(self, vision: Tensor, language: Text) -> tuple[Tensor, Text]:
        """Vision tokens (B, N, C) and language, each with what it took from the other."""
        return (self.vision_asks(vision, language.tokens, language.mask),
                language._replace(tokens=self.language_asks(language.tokens, vision)))


class DecoderLayer(nn.Module):
    """The Joint Query (B, 1, C) attends to the encoded tokens (B, N, C)."""

    def __init__(self, config: LGTrackConfig) -> None:
        super().__init__()
        self.attention = CrossAttention(config.dim, config.dim, config.latent_dim, config.latent_heads)
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.mlp = Mlp(config.dim, 2 * config.dim)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        query = self.attention(query, tokens)
        return query + self.mlp(self.norm(query))


class LGTrack(TrackingNetwork):
    """The whole network. Static per command: the deep language tokens. Static per target: the template's tokens before
    the first joint layer.
    """

    Config = LGTrackConfig
    CONFIGS = (
        # The size of the other base configurations: ViT-B/16 and BERT-base.
        LGTrackConfig(),
        # As small as pjvlt_s, and from the same start.
        LGTrackConfig(name="lgtrack_s", template_size=112, search_size=224, patch_size=14, dim=384, depth=10,
                      num_heads=6, layer_scale=True, text_dim=384, text_depth=6, text_heads=12, frozen_minilm=True,
                      separate_layers=6, levels=(7, 8, 9, 10), latent_dim=128, latent_heads=4, decoder_layers=1,
                      alignment_dim=128, matching_prior=True, head_channels=96),
        # For tests.
        LGTrackConfig(name="lgtrack_tiny", template_size=28, search_size=56, patch_size=7, dim=32, depth=3,
                      num_heads=2, layer_scale=True, text_dim=32, text_depth=2, text_heads=2, separate_layers=1,
                      levels=(2, 3), latent_dim=16, latent_heads=2, decoder_layers=1, alignment_dim=16,
                      matching_prior=True, head_channels=16),
    )

    def _add_parts(self) -> None:
        config = self.config
        dim, latent = config.dim, config.latent_dim
        self.language_proj = nn.Linear(config.text_dim, dim)
        self.emim = nn.ModuleDict({str(j): EMIM(config) for j in config.levels})
        self.joint_query = nn.Linear(3 * dim, dim)
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.query_norm = nn.LayerNorm(dim, eps=1e-6)
        self.query_product, self.token_product = nn.Linear(dim, latent), nn.Linear(dim, latent)
        self.guidance = nn.Linear(latent, dim)
        with torch.no_grad():
            self.guidance.weight.mul_(0.1)
        nn.init.zeros_(self.guidance.bias)
        self.align_language, self.align_vision = (nn.Linear(dim, config.alignment_dim) for _ in range(2))

    def words(self, semantic: SemanticTokens, noise: SampleNoise | None = None) -> Text:
        """The deep language tokens, as wide as vision's (B, T, C)."""
        tokens = semantic.layers[-1].to(self.language_proj.weight.dtype)
        return Text(self.language_proj(tokens), semantic.mask)

    @staticmethod
    def _mean(language: Text) -> Tensor:
        valid = language.mask.unsqueeze(-1)
        return (language.tokens * valid).sum(dim=1) / valid.sum(dim=1)

    def encode(self, search: Tensor, template: Tensor, words: Text) -> dict[str, Tensor]:
        """Early language multilevel-guided multimodal encoding, then decoding by the Joint Query."""
        config, language = self.config, words
        count = template.shape[1]
        z, x = self._enter(search, template)
        vision = torch.cat((z, x), dim=1)
        for j in range(config.separate_layers + 1, config.depth + 1):
            if str(j) in self.emim:
                vision, language = self.emim[str(j)](vision, language)
            vision = self.backbone.blocks[j - 1](vision)
        tokens = self.backbone.norm(vision)
        z_out, x_out = tokens[:, :count], tokens[:, count:]
        target = z_out[:, self.central].mean(dim=1)
        query = self.joint_query(torch.cat((target, x_out.mean(dim=1), self._mean(language)), dim=-1)).unsqueeze(1)
        for layer in self.decoder:
            query = layer(query, tokens)
        product = self.query_product(self.query_norm(query)) * F.gelu(self.token_product(x_out))
        return {"search": x_out + self.guidance(product), "region": x, "language": self._mean(words)}

    def terms(self, encoded: dict[str, Tensor]) -> dict[str, Contrast]:
        """Contrastive alignment of the words with what the box shows."""
        return {"alignment": Contrast(self.align_vision(encoded["region"]), self.align_language(encoded["language"]),
                                      ("search", "language"), self.config.alignment_weight, 0.1, across=True)}
