# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

import vlt_ros
from vlt_ros.cli import main


def write_images(folder, frames=5):
    """A bright square that walks to the right."""
    folder.mkdir(parents=True)
    for i in range(frames):
        image = np.full((72, 96, 3), 60, np.uint8)
        image[20:34, 10 + 4 * i:26 + 4 * i] = (40, 200, 240)
        cv2.imwrite(str(folder / f"{i}.png"), image)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("source") / "img")


def vlt(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def assert_error(result, *parts):
    """Exit code 2 and one line on stderr that has all the parts."""
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if "warning:" not in line]
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    for part in parts:
        assert part in lines[0]


def test_version_and_help():
    result = vlt("--version")
    assert result.exit_code == 0 and vlt_ros.__version__ in result.output
    for command in ((), ("track",), ("evaluate",), ("score",), ("bag",), ("train",), ("label",)):
        result = vlt(*command, "--help")
        assert result.exit_code == 0 and "Usage:" in result.output


def test_help_loads_nothing_heavy():
    code = ("import sys; from click.testing import CliRunner; from vlt_ros.cli import main\n"
            "assert CliRunner().invoke(main, ['track', '--help']).exit_code == 0\n"
            "print([m for m in ('torch', 'transformers', 'cv2', 'numpy', 'rclpy') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", [("--text", "the bright square"), ("--box", "10,20,16,14"),
                                     ("--text", "the bright square", "--box", "10,20,16,14")])
