# SPDX-License-Identifier: Apache-2.0
"""What computes a frame: torch as it is, torch after exact algebra, or a compiler's graph, behind one interface.

=============  ==========================================================================  ====================
runtime        what it is                                                                  precisions
=============  ==========================================================================  ====================
eager          the network as its paper writes it, in torch                                fp32, bf16, fp16
folded         the same after ``folding.py``, in torch                                     fp32, bf16, fp16
compile        folded, through torch.compile (on CPUs it needs a C++ compiler)             fp32, bf16, fp16
cudagraphs     folded, captured as a CUDA graph for each size of a batch                   fp32, bf16, fp16
openvino       folded, by OpenVINO on the CPU; fp32 is exact, int8 needs a calibrated file  fp32, bf16, int8
onnxruntime    folded, by ONNX Runtime: TensorRT or CUDA where its build has them          fp32, fp16 on a GPU
=============  ==========================================================================  ====================

All of them take what depends on sentence and template as inputs: a new command or target compiles nothing. What is
computed once per command or target stays in torch.
"""

from __future__ import annotations

import io
import json
import shutil
import threading
import warnings
from collections.abc import Callable
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlt_ros.networks.artefacts import cache_folder, cached, code_version, fingerprint
from vlt_ros.networks.base import TrackingNetwork
from vlt_ros.networks.folding import fold
from vlt_ros.networks.frame import OUTPUTS, FrameGraph, flat, maps_of, padded_words
from vlt_ros.networks.head import Maps
from vlt_ros.networks.noise import SampleNoise

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_IN_TORCH = ("fp32", "bf16", "fp16")
RUNTIMES: dict[str, tuple[str, ...]] = {
    "eager": _IN_TORCH, "folded": _IN_TORCH, "compile": _IN_TORCH, "cudagraphs": _IN_TORCH,
    "openvino": ("fp32", "bf16", "int8"), "onnxruntime": ("fp32", "fp16"),
}
# Networks with fewer parameters in the ViT are done in torch before another runtime has been called.
WORTHWHILE = 1_000_000
# Of the graph's inputs and outputs: a file made for others does not fit.
GRAPH = "vlt_ros frame 1"


class RuntimeUnavailable(RuntimeError):
    """The runtime asked for, or the precision in it, is not to be had."""


def available(name: str, device: torch.device | str = "cpu") -> str:
    """'' where a runtime can be used on a device; else why not, and what to do."""
    kind = torch.device(device).type
    if name not in RUNTIMES:
        return f"runtime {name!r} is not one of auto, {', '.join(RUNTIMES)}"
    if name == "compile" and kind == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        return "torch.compile needs a C++ compiler: install g++"
    if name == "cudagraphs" and (kind != "cuda" or not torch.cuda.is_available()):
        return f"cudagraphs need a CUDA device, not {kind}"
    if name == "openvino" and kind != "cpu":
        return f"openvino runs on the CPU here, not on {kind}: give device cpu, or another runtime"
    if name in ("openvino", "onnxruntime") and find_spec(name) is None:
        return f"the package {name} is missing: pip install {name}"
    if name == "onnxruntime" and find_spec("onnx") is None:
        return "the package onnx, which writes the graph, is missing: pip install onnx"
    if name == "onnxruntime" and kind == "cuda" and not _gpu_providers():
        return "this build of onnxruntime has no CUDA: pip install onnxruntime-gpu in place of onnxruntime"
    return ""


def choose(network: TrackingNetwork, device: torch.device, precision: str) -> str:
    """The runtime that ``auto`` stands for: on CPUs the fastest one measured, on GPUs torch.

    Compilers that take long (compile) or hold memory for each batch (cudagraphs) are left to those who ask for them.
    """
    if sum(p.numel() for p in network.backbone.parameters()) < WORTHWHILE:
        return "eager"
    wanted = precision == "auto" or precision in RUNTIMES["openvino"]
    return "openvino" if wanted and not available("openvino", device) else "folded"


