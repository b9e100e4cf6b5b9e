# SPDX-License-Identifier: Apache-2.0
"""Looks of the network at windows of a frame: one, or several in one batch."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from vlt_ros.networks import Maps, decode
from vlt_ros.networks.frame import flat, padded_words
from vlt_ros.networks.preprocess import normalise
from vlt_ros.networks.recognition import at_places
from vlt_ros.tracker.commands import CommandError
from vlt_ros.tracker.geometry import Window, crop, hann, to_frame, whole_frame, window_around
from vlt_ros.tracker.target import Box


class Sighting(NamedTuple):
    """The best box of one look.

    box: x, y, width, height in frame pixels. confidence: the score map's value at its cell, before any window, or, of a
    network that recognises, the probability that this is the template's target; in [0, 1], 0 when the network's output
    was not finite. point: the box's centre in frame pixels. score: the score map's value in any case. places: what it
    is recognised by, as in :class:`Template`.
    """

    box: Box
    confidence: float
    point: tuple[float, float]
    score: float = 0.0
    places: Tensor | None = None

    def reaches(self, threshold: float) -> bool:
        """Whether it is ``threshold`` sure; an output that was not finite never is, not even for 0."""
        return self.confidence > 0 and self.confidence >= threshold


class Template(NamedTuple):
    """What the target looks like: tokens (1, Nz, C) of its crop, and what it is recognised by at places of its box
    (1, 25, directions of the metric), None for a network that does not recognise.
    """

    tokens: Tensor
    places: Tensor | None


class Words(NamedTuple):
    """What a sentence comes to: fused, the network's own; phrase, what names are compared with, or None."""

    fused: Any
    phrase: Tensor | None
    text: str = ""


class Look(NamedTuple):
    """A look that somebody wants.

    image: BGR uint8 (H, W, 3). window: where to look. template, words: what for; no template, None, means that the
    words alone decide. centre_weight: share of the Hann window in the score that picks the cell, in [0, 1]; 0 when
    nothing is known of where in the window the target is.
    """

    image: np.ndarray
    window: Window
    template: Template | None
    words: Words
    centre_weight: float = 0.0


T = TypeVar("T")
# Work on a frame: yields the look that it wants next, is sent the sighting, returns what it makes of them.
Looking = Generator[Look, Sighting, T]
# Sentences that are kept padded, for batches.
PADDED_SENTENCES = 32


def _batch(rows: Sequence[Tensor]) -> Tensor:
    """Rows (1, ...) as one tensor (B, ...); a single one is not copied."""
    return rows[0] if len(rows) == 1 else torch.cat(list(rows))


def needs_listening(network) -> None:
    """Raise CommandError when a sentence alone cannot name a target to the network."""
    if not network.listens:
        raise CommandError(f"model {network.config.name} does not listen to sentences: give a box, or another model")


