# SPDX-License-Identifier: Apache-2.0
"""Is what was found the target itself? The frozen layers' tokens of the found box beside those of the template's.

The head's score says how well a place fits, and where the target is gone some other thing fits best. Its joint layers
were trained on pairs that nearly all hold the target. The separate layers are not trained at all: what they make of the
same thing is alike, in any scene. They have run for the frame anyway, so the comparison is a few hundred products.

Three likenesses of the two boxes, of tokens x taken at 5 x 5 places of each: cosine of their means, the same after the
mean of both crops is taken off (what all of this scene has in common says nothing), and the mean cosine place by place.
A logistic regression weighs them with the head's score; it was fitted to found boxes, right ones of labelled clips and
wrong ones of other clips and of places without the target, so the result is a probability of "this is the target".
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Of the configuration's numbers: score's logit, the three likenesses, and a constant.
TERMS = 5
PLACES = 5


def at_places(tokens: Tensor, boxes: Tensor) -> Tensor:
    """Tokens (B, N, C) of a square crop at places of boxes (B, 4: left, top, right, bottom, parts of it): (B, 25, C).

    Bilinear between tokens' centres; outside of the crop its nearest tokens stand.
    """
    side = round(tokens.shape[1] ** 0.5)
    within = (torch.arange(PLACES, device=boxes.device) + 0.5) / PLACES
    x, y = (boxes[:, i, None] + within * (boxes[:, i + 2] - boxes[:, i])[:, None] for i in (0, 1))
    grid = torch.stack((x[:, None].expand(-1, PLACES, -1), y[:, :, None].expand(-1, -1, PLACES)), dim=-1)
    picture = tokens.float().transpose(1, 2).unflatten(2, (side, side))
    return F.grid_sample(picture, 2 * grid - 1, padding_mode="border", align_corners=False).flatten(2).transpose(1, 2)


def likenesses(template: Tensor, target: Tensor, search: Tensor, found: Tensor) -> Tensor:
    """The three likenesses (B, 3), each in [-1, 1].

    Args:
        template, search: tokens (B, Nz, C) and (B, Nx, C) as the separate layers left them.
        target, found: boxes (B, 4) in these crops: left, top, right, bottom as parts of the crop's side.
    """
    common = torch.cat((template, search), dim=1).float().mean(dim=1, keepdim=True)
    a, b = at_places(template, target), at_places(search, found)
    first, second = a.mean(dim=1), b.mean(dim=1)
    return torch.stack((F.cosine_similarity(first, second, dim=-1),
                        F.cosine_similarity(first - common[:, 0], second - common[:, 0], dim=-1),
                        F.cosine_similarity(a - common, b - common, dim=-1).mean(dim=1)), dim=-1)


def recognise(weights: tuple[float, ...], score: Tensor, alike: Tensor) -> Tensor:
    """Probabilities (B,) that the found boxes show the targets.

    Args:
        weights: of :data:`TERMS`. score: the head's at the found boxes (B,). alike: see :func:`likenesses`.
    """
    first, *others, constant = weights
    of = torch.tensor(others, dtype=torch.float32, device=alike.device)
    return torch.sigmoid(first * torch.logit(score.float(), eps=1e-4) + alike @ of + constant)
