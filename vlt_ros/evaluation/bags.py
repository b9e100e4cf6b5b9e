# SPDX-License-Identifier: Apache-2.0
"""rosbag2 recordings without a ROS installation: their images, their true boxes, and a bag of targets to write.

Both storages (sqlite3, mcap) and both kinds of images (sensor_msgs/Image, sensor_msgs/CompressedImage).
"""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlt_ros.evaluation.metrics import has_area
from vlt_ros.evaluation.sequences import Sequence, SequenceError, read_boxes
from vlt_ros.ros.images import ImageError, to_bgr

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
TRUTH_TYPES = ("vlt_ros/msg/TargetCommand", "vlt_ros/msg/Target")
TARGET_TOPIC, PICTURE_TOPIC = "/target", "/target_image/compressed"
JPEG_QUALITY = 90


class BagError(ValueError):
    """A bag that cannot be used; the message says which, why, and what to do."""


@functools.lru_cache(maxsize=1)
def message_types():
    """ROS 2's message types and this package's own, as rosbags' type store.

    Raises:
        BagError: the package's definitions are not there.
    """
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    from vlt_ros.networks.weights import WeightsError, models_folder

    try:
        # Beside the weights in a checkout as well as under share/.
        folder = models_folder().parent / "msg"
    except WeightsError as error:
        raise BagError("msg/Target.msg is not installed with this package; use a checkout of it or build it with "
                       "colcon") from error
    store = get_typestore(Stores.ROS2_JAZZY)
    for file in sorted(folder.glob("*.msg")):
        store.register(get_types_from_msg(file.read_text(encoding="utf-8"), f"vlt_ros/msg/{file.stem}"))
    return store


@dataclass(frozen=True)
class BagImage:
    """One image message: its number on the topic, its time in the bag [ns], its bytes and what they hold."""

    index: int
    time_ns: int
    raw: bytes
    message: Any

    @property
    def stamp_ns(self) -> int:
        """The header's stamp; the time of recording for drivers that leave it zero."""
        return stamp_ns(self.message) or self.time_ns

    def picture(self) -> np.ndarray:
        """BGR uint8 (H, W, 3). Raises ImageError."""
        return to_bgr(self.message)


