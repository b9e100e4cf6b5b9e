# SPDX-License-Identifier: Apache-2.0
"""Published checkpoints: files in their layout, made here, against OSTrack's forward and step written down again.

The reference below is written from the facts (Ye et al., ECCV 2022, and what the released trackers do), with nothing of
this package in it: full attention matrices, sorted candidates, cubic convolution by its formula.
"""

from __future__ import annotations

import math
import os
import pickle
import sys
from collections import OrderedDict
from dataclasses import replace
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vlt_ros.networks import CONFIGS, WeightsError, load_network
from vlt_ros.networks.ostrack import OSTrack
from vlt_ros.networks.vit import interpolate_positions
from vlt_ros.tracker import CommandError, Tracker, TrackerSettings

DIM, HEADS, WIDE = 48, 3, 32        # in place of 768, 12, 256; layers, crops and patches are the real ones


# files in the published layout ----------------------------------------------------------------------------
def layout(dim: int, wide: int, template: int, search: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published OSTrack checkpoint for token grids of these sides."""
    shapes = {"backbone.cls_token": (1, 1, dim), "backbone.pos_embed": (1, 197, dim),
              "backbone.pos_embed_z": (1, template**2, dim), "backbone.pos_embed_x": (1, search**2, dim),
              "backbone.patch_embed.proj.weight": (dim, 3, 16, 16), "backbone.patch_embed.proj.bias": (dim,)}
    norms = ["backbone.norm"]
    for n in range(12):
        norms += [f"backbone.blocks.{n}.norm{k}" for k in (1, 2)]
        for part, out, into in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4)):
            shapes[f"backbone.blocks.{n}.{part}.weight"] = (out * dim, into * dim)
            shapes[f"backbone.blocks.{n}.{part}.bias"] = (out * dim,)
    shapes |= {f"{name}.{kind}": (dim,) for name in norms for kind in ("weight", "bias")}
    for branch, out in (("ctr", 1), ("offset", 2), ("size", 2)):
        widths = (dim, wide, wide // 2, wide // 4, wide // 8)
        for k in range(1, 5):
            shapes[f"box_head.conv{k}_{branch}.0.weight"] = (widths[k], widths[k - 1], 3, 3)
            for name in ("0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
                shapes[f"box_head.conv{k}_{branch}.{name}"] = (widths[k],)
            shapes[f"box_head.conv{k}_{branch}.1.num_batches_tracked"] = ()
        shapes[f"box_head.conv5_{branch}.weight"] = (out, widths[4], 1, 1)
        shapes[f"box_head.conv5_{branch}.bias"] = (out,)
    return shapes


def all_in_one_layout(dim: int, wide: int) -> dict[str, tuple[int, ...]]:
    shapes = layout(dim, wide, 8, 16)
    for name, out, into in (("language_proj", dim, dim), ("language_xz_proj", 256, dim),
                            ("vision_x_proj", 256, 256 * dim), ("vision_z_proj", 256, 64 * dim)):
        shapes |= {f"backbone.{name}.weight": (out, into), f"backbone.{name}.bias": (out,)}
    return shapes | {"language_embeddings.word_embeddings.weight": (30522, dim),
                     "language_embeddings.position_embeddings.weight": (40, dim),
                     "language_embeddings.token_type_embeddings.weight": (2, dim),
                     "language_embeddings.LayerNorm.weight": (dim,), "language_embeddings.LayerNorm.bias": (dim,)}


def random_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in shapes.items():
        scale = 0.3 if len(shape) < 2 else 1.5 / math.sqrt(math.prod(shape[1:])) if "weight" in name else 0.2
        noise = scale * torch.randn(shape, generator=generator)
        norm = name.endswith(".1.weight") or "norm" in name and name.endswith("weight")
        tensors[name] = 1 + noise if norm else noise.abs() + 0.5 if name.endswith("running_var") else noise
        if not shape:
            tensors[name] = torch.tensor(7)
    return tensors


@pytest.fixture(scope="module")
def small():
    """The published configurations with narrow layers."""
    changes = {"dim": DIM, "num_heads": HEADS, "head_channels": WIDE}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("ostrack_256", "ostrack_384"):
            patch.setitem(CONFIGS, name, replace(CONFIGS[name], **changes))
        released = replace(CONFIGS["all_in_one_released"], **changes, text_dim=DIM)
        patch.setitem(CONFIGS, "all_in_one_released", released)
        yield


class Statistics:
    """What the authors' training keeps beside the weights, of a class that a reader does not have."""

    def __init__(self) -> None:
        self.history = [0.5, np.float64(0.25)]


class Trap:
    """What makes a folder where a pickle's code is run."""

    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """publish(tensors): a file {"net": tensors, "stats": objects of lib.train.admin.stats, ...} as published."""
    def publish(tensors, **others):
        package = ModuleType("lib.train.admin.stats")
        package.StatValue = type("StatValue", (Statistics,), {"__module__": package.__name__,
                                                              "__qualname__": "StatValue"})
        path = tmp_path / "OSTrack_ep0300.pth.tar"
        with monkeypatch.context() as patch:
            for name in ("lib", "lib.train", "lib.train.admin", package.__name__):
                patch.setitem(sys.modules, name, package)
            stats = OrderedDict(train=OrderedDict({"Loss/total": package.StatValue()}))
            torch.save({"epoch": 300, "net_type": "OSTrack", "net": tensors, "optimizer": {"state": {}},
                        "stats": stats, **others}, path)
        return path

    return publish


# the reference --------------------------------------------------------------------------------------------
def cubic(t: float) -> float:
    """The cubic convolution kernel with a = -0.75."""
    t, a = abs(t), -0.75
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def cubic_matrix(old: int, new: int) -> np.ndarray:
    matrix = np.zeros((new, old))
    for i in range(new):
        place = (i + 0.5) * old / new - 0.5
        for k in range(math.floor(place) - 1, math.floor(place) + 3):
            matrix[i, min(max(k, 0), old - 1)] += cubic(place - k)
    return matrix


def reference_layer(tokens, w, name, heads, dim, keep=None, centre=None, template=64):
    """One ViT layer; with ``keep`` the search tokens kept by the centre template token's attention, best first."""
    def linear(x, part):
        return x @ w[f"{name}.{part}.weight"].T + w[f"{name}.{part}.bias"]

    def norm(x, part):
        return F.layer_norm(x, (dim,), w[f"{name}.{part}.weight"], w[f"{name}.{part}.bias"], 1e-6)

    q, k, v = linear(norm(tokens, "norm1"), "attn.qkv").chunk(3, dim=-1)
    outs, rows = [], []
    for h in range(heads):
        part = slice(h * dim // heads, (h + 1) * dim // heads)
        attention = (q[:, part] @ k[:, part].T / math.sqrt(dim // heads)).softmax(-1)
        outs.append(attention @ v[:, part])
        rows.append(attention[centre] if keep else None)
    tokens = tokens + linear(torch.cat(outs, dim=-1), "attn.proj")
    order = None
    if keep:
        score = torch.stack(rows).mean(0)[template:]
        order = score.sort(descending=True).indices[:math.ceil(keep * len(score))]
        tokens = torch.cat((tokens[:template], tokens[template:][order]))
    return tokens + linear(F.gelu(linear(norm(tokens, "norm2"), "mlp.fc1")), "mlp.fc2"), order


def reference_maps(w, z, x, token=None, heads=HEADS, elimination=(3, 6, 9), keep=0.7):
    """Score, offset and size maps of one pair (3, 128, 128), (3, 256, 256); ``token``: All-in-One's l (C,)."""
    def patches(image):
        made = F.conv2d(image[None], w["backbone.patch_embed.proj.weight"], w["backbone.patch_embed.proj.bias"],
                        stride=16)[0]
        made = torch.stack([made[:, i, j] for i in range(made.shape[1]) for j in range(made.shape[2])])
        return made if token is None else token * made + made

    z = patches(z) + w["backbone.pos_embed_z"][0]
    x = patches(x) + w["backbone.pos_embed_x"][0]
    (template, dim), count = z.shape, len(x)
    side = round(math.sqrt(template))
    centre = {8: 3, 12: 5}[side] * (side + 1)
    tokens, index = torch.cat((z, x)), torch.arange(count)
    for n in range(12):
        tokens, order = reference_layer(tokens, w, f"backbone.blocks.{n}", heads, dim,
                                        keep if n in elimination else None, centre, template)
        index = index if order is None else index[order]
    tokens = F.layer_norm(tokens, (dim,), w["backbone.norm.weight"], w["backbone.norm.bias"], 1e-6)
    grid = torch.zeros(count, dim, dtype=tokens.dtype)
    grid[index] = tokens[template:]
    side = round(math.sqrt(count))
    grid = grid.T.reshape(1, dim, side, side)

    def branch(name):
        made = grid
        for k in range(1, 5):
            p = f"box_head.conv{k}_{name}"
            made = F.conv2d(made, w[f"{p}.0.weight"], w[f"{p}.0.bias"], padding=1)
            mean, var, weight, bias = (w[f"{p}.1.{s}"][:, None, None]
                                       for s in ("running_mean", "running_var", "weight", "bias"))
            made = ((made - mean) / (var + 1e-5).sqrt() * weight + bias).clamp(min=0)
        return F.conv2d(made, w[f"box_head.conv5_{name}.weight"], w[f"box_head.conv5_{name}.bias"])[0]

    limit = (1e-4, 1 - 1e-4)
    return torch.sigmoid(branch("ctr")).clamp(*limit), branch("offset"), torch.sigmoid(branch("size")).clamp(*limit)


def reference_crop(frame, box, factor, size):
    """A frame (H, W, 3) in RGB cut about a box: side, normalised (3, size, size)."""
    x, y, w, h = box
    side = math.ceil(math.sqrt(w * h) * factor)
    left, top = round(x + 0.5 * w - side * 0.5), round(y + 0.5 * h - side * 0.5)
    patch = np.zeros((side, side, 3), np.uint8)
    height, width = frame.shape[:2]
    for row in range(max(0, -top), min(side, height - top)):
        a, b = max(0, -left), min(side, width - left)
        patch[row, a:b] = frame[top + row, left + a:left + b]
    pixels = cv2.resize(patch, (size, size)).astype(np.float64) / 255
    pixels = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return side, torch.from_numpy(pixels.transpose(2, 0, 1)).float()


def reference_step(w, frame, z, box, **options):
    """The box after one frame."""
    side, x = reference_crop(frame, box, 4.0, 256)
    score, offset, size = reference_maps(w, z, x, **options)
    window = torch.tensor([0.5 * (1 - math.cos(2 * math.pi * k / 17)) for k in range(1, 17)])
    row, column = divmod(int((torch.outer(window, window) * score[0]).argmax()), 16)
    cx = (column + float(offset[0, row, column])) / 16 * side
    cy = (row + float(offset[1, row, column])) / 16 * side
    bw, bh = float(size[0, row, column]) * side, float(size[1, row, column]) * side
    x, y, w, h = box
    x1, y1 = cx + x + 0.5 * w - side / 2 - bw / 2, cy + y + 0.5 * h - side / 2 - bh / 2
    x2, y2 = x1 + bw, y1 + bh
    height, width = frame.shape[:2]
    x1, x2 = min(max(0, x1), width - 10), min(max(10, x2), width)
    y1, y2 = min(max(0, y1), height - 10), min(max(10, y2), height)
    return (x1, y1, max(10, x2 - x1), max(10, y2 - y1)), float(score[0, row, column])


# parity ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("side", [8, 12, 16, 24])
def test_positions_are_interpolated_by_cubic_convolution(side):
    positions = torch.randn(1, 14 * 14, 5, generator=torch.Generator().manual_seed(0))
    matrix = cubic_matrix(14, side)
    grid = positions[0].double().numpy().reshape(14, 14, 5)
    expected = np.einsum("ai,bj,ijc->abc", matrix, matrix, grid).reshape(1, side * side, 5)
    np.testing.assert_allclose(interpolate_positions(positions, side).numpy(), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("keep_ratio, counts", [(0.7, (180, 126, 89)), (1.0, (256, 256, 256))])
def test_forward_is_ostracks(small, publish, keep_ratio, counts):
    tensors = random_tensors(layout(DIM, WIDE, 8, 16))
    network = load_network(publish(tensors), device="cpu", precision="fp32")
    assert network.name == "ostrack_256" and not network.listens
    network.config = replace(network.config, keep_ratio=keep_ratio)
    generator = torch.Generator().manual_seed(1)
    z, x = torch.randn(3, 128, 128, generator=generator), torch.randn(3, 256, 256, generator=generator)
    left = []
    for n in (3, 6, 9):
        network.backbone.blocks[n].mlp.register_forward_hook(lambda m, given, made: left.append(made.shape[1] - 64))
    with torch.inference_mode():
        maps = network(z[None], x[None], ["any"])
    assert tuple(left) == counts
    expected = reference_maps(tensors, z, x, keep=keep_ratio)
    for got, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(got[0], wanted, atol=2e-4, rtol=1e-3)
    # It can tell: dropping other candidates, or none, gives other maps.
    other = reference_maps(tensors, z, x, keep=0.6 if keep_ratio < 1 else 0.7)
    assert (maps.score[0] - other[0]).abs().max() > 5e-3


def test_tracking_steps_are_ostracks(small, publish):
    tensors = random_tensors(layout(DIM, WIDE, 8, 16))
    network = load_network(publish(tensors), model="ostrack_256", device="cpu", precision="fp32")
    tracker = Tracker(network, TrackerSettings(track_threshold=0.0, lost_threshold=0.0))
    rng = np.random.default_rng(0)
    scene = cv2.resize(rng.integers(0, 255, (24, 32, 3), np.uint8), (512, 384), interpolation=cv2.INTER_CUBIC)
    frames = [np.ascontiguousarray(scene[3 * t:3 * t + 240, 5 * t:5 * t + 320]) for t in range(6)]
    box = (101.5, 63.25, 41.0, 30.5)
    tracker.start("a sentence changes nothing", frames[0], box)
    _, z = reference_crop(frames[0][:, :, ::-1], box, 2.0, 128)
    boxes = [box]
    for frame in frames[1:]:
        box, confidence = reference_step(tensors, frame[:, :, ::-1], z, box)
        target = tracker.track(frame)
        assert target.box == pytest.approx(box, abs=0.02)
        assert target.confidence == pytest.approx(confidence, abs=1e-3)
        boxes.append(box)
    assert len({tuple(round(v) for v in b) for b in boxes}) > 3                     # it did move
    with pytest.raises(CommandError, match="ostrack_256 does not listen to sentences: give a box"):
        tracker.start("the red mug")
    assert tracker.target.box == target.box                                         # the old target stays
    tracker.search_again()
    assert tracker.track(frames[-1]).text == "a sentence changes nothing"


def test_ostrack_384_loads(small, publish):
    tensors = random_tensors(layout(DIM, WIDE, 12, 24))
    network = load_network(publish(tensors), device="cpu", precision="fp32")
    assert network.name == "ostrack_384" and network.config.search_size == 384
    generator = torch.Generator().manual_seed(1)
    z, x = torch.randn(3, 192, 192, generator=generator), torch.randn(3, 384, 384, generator=generator)
    with torch.inference_mode():
        maps = network(z[None], x[None], [""])
    expected = reference_maps(tensors, z, x)
    torch.testing.assert_close(maps.score[0], expected[0], atol=2e-4, rtol=1e-3)


def test_all_in_one_is_the_released_code(small, publish):
    tensors = random_tensors(all_in_one_layout(DIM, WIDE))
    network = load_network(publish(tensors), device="cpu", precision="fp32")
    assert network.name == "all_in_one_released" and not network.listens
    # [CLS] is piece 101, at position 0, of the first type.
    row = (tensors["language_embeddings.word_embeddings.weight"][101]
           + tensors["language_embeddings.position_embeddings.weight"][0]
           + tensors["language_embeddings.token_type_embeddings.weight"][0])
    row = F.layer_norm(row, (DIM,), tensors["language_embeddings.LayerNorm.weight"],
                       tensors["language_embeddings.LayerNorm.bias"], 1e-12)
    token = tensors["backbone.language_proj.weight"] @ row + tensors["backbone.language_proj.bias"]
    generator = torch.Generator().manual_seed(1)
    z, x = torch.randn(3, 128, 128, generator=generator), torch.randn(3, 256, 256, generator=generator)
    with torch.inference_mode():
        maps = network(z[None], x[None], ["the red mug"])
        assert all(map(torch.equal, maps, network(z[None], x[None], ["anything else"])))
    expected = reference_maps(tensors, z, x, token=token / token.norm())
    for got, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(got[0], wanted, atol=2e-4, rtol=1e-3)
    assert (maps.score[0] - reference_maps(tensors, z, x)[0]).abs().max() > 1e-3    # the token is there


def test_names_and_shapes_are_those_of_the_full_size():
    """The layouts above at 768 channels fill the real configurations, without their memory."""
    for config, shapes in zip(OSTrack.CONFIGS, (layout(768, 256, 8, 16), layout(768, 256, 12, 24)), strict=False):
        with torch.device("meta"):
            wanted = {k: tuple(t.shape) for k, t in OSTrack(config).state_dict().items()}
        assert config.name in ("ostrack_256", "ostrack_384")
        assert wanted == {k: s for k, s in shapes.items() if k not in ("backbone.cls_token", "backbone.pos_embed")}


# files that are not what they should be -------------------------------------------------------------------
def test_code_in_a_checkpoint_is_refused_and_never_run(small, publish, tmp_path):
    tensors = random_tensors(layout(DIM, WIDE, 8, 16))
    trap = tmp_path / "ran"
    path = publish(tensors, settings=Trap(trap))
    with pytest.raises(WeightsError, match="holds more than tensors") as error:
        load_network(path, device="cpu")
    assert "\n" not in str(error.value) and not trap.exists()
    path.write_bytes(pickle.dumps({"net": Trap(trap)}))
    with pytest.raises(WeightsError, match="holds more than tensors, or is damaged"):
        load_network(path, device="cpu")
    assert not trap.exists()
    pickle.loads(pickle.dumps(Trap(trap)))                               # the trap does work
    assert trap.exists()


def test_wrong_checkpoints_are_one_clear_error(small, publish, tmp_path):
    tensors = random_tensors(layout(DIM, WIDE, 8, 16))

    def refused(words, changed, **options):
        with pytest.raises(WeightsError, match=words) as error:
            load_network(publish(changed), device="cpu", **options)
        assert "\n" not in str(error.value)

    refused("no published checkpoint of OSTrack-256, OSTrack-384 or All-in-One", {"fc.weight": torch.zeros(2, 2)})
    refused("no published checkpoint", tensors | {"backbone.pos_embed_x": torch.zeros(1, 100, DIM)})
    refused(r"lacks tensor backbone\.norm\.bias", {k: t for k, t in tensors.items() if k != "backbone.norm.bias"})
    refused(r"conv5_ctr\.bias is \(3,\), \(1,\) is needed", tensors | {"box_head.conv5_ctr.bias": torch.zeros(3)})
    refused("pos_embed_z is .*is needed", tensors, model="ostrack_384")
    refused("has SHA-256", tensors, sha256="0" * 64)
    with pytest.raises(WeightsError, match=r"none\.pth is missing"):
        load_network(tmp_path / "none.pth", device="cpu")
