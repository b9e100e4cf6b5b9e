# SPDX-License-Identifier: Apache-2.0
"""How fast it is on this machine, everything in one run and turn about, so that what else it does slows all alike.

Rows are a network naively (BERT and template on every frame, nothing cached, plain torch in float32), the same in every
runtime and precision there is, a tracker without language made of the same blocks (naively and in the same runtimes),
OpenCV's trackers, the tracker around the network, and matrix products, which say what the machine can do at most.
"""

from __future__ import annotations

import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch
from torch import Tensor

from vlt_ros.evaluation.errors import EvaluationError
from vlt_ros.evaluation.peers import Peer
from vlt_ros.media import make_folder
from vlt_ros.networks import CONFIGS, DEFAULT_MODEL, Maps, WeightsError, describe, load_network, shipped_weights
from vlt_ros.networks.base import LanguageConfig, NetworkConfig
from vlt_ros.networks.ostrack import OSTrackConfig
from vlt_ros.networks.preprocess import normalise
from vlt_ros.networks.runtimes import RUNTIMES, available
from vlt_ros.networks.systems import build_network
from vlt_ros.networks.weights import choose_device, read_network, save_network
from vlt_ros.tracker import Targets, Tracker, TrackerSettings
from vlt_ros.tracker.geometry import window_around
from vlt_ros.tracker.look import Looker, Template, Words

SENTENCE, OTHER_SENTENCE = "the person in the red jacket", "the dog on the left"
FRAME = (1280, 720)
PRECISIONS = {"cpu": ("fp32", "bf16", "int8"), "cuda": ("fp32", "bf16", "fp16")}
TARGETS = (1, 2, 4, 8)              # followed at once
BATCHES = (1, 2, 4, 8, 16, 32)      # on CUDA; a CPU is busy with one
TOLERANCE = 1e-4                    # on the maps, up to which a runtime counts as exact
MATRIX_SIDE = {"cpu": 1024, "cuda": 8192}
LEAST_ROUNDS = 3
# Limit of the turns [s]; making the rows comes on top.
SECONDS, QUICK_SECONDS = 240.0, 40.0
# The node's cameras: width, height, Hz; then how long each runs [s].
NODE_CAMERAS = ((640, 480, 30.0), (1280, 720, 30.0), (1920, 1080, 30.0), (640, 480, 60.0))
NODE_SECONDS, QUICK_NODE_SECONDS = 20.0, 5.0


