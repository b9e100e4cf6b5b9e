# SPDX-License-Identifier: Apache-2.0
"""Runs on disk, and the same evaluation broken off, shared by workers and shared by torchrun's processes."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from vlt_ros.evaluation import shards
from vlt_ros.evaluation.errors import EvaluationError
from vlt_ros.evaluation.evaluate import evaluate
from vlt_ros.evaluation.runs import Run, load_run, read_results, save_run
from vlt_ros.evaluation.sequences import SequenceError, read_sequences

RUN = Run(np.array([[np.nan] * 4, [1.5, 2, 3, 4.1235], [1.5, 2, 3, 4.1235]]), np.array([False, True, False]),
          np.array([1, 1, 1]), 0.25, 3, np.array([0.0, 0.5, 0.25]), np.array(["LOST", "TRACKING", "LOST"]))


def test_a_kept_run_is_the_run_and_nothing_else_is(tmp_path):
    files, key = (tmp_path / "a.txt", tmp_path / "runs" / "a.json"), {"frames": 3, "text": "x"}
    assert load_run(*files, key) is None
    save_run(RUN, *files, key)
    same = load_run(*files, key)
    for field in ("boxes", "present", "ids", "seconds", "calls", "confidences", "states"):
        assert np.array_equal(getattr(same, field), getattr(RUN, field), equal_nan=field == "boxes"), field
    assert files[0].read_text().splitlines()[:2] == ["0.0000,0.0000,0.0000,0.0000", "1.5000,2.0000,3.0000,4.1235"]
    assert load_run(*files, key | {"text": "y"}) is None, "another sentence is another run"
    files[0].write_text("1,2,3,4\n")
    assert load_run(*files, key) is None, "boxes that were cut short"
    save_run(RUN, *files, key)
    files[1].write_text(files[1].read_text()[:40])
    assert load_run(*files, key) is None


def test_result_files_of_others(write_sequence, tmp_path):
    write_sequence(tmp_path / "in" / "a", frames=3)
    sequence = read_sequences(tmp_path / "in")[0]
    (tmp_path / "a.txt").write_text("1\t2\t3\t4\n0 0 0 0\nnan,nan,nan,nan\n")
    run = read_results(tmp_path / "a.txt", sequence)
    assert run.present.tolist() == [True, False, False] and run.ids is None
    (tmp_path / "a.txt").write_text("1,2,3,4\n" * 4)
    with pytest.raises(SequenceError, match=r"a.txt has 4 lines but .*groundtruth.txt has 3; results need one box"):
        read_results(tmp_path / "a.txt", sequence)


def test_shares_are_even_and_whole():
    costs = [5, 100, 40, 40, 30, 1, 60]
    parts = [shards.share(costs, rank, 3) for rank in range(3)]
    assert sorted(sum(parts, [])) == list(range(7))
    assert max(sum(costs[i] for i in part) for part in parts) <= 101
    assert shards.share(costs, 0, 1) == list(range(7)) and shards.share([1], 1, 2) == []


def _die(piece, progress):
    progress()
    if piece == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return piece


def test_a_worker_that_dies_is_said_in_one_line():
    with pytest.raises(EvaluationError, match="a worker process died.*what was finished is kept"):
        shards.work([0, 1, 2], _die, 2, lambda: None)


def without_speed(value):
    """A report without what differs from run to run."""
    if isinstance(value, dict):
        return {key: without_speed(entry) for key, entry in value.items() if key != "fps"}
    return value


@pytest.fixture(scope="module")
def root(write_sequence, tmp_path_factory):
    root = tmp_path_factory.mktemp("many")
    for number in range(6):
        write_sequence(root / f"s{number}", frames=10 + 2 * number)
    (root / "s1" / "attributes.txt").write_text("IV, OCC\n")
    return root


@pytest.fixture(scope="module")
def unbroken(root, weights, tmp_path_factory):
    """The report of one process that nobody disturbs, and its folder."""
    out = tmp_path_factory.mktemp("unbroken")
    return evaluate(root, out, weights=weights, device="cpu", against="kcf", progress=False), out


def command(root, weights, out, *more):
    return ["-m", "vlt_ros.cli", "evaluate", str(root), "--weights", str(weights), "--device", "cpu",
            "--against", "kcf", "--out", str(out), *more]


def assert_same(out, unbroken):
    report, folder = unbroken
    assert without_speed(json.loads((out / "report.json").read_text())) == without_speed(report)
    for name in [f"s{n}.txt" for n in range(6)] + [f"kcf/s{n}.txt" for n in range(6)]:
        assert (out / name).read_bytes() == (folder / name).read_bytes()


def test_the_report_moves_with_what_is_run(root, unbroken, weights, tmp_path):
    other = evaluate(root, tmp_path, start="both", weights=weights, device="cpu", progress=False)
    assert without_speed(other["per_sequence"]) != without_speed(unbroken[0]["per_sequence"])
    assert unbroken[0]["against"]["kcf"]["auc"] != unbroken[0]["auc"]
    assert unbroken[0]["attributes"]["OCC"]["sequences"] == 1


def test_killed_and_resumed_equals_unbroken(root, unbroken, weights, tmp_path):
    running = subprocess.Popen([sys.executable, *command(root, weights, tmp_path)], stderr=subprocess.DEVNULL)
    try:
        while not list((tmp_path / "runs").glob("*.json")) and running.poll() is None:
            time.sleep(0.002)
    finally:
        running.kill()
        running.wait()
    done = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").rglob("*.json")}
    assert 0 < len(done) < 12 and not (tmp_path / "report.json").exists()
    evaluate(root, tmp_path, weights=weights, device="cpu", against="kcf", progress=False)
    assert_same(tmp_path, unbroken)
    assert {file: file.stat().st_mtime_ns for file in done} == done, "what was finished was not done again"


def test_a_run_is_done_again_when_its_data_changed(root, unbroken, weights):
    report, out = unbroken
    facts = out / "runs" / "s0.json"
    before = facts.stat().st_mtime_ns
    evaluate(root, out, weights=weights, device="cpu", against="kcf", progress=False)
    assert facts.stat().st_mtime_ns == before
    truth = root / "s0" / "groundtruth.txt"
    kept = truth.read_text()
    try:
        truth.write_text(kept.replace("10,20,16,14", "11,20,16,14", 1))
        changed = evaluate(root, out, weights=weights, device="cpu", against="kcf", progress=False)
    finally:
        truth.write_text(kept)
    assert facts.stat().st_mtime_ns != before and changed["auc"] != report["auc"]
    evaluate(root, out, weights=weights, device="cpu", against="kcf", progress=False)


def test_two_workers_equal_one(root, unbroken, weights, tmp_path):
    done = subprocess.run([sys.executable, *command(root, weights, tmp_path, "--jobs", "2")], text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    assert f"{2 * sum(range(10, 21, 2))}/{2 * sum(range(10, 21, 2))}" in done.stderr, "progress over both workers"
    assert_same(tmp_path, unbroken)


def test_two_torchrun_processes_equal_one(root, unbroken, weights, tmp_path):
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                           *command(root, weights, tmp_path)], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report.json") == 1, "one process reports"
    assert "process 1 of 2" in done.stderr and "process 2 of 2" in done.stderr
    assert_same(tmp_path, unbroken)
