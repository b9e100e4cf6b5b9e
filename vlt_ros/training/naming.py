# SPDX-License-Identifier: Apache-2.0
"""Teach a trained tracker names: ``python -m vlt_ros.training.naming --weights FILE --out FILE``.

The ViT stays frozen, so each picture goes through it once; what is trained are the two projections of
``vlt_ros.networks.naming`` (a minute or two), and last the three numbers that weigh them against the head's score.

Projections: the features of a thing against the words of all names at once, in two ways. Which of all names is it
(softmax), and is it each of them (a sigmoid for each, as presence must mean something by itself: Zhai et al.,
"Sigmoid Loss for Language Image Pre-Training", ICCV 2023). Names that may mean the same thing are no negatives.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vlt_ros.networks import build_network, load_network, save_network, start_from_dinov2
from vlt_ros.networks.base import TrackingNetwork
from vlt_ros.networks.head import Maps
from vlt_ros.networks.naming import Naming
from vlt_ros.networks.preprocess import normalise
from vlt_ros.training.alignment import tokens_inside
from vlt_ros.training.datasets import is_heldout
from vlt_ros.training.losses import focal_loss, gaussian_maps
from vlt_ros.training.phrases import COLOURS, same_kind
from vlt_ros.training.samples import SampleGenerator

# Ways in which a name is said; colours and places are drawn, so that they come to mean nothing here.
FORMS = ("the {name}", "{name}", "a {name}", "follow the {name}", "the {colour} {name}", "{colour} {name}",
         "the {name} on the {place}", "the {place} {name}")
PLACES = ("left", "right", "top", "bottom")
# Of a picture's longer side squared: smaller things have no token of their own.
LEAST_AREA = 0.0015
# Layers after the six separate ones: all that DINOv2's ViT-S has.
NAMING_LAYERS = 6
# Photographs of the training part that weigh the evidence instead of training the projections.
TUNING_SHARE = 0.12


@dataclass
class Thing:
    """A named thing: mean feature (C,), some of its tokens (K, C), its name and where it comes from."""

    mean: np.ndarray
    tokens: np.ndarray
    name: str
    source: str


def full_depth(network: TrackingNetwork, crops: list[np.ndarray]) -> np.ndarray:
    """Full-depth features of square RGB uint8 crops: (B, N, C) in half precision."""
    pixels = normalise(torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2), network.naming.bias.dtype)
    with torch.inference_mode():
        return network.naming.features(network.encode_search(pixels)).half().cpu().numpy()


def inside(box, side: int) -> np.ndarray:
    """Tokens (S * S,) whose centres lie in a box x, y, w, h (fractions of the crop); at least the nearest one."""
    centres = (np.arange(side) + 0.5) / side
    x, y, w, h = box
    columns, rows = np.meshgrid(centres, centres)
    mask = (columns >= x) & (columns <= x + w) & (rows >= y) & (rows <= y + h)
    if not mask.any():
        mask.flat[np.argmin((columns - x - w / 2) ** 2 + (rows - y - h / 2) ** 2)] = True
    return mask.ravel()


def for_tuning(file: str) -> bool:
    """Whether a photograph weighs the evidence; by its name turned round, as the name itself chose the split."""
    return is_heldout(Path(file).name[::-1], TUNING_SHARE)


def photographs(generator: SampleGenerator, tuning: bool):
    """The split's photographs with named boxes, those for tuning or the others, letterboxed.

    Yields:
        crop, [(name, box in fractions)], source.
    """
    for dataset in generator.library.pictures:
        if dataset.describes:
            continue
        for picture in dataset.pictures:
            if for_tuning(picture.file) != tuning:
                continue
            image = generator.library.image(picture.file, keep=False)[..., :3]
            crop, left, top, side = generator.letterboxed(image)
            yield crop, [(thing.name, tuple((np.array(thing.box) - (left, top, 0, 0)) / side))
                         for thing in picture.things if not thing.crowd], dataset.name


def named_scenes(generator: SampleGenerator, count: int):
    """Scenes of candidates that differ by name, in the form of :func:`photographs`."""
    for index in range(count):
        scene = generator.candidates(index, by="name", count=4)
        yield (scene.image, [(name, tuple(np.array(box) / len(scene.image)))
                             for name, box in zip(scene.names, scene.boxes, strict=True)], "scenes")


def collect(network: TrackingNetwork, pictures, rng: np.random.Generator, progress, batch: int = 16) -> list[Thing]:
    """Features of all named things in the pictures."""
    things, crops, entries = [], [], []

    def flush() -> None:
        for features, (named, source) in zip(full_depth(network, crops), entries, strict=True):
            features = features.astype(np.float32)
            for name, box in named:
                x, y, w, h = box
                if w * h < LEAST_AREA or not (0 <= x + w / 2 <= 1 and 0 <= y + h / 2 <= 1):
                    continue
                own = features[inside(box, round(len(features) ** 0.5))]
                some = own[rng.permutation(len(own))[:16]]
                things.append(Thing(own.mean(0), some.astype(np.float16), name, source))
        crops.clear()
        entries.clear()

    for crop, named, source in progress(pictures):
        crops.append(crop)
        entries.append((named, source))
        if len(crops) == batch:
            flush()
    if crops:
        flush()
    return things


def sentences_of(names: list[str], rng: np.random.Generator) -> list[list[str]]:
    """Each form of each name: (names, forms)."""
    return [[form.format(name=name, colour=rng.choice(list(COLOURS)), place=rng.choice(PLACES)) for form in FORMS]
            for name in names]


def train_projections(network: TrackingNetwork, things: list[Thing], steps: int, seed: int, progress,
                      batch: int = 256, rate: float = 1e-3, decay: float = 0.05) -> float:
    """Fit ``network.naming``'s projections, scale and bias; returns the last 50 steps' mean softmax loss."""
    rng, naming = np.random.default_rng(seed), network.naming
    names = sorted({thing.name for thing in things})
    number = {name: k for k, name in enumerate(names)}
    with torch.inference_mode():
        words = torch.stack([naming.mean_words(network.text(list(column))) for column in
                             zip(*sentences_of(names, rng), strict=True)], dim=1).clone()       # names, forms, Ct
    alike = torch.tensor([[same_kind(a, b) for b in names] for a in names])
    own = torch.tensor([number[thing.name] for thing in things])
    # Sources and names in the inverse of a root of their sizes: the large ones do not drown the small.
    of_source, of_name = Counter(t.source for t in things), Counter(t.name for t in things)
    shares = np.array([of_source[t.source] ** -0.3 * of_name[t.name] ** -0.5 for t in things])
    shares /= shares.sum()
    parameters = [*naming.vision.parameters(), *naming.language.parameters(), naming.log_scale, naming.bias]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(parameters, rate, weight_decay=decay)
    naming.train()
    losses = []
    for step in progress(range(steps)):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 100) * (0.01 + 0.5 * (1 + math.cos(math.pi * step / steps)))
        picked = rng.choice(len(things), batch, p=shares)
        # The whole thing, or one of its tokens: a map is asked token by token.
        features = torch.from_numpy(np.stack([
            things[i].mean if rng.random() < 0.5 else things[i].tokens[rng.integers(len(things[i].tokens))]
            for i in picked]).astype(np.float32))
        label = own[torch.from_numpy(picked)]
        form = torch.from_numpy(rng.integers(len(FORMS), size=len(names)))
        phrases = naming.language(words[torch.arange(len(names)), form])
        logits = naming.log_scale.exp() * naming.vision(features) @ phrases.T
        rows = torch.arange(batch)
        unsure = alike[label].clone()
        unsure[rows, label] = False
        which = F.cross_entropy(logits.masked_fill(unsure, float("-inf")), label)
        present = logits + naming.bias
        whether = (F.softplus(-present[rows, label])
                   + 0.2 * (F.softplus(present) * ~alike[label]).sum(1)).mean()
        loss = which + 0.5 * whether
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(which.item())
    naming.eval().requires_grad_(False)
    return float(np.mean(losses[-50:]))


@dataclass
class Query:
    """A look at a picture by text alone: the head's score map, the names' logits, and where the target is."""

    score: Tensor
    logits: Tensor
    box: tuple[float, float, float, float]
    present: bool


def ask(network: TrackingNetwork, crop: np.ndarray, text: str, box, present: bool) -> Query:
    """One query; box as x, y, w, h in fractions of the crop."""
    pixels = normalise(torch.from_numpy(crop)[None].permute(0, 3, 1, 2), network.naming.bias.dtype)
    with torch.inference_mode():
        semantic = network.text([text])
        tokens = network.encode_search(pixels)
        encoded = network.encode(tokens, network.encode_template(None), network.words(semantic))
        maps = network.maps(encoded["search"])
        logits = network.naming(tokens, network.naming.phrase(semantic))
    x, y, w, h = box
    return Query(maps.score.clone(), logits.clone(), (x + w / 2, y + h / 2, w, h), present)


def queries(network: TrackingNetwork, generator: SampleGenerator, tuning: list, rng: np.random.Generator,
            scenes: int, progress) -> list[Query]:
    """Photographs asked for the one thing of a name and for a name that is absent, and scenes of every sort.

    The scenes keep the names from spoiling what colours and places decide.
    """
    names = sorted({name for _, named, _ in tuning for name, _ in named})
    result = []
    for crop, named, _ in progress(tuning):
        single = [(name, box) for name, box in named if box[2] * box[3] >= LEAST_AREA
                  and sum(same_kind(name, other) for other, _ in named) == 1]
        if not single:
            continue
        name, box = single[rng.integers(len(single))]
        form = str(rng.choice(FORMS[:4]))
        result.append(ask(network, crop, form.format(name=name), box, True))
        absent = [other for other in names if not any(same_kind(other, there) for there, _ in named)]
        if absent:
            result.append(ask(network, crop, form.format(name=absent[rng.integers(len(absent))]), box, False))
    for index in progress(range(scenes)):
        scene = generator.candidates(20_000 + index, by=("colour", "position", "name")[index % 3])
        box = tuple(scene.boxes[scene.target] / len(scene.image))
        result.append(ask(network, scene.image, scene.right, box, True))
    return result


def weigh_evidence(naming: Naming, asked: list[Query], steps: int = 400) -> float:
    """Fit the three weights of :meth:`Naming.weigh`; returns the loss of a query.

    The head's own focal loss asks for the right place; the cross entropy of the map's maximum asks that it say whether
    the place is right, which is what a search by text decides on. Without the second the many empty cells decide.
    """
    boxes, present = torch.tensor([query.box for query in asked]), torch.tensor([query.present for query in asked])
    scores, logits = torch.cat([query.score for query in asked]), torch.cat([query.logits for query in asked])
    side = scores.shape[-1]
    target, within = gaussian_maps(boxes, present, side), tokens_inside(boxes, present, side)
    empty = scores.new_zeros(len(asked), 2, 1, 1)
    naming.evidence.requires_grad_(True)
    optimiser = torch.optim.Adam([naming.evidence], 0.05)
    for _ in range(steps):
        score = naming.weigh(Maps(scores, empty, empty), logits).score
        best, cell = score.flatten(1).max(dim=1)
        right = within.gather(1, cell[:, None]).squeeze(1).float()
        loss = focal_loss(score, target) + F.binary_cross_entropy(best, right)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    naming.evidence.requires_grad_(False)
    return loss.item()


def with_naming(network: TrackingNetwork, layers: int) -> TrackingNetwork:
    """The same tracker with the ViT's next ``layers`` layers and projections that know nothing yet."""
    named = build_network(replace(network.config, naming_layers=layers))
    start_from_dinov2(named)
    named.load_state_dict(network.state_dict(), strict=False)
    return named.eval().requires_grad_(False)


