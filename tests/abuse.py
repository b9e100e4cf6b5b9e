# SPDX-License-Identifier: Apache-2.0
"""What must hold for any input at every door: an answer, or one clear error of the door's own kind.

Each check takes bytes, so that the property tests (test_abuse.py) and the coverage-guided fuzzer (`make fuzz`) share
them. A check raises when the promise is broken.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import struct
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np

ENCODINGS = ("bgr8", "rgb8", "mono8", "bgra8", "rgba8", "8UC1", "8UC3", "mono16", "bgr16", "rgb16", "yuv422", "uyvy",
             "yuv422_yuy2", "nv12", "nv21", "bayer_rggb8", "bayer_gbrg16", "32FC1", "16UC1", "64FC3", "", "bgr9",
             "bayer_8", "\ud800", "8UC99", "%s%n")


def clear(error: Exception) -> None:
    """An error's text is one line that says something, and can be written anywhere."""
    text = str(error)
    assert text and "\n" not in text, repr(text)


class Reader:
    """Numbers and strings out of bytes; zeros when they are used up."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, count: int) -> bytes:
        part, self.data = self.data[:count], self.data[count:]
        return part.ljust(count, b"\0")

    def integer(self) -> int:
        """Small ones as often as huge ones."""
        kind, value = self.take(1)[0] % 4, struct.unpack("<I", self.take(4))[0]
        return (value % 64, value % 2048, value, 2**31 - value % 3)[kind]

    def number(self) -> float:
        kind, value = self.take(1)[0] % 6, struct.unpack("<d", self.take(8))[0]
        small = float(int.from_bytes(struct.pack("<d", value)[:2], "little"))
        return (value, math.nan, math.inf, small, -1.0, 0.0)[kind]

    def text(self) -> str:
        """Any code points, lone surrogates among them."""
        return self.data.decode("utf-16-le", "surrogatepass") if not len(self.data) % 2 else self.data.decode("latin-1")


def check_image(data: bytes) -> bool:
    """A raw image message of any size, step, encoding and data. True when it holds a picture."""
    from vlt_ros.ros.images import ImageError, to_bgr

    reader = Reader(data)
    encoding = ENCODINGS[reader.take(1)[0] % len(ENCODINGS)]
    height, width = reader.integer(), reader.integer()
    given = reader.integer()
    step = (given, width * 3, width, width * 6)[reader.take(1)[0] % 4]
    big_endian = reader.take(1)[0] % 2
    pixels = reader.data
    if step * height < 1 << 20 and reader.take(1)[0] % 2:
        pixels = (pixels or b"\x7f") * (step * height // max(1, len(pixels)) + 1)
    message = SimpleNamespace(height=height, width=width, encoding=encoding, step=step, is_bigendian=big_endian,
                              data=pixels)
    try:
        image = to_bgr(message)
    except ImageError as error:
        clear(error)
        return False
    assert image.dtype == np.uint8 and image.shape == (height, width, 3)
    return True


def check_compressed(data: bytes) -> bool:
    """A compressed image message."""
    from vlt_ros.ros.images import ImageError, to_bgr

    message = SimpleNamespace(format=("jpeg", "png", "compressedDepth", "")[len(data) % 4], data=data)
    try:
        image = to_bgr(message)
    except ImageError as error:
        clear(error)
        return False
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    return True


def check_text(data: bytes) -> bool:
    """A phrase: taken as it is but for the space around it, or refused."""
    from vlt_ros.tracker import CommandError, validate_text

    text = Reader(data).text()
    try:
        accepted = validate_text(text)
    except CommandError as error:
        clear(error)
        str(error).encode()     # no lone surrogate that a log or message cannot carry
        return False
    assert accepted == text.strip() and len(text) <= 256
    accepted.encode()
    return True


def check_box(data: bytes) -> bool:
    """A box: cut to the frame with an area, or refused."""
    from vlt_ros.tracker import CommandError, validate_box

    reader = Reader(data)
    box = [reader.number() for _ in range(4)]
    width, height = 1 + reader.integer() % 4096, 1 + reader.integer() % 4096
    try:
        x, y, w, h = validate_box(box, width, height)
    except CommandError as error:
        clear(error)
        return False
    assert 0 <= x < x + w <= width * (1 + 1e-9) and 0 <= y < y + h <= height * (1 + 1e-9) and min(w, h) >= 2
    return True


def check_parameters(data: bytes) -> bool:
    """Values of parameters in their declared types: refused, or good for the tracker."""
    from dataclasses import fields

    from vlt_ros.ros.parameters import Parameters
    from vlt_ros.tracker import TrackerSettings

    reader, values = Reader(data), {}
    for spec in fields(Parameters):
        if reader.take(1)[0] % 3 == 0:
            made = {float: reader.number, int: lambda: reader.integer() - 2**31,
                    bool: lambda: bool(reader.take(1)[0] % 2), str: lambda: reader.take(4).decode("latin-1")}
            values[spec.name] = made[type(spec.default)]()
    parameters = Parameters(**values)
    if problem := parameters.problem():
        clear(ValueError(problem))
        return False
    TrackerSettings(**{spec.name: getattr(parameters, spec.name) for spec in fields(TrackerSettings)})
    return True


@functools.lru_cache(maxsize=1)
def whole_weights() -> bytes:
    """The file of a tiny network."""
    import torch

    from vlt_ros.networks import CONFIGS, PJVLT, save_network

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        save_network(PJVLT(CONFIGS["pjvlt_tiny"]), Path(folder) / "tiny.safetensors")
        return (Path(folder) / "tiny.safetensors").read_bytes()


def check_weights(data: bytes) -> bool:
    """A weights file with bytes changed, cut or put in: it loads with finite numbers, or is refused."""
    import torch

    from vlt_ros.networks import WeightsError
    from vlt_ros.networks.weights import read_network

    reader, content = Reader(data), bytearray(whole_weights())
    header = 8 + struct.unpack("<Q", content[:8])[0]
    kind = reader.take(1)[0] % 5
    if kind == 0:
        content = content[: reader.integer() % len(content)]
    elif kind == 1:                         # in its length, names, shapes or configuration
        place = reader.integer() % header
        content[place : place + reader.take(1)[0] % 4] = reader.data[:8]
    elif kind == 2:                         # in its numbers
        place = header + reader.integer() % (len(content) - header)
        content[place : place + len(reader.data)] = reader.data
        del content[len(whole_weights()):]
    elif kind == 3:                         # another configuration
        fields = json.loads(content[8:header])
        fields["__metadata__"]["config"] = reader.data.decode("latin-1")
        text = json.dumps(fields).encode()
        content = struct.pack("<Q", len(text)) + text + content[header:]
    else:
        content = reader.data
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "w.safetensors"
        path.write_bytes(content)
        try:
            network = read_network(path)
        except WeightsError as error:
            clear(error)
            return False
    assert all(bool(torch.isfinite(p).all()) for p in network.parameters())
    return True


def check_config(data: bytes) -> bool:
    """A training configuration."""
    from vlt_ros.training.trainer import TrainingError, read_config

    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "c.yaml"
        path.write_bytes(data)
        try:
            read_config(path)
        except TrainingError as error:
            assert str(error)
            return False
    return True


def check_sequence(data: bytes) -> bool:
    """A sequence's ground truth, absences and sentence."""
    from vlt_ros.evaluation.sequences import SequenceError, read_sequence
    from vlt_ros.media.errors import MediaError

    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder = Path(name)
        (folder / "img").mkdir()
        for number in range(2):
            (folder / "img" / f"{number}.jpg").write_bytes(b"x")
        truth, _, rest = data.partition(b"\xff\xff")
        absent, _, text = rest.partition(b"\xff\xff")
        (folder / "groundtruth.txt").write_bytes(truth)
        (folder / "language.txt").write_bytes(text)
        if absent:
            (folder / "absent.txt").write_bytes(absent)
        try:
            sequence = read_sequence(folder)
        except (SequenceError, MediaError) as error:
            clear(error)
            return False
    assert np.isfinite(sequence.boxes[~sequence.absent]).all() and sequence.boxes.shape[1] == 4
    return True


