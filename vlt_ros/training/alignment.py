# SPDX-License-Identifier: Apache-2.0
"""Alignment losses of vision and language: NT-Xent within and across modalities, and dense matching.

A network says what its paper trains beside the boxes (``TrackingNetwork.terms``); :func:`alignment_losses` makes
numbers of it. Who uses what:

* All-in-One (Zhang et al., ACM MM 2023): three :func:`nt_xent` terms of language, template and search region.
* SATracker (arXiv 2311.17085): dense matching between the search tokens and the fused target. Only its abstract is
  public: :func:`dense_matching` is a reconstruction of the idea, not of its equations.
* LGTrack (TOMM 21(10) 290): contrastive vision-language alignment; again from the abstract, :func:`nt_xent`.

Contrast features from before one modality's tokens have seen the other's: after joint layers the text is in the visual
tokens already, and the losses are trivial.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vlt_ros.networks import Contrast, Matching
from vlt_ros.training import distributed


def nt_xent(features: Tensor, others: Tensor, temperature: float = 0.5, across: bool = False) -> Tensor:
    """Normalised temperature-scaled cross entropy of B pairs (Chen et al., SimCLR, ICML 2020, eq. 1).

    Row i of both is a positive pair; cosine similarities over the temperature are the logits.

    Args:
        features, others: (B, C), of any length.
        temperature: above 0. SimCLR's and All-in-One's is 0.5.
        across: False for SimCLR's form, which All-in-One's terms take: each of the 2 B views against the other
            2 B - 1, so negatives come from within a modality and across. True to take the negatives across alone
            (B against B in both directions), as CLIP does: the form for modalities that lie far apart.

    Returns:
        scalar, the mean over all 2 B views. With B = 1 there is no negative and it is 0.

    Raises:
        ValueError: shapes differ or are not (B, C), or the temperature is not positive.
    """
    if features.shape != others.shape or features.ndim != 2:
        raise ValueError(f"features are {tuple(features.shape)}, others {tuple(others.shape)}: both must be (B, C)")
    _check(temperature)
    first, second = F.normalize(features, dim=1), F.normalize(others, dim=1)
    count = len(features)
    partner = torch.arange(count, device=features.device)
    if across:
        logits = first @ second.T / temperature
        return (F.cross_entropy(logits, partner) + F.cross_entropy(logits.T, partner)) / 2
    views = torch.cat((first, second))
    logits = (views @ views.T / temperature).fill_diagonal_(float("-inf"))
    return F.cross_entropy(logits, torch.cat((partner + count, partner)))


def tokens_inside(boxes: Tensor, present: Tensor, side: int) -> Tensor:
    """Which search tokens show the target: those whose patch's centre lies in the box.

    Args:
        boxes: (B, 4) centre x, centre y, width, height as fractions of the search region. present: (B,).
        side: tokens a side S.

    Returns:
        (B, S * S) bool, row by row. The token that holds the box's centre always counts, so that a small target has
        one; without ``present``, or with a centre outside, none does.
    """
    centres = (torch.arange(side, device=boxes.device, dtype=boxes.dtype) + 0.5) / side
    x, y, w, h = (boxes[:, k, None] for k in range(4))
    columns, rows = (centres - x).abs() <= w / 2, (centres - y).abs() <= h / 2
    cell = torch.arange(side, device=boxes.device)
    columns, rows = columns | (cell == (x * side).floor()), rows | (cell == (y * side).floor())
    within = ((x >= 0) & (x < 1) & (y >= 0) & (y < 1)).squeeze(1)
    return (rows[:, :, None] & columns[:, None, :]).flatten(1) & (present.bool() & within)[:, None]


def dense_matching(tokens: Tensor, target: Tensor, inside: Tensor, temperature: float = 0.1,
                   total: Callable[[Tensor], Tensor] = lambda count: count) -> Tensor:
    """Every search token against the fused target: like it inside the box, unlike it outside. A reconstruction.

    For each sample with a target, the tokens inside its box are the positives among all its tokens
    (the multi-positive InfoNCE of Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, eq. 2):
    -mean over positives p of log(exp(s_p) / sum over all tokens k of exp(s_k)), s = cosine / temperature.

    Args:
        tokens: (B, N, C) search tokens. target: (B, C), what template and words together say the target is.
        inside: (B, N) bool, see :func:`tokens_inside`. temperature: above 0.
        total: makes a count of this process that of all, see ``tracking_loss``; the loss is then its share.

    Returns:
        scalar, the mean over the samples with a positive; 0 (with gradient 0) when there is none.

    Raises:
        ValueError: shapes do not fit, or the temperature is not positive.
    """
    if tokens.ndim != 3 or target.shape != (tokens.shape[0], tokens.shape[2]) or inside.shape != tokens.shape[:2]:
        raise ValueError(f"tokens are {tuple(tokens.shape)}, target {tuple(target.shape)}, inside "
                         f"{tuple(inside.shape)}: they must be (B, N, C), (B, C) and (B, N)")
    _check(temperature)
    similarity = torch.einsum("bnc,bc->bn", F.normalize(tokens, dim=2), F.normalize(target, dim=1)) / temperature
    likelihood = similarity.log_softmax(dim=1)
    positives = inside.sum(1)
    loss = -(likelihood * inside).sum(1) / positives.clamp(min=1)
    return loss.sum() / total((positives > 0).sum().float()).clamp(min=1)


def alignment_losses(terms: dict[str, Contrast | Matching], boxes: Tensor, made_of: dict[str, Tensor],
                     ) -> dict[str, Tensor]:
    """A network's further terms as losses, by name and not yet weighted.

    With several processes the contrast is over the samples of all of them, and each process returns its share: their
    sum is the term of the whole batch.

    Args:
        terms: what ``TrackingNetwork.terms`` gave. boxes: (B, 4) centre form, fractions of the search region.
        made_of: for "search", "template" and "language" (B,) bool: whether the sample has a target in its search
            region, a template, a sentence.
    """
    losses = {}
    for name, term in terms.items():
        tokens = term.tokens if isinstance(term, Matching) else term.first
        if tokens.ndim == 3:
            inside = tokens_inside(boxes, made_of["search"], math.isqrt(tokens.shape[1]))
        if isinstance(term, Matching):
            losses[name] = dense_matching(tokens.float(), term.target.float(), inside, term.temperature,
                                          distributed.total)
            continue
        first, second = term.first.float(), term.second.float()
        if first.ndim == 3:
            first = (first * inside[:, :, None]).sum(1) / inside.sum(1, keepdim=True).clamp(min=1)
        takes_part = made_of[term.of[0]] & made_of[term.of[1]]
        first, second, takes_part = (distributed.all_rows(rows) for rows in (first, second, takes_part.float()))
        chosen = takes_part > 0
        loss = (nt_xent(first[chosen], second[chosen], term.temperature, term.across) if chosen.sum() > 1
                else 0 * (first.sum() + second.sum()))
        losses[name] = loss / distributed.world_size()
    return losses


def _check(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