class Looker:
    """A network with its two crops; holds no target.

    Attributes:
        network_seconds: time spent in the network's looks so far, to its maps on the CPU [s].
    """

    def __init__(self, network) -> None:
        self.network = network
        self.size = network.config.search_size
        self.as_ostrack = network.config.inference == "ostrack"
        side = network.config.search_grid
        self._hann = torch.from_numpy(hann(side)).view(1, 1, side, side)
        self.network_seconds = 0.0
        self._padded = lru_cache(PADDED_SENTENCES)(lambda text: padded_words(network, [text]))

    def _tensor(self, image: np.ndarray, window: Window, size: int) -> Tensor:
        network = self.network
        pixels = torch.from_numpy(crop(image, window, size, self.as_ostrack)).permute(2, 0, 1).unsqueeze(0)
        return normalise(pixels.to(network.device), network.backbone.norm.weight.dtype)

    def words(self, text: str) -> Words:
        """The language side of a sentence, once per command."""
        with torch.inference_mode():
            return Words(self.network.encode_text([text]), self.network.encode_phrase([text]), text)

    def template(self, image: np.ndarray, box: Box) -> Template:
        """The template of a box in a frame, once per target."""
        window = window_around(box, factor=2.0)
        x, y, w, h = box
        within = torch.tensor([[x - window.x, y - window.y, x + w - window.x, y + h - window.y]]) / window.side
        with torch.inference_mode():
            tokens = self.network.encode_template(self._tensor(image, window, self.network.config.template_size))
            return Template(tokens, self._places(tokens, within) if self.network.config.recognition else None)

    def _places(self, tokens: Tensor, box: Tensor) -> Tensor:
        """What is recognised by: tokens (1, N, C) of a crop at places of a box (1, 4: corners, parts of the crop)."""
        return self.network.recognition.project(at_places(tokens, box.to(tokens.device)))

    def maps(self, looks: Sequence[Look]) -> Maps:
        """The head's maps over the windows of B looks, on the CPU; all of them have a template, or none has."""
        return self._seen(looks)[0]

    def _seen(self, looks: Sequence[Look]) -> tuple[Maps, Tensor | None]:
        """The maps, and with templates that are recognised the tokens (B, Nx, C) for that."""
        search = _batch([self._tensor(look.image, look.window, self.size) for look in looks])
        words = [look.words for look in looks]
        templates = [look.template for look in looks if look.template is not None]
        began = time.perf_counter()
        with torch.inference_mode():
            fused, tokens = self._stacked(words), None
            if not templates:
                phrases = [one.phrase for one in words if one.phrase is not None]
                maps = self.network.ground(search, fused, _batch(phrases) if phrases else None)
            elif templates[0].places is None:
                maps = self.network.track(search, _batch([one.tokens for one in templates]), fused)
            else:
                maps, tokens = self.network.follow(search, _batch([one.tokens for one in templates]), fused)
            maps = Maps(*(m.cpu() for m in maps))
        self.network_seconds += time.perf_counter() - began
        return maps, tokens

    def _stacked(self, words: Sequence[Words]) -> Any:
        """The fused words of some sentences as one batch; padded to one length where they differ in it."""
        if len(words) == 1:
            return words[0].fused
        fused = [one.fused for one in words]
        if len({tuple(tensor.shape for tensor in flat(one)) for one in fused}) > 1:
            fused = [self._padded(one.text) for one in words]
        return tree_map(lambda *tensors: torch.cat(tensors), *fused)

    def look(self, image: np.ndarray, window: Window, template: Template | None, words: Words,
             centre_weight: float = 0.0) -> Sighting:
        """Best box in a window; arguments as in :class:`Look`."""
        return self.looks([Look(image, window, template, words, centre_weight)])[0]

    def looks(self, looks: Sequence[Look]) -> list[Sighting]:
        """Best box of every look. One call of the network for those with a template and one for those without."""
        sightings: dict[int, Sighting] = {}
        kinds: dict[tuple[bool, bool], list[int]] = {}
        for i, look in enumerate(looks):
            kinds.setdefault((look.template is None, look.template is None and look.words.phrase is None), []).append(i)
        for alike in kinds.values():
            maps, tokens = self._seen([looks[i] for i in alike])
            for row, i in enumerate(alike):
                one = Maps(*(part[row:row + 1] for part in maps))
                sightings[i] = self._sighting(looks[i], one, None if tokens is None else tokens[row:row + 1])
        return [sightings[i] for i in range(len(looks))]

    def run(self, works: Sequence[Looking[T]]) -> list[T]:
        """What each of some works on a frame returns; the looks that they want at the same time are one batch.

        Where a look fails none of them goes on: each is closed where it waits.
        """
        done: dict[int, T] = {}
        answers: dict[int, Any] = dict.fromkeys(range(len(works)))
        try:
            while answers:
                wanted: dict[int, Look] = {}
                for i, answer in answers.items():
                    try:
                        wanted[i] = works[i].send(answer)
                    except StopIteration as end:
                        done[i] = end.value
                answers = dict(zip(wanted, self.looks(list(wanted.values())), strict=True))
        finally:
            for work in works:
                work.close()
        return [done[i] for i in range(len(works))]

    def _sighting(self, look: Look, maps: Maps, tokens: Tensor | None) -> Sighting:
        """The best box in a look's maps, recognised by its tokens (batches of one)."""
        window, template = look.window, look.template
        boxes, index = decode(maps, maps.score * (1 + look.centre_weight * (self._hann - 1)))
        values, confidence = boxes[0].tolist(), maps.score.view(-1)[index].item()
        if not all(map(math.isfinite, values)) or not bool(torch.isfinite(maps.score).all()):
            return Sighting((float(window.x), float(window.y), 1.0, 1.0), 0.0, (float(window.x), float(window.y)))
        found = to_frame(tuple(values), window)
        sighting = Sighting(found, confidence, (found[0] + found[2] / 2, found[1] + found[3] / 2), confidence)
        if tokens is None or template is None or template.places is None:
            return sighting
        centre, half = boxes[:, :2], boxes[:, 2:] / 2
        with torch.inference_mode():
            places = self._places(tokens, torch.cat((centre - half, centre + half), dim=1))
        return sighting._replace(confidence=self._recognised(template.places, places, confidence), places=places)

    def _recognised(self, known: Tensor, places: Tensor, score: float) -> float:
        """The probability that a box found with ``score`` shows what is known, by the tokens at places of both."""
        recognition = self.network.recognition
        with torch.inference_mode():
            alike = recognition.likenesses(known, places)
            probability = float(recognition(torch.tensor([score], device=alike.device), alike))
        return probability if math.isfinite(probability) else 0.0

    def continues(self, before: Sighting, sighting: Sighting) -> float:
        """The probability that a sighting shows what the frame before showed; 1 for a network that cannot tell."""
        if before.places is None or sighting.places is None:
            return 1.0
        return self._recognised(before.places, sighting.places, sighting.score)


def ground(network, image: np.ndarray, text: str) -> tuple[Box | None, float, tuple[float, float]]:
    """Text alone, one look at the whole frame with a blank template: box, confidence, pointed-at pixel.

    Args:
        network: from ``load_network``. image: BGR uint8 (H, W, 3). text: the sentence, '' for none.

    Raises:
        CommandError: the network does not listen to sentences.
    """
    needs_listening(network)
    looker = Looker(network)
    height, width = image.shape[:2]
    sighting = looker.look(image, whole_frame(width, height), None, looker.words(text))
    return sighting.box, sighting.confidence, sighting.point
