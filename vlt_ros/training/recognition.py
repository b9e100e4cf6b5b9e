# SPDX-License-Identifier: Apache-2.0
"""Teach a trained tracker to recognise its target: ``python -m vlt_ros.training.recognition --weights F --out F``.

Pairs of template and search region as in training, and the same templates with the search regions of other pairs, in
which the tracker finds something too. Two fits in closed form or nearly so, on different pairs: the metric of
``vlt_ros.networks.recognition`` on most of them, and the weights of its likenesses on the others, so that these are not
weighed by how well they know the first.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vlt_ros.networks import build_network, decode, load_network, save_network
from vlt_ros.networks.base import TrackingNetwork
from vlt_ros.networks.preprocess import normalise
from vlt_ros.networks.recognition import Recognition, at_places
from vlt_ros.training.losses import giou
from vlt_ros.training.samples import SampleGenerator
from vlt_ros.training.trainer import Batch, collate

LATENT = 32
# Of the pairs: what the metric is made from.
METRIC_SHARE = 0.6
# Added to the spread within one thing, as a part of its mean over all directions: few pairs say little about most.
SHRINKAGE = 0.1
# A found box with this overlap shows the target; one without the target shows another thing. Between: neither.
RIGHT_OVERLAP = 0.5
MIX = {"still": 0.35, "clip": 0.4, "paste": 0.25}


class Found(NamedTuple):
    """Boxes that the tracker found: places of target and of found box (N, 25, C), scores (N,), right (N,) bool."""

    target: Tensor
    found: Tensor
    score: Tensor
    right: Tensor


def corners(boxes: Tensor) -> Tensor:
    """Centre and size (N, 4) to left, top, right, bottom."""
    return torch.cat((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), dim=1)


def find(network: TrackingNetwork, batch: Batch, shift: int) -> Found:
    """What the tracker finds with a batch's templates in their own search regions and in those ``shift`` farther on."""
    kept = torch.nonzero(~batch.blank).flatten()
    template = network.encode_template(normalise(batch.template[kept]))
    search = network.encode_search(normalise(batch.search[kept]))
    words = network.encode_text([""] * len(kept))
    boxes, present = batch.boxes[kept], batch.present[kept]
    # A template crop is twice as wide as its target's mean side, which stands in its middle, as wide for its height as
    # in the search region.
    aspect = torch.where(present, boxes[:, 2] / boxes[:, 3].clamp(min=1e-3), torch.ones(len(kept))).sqrt()
    middle = torch.full((len(kept), 2), 0.5)
    target = at_places(template, corners(torch.column_stack((middle, aspect / 2, 1 / (2 * aspect)))))
    rows = []
    for by in (0, shift):
        tokens = search.roll(by, dims=0)
        maps = network.maps(network.encode(tokens, template, words)["search"])
        at, cell = decode(type(maps)(*(m.float() for m in maps[:3])))
        overlap = giou(at, boxes)
        right = present & (overlap > RIGHT_OVERLAP) if by == 0 else torch.zeros_like(present)
        clear = right | ~present if by == 0 else torch.ones_like(present)
        score = maps.score.float().flatten(1).gather(1, cell[:, None])[:, 0]
        rows.append([values[clear] for values in (target, at_places(tokens, corners(at)), score, right)])
    return Found(*(torch.cat(parts) for parts in zip(*rows, strict=True)))


def fit_metric(recognition: Recognition, pairs: Found) -> None:
    """Fisher's discriminant of the places' means: spread of all things against spread of the same thing."""
    first, second = pairs.target.mean(dim=1).double(), pairs.found.mean(dim=1).double()
    things = torch.cat((first, second))
    mean = things.mean(dim=0)
    difference = (first - second)[pairs.right]
    within = difference.T @ difference / (2 * len(difference))
    within += SHRINKAGE * within.diagonal().mean() * torch.eye(len(within), dtype=within.dtype)
    whiten = torch.linalg.inv(torch.linalg.cholesky(within))
    _, directions = torch.linalg.eigh(whiten @ torch.cov(things.T) @ whiten.T)
    latent = len(recognition.projection)
    recognition.mean.copy_(mean)
    recognition.projection.copy_(directions[:, -latent:].T @ whiten)


def fit_weights(recognition: Recognition, pairs: Found, steps: int = 100) -> float:
    """The logistic regression, right and wrong boxes counting alike; returns its loss."""
    with torch.no_grad():
        alike = recognition.likenesses(*map(recognition.project, (pairs.target, pairs.found)))
    share = pairs.right.float().mean()
    importance = torch.where(pairs.right, 0.5 / share, 0.5 / (1 - share))
    weights = torch.zeros(4, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=steps, line_search_fn="strong_wolfe")
    signs = torch.column_stack((torch.logit(pairs.score, eps=1e-4), alike, torch.ones(len(alike))))

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.binary_cross_entropy_with_logits(signs @ weights, pairs.right.float(), importance)
        value = value + 1e-3 * weights[:3].square().mean()
        value.backward()
        return value

    optimiser.step(loss)
    recognition.weights.copy_(weights.detach())
    return loss().item()


def with_recognition(network: TrackingNetwork) -> TrackingNetwork:
    """The same tracker with a metric that knows nothing yet."""
    told = build_network(replace(network.config, recognition=LATENT))
    told.load_state_dict(network.state_dict(), strict=False)
    return told.eval().requires_grad_(False)


def teach(weights: str | Path, data: str | Path, assets: str | Path, out: str | Path, *, base: str | Path | None = None,
          batches: int = 240, batch_size: int = 16, seed: int = 0, progress: bool = True) -> Path:
    """Give a tracker with separate layers the means to recognise its target.

    Args:
        weights: the tracker's file. data, assets: as for training. out: file to write.
        base: weights file in ``out``'s folder whose tensors are left out of ``out``. batches: of pairs.

    Returns:
        ``out``.
    """
    from tqdm import tqdm

    torch.manual_seed(seed)
    network = with_recognition(load_network(weights, device="cpu", precision="fp32"))
    sizes = network.config
    generator = SampleGenerator(data, assets, template_size=sizes.template_size, search_size=sizes.search_size,
                                seed=seed, mix=MIX)
    bar = tqdm(range(batches), desc="pairs", disable=not progress)
    metric, rest = _gather(network, generator, bar, batch_size, round(METRIC_SHARE * batches))
    fit_metric(network.recognition, metric)
    fit_weights(network.recognition, rest)
    save_network(network, out, base=base)
    return Path(out)


def _gather(network: TrackingNetwork, generator, batches: Iterable[int], size: int, split: int) -> Iterator[Found]:
    """All that is found in the batches before ``split``, and in the others."""
    parts: tuple[list, list] = ([], [])
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for index in batches:
            batch = collate([generator.sample(index * size + i) for i in range(size)])
            parts[index >= split].append(find(network, batch, 1 + index % (size // 2)))
    return (Found(*(torch.cat(rows) for rows in zip(*part, strict=True))) for part in parts)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Teach a trained tracker to recognise its target.")
    parser.add_argument("--weights", required=True, help="the tracker's weights file")
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--assets", default="build/assets")
    parser.add_argument("--base", help="weights file beside --out, whose tensors --out does not repeat")
    parser.add_argument("--out", required=True, help="weights file to write")
    arguments = parser.parse_args()
    print(teach(arguments.weights, arguments.data, arguments.assets, arguments.out, base=arguments.base))


if __name__ == "__main__":
    main()
