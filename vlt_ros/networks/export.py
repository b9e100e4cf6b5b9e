# SPDX-License-Identifier: Apache-2.0
"""A network's frame as a file for another runtime: ONNX, OpenVINO, and OpenVINO in int8."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from vlt_ros.networks.artefacts import fingerprint
from vlt_ros.networks.base import TrackingNetwork
from vlt_ros.networks.folding import fold
from vlt_ros.networks.frame import FrameGraph
from vlt_ros.networks.runtimes import GRAPH, onnx_bytes, openvino_model

Frames = list[dict[str, np.ndarray]]


class ExportError(RuntimeError):
    """A file cannot be made or written; the message says what to do."""


def _needs(*packages: str) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ExportError(f"this export needs a package that is missing: pip install {' '.join(missing)}")


def quantised(model: Any, frames: Frames) -> Any:
    """An openvino.Model whose products in ViT and PJVLT layers are int8: weights by channel, activations by range.

    Attention between tokens, the patch embedding and the head stay as they are: the head in int8 makes the error of the
    confidence four times as large.

    Args:
        model: see :func:`vlt_ros.networks.runtimes.openvino_model`. frames: its inputs by name, a batch of one each.
    """
    import nncf

    nncf.set_log_level(logging.WARNING)
    others = nncf.IgnoredScope(patterns=[r"^(?!.*\.(backbone\.blocks|saiel|ccpil)\.).*"],
                               types=["ScaledDotProductAttention"], validate=False)
    return nncf.quantize(model, nncf.Dataset(frames), model_type=nncf.ModelType.TRANSFORMER,
                         preset=nncf.QuantizationPreset.MIXED, subset_size=len(frames), ignored_scope=others)


def export(network: TrackingNetwork, out: str | Path, kind: str,
           calibrate: Callable[[TrackingNetwork], Frames] | None = None) -> None:
    """Write a network's frame: inputs search, template and words_I, outputs score, offset, size and tokens.

    Args:
        network: in float32 on the CPU, plain; it is used up. out: the .onnx or .xml file; OpenVINO's weights go into a
            .bin file beside it. kind: onnx or openvino.
        calibrate: gives the frames by which an OpenVINO graph is quantised to int8; None leaves it in float32.

    Raises:
        ExportError: a package is missing, or the file cannot be written.
    """
    out = Path(out)
    ending = {"onnx": ".onnx", "openvino": ".xml"}.get(kind)
    if ending is None:
        raise ExportError(f"format {kind!r} is not onnx or openvino")
    if out.suffix != ending:
        raise ExportError(f"{out} does not end in {ending}, as a file of {kind} does")
    if kind == "onnx" and calibrate is not None:
        raise ExportError("int8 is made for openvino: give --format openvino")
    _needs(*(("onnx",) if kind == "onnx" else ("openvino", "nncf") if calibrate else ("openvino",)))
    facts = {"graph": GRAPH, "fingerprint": fingerprint(network)}
    fold(network)
    graph = FrameGraph(network)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if kind == "onnx":
            out.write_bytes(onnx_bytes(graph))
            return
        import openvino

        model = openvino_model(graph)
        if calibrate is not None:
            model = quantised(model, calibrate(network))
        for name, value in facts.items():
            model.set_rt_info(value, ["vlt_ros", name])
        # Beside int8, half precision for the rest loses nothing, and halves what is stored of it.
        openvino.save_model(model, out, compress_to_fp16=calibrate is not None)
    except OSError as error:
        raise ExportError(f"cannot write {out}: {error.strerror}; give another file with --out") from error
