# SPDX-License-Identifier: Apache-2.0
"""One look of the network at one window of the frame."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vlt_ros.networks import Maps, decode
from vlt_ros.networks.preprocess import normalise
from vlt_ros.networks.recognition import at_places
from vlt_ros.tracker.commands import CommandError
from vlt_ros.tracker.geometry import Window, crop, hann, to_frame, whole_frame, window_around
from vlt_ros.tracker.target import Box


class Sighting(NamedTuple):
    """The best box of one look.

    box: x, y, width, height in frame pixels. confidence: the score map's value at its cell, before any window, or, of a
    network that recognises, the probability that this is the template's target; in [0, 1], 0 when the network's output
    was not finite. point: the box's centre in frame pixels. score: the score map's value in any case.
    """

    box: Box
    confidence: float
    point: tuple[float, float]
    score: float = 0.0

    def reaches(self, threshold: float) -> bool:
        """Whether it is ``threshold`` sure; an output that was not finite never is, not even for 0."""
        return self.confidence > 0 and self.confidence >= threshold


class Template(NamedTuple):
    """What the target looks like: tokens (1, Nz, C) of its crop, and its own that it is recognised by (1, 25, C).

    The latter None for a network that does not recognise.
    """

    tokens: Tensor
    places: Tensor | None


class Words(NamedTuple):
    """What a sentence comes to: fused, the network's own; phrase, what names are compared with, or None."""

    fused: Any
    phrase: Tensor | None


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

    def _tensor(self, image: np.ndarray, window: Window, size: int) -> Tensor:
        network = self.network
        pixels = torch.from_numpy(crop(image, window, size, self.as_ostrack)).permute(2, 0, 1).unsqueeze(0)
        return normalise(pixels.to(network.device), network.backbone.norm.weight.dtype)

    def words(self, text: str) -> Words:
        """The language side of a sentence, once per command."""
        with torch.inference_mode():
            return Words(self.network.encode_text([text]), self.network.encode_phrase([text]))

    def template(self, image: np.ndarray, box: Box) -> Template:
        """The template of a box in a frame, once per target."""
        window = window_around(box, factor=2.0)
        x, y, w, h = box
        within = torch.tensor([[x - window.x, y - window.y, x + w - window.x, y + h - window.y]]) / window.side
        with torch.inference_mode():
            tokens = self.network.encode_template(self._tensor(image, window, self.network.config.template_size))
            known = at_places(tokens, within.to(tokens.device)) if self.network.config.recognition else None
        return Template(tokens, known)

    def maps(self, image: np.ndarray, window: Window, template: Template | None, words: Words) -> Maps:
        """The head's maps over a window, on the CPU; without a template, by the words alone."""
        return self._seen(image, window, template, words)[0]

    def _seen(self, image: np.ndarray, window: Window, template: Template | None,
              words: Words) -> tuple[Maps, Tensor | None]:
        """The maps, and with a template that is recognised the tokens for that."""
        search = self._tensor(image, window, self.size)
        began = time.perf_counter()
        with torch.inference_mode():
            tokens = None
            if template is None:
                maps = self.network.ground(search, *words)
            elif template.places is None:
                maps = self.network.track(search, template.tokens, words.fused)
            else:
                maps, tokens = self.network.follow(search, template.tokens, words.fused)
            maps = Maps(*(m.cpu() for m in maps))
        self.network_seconds += time.perf_counter() - began
        return maps, tokens

    def look(self, image: np.ndarray, window: Window, template: Template | None, words: Words,
             centre_weight: float = 0.0) -> Sighting:
        """Best box in a window.

        Args:
            image: BGR uint8 (H, W, 3). window: where to look. template, words: from the methods above; no template,
                None, means that the words alone decide.
            centre_weight: share of the Hann window in the score that picks the cell, in [0, 1]; 0 when nothing
                is known of where in the window the target is.
        """
        maps, tokens = self._seen(image, window, template, words)
        score = (1 - centre_weight) * maps.score + centre_weight * self._hann * maps.score
        boxes, index = decode(maps, score)
        values = boxes[0].tolist()
        confidence = float(maps.score.flatten()[index[0]])
        if not all(np.isfinite(values)) or not np.isfinite(confidence) or not bool(torch.isfinite(score).all()):
            return Sighting((float(window.x), float(window.y), 1.0, 1.0), 0.0, (float(window.x), float(window.y)))
        score_there = confidence
        if tokens is not None and template is not None and template.places is not None:
            confidence = self._recognise(tokens, template.places, boxes[0], confidence)
        box = to_frame(tuple(values), window)
        return Sighting(box, confidence, (box[0] + box[2] / 2, box[1] + box[3] / 2), score_there)

    def _recognise(self, tokens: Tensor, known: Tensor, box: Tensor, score: float) -> float:
        """The probability that a found box (4: centre and size as parts of the window) shows the template's target."""
        recognition, (centre, half) = self.network.recognition, (box[:2], box[2:] / 2)
        found = torch.cat((centre - half, centre + half)).unsqueeze(0).to(tokens.device)
        with torch.inference_mode():
            alike = recognition.likenesses(known, at_places(tokens, found))
            probability = float(recognition(torch.tensor([score], device=alike.device), alike))
        return probability if np.isfinite(probability) else 0.0


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
