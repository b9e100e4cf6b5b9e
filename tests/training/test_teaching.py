# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import numpy as np
import pytest
import torch

from vlt_ros.networks import CONFIGS, build_network
from vlt_ros.training.naming import Query, Thing, inside, train_projections, weigh_evidence

NAMES = ("mug", "zebra", "tractor", "violin", "banana")


@pytest.fixture
def network():
    torch.manual_seed(5)
    return build_network(replace(CONFIGS["pjvlt_tiny"], naming_layers=1)).eval().requires_grad_(False)


def things(seed, count=40):
    """Features that only the name tells apart: a direction for each, and noise."""
    directions = np.random.default_rng(0).normal(size=(len(NAMES), 32))
    rng = np.random.default_rng(seed)
    for k in range(count):
        tokens = directions[k % len(NAMES)] + 0.5 * rng.normal(size=(6, 32))
        yield Thing(tokens.mean(0).astype(np.float32), tokens.astype(np.float16), NAMES[k % len(NAMES)], "source")


def test_inside_marks_tokens_by_their_centres_and_always_one():
    assert inside((0, 0, 0.5, 0.25), 4).reshape(4, 4).tolist() == [[True, True, False, False]] + [[False] * 4] * 3
    tiny = inside((0.6, 0.6, 0.01, 0.01), 4).reshape(4, 4)
    assert tiny.sum() == 1 and tiny[2, 2]


def test_projections_learn_which_name_is_whose(network):
    def right():
        held = list(things(9))
        with torch.no_grad():
            phrases = network.naming.language(network.naming.mean_words(network.text([f"the {n}" for n in NAMES])))
            seen = network.naming.vision(torch.from_numpy(np.stack([t.mean for t in held])))
            logits = network.naming.log_scale.exp() * seen @ phrases.T + network.naming.bias
        truth = torch.tensor([NAMES.index(t.name) for t in held])
        own = logits[torch.arange(len(held)), truth]
        others = logits[torch.nn.functional.one_hot(truth, len(NAMES)) == 0]
        return float((logits.argmax(1) == truth).float().mean()), float(own.mean() - others.mean())

    blocks = [p.clone() for p in network.naming.blocks.parameters()]
    before, _ = right()
    train_projections(network, list(things(1)), 120, 0, lambda steps: steps, batch=32)
    after, margin = right()
    assert before < 0.7 and after > 0.95 and margin > 3
    assert all(torch.equal(a, b) for a, b in zip(blocks, network.naming.blocks.parameters(), strict=True))
    assert not any(p.requires_grad for p in network.naming.parameters())


@pytest.mark.parametrize("informative", [True, False])
def test_evidence_weighs_names_as_far_as_they_tell_anything(network, informative):
    generator = torch.Generator().manual_seed(2)
    asked = []
    for k in range(60):
        present = k % 2 == 0
        score = torch.full((1, 1, 8, 8), 0.02)
        score[0, 0, 3, 4] = 0.3 + 0.3 * torch.rand(1, generator=generator).item()
        named = 4.0 if present else -4.0
        logits = torch.full((1, 1, 8, 8), named) if informative else 3 * torch.randn(1, 1, 8, 8, generator=generator)
        asked.append(Query(score, logits, (0.56, 0.44, 0.2, 0.2), present))
    weigh_evidence(network.naming, asked, 200)
    weight = float(network.naming.evidence[1])
    assert weight > 0.3 if informative else abs(weight) < 0.2