class Bag:
    """A rosbag2 folder (or one .mcap or .db3 file) and the topic of its images, to iterate over in order of recording.

    Args:
        path: see above. topic: of the images; None takes the first that has any.

    Attributes:
        path: the bag. topic, type: of its images. length: number of images that the bag says it has. fps: their rate
            over the whole recording, for films; 30 where it cannot be told.

    Raises:
        BagError: it is no bag or damaged, has no such topic, or that topic holds no images. Iterating raises it too,
            where the damage is.
    """

    def __init__(self, path: str | Path, topic: str | None) -> None:
        self.path = Path(path)
        if self.path.is_dir() and not (self.path / "metadata.yaml").is_file() or not self.path.exists():
            raise BagError(f"{self.path} is no rosbag2 folder (no metadata.yaml in it); give the folder of a bag, "
                           "or its .mcap or .db3 file")
        self._topics: dict[str, tuple[str, int]] = {}
        with self._reader() as reader:
            for connection in reader.connections:
                _, count = self._topics.get(connection.topic, ("", 0))
                self._topics[connection.topic] = connection.msgtype, count + connection.msgcount
            seconds = reader.duration * 1e-9 if reader.connections else 0.0
        if topic is None:
            # Not the one with boxes drawn in, where there is another.
            topics = sorted(self._of(IMAGE_TYPES), key=PICTURE_TOPIC.__eq__)
            topic = topics[0] if topics else "of images"
        self.topic = self.find(topic)
        if self.topic is None:
            there = ", ".join(name for name, (kind, _) in self._topics.items() if kind in IMAGE_TYPES)
            raise BagError(f"{self.path} has no topic {topic}; its topics with images are: {there or 'none'}")
        self.type, self.length = self._topics[self.topic]
        fps = (self.length - 1) / seconds if seconds > 0 else 0.0
        self.fps = fps if 0.1 <= fps <= 1000 else 30.0
        if self.type not in IMAGE_TYPES:
            raise BagError(f"{self.topic} of {self.path} holds {self.type}, not images; give a topic of "
                           "sensor_msgs/msg/Image or sensor_msgs/msg/CompressedImage with --image-topic")
        if not self.length:
            raise BagError(f"{self.topic} of {self.path} has no messages; give a topic that was recorded")

    def _of(self, kinds: tuple[str, ...]) -> list[str]:
        """Topics of some types with messages on them."""
        return [name for name, (kind, count) in self._topics.items() if kind in kinds and count]

    def find(self, topic: str) -> str | None:
        """The topic of that name, with or without its leading slash; None where there is none."""
        return next((name for name in (topic, f"/{topic}") if name in self._topics), None)

    def __iter__(self) -> Iterator[BagImage]:
        for index, (time_ns, raw, message) in enumerate(self._messages(self.topic)):
            yield BagImage(index, time_ns, raw, message)

    def true_boxes(self, topic: str) -> dict[int, tuple[float, float, float, float]]:
        """The boxes on a topic by their header stamps in ns; all zero where the target is not in the image.

        Raises:
            BagError: no such topic, or one of other messages than vlt_ros/TargetCommand and vlt_ros/Target.
        """
        name = self.find(topic)
        if name is None:
            raise BagError(f"{topic} is neither a file nor a topic of {self.path}; give --truth one of them")
        kind = self._topics[name][0]
        if kind not in TRUTH_TYPES:
            raise BagError(f"{name} of {self.path} holds {kind}, not boxes; give --truth a topic of "
                           "vlt_ros/msg/TargetCommand or vlt_ros/msg/Target, or a file")
        boxes = {}
        for _, _, message in self._messages(name):
            box = message.box
            boxes[stamp_ns(message)] = box.x, box.y, box.width, box.height
        return boxes

    def targets(self, topic: str | None = None) -> dict[int, Any]:
        """vlt_ros/msg/Target messages by their header stamps in ns.

        Args:
            topic: theirs; None takes the first that has any, /status last: it has changes alone.

        Raises:
            BagError: there are none.
        """
        there = sorted(self._of(TRUTH_TYPES[1:]), key=lambda name: name.endswith("/status"))
        name = self.find(topic) if topic else next(iter(there), None)
        if name not in there:
            where = f" on {topic}" if topic else ""
            raise BagError(f"{self.path} has no vlt_ros/msg/Target messages{where} (topics with some: "
                           f"{', '.join(there) or 'none'}); record /target beside the images, or let `vlt bag` follow "
                           "something and view OUT/bag")
        return {stamp_ns(message): message for _, _, message in self._messages(name)}

    def _messages(self, topic: str) -> Iterator[tuple[int, bytes, Any]]:
        store = message_types()
        with self._reader() as reader:
            messages = reader.messages([c for c in reader.connections if c.topic == topic])
            count = 0
            while True:
                try:
                    connection, time_ns, raw = next(messages)
                    message = store.deserialize_cdr(raw, connection.msgtype)
                except StopIteration:
                    return
                except Exception as error:      # a damaged file makes the library raise whatever comes
                    raise BagError(f"{self.path} cannot be read after message {count} of {topic} "
                                   f"({_reason(error)}); copy it again, or repair it") from error
                yield time_ns, bytes(raw), message
                count += 1

    def _reader(self):
        from rosbags.rosbag2 import Reader

        try:
            reader = Reader(self.path)
            reader.open()
        except Exception as error:
            raise BagError(f"{self.path} cannot be read ({_reason(error)}): it is damaged, cut short or no bag; "
                           "copy it again, or repair it with `ros2 bag reindex`") from error
        return contextlib.closing(reader)


