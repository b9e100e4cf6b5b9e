# SPDX-License-Identifier: Apache-2.0
"""Vision transformer with timm's parameter names, so that timm, OSTrack and MAE checkpoints load; cross attention.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; LayerScale from Touvron et al., "Going
deeper with Image Transformers", ICCV 2021 (used by DINOv2, Oquab et al., TMLR 2024).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention (B, heads, N, C / heads), in float32 where torch is slow at less."""
    kept = value.dtype
    if query.device.type == "cpu" and query.element_size() < 4:
        # Torch's kernel for bfloat16 on CPUs is slower than that for float32, and less exact.
        query, key, value = query.float(), key.float(), value.float()
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).to(kept)


class Attention(nn.Module):
    """Multi-head self-attention over tokens (B, N, C)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, length, dim = tokens.shape
        qkv = self.qkv(tokens).view(batch, length, 3, self.num_heads, dim // self.num_heads)
        attended = attend(*qkv.permute(2, 0, 3, 1, 4))
        return self.proj(attended.transpose(1, 2).reshape(batch, length, dim))

    def weights_of(self, index: int, tokens: Tensor) -> Tensor:
        """How much one token (by its index) attends to each: (B, N), the mean of the heads, in float32."""
        batch, length, dim = tokens.shape
        heads = (batch, -1, self.num_heads, dim // self.num_heads)
        weight, bias = self.qkv.weight, self.qkv.bias
        query = F.linear(tokens[:, index:index + 1], weight[:dim], bias[:dim]).view(heads).float()
        key = F.linear(tokens, weight[dim:2 * dim], bias[dim:2 * dim]).view(heads).float()
        logits = torch.einsum("bqhc,bnhc->bhn", query, key) / math.sqrt(heads[-1])
        return logits.softmax(dim=-1).mean(dim=1)


class CrossAttention(nn.Module):
    """Tokens (B, N, C) plus what they ask of others (B, M, D), in a latent space, through a gate for each channel.

    The gate starts half open: a nearly closed one lets a short training run learn to do without the others. Keys have
    no bias, which no softmax would notice.

    Args:
        dim, other_dim: C and D. latent: width of queries, keys and values. heads: attention heads.
    """

    def __init__(self, dim: int, other_dim: int, latent: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.other_norm = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(other_dim, eps=1e-6)
        self.query, self.key = nn.Linear(dim, latent), nn.Linear(other_dim, latent, bias=False)
        self.value, self.out = nn.Linear(other_dim, latent), nn.Linear(latent, dim)
        self.gate = nn.Parameter(torch.full((dim,), 0.5))

    def _split(self, tokens: Tensor) -> Tensor:
        batch, length, dim = tokens.shape
        return tokens.view(batch, length, self.heads, dim // self.heads).transpose(1, 2)

    def forward(self, tokens: Tensor, others: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask: (B, M), False for others that are padding."""
        others = self.other_norm(others)
        query = self.query(self.norm(tokens))
        attended = attend(self._split(query), self._split(self.key(others)), self._split(self.value(others)),
                          None if mask is None else mask[:, None, None, :])
        return tokens + self.gate * self.out(attended.transpose(1, 2).reshape(query.shape))


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))


class LayerScale(nn.Module):
    """Per-channel scale of a residual branch."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.gamma


class Block(nn.Module):
    """Pre-norm transformer layer; ``layer_scale`` adds DINOv2's LayerScale to both branches."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int = 4, layer_scale: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads)
        self.ls1 = LayerScale(dim) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, mlp_ratio * dim)
        self.ls2 = LayerScale(dim) if layer_scale else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))

    def eliminate(self, tokens: Tensor, kept: Tensor, centre: int, keep_ratio: float) -> tuple[Tensor, Tensor]:
        """The layer with candidate elimination between its two halves (OSTrack, section 3.2).

        Args:
            tokens: (B, Nz + K, C), the template's first. kept: (B, K), which search tokens the last K are.
            centre: index of the template's centre token; what it attends to least goes.
            keep_ratio: share of the K search tokens that stay, rounded up.

        Returns:
            tokens and kept with fewer search tokens, best first.
        """
        normed = self.norm1(tokens)
        tokens = tokens + self.ls1(self.attn(normed))
        template = tokens.shape[1] - kept.shape[1]
        best = self.attn.weights_of(centre, normed)[:, template:].topk(math.ceil(keep_ratio * kept.shape[1])).indices
        rows = best[:, :, None].expand(-1, -1, tokens.shape[2])
        tokens = torch.cat((tokens[:, :template], tokens[:, template:].gather(1, rows)), dim=1)
        return tokens + self.ls2(self.mlp(self.norm2(tokens))), kept.gather(1, best)


