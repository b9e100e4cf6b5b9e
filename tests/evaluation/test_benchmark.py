# SPDX-License-Identifier: Apache-2.0
"""What `vlt benchmark` counts, compares and writes; never how long anything takes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from vlt_ros.cli import main
from vlt_ros.evaluation import benchmark as bench
from vlt_ros.networks import CONFIGS, build_network, save_network

ROOT = Path(__file__).resolve().parents[2]
ROW = {"what", "runtime", "precision", "batch", "exact", "difference", "median_ms", "each_ms", "low_ms", "high_ms",
       "cpu_ms", "ratio_to_naive", "parameters", "gflops", "fraction", "roofline_ms"}


@pytest.fixture
def small(monkeypatch):
    """The least that is still everything."""
    monkeypatch.setattr(bench, "QUICK_SECONDS", 0.0)
    monkeypatch.setattr(bench, "MATRIX_SIDE", {"cpu": 64, "cuda": 64})
    monkeypatch.setattr(bench, "RUNTIMES", {"eager": ("fp32", "bf16", "int8"), "folded": ("fp32",), "gone": ("fp32",)})


def test_rows_take_turns():
    calls = []
    rows = [bench.Row(name, "", "", lambda name=name: calls.append(name)) for name in "abc"]
    assert bench.take_turns(rows, limit_s=0.0) == bench.LEAST_ROUNDS
    assert calls == list("aabbcc") * bench.LEAST_ROUNDS
    assert [len(row.seconds) for row in rows] == [bench.LEAST_ROUNDS] * 3


def row(what, *seconds, runtime="eager", precision="fp32", **facts):
    return bench.Row(what, runtime, precision, lambda: None, seconds=list(seconds), **facts)


def test_numbers_are_medians_ratios_and_shares_of_what_the_machine_can_do():
    naive = row("x naive", 0.4, 0.2, 0.3, exact=True, batch=2, gflops=6.0, weight_bytes=100)
    fast = row("x", 0.1, 0.1, 0.1, exact=True, gflops=4.0, weight_bytes=100)
    half = row("x", 0.05, 0.05, 0.05, precision="bf16", exact=False, gflops=4.0, weight_bytes=50)
    product = row("matrix product", 0.1, 0.2, 0.1, gflops=8.0)
    slower = row("matrix product", 1.0, 1.0, 1.0, runtime="other", gflops=8.0)
    copy = row("memory copy", 0.5, 0.5, 0.5, precision="", weight_bytes=500)
    got = bench.numbers([naive, fast, half, product, copy], naive, [slower, product, copy])
    assert [one["median_ms"] for one in got] == [300.0, 100.0, 50.0, 100.0, 500.0]
    assert [one["each_ms"] for one in got] == [150.0, 100.0, 50.0, 100.0, 500.0]        # the first is a batch of two
    assert (got[0]["low_ms"], got[0]["high_ms"]) == (250.0, 350.0)
    assert [one["ratio_to_naive"] for one in got[:3]] == [1.0, 3.0, 6.0]
    assert [one["fraction"] for one in got] == [0.25, 0.5, None, 1.0, None]        # no bf16 product, no operations
    assert got[0]["roofline_ms"] == 100.0       # 100 bytes at 1000 a second; the operations need 75 ms
    assert got[2]["roofline_ms"] is None and set(got[0]) == ROW


def test_figures_are_of_the_fastest_exact_row_and_the_baseline_in_its_runtime():
    rows = [row("x naive", 0.9, exact=True), row("x", 0.4, exact=True), row("x", 0.3, runtime="fold", exact=True),
            row("x", 0.1, runtime="wrong", exact=False), row("x", 0.2, runtime="fold", precision="bf16", exact=False),
            row("x vision only", 0.1, exact=True), row("x vision only", 0.25, runtime="fold", exact=True)]
    assert bench.figures(bench.numbers(rows, rows[0], []), "x") == {
        "runtime": "fold", "exact_ratio_to_naive": 3.0, "exact_time_over_vision_only": 1.2}
    assert set(bench.figures([], "x").values()) == {None}


def test_scene_moves_and_its_boxes_are_where_the_target_is():
    pictures, boxes = bench.scene(320, 240)
    assert len(pictures) == len(boxes) > 4 and len(set(boxes)) > 4
    x, y, w, h = map(int, boxes[0])
    target = pictures[0][y:y + h, x:x + w]
    for picture, (u, v, a, b) in zip(pictures, boxes, strict=True):
        assert picture.shape == (240, 320, 3) and picture.dtype == np.uint8
        assert np.array_equal(picture[int(v):int(v + b), int(u):int(u + a)], target)


@pytest.mark.parametrize("name", ["pjvlt_s", "all_in_one_tiny"])
def test_baseline_has_the_same_blocks_without_language(name):
    config = CONFIGS[name]
    baseline = bench.vision_only(config)
    with torch.device("meta"):
        ours, theirs = build_network(config), build_network(baseline)
    same = {k: v.shape for k, v in theirs.state_dict().items()}
    assert same.items() <= {k: v.shape for k, v in ours.state_dict().items()}.items()
    backbone = {k for k in ours.state_dict() if k.startswith(("backbone.", "box_head."))}
    assert backbone and backbone <= same.keys() and not theirs.has_text_tower


def test_one_run_writes_everything(small, tmp_path):
    result = CliRunner().invoke(main, ["benchmark", "--model", "pjvlt_tiny", "--device", "cpu", "--quick",
                                       "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert set(report) == {"machine", "model", "device", "rounds", "sensitivity", "rows", "skipped", "figures"}
    assert (tmp_path / "out" / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    rows = report["rows"]
    assert all(set(one) == ROW for one in rows) and report["rounds"] == bench.LEAST_ROUNDS
    assert all(one["low_ms"] <= one["median_ms"] <= one["high_ms"] for one in rows)
    whats = {one["what"] for one in rows}
    assert {"pjvlt_tiny naive", "pjvlt_tiny", "pjvlt_tiny vision only naive", "pjvlt_tiny vision only",
            "pjvlt_tiny tracker, 1280x720", "crop, normalise, decode, 1280x720", "csrt, 1280x720", "kcf, 1280x720",
            *(f"targets {count}, 1280x720" for count in bench.TARGETS), "matrix product", "memory copy"} == whats
    assert [one["batch"] for one in rows if one["what"].startswith("targets")] == list(bench.TARGETS)
    # The maps move with image and sentence, so that equal ones mean something; bf16's are others.
    assert min(report["sensitivity"].values()) > 10 * bench.TOLERANCE
    ours = {(one["runtime"], one["precision"]): one for one in rows if one["what"] == "pjvlt_tiny"}
    assert ours["eager", "fp32"]["exact"] is True and ours["eager", "bf16"]["exact"] is False
    assert ours["eager", "bf16"]["difference"] > bench.TOLERANCE >= ours["eager", "fp32"]["difference"]
    assert set(ours) == {("eager", "fp32"), ("eager", "bf16"), ("folded", "fp32")} and ours["folded", "fp32"]["exact"]
    skipped = {(one["what"], one["runtime"], one["precision"]): one["reason"] for one in report["skipped"]}
    for what in ("pjvlt_tiny", "pjvlt_tiny vision only"):       # one has no such precision, the other is not there
        assert "int8" in skipped[what, "eager", "int8"] and "gone" in skipped[what, "gone", ""]
    assert len(skipped) == 4 and report["figures"]["exact_time_over_vision_only"] > 0
    naive = next(one for one in rows if one["what"] == "pjvlt_tiny naive")
    assert naive["ratio_to_naive"] == 1 and naive["gflops"] >= ours["eager", "fp32"]["gflops"] > 0
    for line in (one["what"] for one in rows):
        assert line in result.output


def test_maps_that_differ_are_not_called_exact(tmp_path, monkeypatch):
    path = tmp_path / "tiny.safetensors"
    torch.manual_seed(0)
    save_network(build_network(CONFIGS["pjvlt_tiny"]), path)
    load = bench.load_network

    def wrong(*arguments, **options):
        network = load(*arguments, **options)
        network.box_head.conv5_size.bias.data += 0.01
        return network

    monkeypatch.setattr(bench, "load_network", wrong)
    one = bench.Bench(path, "tiny", torch.device("cpu"))
    one._add_runtime("eager", "fp32")
    assert one.rows[-1].exact is False and 0.001 < one.rows[-1].difference < 0.01


@pytest.mark.parametrize("arguments, parts", [(("--model", "nonsense"), ("nonsense", "pjvlt_s")),
                                              (("--weights", "gone.safetensors"), ("gone.safetensors", "missing")),
                                              (("--device", "cuda:99"), ("cuda:99",))])
def test_bad_input_is_one_line(arguments, parts, tmp_path):
    result = CliRunner().invoke(main, ["benchmark", "--out", str(tmp_path / "out"), *arguments])
    assert result.exit_code == 2 and not (tmp_path / "out" / "benchmark.json").exists()
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert all(part in result.stderr for part in parts)


def test_node_before_a_camera(weights, tmp_path):
    """The real node in its own process; in a process of its own too, whose rclpy is not this one's."""
    code = ("import json, sys, torch\nfrom pathlib import Path\nfrom vlt_ros.evaluation import benchmark as bench\n"
            "from vlt_ros.networks import CONFIGS\n"
            "bench.NODE_CAMERAS = ((320, 240, 60.0),)\n"
            "got = bench.measure_node(Path(sys.argv[1]), CONFIGS['pjvlt_tiny'], torch.device('cpu'), Path(sys.argv[2]),"
            " 1.5)\nprint(json.dumps(got))")
    done = subprocess.run([sys.executable, "-c", code, str(weights), str(tmp_path)], capture_output=True, text=True,
                          cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=200)
    assert done.returncode == 0, done.stderr
    (got,) = json.loads(done.stdout.splitlines()[-1])
    assert (got["width"], got["height"], got["camera_hz"], got["images"]) == (320, 240, 60.0, 90)
    assert got["answered"] >= 2 and got["answered"] + got["dropped"] == 90
    assert sum(got["states"].values()) == got["answered"] and set(got["states"]) == {"TRACKING"}
    for name in ("age_ms", "latency_ms"):
        assert 0 < got[name]["p50"] <= got[name]["p95"]
    assert got["age_ms"]["p50"] > got["transport_p50_ms"] > 0
    assert got["network_p50_ms"] > 0 and got["own_p50_ms"] > 0 and got["answers_hz"] > 0
    assert got["memory_peak_mb"] > 50 and abs(got["memory_growth_mb"]) < got["memory_peak_mb"]
    assert got["cold_start_s"] > 0
