# SPDX-License-Identifier: Apache-2.0
"""Eqs. 1 to 11 of PJVLT, shapes and values, against the same equations written once more in numpy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vlt_ros.networks import CONFIGS
from vlt_ros.networks.pjvlt import CCPIL, SAIEL

TINY = CONFIGS["pjvlt_tiny"]
B, N, T, C, CT, D, HEADS = 2, 16 + 64, 5, TINY.dim, TINY.text_dim, TINY.latent_dim, TINY.latent_heads


def array(tensor):
    return tensor.detach().double().numpy()


def project(layer, x):
    return x @ array(layer.weight).T + array(layer.bias)


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def layer_norm(layer, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * array(layer.weight) + array(layer.bias)


def saiel(layer, vision, language, residual, combine):
    """One sentence without padding: vision (N, C), language (T, CT) to everything that eqs. 1 to 7 name."""
    stream = layer_norm(layer.norm, vision) if residual else vision
    q = project(layer.theta_q, stream)                                  # eq. 1
    q = (q - q.mean(0)) / np.sqrt(q.var(0) + 1e-5)                      # instance norm: over the tokens
    k, v = project(layer.theta_k, language), project(layer.theta_v, language)
    gated = softmax(v, axis=0) * v                                      # eq. 2, without noise
    if residual:
        gated = gated * len(language)
    attended = np.empty_like(q)                                         # eq. 3
    width = D // HEADS
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        attended[:, part] = softmax(q[:, part] @ k[:, part].T / math.sqrt(width), axis=1) @ gated[:, part]
    alpha, beta, gamma = np.split(project(layer.theta_w, language.mean(0)), 3)      # eq. 4
    semantic = gamma * ((1 + alpha) * attended + beta)                  # eq. 5
    visual = gelu(project(layer.theta_m, stream))                       # eq. 6
    combined = {"concat": np.hstack((visual, semantic)), "sum": visual + semantic,
                "multiply": visual * semantic}[combine]
    aligned = project(layer.theta_o, combined)                          # eq. 7
    aligned = vision + aligned if residual else gelu(aligned)
    return {"keys": k, "values": gated, "alpha": alpha, "beta": beta, "gamma": gamma, "aligned": aligned}


def ccpil(layer, aligned, residual, ccm, pim):
    """Aligned tokens (N, C) to refined ones, eqs. 8 to 11."""
    communicated = aligned
    if ccm:
        pooled = aligned.mean(0)
        weight = 1 / (1 + np.exp(-project(layer.w_p2, gelu(project(layer.w_p1, pooled)))))      # eq. 8
        scale = array(layer.ccm_scale) if residual else 1
        communicated = scale * weight * aligned + aligned                                       # eq. 9
    interacted = 0
    if pim:
        tokens = layer_norm(layer.norm, communicated) if residual else communicated
        expanded = gelu(project(layer.w_e, tokens.T))                                           # eq. 10
        interacted = project(layer.w_n, gelu(project(layer.w_s, expanded))).T
    return communicated + interacted if residual else interacted + communicated + aligned       # eq. 11


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    vision = torch.randn(B, N, C, generator=generator, dtype=torch.float64)
    language = torch.randn(B, T, CT, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[True] * T, [True] * 3 + [False] * 2])         # the second sentence has three words
    return vision, language, mask


@pytest.mark.parametrize("combine", ["concat", "sum", "multiply"])
@pytest.mark.parametrize("form", ["literal", "residual"])
def test_saiel_is_equations_1_to_7(form, combine, inputs, randomise):
    vision, language, mask = inputs
    layer = randomise(SAIEL(replace(TINY, form=form, combine=combine))).double().eval()
    words = layer.words(language, mask)
    aligned = layer(vision, words)
    assert words.keys.shape == words.values.shape == (B, T, D)
    assert words.alpha.shape == words.beta.shape == words.gamma.shape == (B, 1, D)
    assert words.mask.shape == (B, T) and aligned.shape == (B, N, C)
    for i in range(B):
        length = int(mask[i].sum())
        expected = saiel(layer, array(vision[i]), array(language[i, :length]), form == "residual", combine)
        np.testing.assert_allclose(array(words.keys[i, :length]), expected["keys"], rtol=0, atol=1e-9)
        # The gate is computed in float32 whatever the precision of the rest.
        np.testing.assert_allclose(array(words.values[i, :length]), expected["values"], rtol=1e-6, atol=1e-6)
        for name in ("alpha", "beta", "gamma"):
            np.testing.assert_allclose(array(getattr(words, name)[i, 0]), expected[name], rtol=0, atol=1e-9)
        np.testing.assert_allclose(array(aligned[i]), expected["aligned"], rtol=1e-6, atol=5e-6)


@pytest.mark.parametrize("form", ["literal", "residual"])
def test_every_part_of_saiel_shows_in_its_output(form, inputs, randomise):
    """Eqs. 2 to 7 have no dead term: a change of each quantity moves A_j."""
    vision, language, mask = inputs
    layer = randomise(SAIEL(replace(TINY, form=form))).double().eval()
    words = layer.words(language, mask)
    aligned = layer(vision, words)
    for name in ("keys", "values", "alpha", "beta", "gamma"):
        bump = torch.linspace(0, 1, T if name in ("keys", "values") else 1).double().add(0.1).view(1, -1, 1)
        moved = words._replace(**{name: getattr(words, name) + bump})
        assert (layer(vision, moved) - aligned).abs().max() > 1e-4, name
    assert (layer(vision.roll(1, dims=1), words) - aligned).abs().max() > 1e-3
    # Tokens keep their places: the fusion itself has no positions.
    torch.testing.assert_close(layer(vision.roll(1, dims=1), words).roll(-1, dims=1), aligned)


@pytest.mark.parametrize("form", ["literal", "residual"])
def test_query_ignores_the_scale_and_offset_of_the_projected_stream(form, inputs, randomise):
    """Eq. 1's instance norm: queries have mean 0 and deviation 1 over the tokens, channel by channel."""
    vision, language, mask = inputs
    layer = randomise(SAIEL(replace(TINY, form=form))).double().eval()
    seen = []
    original = F.scaled_dot_product_attention

    def spy(query, key, value, **kwargs):
        seen.append((query, key, value))
        return original(query, key, value, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", spy)
        layer(vision, layer.words(language, mask))
    (query, key, value), = seen
    assert query.shape == (B, HEADS, N, D // HEADS) and key.shape == value.shape == (B, HEADS, T, D // HEADS)
    torch.testing.assert_close(query.mean(2), torch.zeros_like(query.mean(2)), rtol=0, atol=1e-9)
    assert (query.std(2, correction=0) - 1).abs().max() < 1e-2


@pytest.mark.parametrize("ccm, pim", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("form", ["literal", "residual"])
def test_ccpil_is_equations_8_to_11(form, ccm, pim, inputs, randomise):
    aligned, _, _ = inputs
    layer = randomise(CCPIL(replace(TINY, form=form, ccm=ccm, pim=pim))).double().eval()
    refined = layer(aligned)
    assert refined.shape == (B, N, C)
    for i in range(B):
        expected = ccpil(layer, array(aligned[i]), form == "residual", ccm, pim)
        np.testing.assert_allclose(array(refined[i]), expected, rtol=0, atol=1e-9)
    # Not the identity, nor a scaling of it.
    ratio = refined / aligned
    assert ratio.std() > 1e-3


def test_widths_of_ccpil_are_the_papers():
    """With N_g = 4, N_h = 640, N = 320: W_p1 is C x C/4, W_e N x N_h, W_s N_h x N_h and W_n N_h x N."""
    layer = CCPIL(replace(CONFIGS["pjvlt_b"], form="literal"))
    assert tuple(layer.w_p1.weight.T.shape) == (768, 192) and tuple(layer.w_p2.weight.T.shape) == (192, 768)
    assert tuple(layer.w_e.weight.T.shape) == (320, 640) and tuple(layer.w_s.weight.T.shape) == (640, 640)
    assert tuple(layer.w_n.weight.T.shape) == (640, 320)


def test_start_of_the_residual_form(inputs):
    """It begins near the pretrained stream, unlike the literal form: CCPIL is the identity, SAIEL adds."""
    aligned, language, mask = inputs
    torch.manual_seed(0)
    layer = CCPIL(TINY).double()
    assert torch.equal(layer(aligned), aligned)
    saiel_layer = SAIEL(TINY).double().eval()
    words = saiel_layer.words(language, mask)
    assert torch.equal(words.gamma, torch.ones_like(words.gamma))
    assert not words.alpha.any() and not words.beta.any()
    added = saiel_layer(aligned, words) - aligned
    assert 0 < added.pow(2).mean().sqrt() < 0.5 * aligned.pow(2).mean().sqrt()

    literal = SAIEL(replace(TINY, form="literal")).double().eval()
    words = literal.words(language, mask)
    assert not words.gamma.any() and not words.alpha.any() and not words.beta.any()     # theta_w is zero
    far = literal(aligned, words)
    correlation = torch.corrcoef(torch.stack((far.flatten(), aligned.flatten())))[0, 1]
    assert correlation.abs() < 0.2


@pytest.mark.parametrize("form", ["literal", "residual"])
def test_gate_is_noisy_in_training_only(form, inputs, randomise):
    vision, language, mask = inputs
    layer = randomise(SAIEL(replace(TINY, form=form, gumbel_noise=True))).double()

    def values():
        return layer.words(language, mask).values

    layer.eval()
    assert torch.equal(values(), values())
    quiet = values()
    layer.train()
    torch.manual_seed(0)
    noisy = values()
    assert not torch.equal(noisy, values()) and not torch.allclose(noisy, quiet, atol=1e-3)
    assert torch.isfinite(noisy).all() and not noisy[1, 3:].any()       # padding stays shut under noise
    torch.manual_seed(0)
    assert torch.equal(noisy, values())                                 # the noise is torch's, so seeded
    # The Gumbel noise does not favour a word: on average over many draws equal logits share equally.
    with torch.no_grad():
        layer.theta_v.weight.zero_()
        layer.theta_v.bias.fill_(1)
    shares = torch.stack([values()[0] for _ in range(400)]).mean((0, 2))
    total = 5.0 if form == "residual" else 1.0
    assert shares.tolist() == pytest.approx([total / T] * T, rel=0.1)

    silent = SAIEL(replace(TINY, form=form, gumbel_noise=False)).double()
    silent.load_state_dict(layer.state_dict())
    in_training = silent.train().words(language, mask).values
    assert torch.equal(in_training, silent.eval().words(language, mask).values)