def teach(weights: str | Path, data: str | Path, assets: str | Path, out: str | Path, *, scenes: int = 1200,
          steps: int = 900, seed: int = 0, progress: bool = True) -> Path:
    """Give a tracker of ``start: dinov2`` (its separate layers frozen) names.

    Args:
        weights: the tracker's file. data, assets: as for training. scenes: of pasted objects. steps: of the
            projections.
        out: file to write in the folder of ``weights``, which it needs beside it: it holds the names alone.

    Returns:
        ``out``.
    """
    from tqdm import tqdm

    def bar(name: str):
        return lambda items: tqdm(items, desc=name, disable=not progress)

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = with_naming(load_network(weights, device="cpu", precision="fp32"), NAMING_LAYERS)
    generator = SampleGenerator(data, assets, seed=seed, search_size=network.config.search_size)
    with torch.autocast("cpu", torch.bfloat16):
        things = collect(network, photographs(generator, tuning=False), rng, bar("photographs"))
        things += collect(network, named_scenes(generator, scenes), rng, bar("scenes"))
    train_projections(network, things, steps, seed, bar("projections"))
    tuning = list(photographs(generator, tuning=True))
    with torch.autocast("cpu", torch.bfloat16):
        asked = queries(network, generator, tuning, rng, 300, bar("queries"))
    weigh_evidence(network.naming, asked)
    save_network(network, out, base=weights)
    return Path(out)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Teach a trained tracker names.")
    parser.add_argument("--weights", required=True, help="the tracker's weights file")
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--assets", default="build/assets")
    parser.add_argument("--out", required=True, help="weights file to write, in the same folder")
    arguments = parser.parse_args()
    print(teach(arguments.weights, arguments.data, arguments.assets, arguments.out))


if __name__ == "__main__":
    main()
