# SPDX-License-Identifier: Apache-2.0
"""PJVLT: the progressive joint vision-language transformer.

Liang, Wu, Cheng, Xia and Li, "Progressive Semantic-Visual Alignment and Refinement for Vision-Language
Tracking", IEEE TCSVT 2024. Section and equation numbers below are the paper's.

Shapes: B batch, C channels, N = Nz + Nx visual tokens (template first), T words. The paper writes tokens as
C x N; here they are (B, N, C), so its 1x1 convolutions are linear layers.

Two forms of the fusion layers are kept, ``form="literal"`` and ``form="residual"``:

* *literal* is eqs. 1-11 as printed. Eq. 7 has no path around SAIEL and eq. 11 counts A_j twice, so every layer
  passes the pretrained stream through a new random latent space: it must be trained long and from there.
* *residual* starts as (almost) the identity, which a short training run on pretrained layers needs:
  eq. 7 becomes A_j = V_j + theta_o(...), eq. 9 becomes C_j = A_j + lambda * f_gc(A_j) * A_j with lambda = 0
  at the start, eq. 11 becomes R_j = C_j + C_n with W_n = 0 at the start. SAIEL and PIM read LayerNorm(stream),
  as every branch of a ViT does, and theta_o has no last GELU, because a sum that cannot subtract cannot
  suppress a distractor. theta_w's weights are zero as in the paper, but its bias lets the words through from
  the first step (gamma = 1): with gamma = 0 short runs learn to ignore the sentence. The gated words are
  multiplied by their number, so that a long sentence is not a weak one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlt_ros.networks.base import LanguageConfig, TrackingNetwork
from vlt_ros.networks.noise import SampleNoise
from vlt_ros.networks.text import SemanticTokens


@dataclass(frozen=True)
class PJVLTConfig(LanguageConfig):
    """Everything that fixes a PJVLT network. Raises ValueError when the numbers do not fit together."""

    name: str = "pjvlt_b"
    # fusion: which layers (1-based), and tables II-VI's switches
    fused_layers: tuple[int, ...] = tuple(range(1, 13))
    form: str = "residual"
    saiel: bool = True
    ccm: bool = True
    pim: bool = True
    combine: str = "concat"
    latent_dim: int = 256
    latent_heads: int = 4
    gumbel_noise: bool = True
    channel_groups: int = 4
    pim_hidden: int = 640

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("latent_dim", "latent_heads", "channel_groups", "pim_hidden")
        self._multiples(("latent_dim", "latent_heads"), ("dim", "channel_groups"))
        if self.form not in ("literal", "residual"):
            raise ValueError(f"{self.name}: form is 'literal' or 'residual', not {self.form!r}")
        if self.combine not in ("concat", "sum", "multiply"):
            raise ValueError(f"{self.name}: combine is 'concat', 'sum' or 'multiply', not {self.combine!r}")
        self._joint("fused_layers")


class Words(NamedTuple):
    """What SAIEL takes from a sentence: fixed for a command, so computed once (eqs. 1, 2, 4).

    keys L_k and gated values (B, T, D), modulation alpha, beta, gamma (B, 1, D), mask (B, T) of real words.
    """

    keys: Tensor
    values: Tensor
    alpha: Tensor
    beta: Tensor
    gamma: Tensor
    mask: Tensor


class SAIEL(nn.Module):
    """Semantic-aware instance encoder layer, section III-C: aligns visual tokens V_j with semantic tokens L_j."""

    def __init__(self, config: PJVLTConfig) -> None:
        super().__init__()
        dim, latent = config.dim, config.latent_dim
        self.residual = config.form == "residual"
        self.combine, self.heads, self.gumbel_noise = config.combine, config.latent_heads, config.gumbel_noise
        self.norm = nn.LayerNorm(dim, eps=1e-6) if self.residual else nn.Identity()
        self.theta_q = nn.Linear(dim, latent)
        self.theta_k = nn.Linear(config.text_dim, latent)
        self.theta_v = nn.Linear(config.text_dim, latent)
        self.theta_w = nn.Linear(config.text_dim, 3 * latent)
        self.theta_m = nn.Linear(dim, latent)
        self.theta_o = nn.Linear(2 * latent if config.combine == "concat" else latent, dim)
        nn.init.zeros_(self.theta_w.weight)
        nn.init.zeros_(self.theta_w.bias)
        if self.residual:
            nn.init.ones_(self.theta_w.bias[2 * latent:])
            nn.init.zeros_(self.theta_o.bias)
            with torch.no_grad():
                # Half of the usual: DINOv2's stream is small (rms 0.1 to 0.3 per channel), the words must not drown it.
                self.theta_o.weight.mul_(0.5)
                if config.combine == "concat":
                    self.theta_o.weight[:, :latent].zero_()

    def words(self, language: Tensor, mask: Tensor, noise: SampleNoise | None = None) -> Words:
        """The language side: L_j (B, T, Ct) and mask (B, T) to :class:`Words`. Padding has no influence.

        noise: what Gumbel noise is drawn from in training mode, None for torch's own stream.
        """
        valid = mask.unsqueeze(-1)
        keys, values = self.theta_k(language), self.theta_v(language)                       # eq. 1
        logits = values.float()
        if self.training and self.gumbel_noise:
            if noise is None:
                exponential = torch.empty_like(logits).exponential_()
            else:
                exponential = -noise.uniform(*logits.shape[1:]).log()
            logits = logits - exponential.log()
        gate = logits.masked_fill(~valid, float("-inf")).softmax(dim=1)
        count = valid.sum(dim=1, keepdim=True).to(gate.dtype)
        if self.residual:
            gate = gate * count
        values = gate.to(values.dtype) * values                                             # eq. 2
        mean = (language * valid).sum(dim=1, keepdim=True) / count.to(language.dtype)
        alpha, beta, gamma = self.theta_w(mean).chunk(3, dim=-1)                            # eq. 4
        return Words(keys, values, alpha, beta, gamma, mask)

    def _split(self, tokens: Tensor) -> Tensor:
        batch, length, dim = tokens.shape
        return tokens.view(batch, length, self.heads, dim // self.heads).transpose(1, 2)

    def forward(self, vision: Tensor, words: Words) -> Tensor:
        """V_j (B, N, C) and the sentence to the aligned tokens A_j (B, N, C)."""
        stream = self.norm(vision)
        query = self.theta_q(stream)                                                        # eq. 1
        query = F.instance_norm(query.transpose(1, 2)).transpose(1, 2)
        attended = F.scaled_dot_product_attention(                                          # eq. 3
            self._split(query), self._split(words.keys), self._split(words.values),
            attn_mask=words.mask[:, None, None, :])
        attended = attended.transpose(1, 2).reshape(query.shape)
        semantic = words.gamma * ((1 + words.alpha) * attended + words.beta)                # eq. 5
        visual = F.gelu(self.theta_m(stream))                                               # eq. 6
        if self.combine == "concat":
            combined = torch.cat((visual, semantic), dim=-1)
        else:
            combined = visual + semantic if self.combine == "sum" else visual * semantic
        aligned = self.theta_o(combined)                                                    # eq. 7
        return vision + aligned if self.residual else F.gelu(aligned)


class CCPIL(nn.Module):
    """Channel communication and patch interaction layer, section III-D: refines A_j to R_j."""

    def __init__(self, config: PJVLTConfig) -> None:
        super().__init__()
        dim = config.dim
        tokens = config.template_grid ** 2 + config.search_grid ** 2
        self.residual, self.ccm, self.pim = config.form == "residual", config.ccm, config.pim
        if self.ccm:
            self.w_p1 = nn.Linear(dim, dim // config.channel_groups)
            self.w_p2 = nn.Linear(dim // config.channel_groups, dim)
            if self.residual:
                self.ccm_scale = nn.Parameter(torch.zeros(dim))
        if self.pim:
            self.norm = nn.LayerNorm(dim, eps=1e-6) if self.residual else nn.Identity()
            self.w_e = nn.Linear(tokens, config.pim_hidden)
            self.w_s = nn.Linear(config.pim_hidden, config.pim_hidden)
            self.w_n = nn.Linear(config.pim_hidden, tokens)
            if self.residual:
                nn.init.zeros_(self.w_n.weight)
                nn.init.zeros_(self.w_n.bias)

    def forward(self, aligned: Tensor) -> Tensor:
        """A_j (B, N, C) to R_j (B, N, C)."""
        communicated = aligned
        if self.ccm:
            pooled = aligned.mean(dim=1, keepdim=True)
            weight = torch.sigmoid(self.w_p2(F.gelu(self.w_p1(pooled))))                    # eq. 8
            scale = self.ccm_scale if self.residual else 1.0
            communicated = aligned + scale * weight * aligned                               # eq. 9
        refined = communicated if self.residual else communicated + aligned                 # eq. 11
        if self.pim:
            expanded = F.gelu(self.w_e(self.norm(communicated).transpose(1, 2)))            # eq. 10
            interacted = self.w_n(F.gelu(self.w_s(expanded)))
            refined = refined + interacted.transpose(1, 2)
        return refined


class PJVLT(TrackingNetwork):
    """The whole network. Static per command: the language side of every fused layer. Static per target: the template's
    tokens before the first joint layer.
    """

    Config = PJVLTConfig
    CONFIGS = (
        # The paper's: ViT-B/16 (MAE), BERT-base, fusion in all 12 layers.
        PJVLTConfig(),
        # DINOv2-shaped ViT-S/14 and frozen MiniLM-L6. Six layers see each crop alone, four are joint and fused.
        PJVLTConfig(name="pjvlt_s", template_size=112, search_size=224, patch_size=14, dim=384, depth=10,
                    num_heads=6, layer_scale=True, text_dim=384, text_depth=6, text_heads=12, frozen_minilm=True,
                    separate_layers=6, fused_layers=(7, 8, 9, 10), latent_dim=128, latent_heads=4,
                    gumbel_noise=False, pim_hidden=256, matching_prior=True, head_channels=96),
        # ViT-Ti/16 for small CPUs.
        PJVLTConfig(name="pjvlt_t", dim=192, num_heads=3, text_dim=384, text_depth=6, text_heads=12,
                    frozen_minilm=True, separate_layers=6, fused_layers=(8, 10, 12), latent_dim=96, latent_heads=3,
                    gumbel_noise=False, pim_hidden=320, matching_prior=True, head_channels=128),
        # For tests: every part, built in milliseconds.
        PJVLTConfig(name="pjvlt_tiny", template_size=28, search_size=56, patch_size=7, dim=32, depth=3, num_heads=2,
                    layer_scale=True, text_dim=32, text_depth=2, text_heads=2, separate_layers=1,
                    fused_layers=(2, 3), latent_dim=16, latent_heads=2, pim_hidden=40, matching_prior=True,
                    head_channels=16),
    )

    def _add_parts(self) -> None:
        config = self.config
        fused = [str(j) for j in config.fused_layers]
        self.saiel = nn.ModuleDict({j: SAIEL(config) for j in fused if config.saiel})
        self.ccpil = nn.ModuleDict({j: CCPIL(config) for j in fused if config.ccm or config.pim})

    def words(self, semantic: SemanticTokens, noise: SampleNoise | None = None) -> dict[str, Words]:
        """The language side of the sentences, one entry a fused layer."""
        return {j: layer.words(semantic.layers[self.config.language_layer(int(j)) - 1].to(layer.theta_k.weight.dtype),
                               semantic.mask, noise)
                for j, layer in self.saiel.items()}

    def encode(self, search: Tensor, template: Tensor, words: dict[str, Words]) -> dict[str, Tensor]:
        """Section III-B: every ViT layer takes what the alignment and the refinement made of the one before."""
        vision = torch.cat(self._enter(search, template), dim=1)
        for j in range(self.config.separate_layers + 1, self.config.depth + 1):
            vision = self.backbone.blocks[j - 1](vision)                                    # V_j = Theta_j(R_j-1)
            if str(j) in self.saiel:
                vision = self.saiel[str(j)](vision, words[str(j)])                          # A_j = Phi_j(V_j, L_j)
            if str(j) in self.ccpil:
                vision = self.ccpil[str(j)](vision)                                         # R_j = Psi_j(A_j)
        return {"search": self.backbone.norm(vision[:, template.shape[1]:])}