class Truth:
    """The true boxes of a bag's images, by their number (a file) or by their stamp (a topic).

    Args:
        given: a file with one box x,y,w,h for each image, or a topic of the bag.

    Raises:
        SequenceError: the file is malformed. BagError: the topic cannot be used, or the numbers do not fit.
    """

    def __init__(self, given: str, bag: Bag) -> None:
        self.bag, self.name = bag, given
        file = Path(given)
        self._rows = read_boxes(file) if file.is_file() else None
        self._stamped = bag.true_boxes(given) if self._rows is None else {}
        count = len(self._stamped) if self._rows is None else len(self._rows)
        if count != bag.length:
            raise BagError(self._mismatch(count, bag.length))

    def of(self, image: BagImage) -> np.ndarray:
        """x, y, w, h. Raises BagError where the image has none."""
        if self._rows is not None:
            if image.index >= len(self._rows):
                raise BagError(self._mismatch(len(self._rows), image.index + 1))
            return self._rows[image.index]
        if image.stamp_ns not in self._stamped:
            raise BagError(f"no box on {self.name} has the stamp of image {image.index} ({image.stamp_ns} ns); every "
                           "image needs one with its stamp, all zero where the target is not in it")
        return np.array(self._stamped[image.stamp_ns], np.float64)

    def sequence(self, boxes: np.ndarray, text: str) -> BagSequence:
        """What evaluations take. Args: boxes (T, 4) of the T images."""
        return BagSequence(self.bag.path.stem, self.bag.path, self.bag.path, Path(self.name), boxes, ~has_area(boxes),
                           text, bag=self.bag)

    def _mismatch(self, boxes: int, images: int) -> str:
        return (f"{self.name} has {boxes} boxes but {self.bag.topic} of {self.bag.path} has {images} images; "
                "there must be one box for each image")


@dataclass(frozen=True)
class BagSequence(Sequence):
    """A sequence whose images lie in a bag."""

    bag: Bag | None = None

    def images(self) -> Iterator[np.ndarray]:
        """Its images that can be read. Raises SequenceError."""
        yield from (picture for _, picture in self.images_at(list(range(len(self)))))

    def images_at(self, indices: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Some of its images with their numbers; one that is damaged is left out. Raises SequenceError."""
        wanted = set(indices)
        try:
            for image in self.bag:
                if image.index in wanted:
                    try:
                        yield image.index, image.picture()
                    except ImageError:
                        continue
        except BagError as error:
            raise SequenceError(str(error)) from error


class TargetBag:
    """Writes a bag (mcap) of images, their targets on `target`, and the images with the targets drawn in.

    A context manager; what was written stays a whole bag when an error ends it.

    Args:
        folder: an old bag there is replaced. images: the bag whose images are written.

    Raises:
        BagError: the folder holds something else, or it is the bag that is read.
    """

    def __init__(self, folder: Path, images: Bag) -> None:
        from rosbags.rosbag2 import StoragePlugin, Writer

        source = images.path.resolve()
        if folder.resolve() in (source, *source.parents):
            raise BagError(f"{images.path} lies where the results go ({folder}); give another folder with --out")
        if folder.exists():
            mine = {"metadata.yaml", f"{folder.name}.mcap"}
            if not folder.is_dir() or {file.name for file in folder.iterdir()} - mine:
                raise BagError(f"{folder} is there and no bag of this command; give another folder with --out")
            shutil.rmtree(folder)
        self.types = message_types()
        self._image_type = images.type
        try:
            self._writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
            self._writer.open()
        except OSError as error:
            raise BagError(f"cannot write {folder}: {error.strerror}; give another folder with --out") from error
        self._images, self._targets, self._pictures = (
            self._writer.add_connection(topic, kind, typestore=self.types) for topic, kind in (
                (images.topic, images.type), (TARGET_TOPIC, "vlt_ros/msg/Target"),
                (PICTURE_TOPIC, "sensor_msgs/msg/CompressedImage")))

    def __enter__(self) -> TargetBag:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def image(self, image: BagImage) -> None:
        """Write an image as it was recorded."""
        self._writer.write(self._images, image.time_ns, image.raw)

    def target(self, image: BagImage, raw: bytes, drawn: np.ndarray) -> None:
        """Write an image's answer. Args: raw: serialized vlt_ros/msg/Target. drawn: BGR uint8 (H, W, 3)."""
        import cv2

        self._writer.write(self._targets, image.time_ns, raw)
        kind = "sensor_msgs/msg/CompressedImage"
        data = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].ravel()
        message = self.types.types[kind](image.message.header, "jpeg", data)
        self._writer.write(self._pictures, image.time_ns, self.types.serialize_cdr(message, kind))


def stamp_ns(message) -> int:
    """A message's header stamp in ns."""
    stamp = message.header.stamp
    return stamp.sec * 10**9 + stamp.nanosec


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
