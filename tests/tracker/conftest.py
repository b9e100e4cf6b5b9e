# SPDX-License-Identifier: Apache-2.0
"""A network that sees coloured rectangles, so that every state of the tracker can be reached on purpose."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vlt_ros.networks import Maps

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}       # RGB
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
DEVIATION = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


class ColourNetwork:
    """Stands where a PJVLT does; finds the rectangle of the sentence's colour, else of its template's colour.

    ``confidence`` is its score when it sees the colour, ``doubt`` when it does not. ``poison`` replaces one
    map ("score", "offset" or "size") by NaN. ``fail`` makes encode_text raise. What it was asked is counted
    in ``texts``, ``templates`` and ``looks``.
    """

    def __init__(self) -> None:
        self.config = SimpleNamespace(name="colour", template_size=32, search_size=64, search_grid=8, template_grid=4,
                                      inference="vlt", recognition=0)
        self.listens = True
        self.device = torch.device("cpu")
        self.backbone = SimpleNamespace(norm=SimpleNamespace(weight=torch.zeros(1)))
        self.confidence, self.doubt, self.poison, self.fail = 0.9, 0.02, "", False
        self.texts, self.templates, self.looks = [], 0, 0

    @staticmethod
    def _pixels(image):
        return image[0] * DEVIATION + MEAN

    @staticmethod
    def _mask(pixels, name):
        channel = list(COLOURS).index(name)
        others = torch.stack([pixels[c] for c in range(3) if c != channel]).amax(0)
        return pixels[channel] - others > 0.4

    def encode_text(self, sentences):
        if self.fail:
            raise RuntimeError("out of memory")
        assert len(sentences) == 1
        self.texts.append(sentences[0])
        return next((name for name in COLOURS if name in sentences[0]), "")

    def encode_phrase(self, sentences):
        return None

    def ground(self, search, words, phrase):
        return self.track(search, self.encode_template(None), words)

    def encode_template(self, template, blank=None, batch=1):
        if template is None:
            return torch.zeros(1, 3)
        self.templates += 1
        assert template.shape == (1, 3, 32, 32)
        pixels = self._pixels(template)
        return torch.tensor([[float(self._mask(pixels, name).sum()) for name in COLOURS]])

    def track(self, search, template, words):
        self.looks += 1
        assert search.shape == (1, 3, 64, 64)
        side = self.config.search_grid
        score = torch.full((1, 1, side, side), min(0.01, self.doubt))
        offset, size = torch.full((1, 2, side, side), 0.5), torch.full((1, 2, side, side), 0.2)
        name = words or (list(COLOURS)[int(template.argmax())] if template.any() else "")
        mask = self._mask(self._pixels(search), name) if name else torch.zeros(64, 64, dtype=torch.bool)
        rows, columns = mask.nonzero(as_tuple=True)
        if len(rows):
            top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
            x, y = float(left + right) / 2 / 64 * side, float(top + bottom) / 2 / 64 * side
            column, row = min(int(x), side - 1), min(int(y), side - 1)
            score[0, 0, row, column] = self.confidence
            offset[0, :, row, column] = torch.tensor([x - column, y - row])
            size[0, :, row, column] = torch.tensor([float(right - left), float(bottom - top)]) / 64
        else:
            score[0, 0, 2, 3] = self.doubt
        maps = {"score": score, "offset": offset, "size": size}
        if self.poison:
            maps[self.poison] = torch.full_like(maps[self.poison], float("nan"))
        return Maps(**maps)


@pytest.fixture
def network():
    return ColourNetwork()


@pytest.fixture(scope="session")
def scene():
    """scene(red=(x, y, w, h), ..., size=(320, 240)): a BGR frame with coloured rectangles on grey."""
    def scene(size=(320, 240), **rectangles):
        image = np.full((size[1], size[0], 3), 110, np.uint8)
        for name, (x, y, w, h) in rectangles.items():
            image[y:y + h, x:x + w] = COLOURS[name][::-1]
        return image

    return scene


@pytest.fixture(scope="session")
def tiny():
    """The real network at its smallest, with random numbers in every parameter."""
    from vlt_ros.networks import CONFIGS, PJVLT

    torch.manual_seed(0)
    network = PJVLT(CONFIGS["pjvlt_tiny"]).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter += 0.15 * torch.randn_like(parameter)
    network.name, network.device, network.precision = "pjvlt_tiny", torch.device("cpu"), "fp32"
    return network
