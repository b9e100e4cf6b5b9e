# SPDX-License-Identifier: Apache-2.0
"""Does a phrase name what a token shows? Full-depth features of the frozen ViT against the phrase.

An addition to the papers, from two of their ideas: vision and language are aligned before either has seen the other
(All-in-One's and LGTrack's contrast), and every search token is compared with the target that is meant (SATracker's
dense matching). A tracker's joint layers learn colours and places from made scenes in minutes, but not names from a few
thousand boxes. The ViT's own last layers tell kinds of things apart already; they stay as they are, and two small
projections bring them and the text tower's words into one space.

It is asked where text alone must find its target, or refuse: :meth:`Naming.weigh` corrects the head's score map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlt_ros.networks.head import Maps
from vlt_ros.networks.text import SemanticTokens
from vlt_ros.networks.vit import Block

# Channels of the space in which tokens and phrases meet, and of the layer before it.
SHARED, HIDDEN = 256, 512


class Projection(nn.Sequential):
    """Features (..., C) to unit vectors (..., SHARED)."""

    def __init__(self, dim: int, dropout: float = 0.1) -> None:
        super().__init__(nn.LayerNorm(dim, eps=1e-6), nn.Dropout(dropout), nn.Linear(dim, HIDDEN), nn.GELU(),
                         nn.Dropout(2 * dropout), nn.Linear(HIDDEN, SHARED))

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(super().forward(features), dim=-1)


class Naming(nn.Module):
    """The rest of the frozen ViT, two projections and what their agreement weighs.

    Args:
        dim, num_heads, layer_scale: the ViT's. layers: how many of its layers come after the tracker's separate ones.
        text_dim: the text tower's width.
    """

    def __init__(self, dim: int, num_heads: int, layer_scale: bool, layers: int, text_dim: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, num_heads, layer_scale=layer_scale) for _ in range(layers))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.vision, self.language = Projection(dim), Projection(text_dim)
        # Logit of "this token shows it" = scale * cosine + bias; a phrase is true of few tokens, so it starts low.
        self.log_scale, self.bias = nn.Parameter(torch.tensor(2.5)), nn.Parameter(torch.tensor(-6.0))
        # logit of the head's score, of the name, and a constant.
        self.evidence = nn.Parameter(torch.tensor([1.0, 0.0, 0.0]))

    def features(self, tokens: Tensor) -> Tensor:
        """Search tokens after the separate layers (B, N, C) to full-depth features (B, N, C)."""
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    @staticmethod
    def mean_words(semantic: SemanticTokens) -> Tensor:
        """Mean of the last layer's words, of length 1: (B, Ct), MiniLM's own sentence embedding."""
        mask = semantic.mask.unsqueeze(-1).to(semantic.layers[-1].dtype)
        return F.normalize((semantic.layers[-1] * mask).sum(1) / mask.sum(1), dim=-1)

    def phrase(self, semantic: SemanticTokens) -> Tensor:
        """Sentences to unit vectors (B, SHARED), once per command."""
        return self.language(self.mean_words(semantic).to(self.bias.dtype))

    def agreement(self, features: Tensor, phrase: Tensor) -> Tensor:
        """Logits (B, N) that each token shows what the phrase names, from features (B, N, C)."""
        cosine = torch.einsum("bnc,bc->bn", self.vision(features), phrase.to(features.dtype))
        return (self.log_scale.exp() * cosine + self.bias).float()

    def forward(self, tokens: Tensor, phrase: Tensor) -> Tensor:
        """Tokens after the separate layers (B, N, C) and phrases (B, SHARED) to logits as a map (B, 1, S, S).

        A token's logit is the mean over its 3 x 3 neighbours: single patches are often wrong, things are larger.
        """
        side = round(tokens.shape[1] ** 0.5)
        logits = self.agreement(self.features(tokens), phrase).view(-1, 1, side, side)
        return F.avg_pool2d(logits, 3, stride=1, padding=1, count_include_pad=False)

    def weigh(self, maps: Maps, logits: Tensor) -> Maps:
        """The head's maps with a score in which the name counts: a weighted sum of the two logits.

        The three weights are fitted on pictures that the projections were not trained on.
        """
        seen, named, constant = self.evidence.float()
        score = torch.sigmoid(seen * torch.logit(maps.score) + named * logits.clamp(-12, 12) + constant)
        return maps._replace(score=score.clamp(1e-4, 1 - 1e-4))
