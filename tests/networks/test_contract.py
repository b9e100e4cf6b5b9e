# SPDX-License-Identifier: Apache-2.0
"""What every system keeps: one suite over all that ``systems.py`` lists, with their tiny configurations.

That each also overfits eight pairs through the trainer, objective and all, stands in tests/training/test_trainer.py.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._pytree import tree_leaves, tree_map

from vlt_ros.networks import CONFIGS, SYSTEMS, WeightsError, build_network, describe, load_network, save_network

PHRASES = ["the red mug", "the second person from the left"]


def tensors(tree) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def moves(maps, others) -> float:
    """Largest difference of two results, over all maps."""
    return max((a - b).abs().max().item() for a, b in zip(maps, others, strict=True))


def same(maps, others) -> bool:
    return all(map(torch.equal, tensors(maps), tensors(others)))


@pytest.fixture(scope="module")
def make(randomise):
    """make(system, **changes): its tiny network with random numbers in every parameter, in evaluation mode."""
    def make(system: str, **changes):
        torch.manual_seed(0)
        return randomise(build_network(replace(CONFIGS[f"{system}_tiny"], **changes))).eval()

    return make


@pytest.fixture(scope="module", params=SYSTEMS)
def network(request, make):
    """Each system's tiny network, shared: tests do not change it."""
    return make(request.param)


# what there is --------------------------------------------------------------------------------------------
def test_every_system_is_named_and_has_a_small_and_a_tiny_configuration():
    for name, system in SYSTEMS.items():
        names = {config.name for config in system.CONFIGS}
        assert {f"{name}_s", f"{name}_tiny"} < names and all(n.startswith(name) for n in names)
        assert all(CONFIGS[config.name] is config and type(config) is system.Config for config in system.CONFIGS)
    assert len(CONFIGS) == sum(len(system.CONFIGS) for system in SYSTEMS.values())


def test_small_configurations_are_alike_but_for_the_system():
    """The same towers, crops and head from the same start: what differs in a table of them is the paper's idea."""
    shared = ("template_size", "search_size", "patch_size", "dim", "depth", "num_heads", "layer_scale", "text_dim",
              "text_depth", "frozen_minilm", "separate_layers", "matching_prior", "head_channels", "inference")
    reference = asdict(CONFIGS["pjvlt_s"])
    for name in SYSTEMS:
        fields = asdict(CONFIGS[f"{name}_s"])
        assert {k: fields[k] for k in shared if k in fields} == {k: reference[k] for k in shared if k in fields}
    assert [CONFIGS["ostrack_s"].depth, CONFIGS["ostrack_s"].separate_layers] == [10, 6]


def test_costs_are_those_counted_elsewhere():
    """PJVLT-B's operations as another count has them, All-in-One's parameters as its paper states them."""
    rows = {name: describe(CONFIGS[name]) for name in ("pjvlt_b", "all_in_one_released", "ostrack_256", "ostrack_tiny")}
    assert rows["pjvlt_b"]["gflops"] == pytest.approx(82.3, rel=0.02) and rows["pjvlt_b"]["system"] == "pjvlt"
    # 472 more positions than the released 40, a blank template, and no unused class token and 14 x 14 positions.
    released = rows["all_in_one_released"]["parameters"] - (472 + 64) * 768 + 198 * 768
    assert released / 1e6 == pytest.approx(179.7, abs=0.1)
    assert rows["ostrack_256"]["text_parameters"] == 0
    # By hand: patches, three layers (the first over 64 and not 80 tokens), the prior, the head's nine 3x3 convolutions.
    c, convolutions = 32, 3 * (32 * 16 + 16 * 8 + 8 * 4 + 4 * 2) * 9 + (1 + 2 + 2) * 2
    layers = sum(n * 12 * c * c + 2 * n * n * c for n in (64, 80, 80))
    expected = 64 * (3 * 49 * c + 16 * c + 3 * c + convolutions) + layers
    assert rows["ostrack_tiny"]["gflops"] == pytest.approx(2 * expected / 1e9, abs=6e-4)