def test_track_writes_a_line_and_a_picture_for_every_frame(images, weights, tmp_path, command):
    result = vlt("track", images, *command, "--weights", weights, "--device", "cpu",
                 "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "5 frames" in result.output and "track.jsonl" in result.output
    lines = [json.loads(line) for line in (tmp_path / "out" / "track.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == [0, 1, 2, 3, 4]
    for line in lines:
        assert set(line) == {"frame", "state", "box", "confidence", "latency_ms"}
        assert (line["box"] is not None) == (line["state"] in ("TRACKING", "UNCERTAIN"))
        assert 0 <= line["confidence"] <= 1 and line["latency_ms"] > 0
    if "--box" in command:
        assert lines[0]["state"] == "TRACKING" and lines[0]["box"] == [10, 20, 16, 14]
    else:
        assert lines[0]["state"] == "SEARCHING"
    film = cv2.VideoCapture(str(tmp_path / "out" / "track.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 5
    assert (film.get(cv2.CAP_PROP_FRAME_WIDTH), film.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (96, 72)


def test_track_stops_after_max_frames(images, weights, tmp_path):
    result = vlt("track", images, "--text", "it", "--weights", weights, "--out", tmp_path, "--max-frames", 2)
    assert result.exit_code == 0
    assert len((tmp_path / "track.jsonl").read_text().splitlines()) == 2


def test_track_goes_on_after_a_corrupt_image_and_says_so(weights, tmp_path):
    images = write_images(tmp_path / "img")
    (images / "2.png").write_bytes(b"broken")
    result = vlt("track", images, "--text", "it", "--weights", weights, "--out", tmp_path / "out")
    assert result.exit_code == 0 and "1 unreadable" in result.output
    lines = (tmp_path / "out" / "track.jsonl").read_text().splitlines()
    assert [json.loads(line)["frame"] for line in lines] == [0, 1, 3, 4]


def test_track_refuses_bad_input_in_one_line(images, weights, tmp_path):
    usual = ("--weights", weights, "--out", tmp_path / "out")
    assert_error(vlt("track", images, *usual), "nothing to follow", "--text, --box or both")
    assert_error(vlt("track", tmp_path / "no.mp4", "--text", "x", *usual), "no.mp4 does not exist", "give a")
    assert_error(vlt("track", images, "--box", "1,2,3", *usual), "'1,2,3' is not a box", "120,80,40,90")
    assert_error(vlt("track", images, "--box", "1,2,0,5", *usual), "box (1, 2, 0, 5) has no area")
    assert_error(vlt("track", images, "--box", "900,2,9,5", *usual), "box (900, 2, 9, 5)", "96 x 72")
    assert_error(vlt("track", images, "--text", "a\x07b", *usual), "control character")
    assert_error(vlt("track", images, "--text", "x" * 300, *usual), "300 characters", "256")
    assert_error(vlt("track", images, "--text", "x", "--weights", tmp_path / "no.safetensors"),
                 "no.safetensors is missing")
    (tmp_path / "bad.safetensors").write_bytes(b"not weights")
    assert_error(vlt("track", images, "--text", "x", "--weights", tmp_path / "bad.safetensors"),
                 "bad.safetensors is not a readable safetensors file")
    assert_error(vlt("track", images, "--text", "x", *usual, "--model", "pjvlt_x"),
                 "'pjvlt_x' is unknown", "pjvlt_s")
    assert_error(vlt("track", images, "--text", "x", *usual, "--device", "tpu"), "'tpu'", "cuda:N")
    (tmp_path / "file").write_text("")
    assert_error(vlt("track", images, "--text", "x", "--weights", weights, "--out", tmp_path / "file"),
                 "cannot make the folder", "file", "--out")
    assert not (tmp_path / "out" / "track.jsonl").exists(), "nothing is written for a refused command"
    assert_error(vlt("track", images, "--text", "x", "--max-frames", 0), "--max-frames", "vlt track --help")
    assert_error(vlt("tracks"), "No such command 'tracks'")


def test_a_bug_is_not_dressed_up_as_bad_input(images, weights, tmp_path, monkeypatch):
    def broken(*_args, **_kwargs):
        raise ValueError("a bug")

    monkeypatch.setattr("vlt_ros.media.annotate", broken)
    result = vlt("track", images, "--text", "x", "--weights", weights, "--out", tmp_path)
    assert isinstance(result.exception, ValueError) and "error:" not in result.stderr


def write_sequences(root):
    for name, text in (("one", "the bright square"), ("two", "the other thing")):
        write_images(root / name / "img", frames=4)
        (root / name / "groundtruth.txt").write_text("".join(f"{10 + 4 * i},20,16,14\n" for i in range(4)))
        (root / name / "language.txt").write_text(text)
    return root


def test_evaluate_prints_a_table_and_writes_the_report(weights, tmp_path):
    root = write_sequences(tmp_path / "root")
    result = vlt("evaluate", root, "--start", "box", "--weights", weights, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["per_sequence"]) == {"one", "two"} and report["start"] == "box"
    assert {"auc", "sr50", "precision", "fps", "frames"} <= set(report["per_sequence"]["one"])
    assert f"{report['auc']:.3f}" in result.output and "mean" in result.output
    assert len((tmp_path / "out" / "one.txt").read_text().splitlines()) == 4


def test_evaluate_refuses_bad_input_in_one_line(weights, tmp_path):
    usual = ("--weights", weights, "--out", tmp_path / "out")
    assert_error(vlt("evaluate", tmp_path / "nowhere", *usual), "nowhere is not a folder")
    (tmp_path / "empty").mkdir()
    assert_error(vlt("evaluate", tmp_path / "empty", *usual), "no sequences in", "groundtruth.txt")
    root = write_sequences(tmp_path / "root")
    assert_error(vlt("evaluate", root, "--phrase", "wrong", *usual),
                 "no meaning with --start box", "--start both")
    assert_error(vlt("evaluate", root, "--against", "csrt,nano", *usual), "--against nano needs its models", "ONNX")
    (root / "two" / "groundtruth.txt").write_text("1,2,3,4\n1,2\n")
    assert_error(vlt("evaluate", root, *usual), "two/groundtruth.txt line 2", "x,y,w,h")


def test_score_takes_result_files_and_refuses_what_does_not_fit(tmp_path):
    from vlt_ros.cli import PROTOCOLS
    from vlt_ros.evaluation import protocols

    assert set(PROTOCOLS) == set(protocols.PROTOCOLS)
    root, results = write_sequences(tmp_path / "root"), tmp_path / "results"
    results.mkdir()
    usual = ("--protocol", "lasot", "--out", tmp_path / "out")
    assert_error(vlt("score", results, root, *usual), "one.txt is missing (2 of 2 sequences have no results)")
    for name in ("one", "two"):
        (results / f"{name}.txt").write_text("".join(f"{10 + 4 * i},20,16,14\n" for i in range(4)))
    result = vlt("score", results, root, *usual)
    assert result.exit_code == 0, result.output
    assert "lasot: LaSOT's MATLAB toolkit" in result.output and "0.952" in result.output
    kept = (tmp_path / "out" / "report.json").read_text()
    (results / "two.txt").write_text("10,20,16,14\n" * 3)
    assert_error(vlt("score", results, root, *usual), "two.txt has 3 lines but", "two/groundtruth.txt has 4")
    (tmp_path / "empty").mkdir()
    assert_error(vlt("score", results, tmp_path / "empty", *usual), "no sequences in", "groundtruth.txt")
    assert_error(vlt("score", tmp_path / "nowhere", root, *usual), "nowhere is not a folder")
    assert_error(vlt("score", results, root, "--protocol", "vot"), "'vot' is not one of", "lasot")
    assert (tmp_path / "out" / "report.json").read_text() == kept, "the last good report is kept"


def test_train_refuses_bad_input_in_one_line(tmp_path):
    assert_error(vlt("train", tmp_path / "no.yaml"), "no.yaml is not a file", "YAML")
    (tmp_path / "bad.yaml").write_text("no_such_field: 1\n")
    assert_error(vlt("train", tmp_path / "bad.yaml", "--out", tmp_path / "run"), "bad.yaml", "no_such_field")


def test_the_real_command_in_its_own_process(images, weights, tmp_path):
    command = [sys.executable, "-m", "vlt_ros.cli"]
    done = subprocess.run([*command, "track", images, "--box", "10,20,16,14", "--weights", weights,
                           "--device", "cpu", "--out", tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "5/5" in done.stderr, "progress bar"
    assert "Traceback" not in done.stderr
    assert len((tmp_path / "out" / "track.jsonl").read_text().splitlines()) == 5
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "out" / "track.mp4").read_bytes()[:300])
    done = subprocess.run([*command, "track", tmp_path / "cut.mp4", "--text", "it"],
                          capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: cannot open ") and done.stderr.count("\n") == 1


# models ---------------------------------------------------------------------------------------------------
def test_models_lists_what_every_configuration_costs():
    from vlt_ros.networks import CONFIGS

    result = vlt("models", "--json")
    assert result.exit_code == 0, result.output
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert list(rows) == list(CONFIGS)
    fields = {"name", "system", "parameters", "text_parameters", "gflops", "template_size", "search_size", "weights"}
    assert all(set(row) == fields for row in rows.values())
    assert rows["pjvlt_s"]["weights"].endswith("pjvlt_s.safetensors") and rows["pjvlt_b"]["weights"] is None
    assert rows["ostrack_384"]["search_size"] == 384 and rows["ostrack_384"]["system"] == "ostrack"
    assert 0 < rows["all_in_one_s"]["gflops"] < rows["all_in_one_b"]["gflops"]


def test_any_model_by_name(images, weights, tmp_path):
    """A file of another system tracks by its name; one that hears no sentence says so instead of searching for ever."""
    from vlt_ros.networks import CONFIGS, build_network, save_network

    for name in ("lgtrack_tiny", "ostrack_tiny"):
        save_network(build_network(CONFIGS[name]), tmp_path / f"{name}.safetensors")
        result = vlt("track", images, "--text", "the square", "--box", "10,20,16,14", "--model", name, "--weights",
                     tmp_path / f"{name}.safetensors", "--max-frames", "2", "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
    assert_error(vlt("track", images, "--text", "the square", "--model", "ostrack_tiny", "--weights",
                     tmp_path / "ostrack_tiny.safetensors", "--out", tmp_path / "no"), "ostrack_tiny", "give a box")
    assert_error(vlt("track", images, "--text", "x", "--model", "lgtrack_tiny", "--weights", weights, "--out",
                     tmp_path / "no"), "is for model pjvlt_tiny, not lgtrack_tiny")
    assert_error(vlt("track", images, "--text", "x", "--model", "satracker_b", "--out", tmp_path / "no"),
                 "satracker_b has no shipped weights", "--weights")
    assert not (tmp_path / "no" / "track.jsonl").exists()
