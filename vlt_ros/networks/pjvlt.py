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

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlt_ros.networks.head import CentreHead, Maps
from vlt_ros.networks.noise import SampleNoise
from vlt_ros.networks.text import SemanticTokens, TextTower
from vlt_ros.networks.vit import VisionTransformer


@dataclass(frozen=True)
class PJVLTConfig:
    """Everything that fixes a PJVLT network. Raises ValueError when the numbers do not fit together."""

    name: str = "pjvlt_b"
    # vision: the ViT and its two crops
    template_size: int = 128
    search_size: int = 256
    patch_size: int = 16
    dim: int = 768
    depth: int = 12
    num_heads: int = 12
    layer_scale: bool = False
    # language: the BERT tower
    text_dim: int = 768
    text_depth: int = 12
    text_heads: int = 12
    max_words: int = 40
    frozen_minilm: bool = False
    # fusion: which layers (1-based), and tables II-VI's switches
    separate_layers: int = 0
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
    matching_prior: bool = False
    # head
    head_channels: int = 256

    def __post_init__(self) -> None:
        for name in ("template_size", "search_size", "patch_size", "dim", "depth", "num_heads", "text_dim",
                     "text_depth", "text_heads", "max_words", "latent_dim", "latent_heads", "channel_groups",
                     "pim_hidden", "head_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{self.name}: {name} must be at least 1, not {getattr(self, name)}")
        for whole, part in (("template_size", "patch_size"), ("search_size", "patch_size"),
                            ("dim", "num_heads"), ("text_dim", "text_heads"),
                            ("latent_dim", "latent_heads"), ("dim", "channel_groups")):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(f"{self.name}: {whole} {getattr(self, whole)} is no multiple of {part} "
                                 f"{getattr(self, part)}")
        if not 0 <= self.separate_layers <= self.depth:
            raise ValueError(f"{self.name}: separate_layers {self.separate_layers} is not 0 to depth "
                             f"{self.depth}")
        tower = (self.text_dim, self.text_depth, self.text_heads)
        if self.frozen_minilm and tower != (384, 6, 12):
            raise ValueError(f"{self.name}: MiniLM has text_dim, text_depth, text_heads 384, 6, 12, not {tower}")
        if self.form not in ("literal", "residual"):
            raise ValueError(f"{self.name}: form is 'literal' or 'residual', not {self.form!r}")
        if self.combine not in ("concat", "sum", "multiply"):
            raise ValueError(f"{self.name}: combine is 'concat', 'sum' or 'multiply', not {self.combine!r}")
        wrong = [j for j in self.fused_layers if not self.separate_layers < j <= self.depth]
        if wrong:
            raise ValueError(f"{self.name}: fused layers {wrong} are not joint layers; those are "
                             f"{self.separate_layers + 1} to {self.depth}")
        if self.head_channels % 8:
            raise ValueError(f"{self.name}: head_channels {self.head_channels} is no multiple of 8")

    @property
    def template_grid(self) -> int:
        """Side of the template's token grid."""
        return self.template_size // self.patch_size

    @property
    def search_grid(self) -> int:
        """Side of the search region's token grid, which is the maps' side."""
        return self.search_size // self.patch_size

    def language_layer(self, j: int) -> int:
        """The BERT layer (1-based) met by vision layer j: both towers reach their last layer together."""
        return math.ceil(j * self.text_depth / self.depth)


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


