# SPDX-License-Identifier: Apache-2.0
"""The paper's configuration: what the optimiser gets at the real sizes, and that it starts at small ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from small_tree import write_tree

from vlt_ros.networks import CONFIGS, PJVLT, load_network
from vlt_ros.training.trainer import Trainer, learning_rate_factor, parameter_groups, read_config, train

PAPER = Path(__file__).resolve().parents[2] / "config" / "train_pjvlt_b.yaml"


def test_the_papers_hyper_parameters():
    config = read_config(PAPER)
    assert config.batch_size == 128 and config.steps * config.batch_size == 300 * 60_000
    assert set(config.datasets) == {"lasot", "got10k", "trackingnet", "coco"}
    epoch = config.steps // 300
    factors = [learning_rate_factor(step, config) for step in (0, 239 * epoch, 240 * epoch + 240, config.steps - 1)]
    assert factors == [1.0, 1.0, 0.1, 0.1]
    assert config.steps * config.decay_from == pytest.approx(240 * 60_000 / 128)
    with torch.device("meta"):                                  # the real sizes without their memory
        network = PJVLT(CONFIGS[config.model])
    sizes = (network.config.dim, network.config.depth, network.config.text_dim, network.config.text_depth)
    assert sizes == (768, 12, 768, 12) and network.config.fused_layers == tuple(range(1, 13))
    groups = parameter_groups(network, config)
    group_of = {id(p): g for g in groups for p in g["params"]}
    for name, parameter in network.named_parameters():
        group = group_of[id(parameter)]                         # nothing is frozen, nothing is left out
        assert group["base_lr"] == (1e-5 if name.startswith(("backbone.", "text.")) else 1e-4), name
        assert group["weight_decay"] == (1e-4 if parameter.ndim > 1 else 0), name
    encoders = sum(p.numel() for g in groups if g["base_lr"] == 1e-5 for p in g["params"])
    assert 190e6 < encoders < 200e6                             # ViT-B/16 and BERT-base


def test_it_starts_from_files(tmp_path, monkeypatch):
    """The committed file with small towers of the same shape of network, in the released files' names, two steps."""
    small = dataclasses.replace(CONFIGS["pjvlt_b"], template_size=32, search_size=64, dim=24, num_heads=2, text_dim=16,
                                text_heads=2, latent_dim=16, latent_heads=2, pim_hidden=24, head_channels=16)
    monkeypatch.setitem(CONFIGS, "pjvlt_b", small)
    torch.manual_seed(3)
    towers = PJVLT(small)
    vision = {n: t for n, t in towers.backbone.state_dict().items() if not n.startswith("pos_embed")}
    torch.save({"model": vision | {"pos_embed": torch.randn(1, 197, 24), "cls_token": torch.randn(1, 1, 24)}},
               tmp_path / "mae.pth")
    (tmp_path / "bert").mkdir()
    text = towers.text.bert.state_dict()
    save_file({f"bert.{name}": tensor for name, tensor in text.items()}, tmp_path / "bert" / "model.safetensors")
    data, assets = write_tree(tmp_path)
    fields = yaml.safe_load(PAPER.read_text()) | {
        "data": str(data), "assets": str(assets), "datasets": None, "dataset_shares": None,
        "start_vision": str(tmp_path / "mae.pth"), "start_text": str(tmp_path / "bert"), "steps": 2, "batch_size": 4,
        "loaders": 0, "validation_samples": 2, "device": "cpu"}
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(fields))
    started = Trainer(read_config(path), tmp_path / "unused").network.state_dict()
    assert torch.equal(started["backbone.blocks.11.attn.qkv.weight"], vision["blocks.11.attn.qkv.weight"])
    assert torch.equal(started["text.bert.encoder.layer.11.output.dense.weight"],
                       text["encoder.layer.11.output.dense.weight"])
    network = load_network(train(path, tmp_path / "out"), model="pjvlt_b", device="cpu", precision="fp32")
    ended = network.state_dict()
    change = {name: float((ended[name] - started[name]).abs().max()) for name in
              ("backbone.blocks.11.attn.qkv.weight", "saiel.12.theta_v.weight", "box_head.conv1_ctr.0.weight")}
    # AdamW's first steps are the rates themselves (and the file holds half precision).
    assert 5e-6 < change["backbone.blocks.11.attn.qkv.weight"] < 1e-3
    assert all(1e-4 < value < 1e-3 for name, value in change.items() if not name.startswith("backbone"))
