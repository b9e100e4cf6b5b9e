# SPDX-License-Identifier: Apache-2.0
"""A sample's noise is its own: the same alone, in a batch, beside longer sentences, on any number of processes."""

from __future__ import annotations

import torch

from vlt_ros.networks.noise import SampleNoise


def test_numbers_are_uniform_and_unlike_one_another():
    values = SampleNoise(3, 0, 8).uniform(50, 200)
    assert values.shape == (8, 50, 200) and values.dtype == torch.float32
    assert values.min() > 0 and values.max() < 1
    counts = torch.histc(values, 20, 0, 1) / values.numel()
    assert (counts - 0.05).abs().max() < 0.005
    rows = values.flatten(1).double()
    correlation = torch.corrcoef(rows) - torch.eye(8)
    assert correlation.abs().max() < 0.05                       # 5 standard errors of 10,000 pairs
    shifted = torch.corrcoef(torch.stack((rows[:, :-1].flatten(), rows[:, 1:].flatten())))[0, 1]
    assert abs(float(shifted)) < 0.02
    assert len(values.unique()) > 0.98 * values.numel()


def test_a_samples_noise_depends_on_seed_index_and_place_alone():
    whole = SampleNoise(3, 40, 8)
    first, second = whole.uniform(6, 5), whole.uniform(6, 5)
    part = SampleNoise(3, 44, 3)
    assert torch.equal(part.uniform(6, 5), first[4:7]) and torch.equal(part.uniform(6, 5), second[4:7])
    assert not torch.equal(first, second)
    assert not torch.equal(SampleNoise(4, 40, 8).uniform(6, 5), first)
    assert torch.equal(SampleNoise(3, 40, 8).uniform(9, 5)[:, :6], first)       # a longer sentence in the batch


def test_networks_draw_from_it(build):
    """Gate and dropout: one sample alone gives what it gives among others, in training mode."""
    network = build(gumbel_noise=True).train()
    sentences = ["the red box", "a much longer sentence about the green thing on the left", "it"]

    def words(first: int, part: list[str], seed: int = 0):
        noise = SampleNoise(seed, first, len(part))
        return network.words(network.text(part, noise), noise)["3"]

    whole, alone, other = words(7, sentences), words(7, sentences[:1]), words(7, sentences[:1], seed=1)
    length = int(alone.mask.sum())
    for name in ("keys", "values", "gamma"):
        mine, again, elsewhere = (getattr(w, name)[0, :length] for w in (whole, alone, other))
        torch.testing.assert_close(mine, again, rtol=1e-4, atol=1e-5)
        if name != "gamma":
            assert (mine - elsewhere).abs().max() > 0.01
    # Dropout alone, without the gate: the tower's tokens move with the seed, and about a tenth of them is dropped.
    dropped = network.text(sentences, SampleNoise(0, 0, 3)).layers[0]
    assert not torch.equal(dropped, network.text(sentences, SampleNoise(1, 0, 3)).layers[0])
    assert torch.equal(dropped, network.text(sentences, SampleNoise(0, 0, 3)).layers[0])
    module = next(m for m in network.text.modules() if type(m).__name__ == "_SampleDropout")
    module.noise = SampleNoise(0, 0, 4)
    tokens = module(torch.ones(4, 50, 64))
    assert abs(float((tokens == 0).float().mean()) - 0.1) < 0.01 and abs(float(tokens.mean()) - 1) < 0.02
    assert torch.equal(module.eval()(tokens), tokens)