class PJVLT(nn.Module):
    """The whole network: (template, search region, sentence) to the head's maps.

    What depends only on the sentence (:meth:`encode_text`) and only on the template (:meth:`encode_template`)
    is computed once per command and once per target; :meth:`track` is what runs on every frame, and
    :meth:`forward` is the three in a row, so cached and uncached runs are the same computation.

    Images are RGB, normalised by ImageNet's mean and deviation, (B, 3, side, side).
    """

    def __init__(self, config: PJVLTConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.text = TextTower(config.text_dim, config.text_depth, config.text_heads, config.max_words)
        if config.frozen_minilm:
            self.text.load_minilm()
            self.text.requires_grad_(False)
        self.backbone = VisionTransformer(config.patch_size, (config.template_grid, config.search_grid), dim,
                                          config.depth, config.num_heads, config.layer_scale)
        fused = [str(j) for j in config.fused_layers]
        self.saiel = nn.ModuleDict({j: SAIEL(config) for j in fused if config.saiel})
        self.ccpil = nn.ModuleDict({j: CCPIL(config) for j in fused if config.ccm or config.pim})
        # Without a box there is no template: these tokens stand for "no appearance known, use the words".
        self.blank_template = nn.Parameter(torch.randn(1, config.template_grid ** 2, dim) * 0.02)
        if config.separate_layers:
            # Encoded apart, both crops look alike; this tells the joint layers which tokens are the template's.
            self.template_type = nn.Parameter(torch.zeros(1, 1, dim))
        if config.matching_prior:
            self.matching = nn.Linear(3, dim, bias=False)
            nn.init.zeros_(self.matching.weight)
        self.box_head = CentreHead(dim, config.head_channels)

    def train(self, mode: bool = True) -> PJVLT:
        """Training mode; a frozen tower stays in evaluation mode, else its dropout would blur every sentence."""
        super().train(mode)
        if self.config.frozen_minilm:
            self.text.eval()
        return self

    # once per command -------------------------------------------------------------------------------------
    def encode_text(self, sentences: list[str]) -> dict[str, Words]:
        """All of the language side for B sentences, one entry a fused layer; '' means "no sentence"."""
        return self.words(self.text(sentences))

    def words(self, semantic: SemanticTokens, noise: SampleNoise | None = None) -> dict[str, Words]:
        """Like :meth:`encode_text` from the tower's tokens (training computes a frozen tower's once)."""
        return {j: layer.words(semantic.layers[self.config.language_layer(int(j)) - 1].to(layer.theta_k.weight.dtype),
                               semantic.mask, noise)
                for j, layer in self.saiel.items()}

    # once per target --------------------------------------------------------------------------------------
    def encode_template(self, template: Tensor | None, blank: Tensor | None = None, batch: int = 1) -> Tensor:
        """Template crop to its tokens (B, Nz, C) before the first joint layer.

        Args:
            template: (B, 3, Hz, Wz), or None for text-only grounding with ``batch`` blank templates.
            blank: (B,) True where the template is to be taken as absent, for mixed training batches.
        """
        if template is None:
            return self.blank_template.expand(batch, -1, -1)
        tokens = self._separate(self.backbone.embed_template(template))
        if blank is None:
            return tokens
        return torch.where(blank.view(-1, 1, 1), self.blank_template.to(tokens.dtype), tokens)

    def _separate(self, tokens: Tensor) -> Tensor:
        for block in self.backbone.blocks[: self.config.separate_layers]:
            tokens = block(tokens)
        return tokens

    def _as_template(self, tokens: Tensor) -> Tensor:
        return tokens + self.template_type.to(tokens.dtype) if self.config.separate_layers else tokens

    # every frame ------------------------------------------------------------------------------------------
    def track(self, search: Tensor, template_tokens: Tensor, words: dict[str, Words]) -> Maps:
        """Search crop (B, 3, Hx, Wx) with what :meth:`encode_template` and :meth:`encode_text` gave: the maps."""
        search_tokens = self._separate(self.backbone.embed_search(search))
        if self.config.matching_prior:
            search_tokens = search_tokens + self.matching(self._match(search_tokens, template_tokens))
        vision = torch.cat((self._as_template(template_tokens.to(search_tokens.dtype)), search_tokens), dim=1)
        for j in range(self.config.separate_layers + 1, self.config.depth + 1):
            vision = self.backbone.blocks[j - 1](vision)                                    # V_j = Theta_j(R_j-1)
            if str(j) in self.saiel:
                vision = self.saiel[str(j)](vision, words[str(j)])                          # A_j = Phi_j(V_j, L_j)
            if str(j) in self.ccpil:
                vision = self.ccpil[str(j)](vision)                                         # R_j = Psi_j(A_j)
        side = self.config.search_grid
        search_tokens = self.backbone.norm(vision[:, -side * side:])
        return self.box_head(search_tokens.transpose(1, 2).reshape(-1, self.config.dim, side, side))

    def _match(self, search_tokens: Tensor, template_tokens: Tensor) -> Tensor:
        """How like the target each search token looks before any joint layer: (B, Nx, 3).

        An addition to the paper for short training runs: cosine similarity of pretrained tokens, with the best
        and the mean of the template's central half (the target, by the crop's factor of 2) and with the best of
        its surroundings. A blank template gives near-zero rows' worth of evidence, which training sees.
        """
        grid = self.config.template_grid
        position = torch.arange(grid, device=search_tokens.device)
        central = (position >= grid // 4) & (position < grid - grid // 4)
        inside = (central[:, None] & central[None, :]).flatten()
        template_unit = F.normalize(template_tokens.to(search_tokens.dtype), dim=-1)
        similarity = F.normalize(search_tokens, dim=-1) @ template_unit.transpose(1, 2)
        target, around = similarity[:, :, inside], similarity[:, :, ~inside]
        return torch.stack((target.amax(-1), target.mean(-1), around.amax(-1)), dim=-1)

    def forward(self, template: Tensor | None, search: Tensor, sentences: list[str],
                blank: Tensor | None = None) -> Maps:
        """Everything at once, nothing cached. Shapes as in the three steps above."""
        tokens = self.encode_template(template, blank, batch=search.shape[0])
        return self.track(search, tokens, self.encode_text(sentences))


CONFIGS: dict[str, PJVLTConfig] = {
    config.name: config
    for config in (
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
}
