# SPDX-License-Identifier: Apache-2.0
"""One frame of a network as a graph: tensors in, tensors out, every shape fixed but the batch.

What depends on the sentence and on the template is an input, so that a new command or a new target is other numbers in
the same graph. Sentences are padded to the configuration's ``max_words``: their length is no shape of the graph.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from vlt_ros.networks.base import TrackingNetwork
from vlt_ros.networks.head import Maps
from vlt_ros.networks.text import SemanticTokens

OUTPUTS = ("score", "offset", "size", "tokens")


class FrameGraph(nn.Module):
    """:meth:`TrackingNetwork.track` with the words flattened, which gives the tokens before the joint layers too.

    Those tokens are what names are read from, so that a search by text needs no second graph of the same layers.
    """

    def __init__(self, network: TrackingNetwork) -> None:
        super().__init__()
        self.network = network
        self._structure = tree_flatten(padded_words(network, [""]))[1]
        # Exporters put a module back into the mode that they found it in: a new one is in training mode.
        self.eval()

    def forward(self, search: Tensor, template: Tensor, *words: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Crops (B, 3, Hx, Wx), template tokens (B, Nz, C) and words to score, offset, size (:class:`Maps`) and tokens
        (B, Nx, C).
        """
        network = self.network
        tokens = network.encode_search(search)
        encoded = network.encode(tokens, template, tree_unflatten(list(words), self._structure))
        return (*network.maps(encoded["search"]), tokens)

    def example(self, batch: int = 1) -> tuple[Tensor, ...]:
        """Inputs of the right shapes and types: zeros for the crop and a blank template, words of empty sentences."""
        network, config = self.network, self.network.config
        side, weight = config.search_size, network.backbone.norm.weight
        with torch.no_grad():
            search = torch.zeros(batch, 3, side, side, dtype=weight.dtype, device=weight.device)
            template = network.encode_template(None, batch=batch).to(weight.dtype)
            return (search, template.contiguous(), *flat(padded_words(network, [""] * batch)))

    def input_names(self) -> list[str]:
        """Names of the inputs, in their order."""
        return ["search", "template", *(f"words_{i}" for i in range(self._structure.num_leaves))]


def padded_words(network: TrackingNetwork, sentences: list[str]) -> Any:
    """What :meth:`TrackingNetwork.encode_text` gives, for sentences padded to ``max_words``."""
    if not network.has_text_tower:
        return ()
    layers, mask = network._semantic(sentences)
    missing = network.config.max_words - mask.shape[1]
    return network.words(SemanticTokens(tuple(F.pad(layer, (0, 0, 0, missing)) for layer in layers),
                                        F.pad(mask, (0, missing))))


def flat(words: Any) -> list[Tensor]:
    """The tensors of words in their order."""
    return tree_flatten(words)[0]


def maps_of(outputs: tuple[Tensor, ...]) -> Maps:
    """A graph's outputs as maps."""
    return Maps(*outputs[:3])
