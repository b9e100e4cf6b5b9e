# SPDX-License-Identifier: Apache-2.0
"""A bag's images with the targets that were recorded or written beside them."""

from __future__ import annotations

from pathlib import Path

from vlt_ros.evaluation.bags import Bag
from vlt_ros.media.clip import Clip
from vlt_ros.media.drawing import Shown
from vlt_ros.ros.images import ImageError


def read_clip(path: str | Path, image_topic: str | None = None, target_topic: str | None = None) -> tuple[Clip, Bag]:
    """The images of a bag, each with the target of its stamp.

    Args:
        path: the bag. image_topic, target_topic: of its images and its vlt_ros/msg/Target; None takes the first with
            messages on it.

    Returns:
        The clip, without the images that cannot be decoded, and the bag.

    Raises:
        BagError: no bag, no such topics, or damage.
    """
    from tqdm import tqdm

    bag, clip = Bag(path, image_topic), Clip()
    targets = bag.targets(target_topic)
    for image in tqdm(bag, desc="reading the bag", unit="image", total=bag.length):
        try:
            picture = image.picture()
        except ImageError:
            continue
        message = targets.get(image.stamp_ns)
        clip.add(picture, None if message is None else Shown.of(message), image.stamp_ns * 1e-9,
                 None if message is None or not message.latency_ms else round(message.latency_ms, 1))
    return clip, bag
