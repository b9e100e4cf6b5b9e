# SPDX-License-Identifier: Apache-2.0
"""Starting from local files: a ViT with timm's names and a BERT of transformers, read without running their code."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from vlt_ros.networks import (
    CONFIGS,
    PJVLT,
    WeightsError,
    build_network,
    save_network,
    start_from_files,
    start_from_tracker,
)
from vlt_ros.networks.vit import interpolate_positions

CONFIG = replace(CONFIGS["pjvlt_tiny"], layer_scale=False)


def network() -> PJVLT:
    torch.manual_seed(1)
    return PJVLT(CONFIG)


@pytest.fixture(scope="module")
def vit():
    """A ViT as MAE releases it: class token and its position, a layer more than needed, a decoder, no LayerScale."""
    torch.manual_seed(0)
    wanted = network().backbone.state_dict()
    state = {name: torch.randn_like(tensor) for name, tensor in wanted.items() if not name.startswith("pos_embed")}
    state |= {"pos_embed": torch.randn(1, 50, 32), "cls_token": torch.randn(1, 1, 32),
              "mask_token": torch.randn(1, 1, 8), "blocks.3.norm1.weight": torch.randn(32),
              "decoder_norm.weight": torch.randn(8)}
    return state


@pytest.fixture(scope="module")
def bert():
    """A BERT's parameters under the names that transformers' BertModel has."""
    torch.manual_seed(0)
    return {name: torch.randn_like(tensor) for name, tensor in network().text.bert.state_dict().items()}


def assert_vision(net: PJVLT, state: dict) -> None:
    got = net.backbone.state_dict()
    for name, tensor in got.items():
        if name.startswith("pos_embed"):
            grid = {"pos_embed_z": 4, "pos_embed_x": 8}[name]
            torch.testing.assert_close(tensor, interpolate_positions(state["pos_embed"][:, 1:], grid))
        else:
            assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("wrap", [lambda s: {"model": s}, lambda s: {"state_dict": s, "epoch": 3}, lambda s: s])
def test_vision_from_a_torch_checkpoint(vit, tmp_path, wrap):
    torch.save(wrap(vit), tmp_path / "mae.pth")
    net = network()
    others = {n: t.clone() for n, t in net.state_dict().items() if not n.startswith("backbone.")}
    start_from_files(net, vision=tmp_path / "mae.pth")
    assert_vision(net, vit)
    assert all(torch.equal(t, others[n]) for n, t in net.state_dict().items() if n in others)


def test_vision_from_safetensors_and_without_a_class_token(vit, tmp_path):
    save_file(vit, tmp_path / "vit.safetensors")
    net = network()
    start_from_files(net, vision=str(tmp_path / "vit.safetensors"))
    assert_vision(net, vit)
    save_file(vit | {"pos_embed": vit["pos_embed"][:, 1:].contiguous()}, tmp_path / "plain.safetensors")
    again = network()
    start_from_files(again, vision=tmp_path / "plain.safetensors")
    assert torch.equal(again.backbone.pos_embed_x, net.backbone.pos_embed_x)


def test_text_from_a_folder_or_file_with_old_names(bert, tmp_path):
    old = {f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
           for name, t in bert.items()} | {"cls.predictions.bias": torch.zeros(3)}
    (tmp_path / "base").mkdir()
    torch.save(old, tmp_path / "base" / "pytorch_model.bin")
    save_file(bert, tmp_path / "bert.safetensors")
    for source in (tmp_path / "base", tmp_path / "base" / "pytorch_model.bin", tmp_path / "bert.safetensors"):
        net = network()
        start_from_files(net, text=source)
        assert all(torch.equal(t, bert[n]) for n, t in net.text.bert.state_dict().items())
    save_file({n: t + 1 for n, t in bert.items()}, tmp_path / "base" / "model.safetensors")     # the better kind first
    start_from_files(net, text=tmp_path / "base")
    assert torch.equal(net.text.bert.embeddings.word_embeddings.weight, bert["embeddings.word_embeddings.weight"] + 1)


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_files_that_do_not_fit_are_one_line(vit, bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def refused(words: str, **files):
        with pytest.raises(WeightsError, match=words) as error:
            start_from_files(network(), **files)
        assert "\n" not in str(error.value)

    # The command that is named puts the file where it was looked for.
    refused(r"mae/model\.safetensors is missing: fetch it once with: hf download timm/vit_base_patch16_224\.mae "
            r"model\.safetensors --local-dir mae$", vision="mae/model.safetensors")
    for text in (tmp_path, tmp_path / "no" / "bert"):
        refused(f"{text}/model.safetensors is missing: fetch it once with: hf download google-bert/bert-base-uncased "
                f"model.safetensors --local-dir {text}$", text=text)
    torch.save({"model": vit, "args": Harm()}, "harm.pth")
    refused(r"harm\.pth holds more than tensors", vision="harm.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Harm()))
    refused(r"bare\.pth holds more than tensors, or is damaged", vision="bare.pth")
    assert not (tmp_path / "harm").exists()
    torch.save([1, 2], "list.pth")
    refused("no dictionary of tensors", vision="list.pth")
    torch.save(bert, "bert.pth")
    refused("no square position embedding", vision="bert.pth")
    torch.save(vit | {"pos_embed": torch.zeros(1, 50, 64)}, "wide.pth")
    refused("64 channels wide, pjvlt_tiny 32", vision="wide.pth")
    torch.save({n: t for n, t in vit.items() if n != "blocks.2.mlp.fc1.bias"}, "short.pth")
    refused(r"lacks tensor blocks\.2\.mlp\.fc1\.bias", vision="short.pth")
    torch.save(bert | {"embeddings.word_embeddings.weight": torch.zeros(28996, 32)}, "cased.pth")
    refused(r"word_embeddings\.weight is \(28996, 32\), \(30522, 32\) is needed", text="cased.pth")


# what all systems have, from another system's weights file
def test_a_start_from_another_systems_tracker(tmp_path):
    torch.manual_seed(5)
    given = PJVLT(CONFIGS["pjvlt_tiny"])
    save_network(given, tmp_path / "tracker.safetensors")
    given = given.half().float().state_dict()
    torch.manual_seed(6)
    net = build_network(CONFIGS["lgtrack_tiny"])
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    start_from_tracker(net, tmp_path / "tracker.safetensors")
    common, own = set(), set()
    for name, tensor in net.state_dict().items():
        if torch.equal(tensor, before[name]):
            own.add(name.partition(".")[0])
        else:
            assert torch.equal(tensor, given[name]), name
            common.add(name.partition(".")[0])
    assert {"backbone", "box_head", "blank_template", "text"} <= common
    assert {"emim", "decoder"} <= own and not {"emim", "decoder"} & common


def test_a_tracker_of_another_size_is_refused(tmp_path):
    save_network(PJVLT(CONFIG), tmp_path / "tracker.safetensors")
    wider = build_network(replace(CONFIGS["lgtrack_tiny"], layer_scale=False, head_channels=32))
    with pytest.raises(WeightsError, match="box_head.*start from a tracker of the same size"):
        start_from_tracker(wider, tmp_path / "tracker.safetensors")
