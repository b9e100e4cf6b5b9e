# SPDX-License-Identifier: Apache-2.0
"""What int8 is calibrated on: frames, templates and sentences as a tracker gives them to the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from vlt_ros.cli import main
from vlt_ros.evaluation.calibration import FRAMES, frame_inputs
from vlt_ros.networks import CONFIGS, PJVLT, load_network, save_network
from vlt_ros.networks.folding import fold


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_network(PJVLT(CONFIGS["pjvlt_tiny"]), path)
    return path


def test_frames_sentences_and_blank_templates(sequences, weights):
    network = fold(load_network(weights, device="cpu", precision="fp32"))
    frames = frame_inputs(network, sequences)
    assert len(frames) == 2 * (FRAMES + FRAMES // 2)
    assert {name: value.shape for name, value in frames[0].items()} == {
        "search": (1, 3, 56, 56), "template": (1, 16, 32), "words_0": (1, 16, 80), "words_1": (1, 1, 1, 40),
        "words_2": (1, 80, 32), "words_3": (1, 16, 80), "words_4": (1, 1, 1, 40), "words_5": (1, 80, 32)}

    def kinds(name):
        return len({frame[name].tobytes() for frame in frames})

    assert kinds("search") == len(frames) and kinds("template") == 3 and kinds("words_0") == 3    # two clips' and none
    blank = network.encode_template(None).numpy()
    assert sum(np.array_equal(frame["template"], blank) for frame in frames) == FRAMES


def test_vlt_export(sequences, weights, tmp_path):
    def vlt(*arguments):
        return CliRunner().invoke(main, ["export", *map(str, arguments)])

    pytest.importorskip("onnx")
    result = vlt(weights, "--format", "onnx", "--out", tmp_path / "net.onnx")
    assert result.exit_code == 0 and (tmp_path / "net.onnx").stat().st_size > 1e4, result.output
    for arguments, part in ((("--format", "openvino", "--precision", "int8"), "go together"),
                            (("--format", "openvino", "--calibrate", sequences), "go together"),
                            (("--format", "onnx", "--out", tmp_path / "net.xml"), "does not end in .onnx")):
        result = vlt(weights, *arguments)
        assert result.exit_code == 2 and part in result.stderr, result.stderr
    result = vlt(tmp_path / "none.safetensors", "--format", "onnx")
    assert result.exit_code == 2 and "is missing" in result.stderr
