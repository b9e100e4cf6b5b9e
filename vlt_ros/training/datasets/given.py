# SPDX-License-Identifier: Apache-2.0
"""The folder of stills and clips that the small models are trained on, one data set for each of its sources."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from vlt_ros.training.datasets.form import DataSet, Frames, Picture, Video, is_heldout, need

# Clips kept out of training, to choose inference settings on.
HELDOUT_CLIPS = frozenset({"davis16_goat", "davis16_scooter-black", "davis16_parkour", "otb_Woman", "otb_Car1",
                           "davis16_car-shadow"})
HELDOUT_STILLS = 0.10
# What boxes cover (see DataSet.boxed) where that is not every thing of the source's own classes.
BOXED = {"apples": "some", "rabbit": "some",
         "coco128/train2017": "every", "coco128/val2017": "every", "voc2012_sample": "every"}


def stills_and_clips(root: str | Path, split: str) -> list[DataSet]:
    """The 'train' or 'heldout' part: a data set for each source of boxed stills, one of the others, one of clips.

    ROOT/{stills.json, stills/, videos/NAME/{img/, groundtruth.txt, language.txt}}. A row of stills.json is {file,
    source, width, height, objects: [{name, box}]}, box x, y, w, h in pixels; without objects it is a background.

    Raises:
        DataSetError: a folder or file is missing; the message names it.
    """
    root, heldout = Path(root), split == "heldout"
    for needed in (root / "stills.json", root / "videos"):
        need(needed, "give the folder of stills and clips as data")
    plain, sources = [], {}
    for row in json.loads((root / "stills.json").read_text()):
        if is_heldout(row["file"], HELDOUT_STILLS) == heldout:
            objects = row.get("objects") or ()
            picture = Picture(str(root / "stills" / row["file"]), np.array([thing["box"] for thing in objects], float),
                              tuple(thing["name"] for thing in objects))
            (sources.setdefault(row["source"], []) if objects else plain).append(picture)
    clips = []
    for folder in sorted((root / "videos").iterdir()):
        if (folder.name in HELDOUT_CLIPS) == heldout:
            files = sorted(file.name for file in (folder / "img").iterdir())
            boxes = np.loadtxt(folder / "groundtruth.txt", delimiter=",", ndmin=2)
            count = min(len(files), len(boxes))
            text = (folder / "language.txt").read_text().strip().split("\n")[0]
            clips.append(Video(folder.name, Frames(folder / "img", files[:count]), boxes[:count],
                               (boxes[:count, 2:] > 0).all(1), np.zeros(count, bool), text))
    common = {"group": "data", "keep": True, "causal": False}
    return [*(DataSet(source, pictures=rows, describes=False, boxed=BOXED.get(source, "own"), **common)
              for source, rows in sources.items()),
            DataSet("plain stills", plain=plain, **common), DataSet("clips", videos=clips, **common)]
