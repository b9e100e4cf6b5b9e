# SPDX-License-Identifier: Apache-2.0
"""A data tree in the layout of the real one, small enough to be made for a test."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

NAMES = ("mug", "lamp", "boat", "drum", "kite", "shoe", "bell", "car", "vase", "ball")


def write_tree(root: Path) -> tuple[Path, Path]:
    """Stills, clips, cut-outs and backgrounds below ``root``: the folders data and assets.

    Pictures are grey and smooth, cut-outs are grey ellipses: a phrase scene's colours are its candidates' alone.
    """
    rng = np.random.default_rng(0)
    data, assets = root / "data", root / "assets"

    def picture(path: Path) -> None:
        grey = cv2.resize(rng.integers(70, 190, (6, 8), np.uint8), (96, 72), interpolation=cv2.INTER_CUBIC)
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))

    rows = []
    for i in range(120):
        row = {"file": f"still_{i:03d}.png", "source": f"source{i % 3}", "width": 96, "height": 72}
        if i % 2:
            row["objects"] = [{"name": NAMES[i % len(NAMES)], "box": [10 + i % 20, 15, 40, 30]}]
        picture(data / "stills" / row["file"])
        rows.append(row)
    (data / "stills.json").write_text(json.dumps(rows))
    for name in ("clip", "davis16_goat"):                       # the second is held out by its name
        for t in range(5):
            picture(data / "videos" / name / "img" / f"{t:03d}.png")
        (data / "videos" / name / "groundtruth.txt").write_text("".join(f"{20 + 3 * t},20,30,25\n" for t in range(5)))
        (data / "videos" / name / "language.txt").write_text(f"the thing of {name}")
    for part, suffix in (("emoji", ""), ("cutouts", "__x")):
        (assets / part).mkdir(parents=True)
        for i in range(40):
            rgba = np.full((40, 34, 4), (120, 120, 120, 0), np.uint8)
            cv2.ellipse(rgba, (17, 20), (int(rng.integers(11, 16)), int(rng.integers(13, 19))), 0, 0, 360,
                        (90 + i, 100 + i, 95 + i, 255), -1)
            cv2.imwrite(str(assets / part / f"{NAMES[i % len(NAMES)]}{suffix}{i}.webp"), rgba)
    for i in range(3):
        picture(assets / "backgrounds" / f"b{i}.jpg")
    return data, assets
