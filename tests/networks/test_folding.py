# SPDX-License-Identifier: Apache-2.0
"""The folded network is the plain one: 1e-4 on the maps, where the maps move with everything that goes in."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from vlt_ros.networks import CONFIGS, SYSTEMS, build_network
from vlt_ros.networks.folding import FoldedHead, FoldedSAIEL, fold
from vlt_ros.networks.head import CentreHead
from vlt_ros.networks.pjvlt import SAIEL
from vlt_ros.networks.vit import LayerScale

PHRASES = ["the red mug", "the second person from the left"]


def moves(maps, others) -> float:
    """Largest difference of two results, over all maps."""
    return max((a - b).abs().max().item() for a, b in zip(maps, others, strict=True))


def crops(config, batch: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, 3, side, side, generator=generator)
                 for side in (config.template_size, config.search_size))


def check(network) -> None:
    """Fold a copy and compare."""
    network.eval()
    folded = fold(deepcopy(network))
    assert not any(isinstance(part, (SAIEL, CentreHead, LayerScale, torch.nn.BatchNorm2d)) for part in folded.modules())
    assert any(isinstance(part, FoldedHead) for part in folded.modules())
    template, search = crops(network.config)
    other_template, other_search = crops(network.config, seed=1)
    with torch.inference_mode():
        maps = network(template, search, PHRASES)
        moved = [network(other_template, search, PHRASES), network(template, other_search, PHRASES)]
        if network.listens:
            moved += [network(template, search, PHRASES[::-1]), network(template, search, ["", ""])]
        assert min(moves(maps, other) for other in moved) > 1e-3
        assert moves(maps, folded(template, search, PHRASES)) < 1e-4
        if network.listens:
            # One sentence longer than its neighbour, and none.
            assert moves(network(None, search, ["", PHRASES[1]]), folded(None, search, ["", PHRASES[1]])) < 1e-4


@pytest.mark.parametrize("combine", ["concat", "sum", "multiply"])
@pytest.mark.parametrize("form", ["literal", "residual"])
def test_pjvlt_in_all_its_forms(form, combine, build):
    check(build(form=form, combine=combine))


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system(system, randomise):
    torch.manual_seed(0)
    check(randomise(build_network(next(c for c in SYSTEMS[system].CONFIGS if c.name.endswith("_tiny")))))


@pytest.mark.parametrize("config", [
    replace(CONFIGS["pjvlt_s"], depth=3, separate_layers=1, fused_layers=(2, 3), naming_layers=1),
    replace(CONFIGS["pjvlt_b"], depth=2, fused_layers=(1, 2), text_depth=1)], ids=["pjvlt_s", "pjvlt_b"])
def test_the_sizes_that_are_used(config, randomise):
    torch.manual_seed(0)
    check(randomise(build_network(config), scale=0.03))


def test_a_frame_has_two_products_with_the_sentence(build):
    layer = next(m for m in fold(build()).modules() if isinstance(m, FoldedSAIEL))
    language, mask = torch.randn(1, 5, 32), torch.ones(1, 5, dtype=torch.bool)
    words = layer.words(language, mask)
    heads, latent = layer.heads, layer.latent
    assert words.keys.shape == (1, latent, heads * 5) and words.values.shape == (1, heads * 5, 32)
    for head in range(heads):
        block = words.keys[0, :, head * 5:(head + 1) * 5]
        own = slice(head * latent // heads, (head + 1) * latent // heads)
        assert block[own].abs().min() > 0 and block.abs().sum() == block[own].abs().sum()
