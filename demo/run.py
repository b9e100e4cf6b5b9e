# SPDX-License-Identifier: Apache-2.0
"""The demo: a recorded camera, the real node, one sentence.

    python demo/run.py [--text "the man in the black coat"]

Starts the node in a process of its own, waits until it is active, sends the sentence on `command`, plays a
rosbag2 with compressed images in real time and records `target`. Writes to --out:

target.jsonl   a line for each image that was answered: frame, stamp, state, box [x,y,w,h] in pixels or null,
               confidence, target_id, latency_ms (in the node), end_to_end_ms (from publishing to receiving)
demo.mp4       the images with the published targets drawn in, matched by header stamp
demo.json      frames, tracked_fraction (share of the played frames answered TRACKING), first_lock_frame,
               p50 and p95 latency, dropped (frames without an answer)
contact_sheet.png, node.log
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlt_ros.ros.playback import PlaybackError, header_stamp_ns, play_to_node

HERE = Path(__file__).resolve().parent


class DemoError(RuntimeError):
    """The demo cannot go on; the message is one clear line."""


@dataclass
class Image:
    """One image of the bag: serialized message, time in the bag and header stamp in ns, JPEG bytes."""

    raw: bytes
    time_ns: int
    stamp_ns: int
    jpeg: np.ndarray


def read_images(bag: Path) -> list[Image]:
    """All compressed images of a bag, in the order of recording."""
    from rosbags.rosbag2 import Reader
    from rosbags.typesys import Stores, get_typestore

    if not (bag / "metadata.yaml").is_file():
        raise DemoError(f"{bag} is no rosbag2 folder (no metadata.yaml in it); give another one with --bag")
    types = get_typestore(Stores.ROS2_JAZZY)
    images = []
    try:
        with Reader(bag) as reader:
            wanted = [c for c in reader.connections if c.msgtype == "sensor_msgs/msg/CompressedImage"]
            for connection, time_ns, raw in reader.messages(wanted[:1]) if wanted else ():
                message = types.deserialize_cdr(raw, connection.msgtype)
                stamp = message.header.stamp
                images.append(Image(bytes(raw), time_ns, stamp.sec * 10**9 + stamp.nanosec, message.data))
    except Exception as error:      # a damaged file makes the library raise whatever comes
        raise DemoError(f"{bag} cannot be read ({error}); "
                        "copy it again or give another one with --bag") from error
    if not images:
        raise DemoError(f"{bag} has no sensor_msgs/CompressedImage messages; give a bag with such a topic")
    return images


def write_results(out: Path, images: list[Image], sent: dict[int, int], received: list, text: str) -> dict:
    """Write the files named at the top and return demo.json's content."""
    import cv2
    from vlt_ros.msg import Target

    from vlt_ros.media import ContactSheet, Shown, VideoFile, annotate, save_image

    # INPUT_TIMEOUT is about the silence before and after the images, not about one of them.
    answers = {header_stamp_ns(m): (arrived, m) for arrived, m in received
               if header_stamp_ns(m) in sent and m.state != Target.INPUT_TIMEOUT}
    span = (images[-1].time_ns - images[0].time_ns) * 1e-9
    fps = (len(images) - 1) / span if span > 0 else 10.0
    sheet, rows = ContactSheet(count=12, columns=4), []
    with open(out / "target.jsonl", "w", encoding="utf-8") as lines, VideoFile(out / "demo.mp4", fps) as film:
        for number, image in enumerate(images):
            picture = cv2.imdecode(image.jpeg, cv2.IMREAD_COLOR)
            if picture is None:
                raise DemoError(f"image {number} of the bag cannot be decoded; give another bag with --bag")
            latency_ms, shown = None, Shown("DROPPED", None, 0.0, text)
            if image.stamp_ns in answers:
                arrived, m = answers[image.stamp_ns]
                latency_ms, shown = m.latency_ms, Shown.of(m)
                row = {"frame": number, "stamp": image.stamp_ns * 1e-9, "state": shown.name,
                       "box": None if shown.box is None else [round(v, 2) for v in shown.box],
                       "confidence": round(m.confidence, 4), "target_id": m.target_id,
                       "latency_ms": round(latency_ms, 2),
                       "end_to_end_ms": round((arrived - sent[image.stamp_ns]) * 1e-6, 2)}
                lines.write(json.dumps(row) + "\n")
                rows.append(row)
            drawn = annotate(picture, shown, latency_ms)
            film.write(drawn)
            sheet.add(drawn)
    if not rows:
        raise DemoError(f"the node answered none of {len(images)} images; its log is {out / 'node.log'}")
    save_image(out / "contact_sheet.png", sheet.image())
    tracked = [row["frame"] for row in rows if row["state"] == "TRACKING"]
    p50, p95 = np.percentile([row["latency_ms"] for row in rows], (50, 95))
    end_to_end = np.percentile([row["end_to_end_ms"] for row in rows], (50, 95))
    summary = {"text": text, "frames": len(images), "tracked_fraction": round(len(tracked) / len(images), 4),
               "first_lock_frame": tracked[0] if tracked else None, "p50_latency_ms": round(float(p50), 2),
               "p95_latency_ms": round(float(p95), 2), "p50_end_to_end_ms": round(float(end_to_end[0]), 2),
               "p95_end_to_end_ms": round(float(end_to_end[1]), 2), "dropped": len(images) - len(rows)}
    (out / "demo.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def run(text: str, bag: Path, out: Path, parameters: dict[str, str]) -> dict:
    """The whole demo; returns demo.json's content. Raises DemoError, PlaybackError."""
    images = read_images(bag)
    out.mkdir(parents=True, exist_ok=True)
    for name in ("target.jsonl", "demo.mp4", "demo.json", "contact_sheet.png"):
        (out / name).unlink(missing_ok=True)   # an old result must not pass for a new one
    sent, received = play_to_node(images, len(images), out / "node.log", compressed=True, text=text,
                                  parameters=parameters)
    return write_results(out, images, sent, received, text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", default="the woman in the red jacket", help="what to follow (%(default)s)")
    parser.add_argument("--bag", type=Path, default=HERE / "data" / "vtest_excerpt", help="rosbag2 folder")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="results' folder (%(default)s)")
    parser.add_argument("--weights", help="weights file; without it, the shipped one")
    parser.add_argument("--device", help="auto, cpu or cuda:N")
    arguments = parser.parse_args()
    # The node is in a session of its own: ended by SIGTERM, this script still has to stop it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parameters = {name: value for name in ("weights", "device") if (value := getattr(arguments, name))}
    try:
        summary = run(arguments.text, arguments.bag, arguments.out, parameters)
    except ImportError as error:
        print(f"error: {error}: ROS 2 or the built messages are not in this Python; run `make setup` and use "
              ".venv/bin/python, or source your ROS 2 workspace", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: stopped before the end", file=sys.stderr)
        return 130
    except (DemoError, PlaybackError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(json.dumps(summary, indent=2))
    print(f"see {arguments.out / 'demo.mp4'} and {arguments.out / 'contact_sheet.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