class PatchEmbed(nn.Module):
    """Image (B, 3, H, W) to patch tokens (B, H/p * W/p, C), row by row."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, stride=patch_size)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).flatten(2).transpose(1, 2)


def interpolate_positions(positions: Tensor, side: int) -> Tensor:
    """Resize square position embeddings (1, n*n, C) to (1, side*side, C), bicubic as OSTrack does."""
    old_side = round(positions.shape[1] ** 0.5)
    if old_side == side:
        return positions
    grid = positions.transpose(1, 2).reshape(1, -1, old_side, old_side)
    grid = F.interpolate(grid.float(), size=(side, side), mode="bicubic", align_corners=False)
    return grid.flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """The backbone's parameters: patches, one position grid a crop, layers, final norm.

    There is no class token: a tracker reads patches only (OSTrack, Ye et al., ECCV 2022). The joint forward
    over template and search tokens is the tracker's own (see pjvlt.py); :meth:`forward` is the plain ViT
    over one image, which tests compare with transformers' implementation.

    Args:
        patch_size: side of a patch in pixels.
        grids: side of the template's and of the search region's token grid.
        dim: channels C. depth: layers. num_heads: attention heads. layer_scale: DINOv2's LayerScale.
    """

    def __init__(self, patch_size: int, grids: tuple[int, int], dim: int, depth: int, num_heads: int,
                 layer_scale: bool) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(patch_size, dim)
        self.pos_embed_z = nn.Parameter(torch.zeros(1, grids[0] ** 2, dim))
        self.pos_embed_x = nn.Parameter(torch.zeros(1, grids[1] ** 2, dim))
        self.blocks = nn.ModuleList(Block(dim, num_heads, layer_scale=layer_scale) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        nn.init.trunc_normal_(self.pos_embed_z, std=0.02)
        nn.init.trunc_normal_(self.pos_embed_x, std=0.02)

    def embed_template(self, template: Tensor) -> Tensor:
        """Template crop (B, 3, Hz, Wz), normalised, to tokens (B, Nz, C)."""
        return self.patch_embed(template) + self.pos_embed_z

    def embed_search(self, search: Tensor) -> Tensor:
        """Search crop (B, 3, Hx, Wx), normalised, to tokens (B, Nx, C)."""
        return self.patch_embed(search) + self.pos_embed_x

    def joint(self, template: Tensor, search: Tensor, first: int = 0, elimination: tuple[int, ...] = (),
              keep_ratio: float = 1.0) -> Tensor:
        """Layers over template (B, Nz, C) and search tokens (B, Nx, C) together, as OSTrack has them.

        Args:
            first: layers that were done before. elimination: layers (1-based) that drop search tokens, see
                :meth:`Block.eliminate`. keep_ratio: share that each of them keeps.

        Returns:
            the search tokens (B, Nx, C) after the final norm, in their places; dropped ones are zero.
        """
        batch, count, dim = search.shape
        side = math.isqrt(template.shape[1])
        centre = (side - 1) // 2 * (side + 1)
        tokens = torch.cat((template, search), dim=1)
        elimination = elimination if keep_ratio < 1 else ()
        kept = torch.arange(count, device=search.device).expand(batch, -1)
        for j, block in enumerate(self.blocks[first:], start=first + 1):
            if j in elimination:
                tokens, kept = block.eliminate(tokens, kept, centre, keep_ratio)
            else:
                tokens = block(tokens)
        tokens = self.norm(tokens)[:, template.shape[1]:]
        if not elimination:
            return tokens
        return torch.zeros(batch, count, dim, dtype=tokens.dtype, device=tokens.device).scatter(
            1, kept[:, :, None].expand(-1, -1, dim), tokens)

    def forward(self, search: Tensor) -> Tensor:
        """Search crop alone through every layer and the final norm: (B, Nx, C)."""
        tokens = self.embed_search(search)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)
