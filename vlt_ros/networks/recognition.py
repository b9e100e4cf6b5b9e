# SPDX-License-Identifier: Apache-2.0
"""Is what was found the target itself? The frozen layers' tokens of the found box beside those of the template's.

The head's score says how well a place fits, and where the target is gone some other thing fits best: the joint layers
were trained on pairs that nearly all hold the target. The separate layers are not trained at all, and what they make of
a thing is alike wherever it stands. They have run for the frame anyway, so the comparison costs a few small products.

The metric is Fisher's linear discriminant: tokens are projected to the directions in which different things differ most
against the same thing at two moments. Two likenesses of the boxes, the cosine of their means and the mean cosine place
by place, are weighed with the score by a logistic regression. It was fitted to found boxes, the target's and other
things', so the result is a probability of "this is the target" (see ``training/recognition.py``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# A box is looked at in so many places across and down.
PLACES = 5
# Where in a box, x and y as parts of it: (5, 5, 2), row by row.
_GRID = torch.stack(torch.meshgrid(*2 * [(torch.arange(PLACES) + 0.5) / PLACES], indexing="xy"), dim=-1)


def at_places(tokens: Tensor, boxes: Tensor) -> Tensor:
    """Tokens (B, N, C) of a square crop at places of boxes (B, 4: left, top, right, bottom, parts of it): (B, 25, C).

    Bilinear between tokens' centres; outside of the crop its nearest tokens stand.
    """
    side = round(tokens.shape[1] ** 0.5)
    boxes = boxes.float()
    corner, size = boxes[:, None, None, :2], (boxes[:, 2:] - boxes[:, :2])[:, None, None]
    picture = tokens.float().transpose(1, 2).unflatten(2, (side, side))
    grid = 2 * (corner + _GRID.to(boxes) * size) - 1
    return F.grid_sample(picture, grid, padding_mode="border", align_corners=False).flatten(2).transpose(1, 2)


class Recognition(nn.Module):
    """The metric and the weights of its likenesses; nothing of it is trained by gradients.

    Args:
        dim: width of the tokens. latent: directions of the metric.
    """

    def __init__(self, dim: int, latent: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("projection", torch.eye(latent, dim))
        # Logit of the head's score, likeness of the means, likeness place by place, and a constant.
        self.register_buffer("weights", torch.tensor([1.0, 0.0, 0.0, 0.0]))

    def project(self, places: Tensor) -> Tensor:
        """What :func:`at_places` gave, in the metric's directions: (B, 25, latent)."""
        return (places - self.mean.float()) @ self.projection.float().T

    @staticmethod
    def likenesses(target: Tensor, found: Tensor) -> Tensor:
        """The two likenesses (B, 2), in [-1, 1], of what :meth:`project` gave for both boxes."""
        return torch.stack((F.cosine_similarity(target.mean(dim=1), found.mean(dim=1), dim=-1),
                            F.cosine_similarity(target, found, dim=-1).mean(dim=1)), dim=-1)

    def forward(self, score: Tensor, likenesses: Tensor) -> Tensor:
        """Probabilities (B,) that found boxes show the targets, from the head's scores at them (B,) and likenesses."""
        seen, means, places, constant = self.weights.float()
        return torch.sigmoid(seen * torch.logit(score.float(), eps=1e-4) + means * likenesses[:, 0]
                             + places * likenesses[:, 1] + constant)