@dataclass
class Row:
    """One thing that is timed.

    exact: whether its maps are those of the naive forward, None where there are none; difference: of them at most.
    gflops: of one call, in 10^9 operations. weight_bytes: what a call must read at least. seconds: of every turn;
    cpu_seconds: processor time of all threads in it, which hardly depends on what else the machine does.
    """

    what: str
    runtime: str
    precision: str
    call: Callable[[], Any]
    batch: int = 1
    exact: bool | None = None
    difference: float | None = None
    parameters: int | None = None
    gflops: float | None = None
    weight_bytes: int | None = None
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Of its turns [s]."""
        return float(np.median(self.seconds))


def take_turns(rows: Sequence[Row], limit_s: float, synchronise: Callable[[], None] = lambda: None) -> int:
    """Time every row once, then every row again, until the time is up; :data:`LEAST_ROUNDS` at least.

    A turn is a call that is not timed, because the row before has used the caches and left its threads spinning, and
    one that is.

    Args:
        limit_s: no round begins after so many seconds. synchronise: waits for the device.

    Returns:
        The number of rounds.
    """
    end = time.monotonic() + limit_s
    rounds = 0
    while rounds < LEAST_ROUNDS or time.monotonic() < end:
        for row in rows:
            row.call()
            synchronise()
            began, cpu_began = time.perf_counter(), time.process_time()
            row.call()
            synchronise()
            row.seconds.append(time.perf_counter() - began)
            row.cpu_seconds.append(time.process_time() - cpu_began)
        rounds += 1
    return rounds


def scene(width: int, height: int, count: int = 12) -> tuple[list[np.ndarray], list[tuple[float, float, float, float]]]:
    """A coarse pattern that goes to and fro before another: pictures BGR uint8 (H, W, 3), and its boxes x, y, w, h.

    The target is of a person's shape and a quarter of the frame high, so that the crop around it grows with the frame.
    """
    draw = np.random.default_rng(0)

    def pattern(low: int, high: int, cells: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        return cv2.resize(draw.integers(low, high, (*cells, 3), np.uint8), size, interpolation=cv2.INTER_CUBIC)

    w, h = round(0.1 * height), round(0.25 * height)
    background, target = pattern(40, 200, (12, 16), (width, height)), pattern(0, 256, (8, 4), (w, h))
    pictures, boxes = [], []
    for i in range(count):
        x, y = round((width - w) / 2 + 0.05 * width * math.sin(2 * math.pi * i / count)), round(0.4 * height)
        picture = background.copy()
        picture[y:y + h, x:x + w] = target
        pictures.append(picture)
        boxes.append((float(x), float(y), float(w), float(h)))
    return pictures, boxes


class Bench:
    """A network's rows: naively and in every runtime and precision, each with the same inputs.

    Args:
        path: its weights file. what: its name in the rows. device: where it runs.
    """

    def __init__(self, path: Path, what: str, device: torch.device) -> None:
        self.path, self.what, self.device = path, what, device
        self.rows: list[Row] = []
        self.skipped: list[dict[str, str]] = []
        self.plain = read_network(path).eval().requires_grad_(False).to(device)
        self.config = self.plain.config
        self.cost = describe(self.config)
        pictures, boxes = scene(*FRAME)
        self.search = self._crop(pictures[0], boxes[0], self.config.search_size, 4.0)
        self.template = self._crop(pictures[0], boxes[0], self.config.template_size, 2.0)
        other = torch.flip(self.search, (3,))
        self.maps = self._naive()
        self.sensitivity = {"image": _difference(self.maps, self._naive(search=other)),
                            "sentence": _difference(self.maps, self._naive(sentence=OTHER_SENTENCE))}
        self._add_naive()

    def _crop(self, picture: np.ndarray, box: tuple[float, float, float, float], size: int, factor: float) -> Tensor:
        from vlt_ros.tracker.geometry import crop

        pixels = torch.from_numpy(crop(picture, window_around(box, factor), size)).permute(2, 0, 1)[None]
        return normalise(pixels).to(self.device)

    def _naive(self, search: Tensor | None = None, sentence: str = SENTENCE) -> Maps:
        with torch.no_grad():
            return self.plain(self.template, self.search if search is None else search, [sentence])

    def _add_naive(self) -> None:
        from torch.utils.flop_counter import FlopCounterMode

        # Without values all attention is counted; CPUs have a kernel for it that the counter does not know.
        with torch.device("meta"), torch.no_grad():
            network = build_network(self.config).eval()
            with FlopCounterMode(display=False) as counter:
                network(self.template.to("meta"), self.search.to("meta"), [SENTENCE])
        self._add(Row(f"{self.what} naive", "torch", "fp32", self._naive, exact=True, difference=0.0,
                      gflops=counter.get_total_flops() / 1e9, weight_bytes=4 * self.cost["parameters"]))

    def _add(self, row: Row) -> None:
        row.parameters = self.cost["parameters"]
        self.rows.append(row)

    def add_runtimes(self, quick: bool = False) -> None:
        """A row for every runtime, precision and batch; what cannot be had is in ``skipped`` with the reason.

        quick: leave out what compiles for minutes.
        """
        for runtime, precisions in RUNTIMES.items():
            reason = available(runtime, self.device)
            if quick and runtime == "compile":
                reason = reason or "it compiles for minutes: leave --quick out"
            if reason:
                self._skip(runtime, "", reason)
                continue
            for precision in (one for one in precisions if one in PRECISIONS[self.device.type]):
                try:
                    self._add_runtime(runtime, precision)
                except Exception as error:      # of any library: this row is missing, the others are not
                    self._skip(runtime, precision, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")

    def _skip(self, runtime: str, precision: str, reason: str) -> None:
        self.skipped.append({"what": self.what, "runtime": runtime, "precision": precision, "reason": reason})

    def _add_runtime(self, runtime: str, precision: str) -> None:
        network = load_network(self.path, device=str(self.device), precision=precision, runtime=runtime)
        dtype = network.backbone.norm.weight.dtype
        bits = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}[precision]
        for batch in BATCHES if self.device.type == "cuda" else (1,):
            with torch.inference_mode():
                words = network.encode_text([SENTENCE] * batch)
                template = network.encode_template(self.template.expand(batch, -1, -1, -1).to(dtype))
                search = self.search.expand(batch, -1, -1, -1).contiguous().to(dtype)

            def call(network=network, search=search, template=template, words=words) -> Maps:
                with torch.inference_mode():
                    return network.track(search, template, words)

            maps = call()
            difference = _difference(self.maps, Maps(*(m[:1] for m in maps)))
            # Where the maps hardly move with the image, equal ones would show nothing.
            shown = self.sensitivity["image"] > 10 * TOLERANCE
            self._add(Row(self.what, runtime, precision, call, batch, difference <= TOLERANCE if shown else None,
                          difference, gflops=self.cost["gflops"] * batch,
                          weight_bytes=bits * (self.cost["parameters"] - self.cost["text_parameters"])))
        if network.has_text_tower:
            # Many networks lie beside each other here: the words are there, their tower only takes memory.
            network.text.to("meta")


def _difference(first: Maps, second: Maps) -> float:
    return max(float((a.float().cpu() - b.float().cpu()).abs().max()) for a, b in zip(first, second, strict=True))


def vision_only(config: NetworkConfig) -> OSTrackConfig:
    """A tracker without language of the same ViT, crops and head: OSTrack without candidate elimination."""
    shared = {one.name: getattr(config, one.name) for one in fields(NetworkConfig)}
    return OSTrackConfig(**shared | {"name": f"{config.name}_vision_only", "elimination_layers": ()})


def matrix_rows(device: torch.device) -> list[Row]:
    """Square matrix products by every library there is; what the best of them reaches is the machine's throughput."""
    side = MATRIX_SIDE[device.type]
    rows = []
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        if precision not in PRECISIONS[device.type]:
            continue
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        calls = {"cublas" if device.type == "cuda" else "torch": lambda a=a, b=b: a @ b}
        if device.type == "cpu" and precision == "fp32" and torch.backends.mkldnn.is_available():
            # Torch itself leaves float32 to MKL, which is slow at it on other makers' processors.
            calls["onednn"] = lambda a=a, b=b: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
        for name, call in calls.items():
            rows.append(Row("matrix product", name, precision, call, gflops=2 * side**3 / 1e9))
    if device.type == "cpu":
        a8 = torch.randint(-99, 99, (side, side), dtype=torch.int8)
        rows.append(Row("matrix product", "torch", "int8", lambda: torch._int_mm(a8, a8), gflops=2 * side**3 / 1e9))
    rows.append(_copy_row(device))
    return rows