# shapes and sensitivity -----------------------------------------------------------------------------------
def test_shapes(network, crops):
    template, search = crops(batch=2)
    with torch.inference_mode():
        assert network.encode_template(template).shape == (2, 16, 32)
        assert network.encode_template(None, batch=3).shape == (3, 16, 32)
        maps = network(template, search, PHRASES)
    assert maps.score.shape == (2, 1, 8, 8) and maps.offset.shape == maps.size.shape == (2, 2, 8, 8)
    assert all(torch.isfinite(m).all() and m.dtype == torch.float32 for m in maps)
    assert 0 < maps.score.min() < maps.score.max() < 1


def test_cached_equals_uncached_bit_for_bit(network, crops):
    template, search = crops()
    other_template, other_search = crops(seed=1)
    with torch.inference_mode():
        maps = network(template, search, PHRASES[:1])
        # The maps move with each input: otherwise equality would say nothing.
        assert moves(maps, network(other_template, search, PHRASES[:1])) > 1e-3
        assert moves(maps, network(template, other_search, PHRASES[:1])) > 1e-3
        assert moves(maps, network(None, search, PHRASES[:1])) > 1e-3
        heard = [moves(maps, network(template, search, [text])) for text in (PHRASES[1], "", "the mug that is red")]
        assert min(heard) > 1e-4 if network.listens else heard == [0, 0, 0]

        words, tokens, blank = network.encode_text(PHRASES[:1]), network.encode_template(template), \
            network.encode_template(None)
        kept = tree_map(torch.clone, tensors((words, tokens, blank)))
        for seed in range(3):
            frame = crops(seed=seed)[1]
            assert same(network.track(frame, tokens, words), network(template, frame, PHRASES[:1]))
            assert same(network.track(frame, blank, words), network(None, frame, PHRASES[:1]))
        assert same(kept, (words, tokens, blank))


def test_a_frame_reads_neither_sentence_nor_template_again(network, crops):
    """What is static per command and per target is not computed: only the frame's patches, and no word."""
    template, search = crops()
    calls = []
    watched = [network.backbone.patch_embed] + ([network.text.bert.embeddings] if network.has_text_tower else [])
    with torch.inference_mode():
        words, tokens = network.encode_text(PHRASES[:1]), network.encode_template(template)
        hooks = [module.register_forward_hook(lambda module, given, made: calls.append(module)) for module in watched]
        network.track(search, tokens, words)
        assert calls == watched[:1]
        network(template, search, PHRASES[:1])
        assert calls.count(watched[0]) == 3 and calls[-1:].count(watched[-1]) <= 1
        assert len(calls) == (4 if network.has_text_tower else 3)
    for hook in hooks:
        hook.remove()


def test_batch_is_its_members(network, crops):
    """Targets do not talk to one another, padding of their sentences either; blank[i] has no template."""
    template, search = crops(batch=3)
    sentences, blank = [PHRASES[0], "", PHRASES[1]], torch.tensor([False, False, True])
    with torch.inference_mode():
        together = network(template, search, sentences, blank)
        for i in range(3):
            alone = network(None if blank[i] else template[i:i + 1], search[i:i + 1], [sentences[i]])
            assert moves(alone, [m[i:i + 1] for m in together]) < 5e-5
        other = network(crops(batch=3, seed=7)[0], search, sentences, blank)
        assert same([m[2:] for m in together], [m[2:] for m in other])


# gradients ------------------------------------------------------------------------------------------------
# One constant for all keys moves no softmax; PJVLT's instance norm takes theta_q's bias out again, and the last
# LayerNorm what its last W_n's bias adds to all channels.
DEAD = ("theta_q.bias", "theta_k.bias", "key.bias", "ccpil.3.w_n.bias")


def gradients(network, crops) -> dict[str, float | None]:
    """Largest gradient of every parameter from maps and terms, each element weighed differently."""
    template, search = (crop.double() for crop in crops(batch=2))
    tokens = network.encode_template(template, torch.tensor([True, False]))
    encoded = network.encode(network.encode_search(search), tokens, network.encode_text(PHRASES))
    made = tensors((network.maps(encoded["search"]), network.terms(encoded)))
    sum((torch.linspace(0.5, 1.5, m.numel()).view_as(m) * torch.sin(m)).sum() for m in made).backward()
    return {name: None if p.grad is None else p.grad.abs().max().item() for name, p in network.named_parameters()}