def fast_bf16(device: torch.device) -> bool:
    """Whether a device is faster at bfloat16 than at float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def prepare(network: TrackingNetwork, runtime: str = "auto", device: torch.device | str = "cpu",
            precision: str = "auto", beside: Path | None = None) -> Any:
    """Make a network ready to track in a runtime.

    Args:
        network: on the CPU in float32, plain; it is used up.
        runtime: a name of :data:`RUNTIMES` or auto. device: where. precision: one that the runtime has, or auto.
        beside: the weights file, beside which a calibrated graph may lie, see :func:`calibrated_file`.

    Returns:
        the network, or a :class:`CompiledNetwork`, with ``name``, ``device``, ``runtime`` and ``precision``.

    Raises:
        RuntimeUnavailable: the runtime is not to be had here, or not in that precision.
    """
    device = torch.device(device)
    network = network.eval().requires_grad_(False)
    if runtime == "auto":
        runtime = choose(network, device, precision)
    if reason := available(runtime, device):
        raise RuntimeUnavailable(reason)
    if precision not in ("auto", *RUNTIMES[runtime]):
        raise RuntimeUnavailable(f"runtime {runtime} computes in {', '.join(RUNTIMES[runtime])}, not in {precision}")
    calibrated = None
    if precision == "int8":
        calibrated, reason = _calibrated(network, calibrated_file(beside))
        if calibrated is None:
            raise RuntimeUnavailable(reason or "int8 needs a graph calibrated on frames beside the weights file: "
                                     "vlt export WEIGHTS --format openvino --precision int8 --calibrate CLIPS")
    if precision == "auto":
        if runtime == "onnxruntime":
            precision = "fp16" if device.type == "cuda" else "fp32"
        else:
            precision = "bf16" if fast_bf16(device) else "fp32"
    frame: Callable[..., tuple[Tensor, ...]] | None = None
    if runtime == "openvino":
        frame = _openvino(network, precision, calibrated)
    elif runtime == "onnxruntime":
        frame = _onnxruntime(network, precision, device)
    else:
        if runtime != "eager":
            fold(network)
        network.to(device, DTYPES[precision])
        if runtime == "compile":
            frame = _compiled(network, device)
        elif runtime == "cudagraphs":
            frame = CudaGraphs(FrameGraph(network))
    prepared = network if frame is None else CompiledNetwork(network, frame)
    prepared.name, prepared.device = network.config.name, device
    prepared.runtime, prepared.precision = runtime, precision
    return prepared


class CompiledNetwork:
    """A network whose frame another runtime computes; what is done once per command or target is the network's.

    Used as a :class:`TrackingNetwork` is, for tracking alone.

    Args:
        network: folded where the frame is; its layers of a frame may be gone.
        frame: takes what :class:`FrameGraph` takes and gives what it gives.
    """

    name: str
    device: torch.device
    runtime: str
    precision: str

    def __init__(self, network: TrackingNetwork, frame: Callable[..., tuple[Tensor, ...]]) -> None:
        self._network, self._frame = network, frame

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def to(self, device: torch.device | str) -> CompiledNetwork:
        """Move what is in torch to a device; a runtime on the CPU has nothing to move."""
        if self.runtime in ("compile", "cudagraphs"):
            if isinstance(self._frame, CudaGraphs):
                self._frame.forget()
            self._network.to(device)
        return self

    def encode_text(self, sentences: list[str], noise: SampleNoise | None = None) -> Any:
        """As the network's, padded to one length."""
        return padded_words(self._network, sentences)

    def track(self, search: Tensor, template: Tensor, words: Any) -> Maps:
        """As :meth:`TrackingNetwork.track`."""
        return self.follow(search, template, words)[0]

    def follow(self, search: Tensor, template: Tensor, words: Any) -> tuple[Maps, Tensor]:
        """As :meth:`TrackingNetwork.follow`."""
        outputs = self._run(search, template, words)
        return maps_of(outputs), outputs[3]

    def ground(self, search: Tensor, words: Any, phrase: Tensor | None = None) -> Maps:
        """As :meth:`TrackingNetwork.ground`; names are read in torch from the tokens that the frame gives."""
        outputs = self._run(search, self._network.encode_template(None, batch=len(search)), words)
        if phrase is None:
            return maps_of(outputs)
        naming = self._network.naming
        return naming.weigh(maps_of(outputs), naming(outputs[3].to(naming.bias.dtype), phrase))

    def _run(self, search: Tensor, template: Tensor, words: Any) -> tuple[Tensor, ...]:
        return self._frame(search, template.to(search.dtype).contiguous(), *flat(words))