def _copy_row(device: torch.device) -> Row:
    source = torch.zeros(64 << 20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Row("memory copy", "torch", "", lambda: target.copy_(source), weight_bytes=2 * source.numel())


def tracker_rows(network) -> list[Row]:
    """A frame through the whole tracker, through all of it but the network, and through OpenCV's trackers."""
    pictures, boxes = scene(*FRAME)
    size = "x".join(map(str, FRAME))
    settings = TrackerSettings(track_threshold=0.0, lost_threshold=0.0)
    tracker = Tracker(network, settings)
    tracker.start(SENTENCE if network.listens else "", pictures[0], boxes[0])
    rows = [Row(f"{network.name} tracker, {size}", network.runtime, network.precision,
                _frames(tracker, pictures))]
    for count in TARGETS:
        targets = Targets(Tracker(network, settings), count)
        targets.main.start(SENTENCE if network.listens else "", pictures[0], boxes[0])
        for i in range(1, count):
            sentence = (SENTENCE, OTHER_SENTENCE)[i % 2] if network.listens else ""
            targets.add(sentence, pictures[0], (boxes[0][0] + 5 * i, *boxes[0][1:]))
        rows.append(Row(f"targets {count}, {size}", network.runtime, network.precision, _frames(targets, pictures),
                        count))
    side = network.config.search_grid
    maps = Maps(*(torch.full((1, channels, side, side), 0.5) for channels in (1, 2, 2)))
    # In place of the network what it once said: all that is left is the tracker's.
    nothing = SimpleNamespace(config=network.config, device=network.device, backbone=network.backbone,
                              track=lambda *inputs: maps)
    known = Template(torch.zeros(1), None)
    looker, window = Looker(nothing), window_around(boxes[0], tracker.following.search_factor)
    known = Template(torch.zeros(1), None)
    rows.append(Row(f"crop, normalise, decode, {size}", "opencv, torch", network.precision,
                    lambda: looker.look(pictures[0], window, known, Words((), None), 0.3)))
    for name in ("csrt", "kcf"):
        peer = Peer(name).build()
        peer.start(image=pictures[0], box=boxes[0])
        rows.append(Row(f"{name}, {size}", "opencv", "", _frames(peer, pictures)))
    return rows


def _frames(tracker, pictures: Sequence[np.ndarray]) -> Callable[[], Any]:
    """A call that gives the tracker the next of the pictures, round and round."""
    count = 0

    def call() -> Any:
        nonlocal count
        count += 1
        return tracker.track(pictures[count % len(pictures)])

    return call


def benchmark(out: str | Path, *, model: str | None = None, weights: str | Path | None = None, device: str = "auto",
              quick: bool = False, node: bool = False) -> dict:
    """Measure, and write ``out``/benchmark.json and benchmark.png.

    Args:
        out: folder for results. model: a configuration's name, see ``vlt models``; one without shipped weights gets
            random ones, which are as fast. weights: a file in their place. device: auto, cpu or cuda:N.
        quick: fewer rounds. node: the node too, in processes of its own, see :func:`vlt_ros.ros.load.measure`.

    Returns:
        machine, model, device, rounds, sensitivity {image, sentence} of the naive maps; rows, see :func:`numbers`;
        skipped [{what, runtime, precision, reason}]; figures, see :func:`figures`; node [{width, height, camera_hz,
        ...}] with what :func:`vlt_ros.ros.load.measure` returns.

    Raises:
        WeightsError, DeviceError, MediaError, EvaluationError, PlaybackError: each with one clear line.
    """
    if model is not None and model not in CONFIGS:
        raise WeightsError(f"model {model!r} is unknown: choose one of {', '.join(CONFIGS)}")
    chosen = choose_device(device)
    with tempfile.TemporaryDirectory(prefix="vlt_benchmark_") as folder:
        path = Path(weights) if weights else shipped_weights(model or DEFAULT_MODEL)
        config = read_network(path).config if path is not None else CONFIGS[model]
        if model is not None and config.name != model:
            raise WeightsError(f"weights file {path} is for model {config.name}, not {model}")
        out = make_folder(out)
        if path is None:
            path = _random_weights(config, Path(folder))
        result = _measure_networks(path, config, chosen, Path(folder), quick)
        if node:
            result["node"] = measure_node(path, config, chosen, out, QUICK_NODE_SECONDS if quick else NODE_SECONDS)
    (out / "benchmark.json").write_text(json.dumps(result, indent=2) + "\n")
    plot(result, out / "benchmark.png")
    return result


def _random_weights(config: NetworkConfig, folder: Path) -> Path:
    torch.manual_seed(0)
    path = folder / f"{config.name}.safetensors"
    save_network(build_network(config), path)
    return path


def _measure_networks(path: Path, config: NetworkConfig, device: torch.device, folder: Path, quick: bool) -> dict:
    # Compiled networks that will never come again are not for the user's cache.
    with mock.patch.dict(os.environ, XDG_CACHE_HOME=str(folder)):
        benches = [Bench(path, config.name, device)]
        if isinstance(config, LanguageConfig):
            benches.append(Bench(_random_weights(vision_only(config), folder), f"{config.name} vision only", device))
        for bench in benches:
            bench.add_runtimes(quick)
        around = tracker_rows(load_network(path, device=str(device), runtime="auto"))
    products = matrix_rows(device)
    rows = [row for bench in benches for row in bench.rows] + around + products
    rounds = take_turns(rows, QUICK_SECONDS if quick else SECONDS,
                        torch.cuda.synchronize if device.type == "cuda" else lambda: None)
    listed = numbers(rows, benches[0].rows[0], products)
    return {"machine": machine(device), "model": config.name, "device": str(device), "rounds": rounds,
            "sensitivity": benches[0].sensitivity, "rows": listed,
            "skipped": [one for bench in benches for one in bench.skipped], "figures": figures(listed, config.name)}


def machine(device: torch.device) -> dict[str, Any]:
    """What it ran on, and how busy that was."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor()
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "threads": torch.get_num_threads(),
            "load": round(os.getloadavg()[0], 2), "torch": torch.__version__,
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None}


def numbers(rows: Iterable[Row], naive: Row, products: Iterable[Row]) -> list[dict]:
    """Rows as numbers.

    Returns:
        what, runtime, precision, batch, exact, difference, parameters, gflops as in :class:`Row`; median_ms, low_ms and
        high_ms (quartiles); each_ms, the median for each crop or target of the batch; cpu_ms, the median of all
        threads' processor time; ratio_to_naive, how many of its calls fit into the naive one; fraction, achieved share
        of the best matrix product of that precision; roofline_ms, what that product's rate and the memory's would need.
    """
    products = list(products)
    rate = {precision: max(row.gflops / row.median for row in products if row.gflops and row.precision == precision)
            for precision in {row.precision for row in products if row.gflops}}
    bandwidth = next((row.weight_bytes / row.median for row in products if row.weight_bytes), None)
    listed = []
    for row in rows:
        low, high = np.percentile(row.seconds, (25, 75))
        best = rate.get(row.precision) if row.gflops else None
        roofline = None
        if best and bandwidth and row.weight_bytes:
            roofline = max(row.gflops / best, row.weight_bytes / bandwidth)
        listed.append({
            "what": row.what, "runtime": row.runtime, "precision": row.precision, "batch": row.batch,
            "exact": row.exact, "difference": row.difference and float(f"{row.difference:.3g}"),
            "median_ms": _ms(row.median), "each_ms": _ms(row.median / row.batch),
            "low_ms": _ms(low), "high_ms": _ms(high),
            "cpu_ms": row.cpu_seconds and _ms(np.median(row.cpu_seconds)) or None,
            "ratio_to_naive": round(naive.median / row.median, 3), "parameters": row.parameters,
            "gflops": row.gflops and round(row.gflops, 3),
            "fraction": best and round(row.gflops / row.median / best, 3), "roofline_ms": roofline and _ms(roofline)})
    return listed


def _ms(seconds: float) -> float:
    return round(1e3 * float(seconds), 4)


def figures(rows: Sequence[dict], name: str) -> dict[str, Any]:
    """The fastest exact row of the model against the naive one, and against the vision-only tracker in its runtime.

    Returns:
        runtime, exact_ratio_to_naive and exact_time_over_vision_only; None where there is no such row.
    """
    def exact(what: str) -> dict[str, dict]:
        return {row["runtime"]: row for row in rows
                if row["what"] == what and row["exact"] and row["batch"] == 1 and row["precision"] == "fp32"}

    ours, theirs = exact(name), exact(f"{name} vision only")
    best = min(ours.values(), key=lambda row: row["median_ms"], default=None)
    against = theirs.get(best["runtime"]) if best else None
    return {"runtime": best and best["runtime"], "exact_ratio_to_naive": best and best["ratio_to_naive"],
            "exact_time_over_vision_only": against and round(best["median_ms"] / against["median_ms"], 3)}


def measure_node(path: Path, config: NetworkConfig, device: torch.device, out: Path, seconds: float) -> list[dict]:
    """The node before each of :data:`NODE_CAMERAS`, for so many seconds. Raises EvaluationError, PlaybackError."""
    text = SENTENCE if isinstance(config, LanguageConfig) else ""
    results = []
    for width, height, rate_hz in NODE_CAMERAS:
        pictures, boxes = scene(width, height)
        log = out / f"node_{width}x{height}_{rate_hz:g}.log"
        try:
            from vlt_ros.ros.load import measure

            got = measure(pictures, boxes, rate_hz, seconds, log, text=text,
                          parameters={"weights": str(path), "device": str(device) if device.index else device.type})
        except ImportError as error:
            raise EvaluationError(f"{error}: --node needs ROS 2 and the built messages; run `make setup` and use its "
                                  ".venv, or source your ROS 2 workspace") from error
        results.append({"width": width, "height": height, "camera_hz": rate_hz} | got)
    return results


def table(result: dict) -> str:
    """The rows, what was skipped, and the node's, for a terminal."""
    lines = [f"{'what':34} {'runtime':14} {'precision':9} {'batch':>5} {'exact':>5} {'ms':>9} {'quartiles':>17} "
             f"{'CPU ms':>9} {'x naive':>8} {'GFLOP':>7} {'of peak':>7}"]
    for row in result["rows"]:
        exact = {None: "-", True: "yes", False: "no"}[row["exact"]]
        spread = f"{row['low_ms']:.2f} to {row['high_ms']:.2f}"
        lines.append(f"{row['what']:34} {row['runtime']:14} {row['precision'] or '-':9} {row['batch']:5} {exact:>5} "
                     f"{row['median_ms']:9.2f} {spread:>17} {row['cpu_ms'] or 0:9.2f} {row['ratio_to_naive']:8.2f} "
                     f"{'-' if row['gflops'] is None else format(row['gflops'], '.1f'):>7} "
                     f"{'-' if row['fraction'] is None else format(row['fraction'], '.0%'):>7}")
    lines += [f"skipped: {one['what']}, {' '.join(filter(None, (one['runtime'], one['precision'])))}: {one['reason']}"
              for one in result["skipped"]]
    found = result["figures"]
    if found["runtime"] is not None:
        over = found["exact_time_over_vision_only"]
        lines.append(f"exact in {found['runtime']}: {found['exact_ratio_to_naive']:.2f} times as fast as naive"
                     + ("" if over is None else f", {over:.2f} times the vision-only tracker's time"))
    if result.get("node"):
        lines += ["", f"{'node, camera':18} {'targets/s':>9} {'age p50/p95 ms':>16} {'latency p50/p95':>16} "
                  f"{'network':>8} {'own':>6} {'transport':>9} {'dropped':>9} {'start s':>7} {'peak MB':>8} "
                  f"{'grown':>6}"]
    for one in result.get("node", ()):
        camera = f"{one['width']}x{one['height']} {one['camera_hz']:g} Hz"
        age, latency = (f"{one[name]['p50']:.1f}/{one[name]['p95']:.1f}" for name in ("age_ms", "latency_ms"))
        lines.append(f"{camera:18} {one['answers_hz']:9.1f} {age:>16} {latency:>16} {one['network_p50_ms']:8.1f} "
                     f"{one['own_p50_ms']:6.2f} {one['transport_p50_ms']:9.2f} {one['dropped']:4}/{one['images']:4} "
                     f"{one['cold_start_s']:7.1f} {one['memory_peak_mb']:8.0f} {one['memory_growth_mb']:6.1f}")
    return "\n".join(lines)


def plot(result: dict, path: Path) -> None:
    """A bar for every row with its quartiles, milliseconds to a logarithmic scale."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = result["rows"][::-1]
    names = [", ".join(filter(None, (row["what"], row["runtime"], row["precision"],
                                     f"batch {row['batch']}" if row["batch"] > 1 else ""))) for row in rows]
    middle = [row["median_ms"] for row in rows]
    spread = [[max(0.0, row["median_ms"] - row["low_ms"]) for row in rows],
              [max(0.0, row["high_ms"] - row["median_ms"]) for row in rows]]
    colours = ["tab:green" if row["exact"] else "tab:orange" if row["exact"] is False else "tab:grey" for row in rows]
    figure, axis = pyplot.subplots(figsize=(10, 1.2 + 0.28 * len(rows)))
    axis.barh(names, middle, xerr=spread, color=colours)
    axis.set_xscale("log")
    axis.set_xlabel("ms a call, median and quartiles; green: exact, orange: reduced precision")
    where = result["machine"]
    axis.set_title(f"{result['model']} on {where['gpu'] or where['cpu']}, {where['threads']} threads")
    axis.grid(alpha=0.3, axis="x")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
