# SPDX-License-Identifier: Apache-2.0
"""Real objects with alpha, cut out of the training stills and clips by GrabCut.

GrabCut: Rother, Kolmogorov, Blake, "GrabCut: interactive foreground extraction using iterated graph cuts",
SIGGRAPH 2004, as OpenCV has it. A box alone is a poor guide, so only results that look like one whole object are
kept: one connected part that fills most of the box's width and height but not all of its area.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from vlt_ros.training.assets import trim, write_index, write_picture

LONGER_SIDE = 200
# At most so many of one name, so that no source crowds the others out.
MOST_OF_A_NAME, MOST_PERSONS = 60, 500
PEOPLE = {"person", "american football player", "man", "woman"}
# Not whole things by themselves, or never cut well.
_SKIP = ("machine", "press", "dipping", "pull down", "curl", "cable", "extension", "raises", "number", "destination",
         "playing card", "bench", "dining table", "table", "stairs", "bed", "overflowing", "ac", "mirror", "towel",
         "window", "sink", "bike lane", "kite", "skis", "baseball bat", "tie", "fork", "knife", "spoon", "person sign")
# What the clips' boxes hold; their sentences say more than a name.
_CLIP_NAMES = {"davis16_blackswan": "swan", "davis16_breakdance": "person", "davis16_camel": "camel",
               "davis16_car-roundabout": "car", "davis16_car-shadow": "car", "davis16_cows": "cow",
               "davis16_dance-twirl": "person", "davis16_dog": "dog", "davis16_drift-chicane": "car",
               "davis16_drift-straight": "car", "davis16_goat": "goat", "davis16_libby": "dog",
               "davis16_parkour": "person", "otb_Human7": "person", "otb_Woman": "person", "otb_Car1": "car"}


@dataclass(frozen=True)
class Job:
    """An object to cut out: picture, box x, y, w, h in its pixels, name, and the key that decides its split."""

    picture: str
    box: tuple[float, float, float, float]
    name: str
    key: str
    file: str
    found: bool = False


def cut(image: np.ndarray, box: tuple[float, float, float, float], person: bool = False,
        longer_side: int = LONGER_SIDE) -> tuple[np.ndarray, tuple[float, float, float, float]] | None:
    """Cut one object out.

    Args:
        image: BGR uint8. box: x, y, w, h of the object in pixels. person: people are thin, accept thinner ones.
        longer_side: of the result at most.

    Returns:
        BGRA cut to the object and its box in the image; None where the result is no believable whole object.
    """
    height, width = image.shape[:2]
    x, y, w, h = box
    margin = 0.25
    left, top = int(max(0, x - margin * w)), int(max(0, y - margin * h))
    right, bottom = int(min(width, x + w * (1 + margin))), int(min(height, y + h * (1 + margin)))
    patch = image[top:bottom, left:right]
    scale = min(1.0, longer_side / max(w, h))
    if scale < 1:
        patch = cv2.resize(patch, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    rows, columns = patch.shape[:2]
    rx, ry = max(1, int((x - left) * scale)), max(1, int((y - top) * scale))
    rw, rh = min(int(w * scale), columns - rx - 1), min(int(h * scale), rows - ry - 1)
    if min(rw, rh) < 14:
        return None
    mask = np.zeros((rows, columns), np.uint8)
    cv2.setRNGSeed(1)
    try:
        cv2.grabCut(patch, mask, (rx, ry, rw, rh), np.zeros((1, 65)), np.zeros((1, 65)), 4, cv2.GC_INIT_WITH_RECT)
    except cv2.error:  # nothing left of one of the two classes
        return None
    front = ((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)).astype(np.uint8)
    front = cv2.morphologyEx(front, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(front)
    if count < 2:
        return None
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    bx, by, bw, bh, area = (int(v) for v in stats[largest])
    share = area / (rw * rh)
    whole = area / max(1, int(front.sum()))
    if not (0.22 if person else 0.3) < share < 0.93 or whole < 0.75:
        return None
    if bw < (0.6 if person else 0.75) * rw or bh < (0.88 if person else 0.8) * rh:
        return None
    part = (labels == largest).astype(np.uint8)
    part = cv2.morphologyEx(part, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    alpha = cv2.GaussianBlur(part.astype(np.float32) * 255, (0, 0), 0.8).astype(np.uint8)
    result = trim(np.dstack([patch, alpha]), longer_side)
    if result is None or min(result.shape[:2]) < 16:
        return None
    return result, (left + bx / scale, top + by / scale, bw / scale, bh / scale)


def _jobs(data: Path) -> list[Job]:
    rows = json.loads((data / "stills.json").read_text())
    # A fixed order that mixes the sources, so that the caps keep some of each.
    rows.sort(key=lambda row: hashlib.md5(row["file"].encode()).hexdigest())
    jobs, count = [], {}
    for row in rows:
        stem = Path(row["file"]).stem
        picture = str(data / "stills" / row["file"])
        for i, item in enumerate(row.get("objects", [])):
            x, y, w, h = item["box"]
            name = item["name"]
            person = name in PEOPLE
            small = w < 24 or h < 60 if person else min(w, h) < 36
            # A box at the picture's edge holds a truncated object.
            if small or x < 2 or y < 2 or x + w > row["width"] - 2 or y + h > row["height"] - 2:
                continue
            if not 0.2 < w / h < 4 or name in _SKIP or any(s in name for s in _SKIP if len(s) > 5):
                continue
            if count.get(name, 0) >= (MOST_PERSONS if person else MOST_OF_A_NAME):
                continue
            count[name] = count.get(name, 0) + 1
            jobs.append(Job(picture, (x, y, w, h), name, row["file"], f"{stem}_{i}.webp"))
        if row.get("label"):
            # These have no boxes but mostly centre one object.
            w, h = 0.72 * row["width"], 0.72 * row["height"]
            box = ((row["width"] - w) / 2, (row["height"] - h) / 2, w, h)
            jobs.append(Job(picture, box, row["label"], row["file"], f"{stem}.webp", found=True))
    for clip, name in _CLIP_NAMES.items():
        frames = sorted((data / "videos" / clip / "img").glob("*.webp"))
        boxes = np.loadtxt(data / "videos" / clip / "groundtruth.txt", delimiter=",", ndmin=2)
        for i in range(0, min(len(frames), len(boxes)), 6):
            height, width = cv2.imread(str(frames[i])).shape[:2]
            x, y, w, h = boxes[i]
            if min(w, h) >= 24 and x >= 2 and y >= 2 and x + w <= width - 2 and y + h <= height - 2:
                jobs.append(Job(str(frames[i]), (x, y, w, h), name, clip, f"{clip}_{frames[i].stem}.webp"))
    return jobs


def _cut_found(image: np.ndarray, box: tuple) -> tuple[np.ndarray, tuple] | None:
    """Cut the object that a picture centres: any extent inside the seed box is good, filling all of it is not."""
    height, width = image.shape[:2]
    scale = 160 / max(height, width)
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    x, y, w, h = (int(v * scale) for v in box)
    mask = np.zeros(small.shape[:2], np.uint8)
    cv2.setRNGSeed(1)
    try:
        cv2.grabCut(small, mask, (x, y, w, h), np.zeros((1, 65)), np.zeros((1, 65)), 4, cv2.GC_INIT_WITH_RECT)
    except cv2.error:
        return None
    front = ((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)).astype(np.uint8)
    front = cv2.morphologyEx(front, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, labels, stats, centres = cv2.connectedComponentsWithStats(front)
    if count < 2:
        return None
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    bx, by, bw, bh, area = (int(v) for v in stats[largest])
    touched = sum((bx <= x + 1, by <= y + 1, bx + bw >= x + w - 1, by + bh >= y + h - 1))
    middle = np.abs(centres[largest] / (small.shape[1], small.shape[0]) - 0.5).max()
    if (touched > 0 or area / max(1, int(front.sum())) < 0.85 or not 0.35 < area / (bw * bh) < 0.92 or middle > 0.15
            or min(bw, bh) < 24):
        return None
    part = cv2.morphologyEx((labels == largest).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    alpha = cv2.resize(part.astype(np.float32) * 255, (width, height), interpolation=cv2.INTER_LINEAR)
    alpha = np.clip((cv2.GaussianBlur(alpha, (0, 0), 1.2) - 64) * 2, 0, 255).astype(np.uint8)
    result = trim(np.dstack([image, alpha]), LONGER_SIDE)
    return None if result is None else (result, (bx / scale, by / scale, bw / scale, bh / scale))


def _do(work: tuple[Job, str]) -> dict | None:
    job, out = work
    cv2.setNumThreads(1)
    image = cv2.imread(job.picture)
    if image is None:
        return None
    result = _cut_found(image, job.box) if job.found else cut(image, job.box, job.name in PEOPLE)
    if result is None:
        return None
    write_picture(Path(out) / job.file, result[0])
    aspect = result[0].shape[0] / result[0].shape[1]
    figure = "" if job.name not in PEOPLE else "body" if aspect > 1.5 else "bust"
    row = {"file": job.file, "name": job.name, "figure": figure, "key": job.key}
    return row | {"found": [round(v, 1) for v in result[1]]} if job.found else row


def make_cutouts(data: Path, out: Path, processes: int = 2) -> int:
    """Cut objects out of the stills and clips in ``data`` into ``out``; returns how many were kept.

    ``out``/index.json: {"objects": [{file, name, figure, key (the still or clip it is from), found?: box of an
    object that had none}]}.
    """
    from tqdm import tqdm

    out.mkdir(parents=True, exist_ok=True)
    jobs = _jobs(data)
    with ProcessPoolExecutor(processes) as pool:
        results = pool.map(_do, [(job, str(out)) for job in jobs], chunksize=16)
        rows = [row for row in tqdm(results, total=len(jobs), desc="cut-outs", unit="object") if row]
    write_index(out, {"objects": rows})
    return len(rows)