@pytest.mark.parametrize("system", SYSTEMS)
def test_gradients_reach_every_parameter(system, make, crops):
    found = gradients(make(system).double(), crops)
    for name, size in found.items():
        assert size is not None, f"{name} is not used"
        if not name.endswith(DEAD):
            assert size > 1e-10, f"no gradient reaches {name}"
    assert len(found) > 60


# files ----------------------------------------------------------------------------------------------------
def test_round_trip(network, crops, tmp_path):
    path = tmp_path / "net.safetensors"
    save_network(network, path)
    loaded = load_network(path, model=network.config.name, device="cpu", precision="fp32")
    assert loaded.config == network.config and type(loaded) is type(network)
    save_network(loaded, tmp_path / "again.safetensors")
    again = load_network(tmp_path / "again.safetensors", device="cpu", precision="fp32")
    template, search = crops()
    with torch.inference_mode():
        maps = loaded(template, search, PHRASES[:1])
        assert same(maps, again(template, search, PHRASES[:1]))
        assert moves(maps, network(template, search, PHRASES[:1])) < 0.1
    for name, tensor in loaded.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, network.state_dict()[name].half().float()), name
    half = load_network(path, device="cpu", precision="bf16")
    with torch.inference_mode():
        maps = half(template.bfloat16(), search.bfloat16(), PHRASES[:1])
    assert all(torch.isfinite(m).all() and m.dtype == torch.float32 for m in maps)


def test_a_file_of_another_or_an_unknown_system_is_one_clear_error(make, tmp_path):
    path = tmp_path / "net.safetensors"
    save_network(make("ostrack"), path)
    with pytest.raises(WeightsError, match="is for model ostrack_tiny, not lgtrack_tiny"):
        load_network(path, model="lgtrack_tiny", device="cpu")
    with pytest.raises(WeightsError, match="model lgtrack_b has no shipped weights: give --weights FILE"):
        load_network(model="lgtrack_b", device="cpu")
    metadata = {"format": "vlt_ros", "system": "siamfc", "config": json.dumps(asdict(CONFIGS["ostrack_tiny"]))}
    save_file(load_file(path), path, metadata=metadata)
    with pytest.raises(WeightsError, match="cannot read: system 'siamfc' is unknown") as error:
        load_network(path, device="cpu")
    assert "\n" not in str(error.value)
    save_file(load_file(path), path, metadata=metadata | {"system": "lgtrack"})     # whose configuration has no such
    with pytest.raises(WeightsError, match="cannot read"):                          # fields
        load_network(path, device="cpu")


# configurations -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("changes, words", [
    ({"template_size": 30}, ("template_size 30", "patch_size 7")), ({"dim": 33}, ("33", "2")),
    ({"separate_layers": 4}, ("4", "3")), ({"head_channels": 20}, ("20", "8")), ({"depth": 0}, ("depth", "0")),
    ({"inference": "fast"}, ("'fast'", "'ostrack'"))])
@pytest.mark.parametrize("system", SYSTEMS)
def test_wrong_sizes_are_one_clear_error(system, changes, words):
    with pytest.raises(ValueError, match=f"{system}_tiny") as error:
        replace(CONFIGS[f"{system}_tiny"], **changes)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


@pytest.mark.parametrize("system, changes, words", [
    ("all_in_one", {"language": "deaf"}, "'words' or 'cls', not 'deaf'"),
    ("all_in_one", {"language": "cls"}, "text_depth must be 0, not 2"),
    ("all_in_one", {"keep_ratio": 0.0}, "keep_ratio must be above 0 and at most 1, not 0.0"),
    ("all_in_one", {"elimination_layers": (1,)}, r"elimination layers \[1\] are not joint layers; those are 2 to 3"),
    ("all_in_one", {"mixup_gain": -1.0}, "mixup_gain must be at least 0"),
    ("all_in_one", {"text_depth": -1}, "text_depth must be at least 0"),
    ("ostrack", {"keep_ratio": 1.5}, "keep_ratio must be above 0 and at most 1, not 1.5"),
    ("ostrack", {"elimination_layers": (3, 2)}, r"elimination layers \[3, 2\] are not in rising order"),
    ("satracker", {"levels": ()}, "levels are empty"), ("satracker", {"levels": (1,)}, "2 to 3"),
    ("satracker", {"latent_dim": 15}, "15 is no multiple of latent_heads 2"),
    ("satracker", {"text_depth": 0}, "text_depth must be at least 1, not 0"),
    ("satracker", {"matching_weight": float("nan")}, "matching_weight"),
    ("lgtrack", {"levels": (3,)}, r"levels \[3\] lack the first joint layer, 2"),
    ("lgtrack", {"decoder_layers": 0}, "decoder_layers must be at least 1, not 0"),
    ("lgtrack", {"frozen_minilm": True}, "MiniLM has .* 384, 6, 12")])