def check_dataset(data: bytes) -> bool:
    """Annotations of the training data sets: lines of boxes, JSON, pickles."""
    from vlt_ros.training.datasets import DataSetError
    from vlt_ros.training.datasets.files import read_boxes, read_labels, read_sentence
    from vlt_ros.training.datasets.pictures import coco, read_references

    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder = Path(name)
        path = folder / "f.txt"
        path.write_bytes(data)
        boxes = read_boxes(path)
        assert boxes.ndim == 2 and boxes.shape[1] == 4
        read_labels(path, 3)
        read_sentence(path)
        for read in (read_references, lambda p: coco(folder)):
            (folder / "annotations").mkdir(exist_ok=True)
            (folder / "train2017").mkdir(exist_ok=True)
            (folder / "annotations" / "instances_train2017.json").write_bytes(data)
            try:
                read(path)
            except DataSetError as error:
                assert str(error)
    return True


def check_bag(data: bytes) -> bool:
    """A recorded bag with bytes changed: its images, or a clear error."""
    import sys

    demo = str(Path(__file__).resolve().parents[1] / "demo")
    if demo not in sys.path:
        sys.path.insert(0, demo)
    from run import DemoError, read_images

    from vlt_ros.evaluation.bags import Bag, BagError
    from vlt_ros.ros.images import ImageError

    reader = Reader(data)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        files = dict(whole_bag())
        victim = sorted(files)[reader.take(1)[0] % len(files)]
        content = bytearray(files[victim])
        place = reader.integer() % len(content)
        if reader.take(1)[0] % 2:
            content = content[:place]
        else:
            content[place : place + len(reader.data)] = reader.data
        for file, old in files.items():
            (Path(name) / file).write_bytes(content if file == victim else old)
        try:
            for image in Bag(name, "/image/compressed"):
                with contextlib.suppress(ImageError):
                    image.picture()
        except BagError as error:
            clear(error)
        try:
            read_images(Path(name))
        except DemoError as error:
            assert str(error)
            return False
    return True


@functools.lru_cache(maxsize=1)
def whole_bag() -> tuple[tuple[str, bytes], ...]:
    """The files of a small bag with two compressed images."""
    import cv2
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    types = store.types
    with tempfile.TemporaryDirectory() as folder:
        bag = Path(folder) / "bag"
        with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            kind = "sensor_msgs/msg/CompressedImage"
            topic = writer.add_connection("/image/compressed", kind, typestore=store)
            jpeg = cv2.imencode(".jpg", np.full((16, 16, 3), 99, np.uint8))[1].ravel()
            for second in (1, 2):
                header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](second, 0), "camera")
                message = types[kind](header, "jpeg", jpeg)
                writer.write(topic, second * 10**9, store.serialize_cdr(message, kind))
        return tuple((file.name, file.read_bytes()) for file in sorted(bag.iterdir()))


CHECKS = {name.removeprefix("check_"): check for name, check in sorted(globals().items()) if name.startswith("check_")}