def _without_frame(network: TrackingNetwork, precision: str) -> None:
    """Free the layers of a network that only a frame needs, and give those for names the frame's precision."""
    network.backbone.blocks[network.config.separate_layers:].to("meta")
    network.box_head.to("meta")
    if network.tells_names and precision != "fp32" and fast_bf16(torch.device("cpu")):
        network.naming.to(torch.bfloat16)


# OpenVINO ---------------------------------------------------------------------------------------------------
def calibrated_file(weights: Path | None) -> Path | None:
    """The int8 graph that lies beside a weights file, as `vlt export` names it; None where there is none."""
    file = None if weights is None else weights.with_name(f"{weights.stem}.int8.xml")
    return file if file is not None and file.is_file() else None


def openvino_model(graph: FrameGraph) -> Any:
    """A graph as an openvino.Model with the batch left open, every other size fixed."""
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    # Not openvino.convert_model, which reports to its makers over the network.
    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(_traced(graph))    # nothing but this name keeps it alive
    model = frontend.convert(frontend.load(decoder))
    for place, name in zip((*model.inputs, *model.outputs), (*graph.input_names(), *OUTPUTS), strict=True):
        place.get_tensor().set_names({name})
    model.reshape({name: openvino.PartialShape([-1, *tensor.shape[1:]])
                   for name, tensor in zip(graph.input_names(), graph.example(), strict=True)})
    return model


def _calibrated(network: TrackingNetwork, file: Path | None) -> tuple[Any, str]:
    """The exported graph of a plain network, or None and why it cannot be used; (None, '') without a file."""
    import openvino

    if file is None:
        return None, ""
    try:
        model = openvino.Core().read_model(file)
        of = {name: model.get_rt_info(["vlt_ros", name]).astype(str) for name in ("graph", "fingerprint")}
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        return None, f"{file} cannot be used ({reason}): make it again with vlt export"
    if of != {"graph": GRAPH, "fingerprint": fingerprint(network)}:
        return None, f"{file} was made from other weights or by another version: make it again with vlt export"
    return model, ""


