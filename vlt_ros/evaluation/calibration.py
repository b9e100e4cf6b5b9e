# SPDX-License-Identifier: Apache-2.0
"""What a network is given when it works: the numbers by which its graph is quantised to int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vlt_ros.evaluation.sequences import read_sequences
from vlt_ros.networks import TrackingNetwork
from vlt_ros.networks.frame import FrameGraph
from vlt_ros.networks.runtimes import CompiledNetwork
from vlt_ros.tracker.geometry import whole_frame, window_around
from vlt_ros.tracker.look import Looker
from vlt_ros.tracker.tracker import Following

# Frames of each sequence, evenly spread; every second one is searched by text too.
FRAMES = 4


def frame_inputs(network: TrackingNetwork, root: str | Path) -> list[dict[str, np.ndarray]]:
    """Inputs of a network's frames on the sequences below a folder, by the graph's input names, each a batch of one.

    The search regions are where the target was some frames before; the sentences the sequence's own, another one's and
    none in turn. By text alone, with a blank template, the whole frame is looked at.

    Args:
        network: folded, in float32 on the CPU. root: as for ``vlt evaluate``; not what is evaluated on.

    Raises:
        SequenceError: a sequence cannot be read.
    """
    sequences = read_sequences(root)
    graph, side = FrameGraph(network), network.config.search_grid
    kept: list[dict[str, np.ndarray]] = []

    def keep(*inputs: Tensor) -> tuple[Tensor, ...]:
        kept.append({name: tensor.numpy().copy() for name, tensor in zip(graph.input_names(), inputs, strict=True)})
        return (*(torch.zeros(1, channels, side, side) for channels in (1, 2, 2)),
                torch.zeros(1, side * side, network.config.dim))

    recorder = CompiledNetwork(network, keep)
    recorder.device = torch.device("cpu")
    looker, factor = Looker(recorder), Following().search_factor
    for number, sequence in enumerate(sequences):
        seen = np.flatnonzero(~sequence.absent)
        picks = seen[np.linspace(0, len(seen) - 1, min(FRAMES, len(seen))).round().astype(int)]
        before, template = None, None
        for turn, (index, image) in enumerate(sequence.images_at([int(pick) for pick in picks])):
            other = sequences[(number + 1) % len(sequences)].text
            text = (sequence.text, other, "")[turn % 3] if network.listens else ""
            box = tuple(float(value) for value in sequence.boxes[index])
            if before is None:
                before, template = box, looker.template(image, box)
            # As far off as the target went between two frames that a tracker sees, not between two picks.
            x, y = (new + min(max(old - new, -size / 3), size / 3)
                    for old, new, size in zip(before, box[:2], box[2:], strict=False))
            looker.look(image, window_around((x, y, *box[2:]), factor), template, looker.words(text))
            if network.listens and sequence.text and turn % 2:
                height, width = image.shape[:2]
                looker.look(image, whole_frame(width, height), None,
                            looker.words(sequence.text)._replace(phrase=None))
            before = box
    return kept
