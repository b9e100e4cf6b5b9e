# SPDX-License-Identifier: Apache-2.0
"""The alignment losses against the same sums in plain Python, and against torch's own where they coincide."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from vlt_ros.networks import Contrast, Matching
from vlt_ros.training.alignment import alignment_losses, dense_matching, nt_xent, tokens_inside


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a, b) -> float:
    norm = math.sqrt(sum(v * v for v in a)) * math.sqrt(sum(v * v for v in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / norm


def naive_nt_xent(features, others, temperature: float) -> float:
    """SimCLR's eq. 1, averaged over all views."""
    views = features.tolist() + others.tolist()
    count, total = len(features), 0.0
    for i, view in enumerate(views):
        terms = {k: math.exp(cosine(view, other) / temperature) for k, other in enumerate(views) if k != i}
        total -= math.log(terms[(i + count) % (2 * count)] / sum(terms.values()))
    return total / len(views)


# NT-Xent --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_nt_xent_equals_a_loop(count, temperature):
    a, b = vectors(count, 7), vectors(count, 7, seed=1)
    expected = naive_nt_xent(a, b, temperature)
    assert float(nt_xent(a, b, temperature)) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert float(nt_xent(b, a, temperature)) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert float(nt_xent(3 * a, 0.2 * b, temperature)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_nt_xent_across_modalities_is_torchs_cross_entropy_in_both_directions():
    a, b = F.normalize(vectors(6, 9), dim=1), F.normalize(vectors(6, 9, seed=1), dim=1)
    logits = a @ b.T / 0.07
    expected = (F.cross_entropy(logits, torch.arange(6)) + F.cross_entropy(logits.T, torch.arange(6))) / 2
    assert float(nt_xent(a, b, 0.07, across=True)) == pytest.approx(float(expected))
    total = 0.0
    for rows in (logits.tolist(), logits.T.tolist()):
        total -= sum(math.log(math.exp(row[i]) / sum(map(math.exp, row))) for i, row in enumerate(rows))
    assert float(expected) == pytest.approx(total / 12)
    # Negatives within a modality are what the two forms differ by.
    assert float(nt_xent(a, b, 0.07)) > float(expected)


def test_nt_xent_falls_with_agreement_and_rises_with_mix_ups():
    a = vectors(8, 16)
    near, far = a + 0.1 * vectors(8, 16, seed=1), a.roll(1, 0)
    for across in (False, True):
        assert nt_xent(a, near, across=across) < nt_xent(a, vectors(8, 16, seed=2), across=across)
        assert nt_xent(a, vectors(8, 16, seed=2), across=across) < nt_xent(a, far, across=across)


def test_one_pair_alone_has_nothing_to_be_told_from():
    a = vectors(1, 4).requires_grad_()
    loss = nt_xent(a, vectors(1, 4, seed=1))
    loss.backward()
    assert float(loss.detach()) == 0 and not a.grad.any()


def test_descending_nt_xent_pairs_the_modalities():
    a, b = vectors(6, 8).requires_grad_(), vectors(6, 8, seed=1).requires_grad_()
    optimiser = torch.optim.Adam([a, b], lr=0.1)
    for _ in range(60):
        optimiser.zero_grad()
        nt_xent(a, b).backward()
        optimiser.step()
    similarity = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
    assert similarity.argmax(1).tolist() == list(range(6)) and similarity.diagonal().min() > 0.9


@pytest.mark.parametrize("a, b, temperature, words", [
    ((3, 4), (2, 4), 0.5, r"\(3, 4\).*\(2, 4\)"), ((3, 4, 1), (3, 4, 1), 0.5, r"\(B, C\)"),
    ((3, 4), (3, 4), 0.0, "temperature"), ((3, 4), (3, 4), float("nan"), "temperature")])
def test_nt_xent_refuses(a, b, temperature, words):
    with pytest.raises(ValueError, match=words):
        nt_xent(vectors(*a), vectors(*b), temperature)


# dense matching -------------------------------------------------------------------------------------------
def test_tokens_inside_equals_a_loop():
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.25], [0.13, 0.9, 0.02, 0.02], [0.99, 0.02, 0.3, 0.3], [0.5, 0.5, 2.0, 2.0],
                          [1.2, 0.5, 0.5, 0.5], [0.4, 0.4, 0.5, 0.5]])
    present = torch.tensor([True, True, True, True, True, False])
    side = 8
    inside = tokens_inside(boxes, present, side)
    assert inside.shape == (6, 64) and inside.dtype == torch.bool
    for (cx, cy, w, h), here, row in zip(boxes.tolist(), present.tolist(), inside.tolist(), strict=True):
        here = here and 0 <= cx < 1 and 0 <= cy < 1
        for index, value in enumerate(row):
            y, x = divmod(index, side)
            px, py = (x + 0.5) / side, (y + 0.5) / side
            columns = abs(px - cx) <= w / 2 or x == math.floor(cx * side)
            rows = abs(py - cy) <= h / 2 or y == math.floor(cy * side)
            assert value == (here and columns and rows)
    assert inside.sum(1).tolist() == [8, 1, 1, 64, 0, 0]