def test_what_a_system_alone_has_is_checked_too(system, changes, words):
    with pytest.raises(ValueError, match=words) as error:
        replace(CONFIGS[f"{system}_tiny"], **changes)
    assert str(error.value).startswith(f"{system}_tiny: ")


# what makes each paper itself -----------------------------------------------------------------------------
def test_all_in_one_hears_words_and_the_released_form_does_not(make, crops):
    """The released token is one constant, so every sentence gives the same maps; both forms have one token a target."""
    template, search = crops()
    heard, released = (make("all_in_one", language=form, text_depth=0) for form in ("words", "cls"))
    assert heard.listens and not released.listens
    with torch.inference_mode():
        maps = {form: [network(template, search, [text]) for text in [*PHRASES, ""]]
                for form, network in (("words", heard), ("cls", released))}
        assert moves(*maps["words"][:2]) > 1e-3 and moves(*maps["words"][1:]) > 1e-3
        assert same(maps["cls"][0], maps["cls"][1]) and same(maps["cls"][0], maps["cls"][2])
        assert moves(maps["words"][0], maps["cls"][0]) > 1e-3
    found = gradients(released.double(), crops)       # no_grad, as theirs
    assert all(size is None for name, size in found.items() if name.startswith("text."))
    assert all(size > 1e-10 for name, size in found.items() if not name.startswith("text."))


def test_all_in_one_mixes_before_positions_and_the_first_layer(make, crops):
    """x <- l * x + x and z <- l * z + z of raw patches, l = normalize(Linear(mean of words))."""
    network = make("all_in_one", separate_layers=0, matching_prior=False, mixup_gain=0.0, text_depth=0)
    template, search = crops()
    with torch.no_grad():
        embeddings = network.text.bert.embeddings(network.text.tokenize(PHRASES[:1])[0])
        token = network.language_proj(embeddings.mean(dim=1))
        token = token / token.norm()
        z, x = network.backbone.patch_embed(template), network.backbone.patch_embed(search)
        tokens = torch.cat((token * z + z + network.backbone.pos_embed_z,
                            token * x + x + network.backbone.pos_embed_x), dim=1)
        for block in network.backbone.blocks:
            tokens = block(tokens)
        expected = network.maps(network.backbone.norm(tokens)[:, 16:])
        assert moves(network(template, search, PHRASES[:1]), expected) < 1e-5
        terms = network.terms(network.encode(network.encode_search(search), network.encode_template(template),
                                             network.encode_text(PHRASES[:1])))
    assert {name: (term.of, term.weight, term.temperature) for name, term in terms.items()} == {
        "search_language": (("search", "language"), 0.25, 0.5),
        "template_language": (("template", "language"), 0.25, 0.5),
        "search_template": (("search", "template"), 0.5, 0.5)}
    with torch.no_grad():
        torch.testing.assert_close(terms["search_language"].first, network.vision_x_proj(x.flatten(1)))
        torch.testing.assert_close(terms["template_language"].second, network.language_xz_proj(token))


