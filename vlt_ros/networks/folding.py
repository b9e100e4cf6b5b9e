# SPDX-License-Identifier: Apache-2.0
"""The same maps with less work: algebra that a frame need not repeat, done once on a network for inference.

Nothing here approximates; results differ from the plain network's by rounding alone (tests hold 1e-4 on the maps). The
networks themselves stay as their papers write them.

* A batch norm behind a convolution, and a LayerScale behind a linear layer, are scales of that layer's weights.
* The head's three first convolutions read the same tokens: one convolution.
* theta_q and theta_m of SAIEL read the same tokens: one product. Instance norm takes theta_q's bias out again.
* Rows of a softmax P sum to 1, so eq. 5 is gamma ((1 + alpha) P V + beta) = P (gamma (1 + alpha) V + gamma beta), and
  what follows it linearly, the language half of theta_o, goes into V too. What is left of the sentence on a frame is
  one matrix of keys and one of values.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlt_ros.networks.base import TrackingNetwork
from vlt_ros.networks.head import CentreHead, Maps
from vlt_ros.networks.noise import SampleNoise
from vlt_ros.networks.pjvlt import SAIEL
from vlt_ros.networks.vit import Block

# What padding adds to a logit: its exponential is 0 in every precision, and no infinity enters a compiled graph.
MASKED = -1e4


class FoldedWords(NamedTuple):
    """What SAIEL takes from a sentence, h heads, T words, D latent channels, O channels of what it is added to.

    keys: (B, D, h T), zero but in the blocks of each head. padding: (B, 1, 1, T), added to logits. values: (B, h T, O).
    """

    keys: Tensor
    padding: Tensor
    values: Tensor


class FoldedSAIEL(nn.Module):
    """:class:`SAIEL` for inference: the same aligned tokens, two products with the stream, two with the sentence."""

    def __init__(self, plain: SAIEL) -> None:
        super().__init__()
        self.residual, self.combine, self.heads = plain.residual, plain.combine, plain.heads
        self.norm, self.theta_k, self.theta_v, self.theta_w = plain.norm, plain.theta_k, plain.theta_v, plain.theta_w
        self._words = plain.words
        latent = self.latent = plain.theta_q.out_features
        self.theta_qm = nn.Linear(plain.theta_q.in_features, 2 * latent)
        self.theta_qm.weight = _fixed(torch.cat((plain.theta_q.weight, plain.theta_m.weight)))
        self.theta_qm.bias = _fixed(torch.cat((torch.zeros_like(plain.theta_q.bias), plain.theta_m.bias)))
        # theta_o's halves for vision and language; of a sum both are the whole; a product comes before it.
        weight = plain.theta_o.weight
        visual, semantic = (weight[:, :latent], weight[:, latent:]) if self.combine == "concat" else (weight, weight)
        self.theta_o = nn.Linear(latent, weight.shape[0])
        self.theta_o.weight, self.theta_o.bias = _fixed(visual), plain.theta_o.bias
        self.register_buffer("theta_s", _fixed(torch.eye(latent) if self.combine == "multiply" else semantic.T).data,
                             persistent=False)
        plain.theta_q = plain.theta_m = plain.theta_o = None

    def words(self, language: Tensor, mask: Tensor, noise: SampleNoise | None = None) -> FoldedWords:
        """The language side: L_j (B, T, Ct) and mask (B, T) to :class:`FoldedWords`."""
        words = self._words(language, mask, noise)
        batch, length, latent = words.keys.shape
        size = latent // self.heads
        keys = words.keys.new_zeros(batch, latent, self.heads * length)
        values = words.values.new_zeros(batch, self.heads * length, self.theta_s.shape[1])
        modulated = words.gamma * ((1 + words.alpha) * words.values + words.beta)
        for head in range(self.heads):
            channels, columns = slice(head * size, (head + 1) * size), slice(head * length, (head + 1) * length)
            keys[:, channels, columns] = words.keys[:, :, channels].transpose(1, 2) / math.sqrt(size)
            values[:, columns] = modulated[:, :, channels] @ self.theta_s[channels]
        padding = torch.zeros_like(words.mask, dtype=keys.dtype).masked_fill(~words.mask, MASKED)
        return FoldedWords(keys, padding[:, None, None, :], values)

    def forward(self, vision: Tensor, words: FoldedWords) -> Tensor:
        """V_j (B, N, C) and the sentence to the aligned tokens A_j (B, N, C)."""
        batch, count, _ = vision.shape
        query, visual = self.theta_qm(self.norm(vision)).split(self.latent, dim=-1)
        mean = query.mean(dim=1, keepdim=True)
        query = query - mean
        query = query * torch.rsqrt(query.square().mean(dim=1, keepdim=True) + 1e-5)
        logits = (query @ words.keys).view(batch, count, self.heads, -1) + words.padding
        semantic = logits.softmax(dim=-1).view(batch, count, -1) @ words.values
        visual = F.gelu(visual)
        aligned = self.theta_o(visual * semantic) if self.combine == "multiply" else self.theta_o(visual) + semantic
        return vision + aligned if self.residual else F.gelu(aligned)


class FoldedHead(nn.Module):
    """:class:`CentreHead` for inference: batch norms are in the convolutions, the three first of which are one."""

    BRANCHES = ("ctr", "offset", "size")

    def __init__(self, plain: CentreHead) -> None:
        super().__init__()
        folded = {name: [torch.nn.utils.fuse_conv_bn_eval(layer[0], layer[1]) for layer in
                         (getattr(plain, f"conv{i}_{name}") for i in range(1, 5))] for name in self.BRANCHES}
        first = [layers[0] for layers in folded.values()]
        self.width = first[0].out_channels
        self.first = nn.Conv2d(first[0].in_channels, 3 * self.width, 3, padding=1)
        self.first.weight = _fixed(torch.cat([conv.weight for conv in first]))
        self.first.bias = _fixed(torch.cat([conv.bias for conv in first]))
        self.rest = nn.ModuleDict({name: nn.ModuleList([*layers[1:], getattr(plain, f"conv5_{name}")])
                                   for name, layers in folded.items()})

    def forward(self, grid: Tensor) -> Maps:
        """Search tokens as a grid (B, C, S, S) to :class:`Maps`, in float32 whatever the precision."""
        maps = {}
        for name, branch in zip(self.BRANCHES, F.relu(self.first(grid)).split(self.width, dim=1), strict=True):
            *convolutions, last = self.rest[name]
            for convolution in convolutions:
                branch = F.relu(convolution(branch))
            maps[name] = last(branch).float()
        score, size = (torch.sigmoid(maps[name]).clamp(1e-4, 1 - 1e-4) for name in ("ctr", "size"))
        return Maps(score, maps["offset"], size)


def _fixed(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone().contiguous(), requires_grad=False)


def _fold_block(block: Block) -> Block:
    """LayerScale into the linear layer before it."""
    for name, linear in (("ls1", block.attn.proj), ("ls2", block.mlp.fc2)):
        scale = getattr(block, name)
        if not isinstance(scale, nn.Identity):
            linear.weight = _fixed(scale.gamma[:, None] * linear.weight)
            linear.bias = _fixed(scale.gamma * linear.bias)
            setattr(block, name, nn.Identity())
    return block


_FOLDS = {SAIEL: FoldedSAIEL, CentreHead: FoldedHead, Block: _fold_block}


def fold(network: TrackingNetwork) -> TrackingNetwork:
    """Fold the parts of a network where there is something to fold; the network itself is changed, and returned.

    It is used as before, in evaluation mode; what :meth:`TrackingNetwork.encode_text` gave before no longer fits. Fold
    in float32, and round to fewer bits afterwards.
    """
    network.eval().requires_grad_(False)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in _FOLDS:
                setattr(parent, name, _FOLDS[type(child)](child))
    return network
