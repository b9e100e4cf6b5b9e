# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
import torch

from vlt_ros.networks import CONFIGS, Maps, build_network, load_network, save_network
from vlt_ros.networks.naming import SHARED

PHRASES = ["the red mug", "a dog on the left"]


@pytest.fixture(scope="module")
def named():
    torch.manual_seed(3)
    network = build_network(replace(CONFIGS["pjvlt_tiny"], naming_layers=2)).eval()
    with torch.no_grad():
        network.naming.evidence.copy_(torch.tensor([0.8, 0.6, 0.3]))
        network.naming.log_scale.fill_(3.0)
    return network


@pytest.fixture(scope="module")
def search():
    return torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))


def test_shapes(named, search):
    with torch.no_grad():
        tokens = named.encode_search(search)
        phrase = named.encode_phrase(PHRASES)
        logits = named.naming(tokens, phrase)
    assert phrase.shape == (2, SHARED) and torch.allclose(phrase.norm(dim=1), torch.ones(2), atol=1e-5)
    assert logits.shape == (2, 1, 8, 8) and logits.dtype == torch.float32


def test_names_move_with_the_picture_and_with_the_phrase(named, search):
    with torch.no_grad():
        tokens, phrase = named.encode_search(search), named.encode_phrase(PHRASES)
        logits = named.naming(tokens, phrase)
        assert (named.naming(tokens, phrase.flip(0)) - logits).abs().max() > 1e-3
        assert (named.naming(tokens.flip(0), phrase) - logits).abs().max() > 1e-3


def test_a_map_is_the_mean_over_neighbouring_tokens(named, search):
    with torch.no_grad():
        tokens, phrase = named.encode_search(search), named.encode_phrase(PHRASES)
        plain = named.naming.agreement(named.naming.features(tokens), phrase).view(2, 8, 8)
        smooth = named.naming(tokens, phrase)[:, 0]
    assert torch.allclose(smooth[:, 3, 4], plain[:, 2:5, 3:6].mean((1, 2)), atol=1e-5)
    assert torch.allclose(smooth[:, 0, 7], plain[:, :2, 6:].mean((1, 2)), atol=1e-5)


def test_grounding_is_tracking_with_a_blank_template_weighed_by_the_name(named, search):
    with torch.no_grad():
        words, phrase = named.encode_text(PHRASES), named.encode_phrase(PHRASES)
        plain = named.track(search, named.encode_template(None, batch=2), words)
        assert all(torch.equal(a, b) for a, b in zip(named.ground(search, words), plain, strict=True))
        weighed = named.ground(search, words, phrase)
        logits = named.naming(named.encode_search(search), phrase)
    expected = torch.sigmoid(0.8 * torch.logit(plain.score) + 0.6 * logits.clamp(-12, 12) + 0.3).clamp(1e-4, 1 - 1e-4)
    assert torch.allclose(weighed.score, expected, atol=1e-6) and (weighed.score - plain.score).abs().max() > 1e-3
    assert torch.equal(weighed.size, plain.size) and torch.equal(weighed.offset, plain.offset)


def test_no_phrase_and_no_naming_change_nothing(named, tiny):
    assert named.encode_phrase(["the dog", ""]) is None
    assert tiny.encode_phrase(PHRASES) is None and not tiny.tells_names and named.tells_names


def test_untaught_names_weigh_nothing():
    fresh = build_network(replace(CONFIGS["pjvlt_tiny"], naming_layers=1))
    score = torch.rand(1, 1, 8, 8).clamp(0.01, 0.99)
    weighed = fresh.naming.weigh(Maps(score, None, None), torch.randn(1, 1, 8, 8))
    assert torch.allclose(weighed.score, score, atol=1e-6)


def test_naming_is_saved_shared_and_frozen(named, search, tmp_path):
    """Two trackers may share what is frozen: the base file holds it once."""
    save_network(named, tmp_path / "base.safetensors")
    save_network(named, tmp_path / "one.safetensors", base=tmp_path / "base.safetensors")
    assert (tmp_path / "one.safetensors").stat().st_size < (tmp_path / "base.safetensors").stat().st_size / 10
    loaded = load_network(tmp_path / "one.safetensors", device="cpu", precision="fp32")
    half = build_network(named.config).eval()
    half.load_state_dict({k: v.half().float() if v.is_floating_point() else v for k, v in named.state_dict().items()})
    with torch.no_grad():
        words = half.encode_text(PHRASES)
        assert torch.allclose(loaded.ground(search, words, loaded.encode_phrase(PHRASES)).score,
                              half.ground(search, words, half.encode_phrase(PHRASES)).score, atol=1e-6)
    assert not any(p.requires_grad for p in named.naming.parameters()) and not named.train().naming.training


def test_naming_needs_separate_layers():
    with pytest.raises(ValueError, match="naming layers follow separate ones"):
        replace(CONFIGS["pjvlt_b"], naming_layers=6)