def test_satrackers_text_is_no_fixed_query(make, crops):
    """The last text layer reads other text for another frame, and the same where SAM's gates are shut."""
    network = make("satracker")
    template, search = crops()
    read = []
    network.text.bert.layers[2].register_forward_pre_hook(lambda module, given: read.append(given[0].clone()))
    assert network.config.static_text_layers == 2
    with torch.inference_mode():
        words, tokens = network.encode_text(PHRASES[:1]), network.encode_template(template)
        read.clear()
        for frame in (search, search, crops(seed=1)[1]):
            network.track(frame, tokens, words)
        assert len(read) == 3 and torch.equal(read[0], read[1])
        assert (read[0] - read[2]).abs().max() > 1e-3
        read.clear()
        for sam in network.sam.values():
            sam.gate.zero_()
        for frame in (search, crops(seed=1)[1]):
            network.track(frame, tokens, words)
        assert torch.equal(*read) and torch.equal(read[0], words.tokens)
        terms = network.terms(network.encode(network.encode_search(search), tokens, words))
    assert list(terms) == ["matching_2", "matching_3"] and sum(t.weight for t in terms.values()) == 0.5
    assert terms["matching_3"].tokens.shape == (1, 64, 16) and terms["matching_3"].target.shape == (1, 16)


def test_lgtracks_levels_and_query_each_carry_language(make, crops):
    """Shut all of them but one, and the sentence still moves the maps; shut all, and it does not."""
    template, search = crops()

    def heard(*open_parts: str) -> float:
        network = make("lgtrack")
        with torch.inference_mode():
            for j in ("2", "3"):
                if f"level {j}" not in open_parts:
                    network.emim[j].vision_asks.gate.zero_()
            if "query" not in open_parts:
                network.joint_query.weight[:, 64:].zero_()
            return moves(network(template, search, PHRASES[:1]), network(template, search, PHRASES[1:]))

    assert heard() == 0
    assert all(heard(part) > 1e-4 for part in ("level 2", "level 3", "query"))
    network = make("lgtrack")
    with torch.inference_mode():
        encoded = network.encode(network.encode_search(search), network.encode_template(template),
                                 network.encode_text(PHRASES[:1]))
        term = network.terms(encoded)["alignment"]
        other = network.terms(network.encode(network.encode_search(search), network.encode_template(template),
                                             network.encode_text(PHRASES[1:])))["alignment"]
    assert term.across and term.first.shape == (1, 64, 16) and term.of == ("search", "language")
    assert torch.equal(term.first, other.first) and not torch.equal(term.second, other.second)


# a new system ---------------------------------------------------------------------------------------------
def test_the_documents_new_tracker_is_one_file_and_one_line(crops, tmp_path, monkeypatch):
    """The file in docs/trackers.md, found by the line there, is built, hears, sees, and goes to a file and back."""
    import re
    from pathlib import Path
    from pkgutil import resolve_name

    import vlt_ros.networks

    page = (Path(__file__).resolve().parents[2] / "docs" / "trackers.md").read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class Mine(" in block)
    name, place = re.search(r'`"(\w+)": "(mine:Mine)",`', page).groups()
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom torch import nn\n"
        "from vlt_ros.networks.base import LanguageConfig, TrackingNetwork\n" + code)
    monkeypatch.setattr(vlt_ros.networks, "__path__", [*vlt_ros.networks.__path__, str(tmp_path)])
    system = resolve_name(f"vlt_ros.networks.{place}")
    monkeypatch.setitem(SYSTEMS, name, system)
    small = {k: v for k, v in asdict(CONFIGS["lgtrack_tiny"]).items() if k in asdict(system.CONFIGS[0])}
    monkeypatch.setitem(CONFIGS, "mine_tiny", system.Config(**small | {"name": "mine_tiny"}))
    torch.manual_seed(0)
    network = build_network(CONFIGS["mine_tiny"]).eval()
    save_network(network, tmp_path / "mine.safetensors")
    loaded = load_network(tmp_path / "mine.safetensors", model="mine_tiny", device="cpu", precision="fp32")
    template, search = crops()
    with torch.inference_mode():
        maps = loaded(template, search, PHRASES[:1])
        assert moves(maps, network(template, search, PHRASES[:1])) < 0.01
        assert moves(maps, loaded(template, search, PHRASES[1:])) > 1e-6
        assert moves(maps, loaded(None, search, PHRASES[:1])) > 1e-6
    assert describe(CONFIGS["mine_tiny"])["system"] == "mine"
