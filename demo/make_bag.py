# SPDX-License-Identifier: Apache-2.0
"""Make demo/data/vtest_excerpt, the demo's rosbag2 (mcap), from OpenCV's sample video vtest.avi.

    python demo/make_bag.py PATH/TO/vtest.avi

The video comes with OpenCV (samples/data/vtest.avi) and with Debian's package opencv-doc.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

# The woman in the red jacket is wholly in the picture from the first to the last of these frames.
FIRST_FRAME, LAST_FRAME = 423, 542
FPS = 10
# The lawn's noise is most of the file: at quality 90 the bag would be 13 MB and look the same.
JPEG_QUALITY = 70
TOPIC = "/image/compressed"
FRAME_ID = "camera_optical_frame"
# The video tells no date; a fixed one makes the same bag every time.
START_NS = 1_700_000_000 * 10**9
SOURCE = (f"OpenCV samples/data/vtest.avi, frames {FIRST_FRAME} to {LAST_FRAME}, recompressed as JPEG; "
          "OpenCV, Apache License 2.0")


def read_excerpt(video: Path) -> list[np.ndarray]:
    """Frames FIRST_FRAME to LAST_FRAME, BGR uint8."""
    capture = cv2.VideoCapture(str(video))
    frames = []
    for index in range(LAST_FRAME + 1):
        ok, image = capture.read()
        if not ok:
            sys.exit(f"error: {video} cannot be read up to frame {LAST_FRAME} (stopped at {index}); "
                     "give OpenCV's vtest.avi")
        if index >= FIRST_FRAME:
            frames.append(image)
    return frames


def write_bag(frames: list[np.ndarray], bag: Path) -> None:
    """Write the frames as sensor_msgs/CompressedImage, stamped 1/FPS s apart. An old bag is replaced."""
    types = get_typestore(Stores.ROS2_JAZZY)
    compressed = types.types["sensor_msgs/msg/CompressedImage"]
    header, time = types.types["std_msgs/msg/Header"], types.types["builtin_interfaces/msg/Time"]
    settings = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    if bag.exists():
        shutil.rmtree(bag)
    with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.set_custom_data("source", SOURCE)
        connection = writer.add_connection(TOPIC, compressed.__msgtype__, typestore=types)
        for number, image in enumerate(frames):
            stamp = START_NS + number * 10**9 // FPS
            data = cv2.imencode(".jpg", image, settings)[1].ravel()
            message = compressed(header(time(stamp // 10**9, stamp % 10**9), FRAME_ID), "jpeg", data)
            writer.write(connection, stamp, types.serialize_cdr(message, compressed.__msgtype__))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path, help="OpenCV's vtest.avi")
    parser.add_argument("--bag", type=Path, default=Path(__file__).parent / "data" / "vtest_excerpt")
    arguments = parser.parse_args()
    frames = read_excerpt(arguments.video)
    write_bag(frames, arguments.bag)
    size = sum(file.stat().st_size for file in arguments.bag.iterdir())
    print(f"{arguments.bag}: {len(frames)} images, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