class OpenVINOFrame:
    """A compiled openvino.Model as a frame.

    Args:
        model: see :func:`openvino_model`. precision: fp32 computes in float32 throughout; without the hint OpenVINO
            takes bfloat16 by itself where the processor has it. int8 leaves what is not quantised to bf16.
    """

    def __init__(self, model: Any, precision: str) -> None:
        import openvino

        hint = "f32" if precision == "fp32" or not fast_bf16(torch.device("cpu")) and precision == "int8" else "bf16"
        # As many threads as torch, so that OMP_NUM_THREADS holds for both.
        self._compiled = openvino.Core().compile_model(model, "CPU", {
            "INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads()})
        self._request = self._compiled.create_infer_request()
        # Several cameras of one process share a network, and a request does one frame at a time.
        self._turn = threading.Lock()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        with self._turn:
            results = self._request.infer([tensor.numpy() for tensor in inputs], share_inputs=True)
            return tuple(torch.from_numpy(results[name]) for name in OUTPUTS)


def _openvino(network: TrackingNetwork, precision: str, calibrated: Any) -> OpenVINOFrame:
    import openvino

    model, key = calibrated, "" if calibrated else _key(network, "openvino", "openvino")
    fold(network)
    if model is None:
        model = cached(key, lambda: openvino_model(FrameGraph(network)),
                       lambda model, folder: openvino.save_model(model, folder / "frame.xml", compress_to_fp16=False),
                       lambda folder: openvino.Core().read_model(folder / "frame.xml"))
    _without_frame(network, precision)
    return OpenVINOFrame(model, precision)


# ONNX Runtime -----------------------------------------------------------------------------------------------
def onnx_bytes(graph: FrameGraph) -> bytes:
    """A graph as an ONNX file with the batch left open."""
    names = graph.input_names()
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(graph, graph.example(), file, dynamo=False, opset_version=17, input_names=names,
                          output_names=list(OUTPUTS), dynamic_axes={name: {0: "batch"} for name in (*names, *OUTPUTS)})
    return file.getvalue()


def _gpu_providers() -> list[str]:
    import onnxruntime

    return [name for name in ("TensorrtExecutionProvider", "CUDAExecutionProvider")
            if name in onnxruntime.get_available_providers()]


class OnnxFrame:
    """An ONNX file as a frame.

    Args:
        content: see :func:`onnx_bytes`. device: the GPU, or the CPU. dtype: of the floating-point inputs.
    """

    def __init__(self, content: bytes, device: torch.device, dtype: torch.dtype) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        providers: list[Any] = ["CPUExecutionProvider"]
        if device.type == "cuda":
            own = {"TensorrtExecutionProvider": {
                "trt_fp16_enable": dtype is torch.float16, "trt_engine_cache_enable": True,
                "trt_engine_cache_path": str(cache_folder() / "tensorrt")}}
            providers = [(name, {"device_id": device.index or 0, **own.get(name, {})})
                         for name in _gpu_providers()] + providers
        self._session = onnxruntime.InferenceSession(content, options, providers=providers)
        self._names = [place.name for place in self._session.get_inputs()]
        self._device = device

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = {name: tensor.cpu().numpy() for name, tensor in zip(self._names, inputs, strict=True)}
        return tuple(torch.from_numpy(output).to(self._device) for output in self._session.run(list(OUTPUTS), given))


def _onnxruntime(network: TrackingNetwork, precision: str, device: torch.device) -> OnnxFrame:
    key = _key(network, f"onnx {precision}", "onnx")
    fold(network).to(device, DTYPES[precision])
    content = cached(key, lambda: onnx_bytes(FrameGraph(network)),
                     lambda content, folder: (folder / "frame.onnx").write_bytes(content),
                     lambda folder: (folder / "frame.onnx").read_bytes())
    _without_frame(network, precision)
    return OnnxFrame(content, device, DTYPES[precision])


def _key(network: TrackingNetwork, kind: str, package: str) -> str:
    """Of the cache, for a plain network."""
    return sha256(json.dumps([GRAPH, kind, fingerprint(network), code_version(package)]).encode()).hexdigest()


# Torch's own ------------------------------------------------------------------------------------------------
def _traced(graph: FrameGraph) -> Any:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return torch.jit.trace(graph, graph.example(), check_trace=False)


def _compiled(network: TrackingNetwork, device: torch.device) -> Callable[..., tuple[Tensor, ...]]:
    """torch.compile, a graph for each size of a batch; its own cache is under ours."""
    import os

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
    return torch.compile(FrameGraph(network), dynamic=False)


class CudaGraphs:
    """A frame captured as a CUDA graph, one for each size of a batch: a replay launches every kernel at once.

    Args:
        graph: on a CUDA device, in its precision.
    """

    def __init__(self, graph: FrameGraph) -> None:
        self._graph = graph
        self._captured: dict[int, tuple[torch.cuda.CUDAGraph, list[Tensor], tuple[Tensor, ...]]] = {}

    def forget(self) -> None:
        """Free the graphs; the next frame captures anew."""
        self._captured.clear()

    def _capture(self, inputs: tuple[Tensor, ...]) -> tuple[torch.cuda.CUDAGraph, list[Tensor], tuple[Tensor, ...]]:
        given = [tensor.clone() for tensor in inputs]
        with torch.inference_mode():
            # Libraries choose their kernels and take their memory in the first calls, which must not be captured.
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(3):
                    self._graph(*given)
            torch.cuda.current_stream().wait_stream(aside)
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured):
                outputs = self._graph(*given)
        return captured, given, outputs

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        batch = len(inputs[0])
        if batch not in self._captured:
            self._captured[batch] = self._capture(inputs)
        captured, given, outputs = self._captured[batch]
        for own, tensor in zip(given, inputs, strict=True):
            own.copy_(tensor)
        captured.replay()
        return tuple(output.clone() for output in outputs)
