# SPDX-License-Identifier: Apache-2.0
"""The whole network: order of its layers, what it listens to, caching, padding, gradients, its switches."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from vlt_ros.networks import CONFIGS, PJVLT

PHRASES = ["the red mug", "the second person from the left"]


def moves(maps, others) -> float:
    """Largest difference of two results, over all maps."""
    return max((a - b).abs().max().item() for a, b in zip(maps, others, strict=True))


def same(maps, others) -> bool:
    return all(torch.equal(a, b) for a, b in zip(maps, others, strict=True))


# order ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", ["literal", "residual"])
def test_layers_follow_one_another_as_in_section_3b(form, build, crops):
    """V_j = Theta_j(R_j-1), A_j = Phi_j(V_j, L_j), R_j = Psi_j(A_j) in every layer, then the head on R_n."""
    network = build(form=form, separate_layers=0, fused_layers=(1, 2, 3), text_depth=3, matching_prior=False)
    template, search = crops()
    with torch.no_grad():
        words = network.text([PHRASES[0]])
        backbone = network.backbone
        stream = torch.cat((backbone.embed_template(template), backbone.embed_search(search)), dim=1)
        assert stream.shape == (1, 16 + 64, 32)
        for j in (1, 2, 3):
            stream = backbone.blocks[j - 1](stream)
            layer = network.saiel[str(j)]
            stream = layer(stream, layer.words(words.layers[j - 1], words.mask))
            stream = network.ccpil[str(j)](stream)
            assert stream.shape == (1, 16 + 64, 32)
        stream = backbone.norm(stream)[0, 16:]
        grid = torch.empty(1, 32, 8, 8)
        for row in range(8):
            for column in range(8):
                grid[0, :, row, column] = stream[row * 8 + column]
        expected = network.box_head(grid)
        got = network(template, search, [PHRASES[0]])
    assert moves(got, expected) < 1e-6
    assert got.score.shape == (1, 1, 8, 8) and got.offset.shape == got.size.shape == (1, 2, 8, 8)


def test_layers_before_the_first_joint_one_see_each_crop_alone(build, crops):
    network = build(separate_layers=1, matching_prior=False)
    template, search = crops()
    with torch.no_grad():
        words = network.text([PHRASES[0]])
        z = network.backbone.blocks[0](network.backbone.embed_template(template))
        x = network.backbone.blocks[0](network.backbone.embed_search(search))
        stream = torch.cat((z + network.template_type, x), dim=1)
        for j in (2, 3):
            stream = network.backbone.blocks[j - 1](stream)
            layer = network.saiel[str(j)]
            # Two BERT layers for three of the ViT: layers 2 and 3 both meet the second.
            stream = network.ccpil[str(j)](layer(stream, layer.words(words.layers[1], words.mask)))
        stream = network.backbone.norm(stream)[:, 16:]
        expected = network.box_head(stream.transpose(1, 2).reshape(1, 32, 8, 8))
        got = network(template, search, [PHRASES[0]])
    torch.testing.assert_close(network.encode_template(template), z)
    assert moves(got, expected) < 1e-6


@pytest.mark.parametrize("depth, text_depth, met", [
    (12, 12, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
    (10, 6, [1, 2, 2, 3, 3, 4, 5, 5, 6, 6]),
    (12, 6, [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]),
    (3, 2, [1, 2, 2])])
def test_both_towers_end_together(depth, text_depth, met):
    config = replace(CONFIGS["pjvlt_tiny"], depth=depth, text_depth=text_depth)
    assert [config.language_layer(j) for j in range(1, depth + 1)] == met


def test_matching_prior_is_cosine_similarity_with_the_target_and_with_its_surroundings(tiny):
    generator = torch.Generator().manual_seed(0)
    template, search = (torch.randn(2, n, 32, generator=generator) for n in (16, 64))
    got = tiny._match(search, template)
    for b in range(2):
        for n in (0, 17, 63):
            cosine = [float(search[b, n] @ template[b, m] / search[b, n].norm() / template[b, m].norm())
                      for m in range(16)]
            central = [cosine[m] for m in (5, 6, 9, 10)]        # the middle 2 x 2 of the 4 x 4 grid
            around = [c for c in cosine if c not in central]
            expected = [max(central), sum(central) / 4, max(around)]
            assert got[b, n].tolist() == pytest.approx(expected, abs=1e-5)


# what it listens to, and caching --------------------------------------------------------------------------
@pytest.mark.parametrize("form", ["literal", "residual"])
@pytest.mark.parametrize("separate", [0, 1])
def test_cached_equals_uncached_bit_for_bit(form, separate, build, crops):
    network = build(form=form, separate_layers=separate)
    template, search = crops()
    other_template, other_search = crops(seed=1)
    with torch.inference_mode():
        maps = network(template, search, [PHRASES[0]])
        # The maps move with each of the three inputs: otherwise equality would say nothing.
        assert moves(maps, network(other_template, search, [PHRASES[0]])) > 1e-3
        assert moves(maps, network(template, other_search, [PHRASES[0]])) > 1e-3
        assert moves(maps, network(template, search, [PHRASES[1]])) > 1e-3
        assert moves(maps, network(template, search, [""])) > 1e-3
        assert moves(maps, network(None, search, [PHRASES[0]])) > 1e-3

        words, tokens = network.encode_text([PHRASES[0]]), network.encode_template(template)
        blank = network.encode_template(None)
        kept = [t.clone() for entry in words.values() for t in entry] + [tokens.clone(), blank.clone()]
        for seed in range(4):
            frame = crops(seed=seed)[1]
            assert same(network.track(frame, tokens, words), network(template, frame, [PHRASES[0]]))
            assert same(network.track(frame, blank, words), network(None, frame, [PHRASES[0]]))
        assert all(map(torch.equal, kept, [t for entry in words.values() for t in entry] + [tokens, blank]))


@pytest.mark.parametrize("j", [2, 3])
def test_every_fused_layer_listens_to_the_sentence(j, tiny, crops):
    template, search = crops()
    with torch.inference_mode():
        tokens = tiny.encode_template(template)
        words, others = tiny.encode_text([PHRASES[0]]), tiny.encode_text([PHRASES[1]])
        mixed = words | {str(j): others[str(j)]}
        assert moves(tiny.track(search, tokens, words), tiny.track(search, tokens, mixed)) > 1e-4


def test_word_order_matters(tiny, crops):
    template, search = crops()
    with torch.inference_mode():
        assert moves(tiny(template, search, ["the man left of the dog"]),
                     tiny(template, search, ["the dog left of the man"])) > 1e-4


def test_batch_is_its_members(tiny, crops):
    """Targets do not talk to one another, and blank[i] is a target without a template."""
    template, search = crops(batch=3)
    sentences = [PHRASES[0], "", PHRASES[1]]
    blank = torch.tensor([False, False, True])
    with torch.inference_mode():
        together = tiny(template, search, sentences, blank)
        for i in range(3):
            alone = tiny(None if blank[i] else template[i:i + 1], search[i:i + 1], [sentences[i]])
            assert moves(alone, [m[i:i + 1] for m in together]) < 2e-5


def test_blank_template_has_no_appearance(tiny, crops):
    template, search = crops(batch=2)
    other, _ = crops(batch=2, seed=5)
    blank = torch.tensor([True, False])
    with torch.inference_mode():
        maps, others = (tiny(t, search, PHRASES, blank) for t in (template, other))
        assert same([m[:1] for m in maps], [m[:1] for m in others])
        assert moves([m[1:] for m in maps], [m[1:] for m in others]) > 1e-3
        assert tiny.encode_template(None, batch=3).shape == (3, 16, 32)


# padding --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", ["literal", "residual"])
def test_pad_words_change_nothing(form, build, crops):
    """A sentence beside a longer one gives the maps that it gives alone."""
    network = build(form=form).double()
    short, long = "the mug", "the small red mug that stands behind the two green bottles on the table"
    template, search = (crop.double() for crop in crops())
    with torch.inference_mode():
        tokens = network.encode_template(template)
        alone, together = network.encode_text([short]), network.encode_text([short, long])
        length = alone["2"].mask.shape[1]
        assert together["2"].mask.sum(1).tolist() == [length, together["2"].mask.shape[1]] and length < 8
        for j in ("2", "3"):
            for name in ("keys", "values"):
                padded = getattr(together[j], name)[:1, :length]
                torch.testing.assert_close(padded, getattr(alone[j], name), rtol=0, atol=1e-6)
            for name in ("alpha", "beta", "gamma"):
                torch.testing.assert_close(getattr(together[j], name)[:1], getattr(alone[j], name),
                                           rtol=0, atol=1e-6)
        first = {j: type(w)(*(t[:1] for t in w)) for j, w in together.items()}
        assert moves(network.track(search, tokens, first), network.track(search, tokens, alone)) < 1e-6


def test_pad_words_would_be_noticed(build, crops):
    """The control of the test above: with padding unmasked the maps move."""
    network = build().double()
    template, search = (crop.double() for crop in crops())
    with torch.inference_mode():
        tokens = network.encode_template(template)
        together = network.text(["the mug", "a much longer sentence of words"])
        first = [layer[:1] for layer in together.layers]
        masked, unmasked = (network.words(together._replace(layers=tuple(first), mask=mask))
                            for mask in (together.mask[:1], torch.ones_like(together.mask[:1])))
        assert moves(*(network.track(search, tokens, words) for words in (masked, unmasked))) > 1e-3


# noise ----------------------------------------------------------------------------------------------------
def test_evaluation_is_deterministic_and_training_is_not(build, crops):
    network = build(gumbel_noise=True)
    template, search = crops(batch=2)
    assert same(network(template, search, PHRASES), network(template, search, PHRASES))
    # Only the fusion in training mode, so that dropout and batch statistics cannot be what moves.
    network.saiel.train()
    assert moves(network(template, search, PHRASES), network(template, search, PHRASES)) > 1e-4


# gradients ------------------------------------------------------------------------------------------------
# Parameters that cannot matter: one constant for all keys moves no softmax, the instance norm after theta_q
# takes its bias out again, and the last LayerNorm what the last W_n's bias adds to all channels of a token.
DEAD = ("theta_q.bias", "theta_k.bias", "key.bias", "k_proj.bias", "ccpil.3.w_n.bias")


def gradients(network, crops, blank=(True, False)):
    template, search = crops(batch=2)
    maps = network(template, search, PHRASES, torch.tensor(blank))
    weights = [torch.linspace(0.5, 1.5, m.numel()).view_as(m).to(m) for m in maps]
    sum((w * m).sum() for w, m in zip(weights, maps, strict=True)).backward()
    return {name: None if p.grad is None else p.grad.abs().max().item()
            for name, p in network.named_parameters()}


@pytest.mark.parametrize("changes", [
    {}, {"form": "literal"}, {"separate_layers": 0, "fused_layers": (1, 2, 3)}, {"combine": "multiply"},
    {"layer_scale": False, "matching_prior": False}, {"form": "literal", "combine": "sum"}])
def test_gradients_reach_every_parameter(changes, build, crops):
    found = gradients(build(**changes).double(), lambda batch: [c.double() for c in crops(batch)])
    for name, size in found.items():
        assert size is not None, f"{name} is not used"
        if not name.endswith(DEAD):
            assert size > 1e-9, f"no gradient reaches {name}"
    assert len(found) > 100


def test_gradients_reach_the_networks_start_too(crops):
    """Not randomised: of the residual form only what stands behind a zero has to wait a step."""
    torch.manual_seed(0)
    network = PJVLT(CONFIGS["pjvlt_tiny"]).eval()
    found = gradients(network, crops)
    waiting = {name for name, size in found.items() if size == 0 and not name.endswith(DEAD)}
    # W_e, W_s, norm stand before W_n = 0; W_p1, W_p2 before lambda = 0; theta_m before its half of theta_o.
    behind = [("ccpil", part) for part in ("w_e", "w_s", "norm", "w_p1", "w_p2")] + [("saiel", "theta_m")]
    assert waiting == {f"{layer}.{j}.{part}.{kind}"
                       for layer, part in behind for j in (2, 3) for kind in ("weight", "bias")}
    assert all(found[f"ccpil.{j}.{name}"] > 0 for j in (2, 3) for name in ("ccm_scale", "w_n.weight"))
    assert all(found[f"saiel.{j}.theta_w.weight"] > 0 for j in (2, 3)) and found["matching.weight"] > 0


def test_no_gradient_reaches_a_frozen_text_tower(build, crops):
    network = build(text_dim=384, text_depth=6, text_heads=12, frozen_minilm=True)
    found = gradients(network, crops)
    assert all((size is None) == name.startswith("text.") for name, size in found.items())
    assert sum(name.startswith("text.") for name in found) > 50
    assert all(size > 0 for name, size in found.items() if size is not None and not name.endswith(DEAD))


# switches: tables II to VI --------------------------------------------------------------------------------
TWELVE = {"depth": 12, "dim": 16, "text_depth": 12, "text_dim": 16, "separate_layers": 0,
          "fused_layers": tuple(range(1, 13)), "matching_prior": False, "pim_hidden": 24}
ABLATIONS = {
    "no fusion": {"fused_layers": ()}, "early": {"fused_layers": (1,)}, "late": {"fused_layers": (12,)},
    "3 layers": {"fused_layers": (1, 2, 3)}, "6 layers": {"fused_layers": tuple(range(1, 7))},
    "9 layers": {"fused_layers": tuple(range(1, 10))}, "every second": {"fused_layers": (2, 4, 6, 8, 10, 12)},
    "without SAIEL": {"saiel": False}, "without CCPIL": {"ccm": False, "pim": False},
    "without CCM": {"ccm": False}, "without PIM": {"pim": False},
    "sum": {"combine": "sum"}, "multiply": {"combine": "multiply"}}


@pytest.fixture(scope="module", params=["literal", "residual"])
def progressive(request, build):
    """The full twelve-layer network of both forms."""
    return build(form=request.param, **TWELVE)


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_run_and_change_the_output(name, progressive, crops):
    config = replace(progressive.config, **ABLATIONS[name])
    ablated = PJVLT(config).eval()
    # Every parameter that both have is the same, so that the switch alone is what moves the maps.
    full = progressive.state_dict()
    shared = {k: full[k] for k, t in ablated.state_dict().items() if k in full and full[k].shape == t.shape}
    ablated.load_state_dict(shared, strict=False)
    assert {k.split(".")[0] for k in shared} >= {"text", "backbone", "box_head", "blank_template"}
    template, search = crops()
    with torch.inference_mode():
        maps = ablated(template, search, [PHRASES[0]])
        assert moves(maps, progressive(template, search, [PHRASES[0]])) > 1e-5
        assert all(torch.isfinite(m).all() for m in maps)
        # Language is heard exactly where SAIEL is.
        heard = moves(maps, ablated(template, search, [PHRASES[1]]))
    assert heard > 1e-6 if config.saiel and config.fused_layers else heard == 0
    fused = [str(j) for j in config.fused_layers]
    assert list(ablated.saiel) == (fused if config.saiel else [])
    assert list(ablated.ccpil) == (fused if config.ccm or config.pim else [])
    parts = {k.split(".")[2] for k in ablated.state_dict() if k.startswith("ccpil")}
    assert ("w_p1" in parts) == (config.ccm and bool(fused))
    assert ("w_e" in parts) == (config.pim and bool(fused))


def test_the_two_forms_differ(build, crops):
    template, search = crops()
    literal, residual = build(form="literal"), build(form="residual")
    residual.load_state_dict(literal.state_dict(), strict=False)
    with torch.inference_mode():
        assert moves(literal(template, search, PHRASES[:1]), residual(template, search, PHRASES[:1])) > 1e-3


# configurations -------------------------------------------------------------------------------------------
def test_named_sizes_are_the_papers_and_the_issues():
    b, s = CONFIGS["pjvlt_b"], CONFIGS["pjvlt_s"]
    assert (b.dim, b.depth, b.num_heads, b.patch_size) == (768, 12, 12, 16)
    assert (b.template_size, b.search_size) == (128, 256)
    assert (b.text_dim, b.text_depth, b.fused_layers) == (768, 12, tuple(range(1, 13)))
    assert b.saiel and b.ccm and b.pim and b.combine == "concat"
    assert b.pim_hidden == 640 and b.channel_groups == 4
    assert (s.dim, s.patch_size, s.template_size, s.search_size, s.text_depth) == (384, 14, 112, 224, 6)
    for config in CONFIGS.values():
        assert CONFIGS[config.name] is config
        assert config.search_grid == 2 * config.template_grid


def test_pjvlt_t_runs(randomise):
    network = randomise(PJVLT(CONFIGS["pjvlt_t"]), scale=0.02).eval()
    with torch.inference_mode():
        maps = [network(torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)),
                        torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(1)), [text])
                for text in PHRASES]
    assert maps[0].score.shape == (1, 1, 16, 16) and moves(*maps) > 1e-6


@pytest.mark.parametrize("changes, numbers", [
    ({"template_size": 30}, ("30", "7")),
    ({"search_size": 50}, ("50", "7")),
    ({"dim": 33}, ("33", "2")),
    ({"latent_dim": 15}, ("15", "2")),
    ({"text_dim": 31}, ("31", "2")),
    ({"dim": 34, "channel_groups": 4}, ("34", "4")),
    ({"fused_layers": (1, 2)}, ("1", "2 to 3")),
    ({"fused_layers": (2, 4)}, ("4", "2 to 3")),
    ({"separate_layers": 4, "fused_layers": ()}, ("4", "3")),
    ({"head_channels": 20}, ("20", "8")),
    ({"form": "exact"}, ("'exact'", "residual")),
    ({"combine": "add"}, ("'add'", "multiply")),
    ({"dim": 0}, ("dim", "0")),
    ({"num_heads": 0}, ("num_heads", "0")),
    ({"patch_size": 0}, ("patch_size", "0")),
    ({"text_depth": 0}, ("text_depth", "0")),
    ({"pim_hidden": -1}, ("pim_hidden", "-1")),
    ({"max_words": 0}, ("max_words", "0")),
    ({"frozen_minilm": True}, ("32", "384")),
])
def test_configuration_errors_name_both_numbers(changes, numbers):
    with pytest.raises(ValueError, match="pjvlt_tiny") as error:
        replace(CONFIGS["pjvlt_tiny"], **changes)
    message = str(error.value)
    assert all(number in message for number in numbers), message
    assert "\n" not in message


def test_configuration_is_plain_data():
    """It goes into a file's header as JSON."""
    plain = (bool, int, float, str, tuple)
    for config in CONFIGS.values():
        assert all(isinstance(getattr(config, f.name), plain) for f in fields(config))