def naive_dense(tokens, target, inside, temperature: float) -> float:
    losses = []
    for rows, vector, mask in zip(tokens.tolist(), target.tolist(), inside.tolist(), strict=True):
        scores = [cosine(row, vector) / temperature for row in rows]
        whole = math.log(sum(map(math.exp, scores)))
        positives = [s for s, m in zip(scores, mask, strict=True) if m]
        if positives:
            losses.append(sum(whole - s for s in positives) / len(positives))
    return sum(losses) / max(1, len(losses))


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_dense_matching_equals_a_loop(temperature):
    tokens, target = vectors(4, 9, 6), vectors(4, 6, seed=1)
    inside = torch.rand(4, 9, generator=torch.Generator().manual_seed(2)) < 0.4
    inside[2] = False
    assert inside.sum(1).max() > 1
    expected = naive_dense(tokens, target, inside, temperature)
    assert float(dense_matching(tokens, target, inside, temperature)) == pytest.approx(expected, rel=1e-9)


def test_dense_matching_with_one_positive_is_cross_entropy():
    tokens, target = vectors(5, 9, 6), vectors(5, 6, seed=1)
    which = torch.tensor([0, 8, 3, 3, 1])
    logits = torch.stack([F.cosine_similarity(t, v[None]) for t, v in zip(tokens, target, strict=True)]) / 0.1
    inside = F.one_hot(which, 9).bool()
    assert float(dense_matching(tokens, target, inside)) == pytest.approx(float(F.cross_entropy(logits, which)))


def test_dense_matching_without_a_target_is_zero_and_descending_it_finds_the_box():
    tokens, target = vectors(2, 16, 6).requires_grad_(), vectors(2, 6, seed=1)
    nothing = dense_matching(tokens, target, torch.zeros(2, 16, dtype=torch.bool))
    nothing.backward()
    assert float(nothing.detach()) == 0 and not tokens.grad.any()
    inside = tokens_inside(torch.tensor([[0.3, 0.3, 0.5, 0.5], [0.8, 0.6, 0.3, 0.4]]), torch.tensor([True, True]), 4)
    optimiser = torch.optim.Adam([tokens], lr=0.1)
    for _ in range(100):
        optimiser.zero_grad()
        dense_matching(tokens, target, inside).backward()
        optimiser.step()
    similarity = F.cosine_similarity(tokens, target[:, None], dim=2)
    assert all(s[m].min() > s[~m].max() + 0.5 for s, m in zip(similarity, inside, strict=True))


@pytest.mark.parametrize("tokens, target, inside", [
    ((2, 9), (2, 9), (2, 9)), ((2, 9, 6), (2, 5), (2, 9)), ((2, 9, 6), (3, 6), (2, 9)), ((2, 9, 6), (2, 6), (2, 8))])
def test_dense_matching_refuses(tokens, target, inside):
    with pytest.raises(ValueError, match=r"\(B, N, C\)"):
        dense_matching(vectors(*tokens), vectors(*target), torch.ones(inside, dtype=torch.bool))
    with pytest.raises(ValueError, match="temperature"):
        dense_matching(vectors(2, 9, 6), vectors(2, 6), torch.ones(2, 9, dtype=torch.bool), -1.0)


# the terms that a network declares ------------------------------------------------------------------------
def test_terms_take_the_samples_that_have_what_they_are_made_of():
    a, b, tokens = vectors(5, 7), vectors(5, 7, seed=1), vectors(5, 16, 7, seed=2)
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.2, 0.3, 0.3, 0.2], [0.7, 0.7, 0.4, 0.4], [0.4, 0.6, 0.2, 0.2],
                          [0.5, 0.5, 0.3, 0.6]], dtype=torch.float64)
    made_of = {"search": torch.tensor([True, True, False, True, True]),
               "template": torch.tensor([True, False, True, True, True]),
               "language": torch.tensor([True, True, True, False, True])}
    terms = {"pairs": Contrast(a, b, ("template", "language"), 0.25),
             "pooled": Contrast(tokens, b, ("search", "language"), 1.0, 0.2, across=True),
             "dense": Matching(tokens, a, 0.5, 0.3), "few": Contrast(a, b, ("search", "none"), 1.0)}
    got = alignment_losses(terms, boxes, made_of | {"none": torch.tensor([True] + 4 * [False])})
    assert float(got["pairs"]) == pytest.approx(naive_nt_xent(a[[0, 2, 4]], b[[0, 2, 4]], 0.5), rel=1e-5)
    inside = tokens_inside(boxes, made_of["search"], 4)
    mean = torch.stack([tokens[i][inside[i]].mean(0) for i in (0, 1, 4)])
    assert float(got["pooled"]) == pytest.approx(float(nt_xent(mean, b[[0, 1, 4]], 0.2, across=True)), rel=1e-5)
    assert float(got["dense"]) == pytest.approx(naive_dense(tokens, a, inside, 0.3), rel=1e-5)
    assert float(got["few"]) == 0                                       # one pair has nothing to be told from
