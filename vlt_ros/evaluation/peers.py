# SPDX-License-Identifier: Apache-2.0
"""OpenCV's own trackers beside ours: CSRT, KCF, MIL and NanoTrack, started by a box, on the same frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from vlt_ros.evaluation.errors import EvaluationError

PEERS = ("csrt", "kcf", "mil", "nano")


class Reported(NamedTuple):
    """What such a tracker says of a frame: box x, y, w, h in pixels, or None."""

    box: tuple[float, float, float, float] | None
    target_id: int = 1


@dataclass(frozen=True)
class Peer:
    """One of :data:`PEERS`; models: NanoTrack's backbone and head, none for the others."""

    name: str
    models: tuple[Path, ...] = ()

    def key(self) -> dict:
        """What its runs depend on besides the sequence: OpenCV's version and the models."""
        from vlt_ros.networks.weights import file_sha256

        return {"tracker": self.name, "opencv": cv2.__version__, "models": [file_sha256(file) for file in self.models]}

    def build(self) -> PeerTracker:
        """A tracker of this kind. Raises EvaluationError when its models cannot be loaded."""
        tracker = PeerTracker(self)
        tracker.make()
        return tracker


class PeerTracker:
    """An OpenCV tracker behind the two calls that evaluations need of ``vlt_ros.tracker.Tracker``."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self._tracker = None

    def make(self):
        """A new OpenCV tracker."""
        if self.peer.name != "nano":
            return getattr(cv2, f"Tracker{self.peer.name.upper()}_create")()
        parameters = cv2.TrackerNano_Params()
        parameters.backbone, parameters.neckhead = map(str, self.peer.models)
        try:
            return cv2.TrackerNano_create(parameters)
        except cv2.error as error:
            raise EvaluationError(f"OpenCV cannot load NanoTrack from {parameters.backbone} and "
                                  f"{parameters.neckhead}: {error.err}") from error

    def start(self, text: str = "", image: np.ndarray | None = None, box=None, stamp: float | None = None) -> Reported:
        """Follow the box's target; where OpenCV refuses the box, every frame is without one.

        Args:
            text, stamp: of no use to these trackers. image: BGR uint8 (H, W, 3).
            box: x, y, width, height in its pixels; rounded and cut to the image, as OpenCV takes it.
        """
        height, width = image.shape[:2]
        x, y, w, h = (round(value) for value in box)
        left, top = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
        cut = left, top, max(1, min(x + w, width) - left), max(1, min(y + h, height) - top)
        # MIL draws its samples from OpenCV's one generator: the sequences before must not matter.
        cv2.setRNGSeed(0)
        self._tracker = self.make()
        try:
            self._tracker.init(image, cut)
        except cv2.error:
            self._tracker = None
        return Reported(tuple(map(float, box)))

    def track(self, image: np.ndarray, stamp: float | None = None) -> Reported:
        """The target in the next frame."""
        if self._tracker is None:
            return Reported(None)
        try:
            found, box = self._tracker.update(image)
        except cv2.error:
            return Reported(None)
        return Reported(tuple(map(float, box)) if found else None)


def parse_peers(text: str) -> tuple[Peer, ...]:
    """The trackers of ``csrt,kcf,mil,nano:PATH``; PATH is a folder with NanoTrack's two ONNX files, or one of them.

    Raises:
        EvaluationError: a name that is unknown or comes twice, or model files that are not there.
    """
    peers: dict[str, Peer] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, colon, path = part.partition(":")
        if name not in PEERS or (colon and name != "nano"):
            raise EvaluationError(f"--against {part!r} is unknown: give some of csrt, kcf, mil and nano:PATH")
        if name in peers:
            raise EvaluationError(f"--against names {name} twice; once is enough")
        peers[name] = Peer(name, _nano_models(path) if name == "nano" else ())
    return tuple(peers.values())


def _nano_models(path: str) -> tuple[Path, Path]:
    if not path:
        raise EvaluationError("--against nano needs its models: nano:PATH, a folder with NanoTrack's backbone and "
                              "head as ONNX files")
    folder = Path(path)
    if folder.is_file():
        folder = folder.parent
    if not folder.is_dir():
        raise EvaluationError(f"--against nano:{path}: there is no such folder or file; it must hold NanoTrack's "
                              "backbone and head as ONNX files")
    models = []
    for part in ("backbone", "head"):
        found = sorted(file for file in folder.glob("*.onnx") if part in file.name.lower())
        if len(found) != 1:
            raise EvaluationError(f"{folder} has {len(found)} ONNX files with {part!r} in their names; "
                                  "NanoTrack needs just one")
        models.append(found[0])
    return models[0], models[1]
