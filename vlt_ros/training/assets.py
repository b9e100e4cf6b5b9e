# SPDX-License-Identifier: Apache-2.0
"""Pictures that training pastes: named 3D emoji, photo backgrounds, and cut-outs of the stills' own objects.

    python -m vlt_ros.training.assets [--data ../shared/data] [--out build/assets]

Emoji: npm package @lobehub/fluent-emoji-3d (Microsoft's Fluent emoji, MIT). Backgrounds: Debian package
plasma-workspace-wallpapers (CC BY-SA 4.0 and others, see its copyright file). Cut-outs: GrabCut (Rother et al.,
SIGGRAPH 2004) on boxes of the stills. None of it goes into the repository. What exists is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unicodedata
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

EMOJI_PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"
BACKGROUND_PACKAGE = "plasma-workspace-wallpapers"
# Parts of emoji names that no one would call an object in front of a camera.
NO_OBJECT = ("flag", "button", "symbol", "sign", "square", "circle", "keycap", "arrow", "hand", "finger", "face",
             "heart", "mark", "regional", "squared", "ideograph", "clock face", "double", "input", "o'clock",
             "triangle", "with ", "variation", "ball of")
# Boxes of flat things seen at an angle or of scenery: their cut-outs are rectangles or rubble.
NO_CUTOUT = ("destination", "number", "playing card", "machine", "down", "press", "dipping")
PEOPLE = ("person", "american football player")
COMMON = ("car", "bus", "truck", "dog", "cat", "lion", "rabbit", "kangaroo", "raccoon", "bottle", "motorbike",
          "horse", "cup")
MIN_BOX, CUTOUT_SIDE, EMOJI_SIDE, BACKGROUND_SIDE = 36, 180, 160, 640


class AssetsError(ValueError):
    """Assets cannot be made; one line says what is missing."""


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise AssetsError(f"{command[0]} is not installed: it fetches what training pastes") from error
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or error.stdout).strip().splitlines()[-1:]
        raise AssetsError(f"'{' '.join(command)}' failed: {' '.join(reason)}") from error


def _write(path: Path, image: np.ndarray) -> None:
    cv2.imwrite(str(path), image, [cv2.IMWRITE_WEBP_QUALITY, 92])


def trim(image: np.ndarray, longest: int = EMOJI_SIDE) -> np.ndarray | None:
    """BGRA cut to what is opaque and scaled down to ``longest``; None when there is next to nothing."""
    rows, columns = np.nonzero(image[..., 3] > 60)
    if len(rows) < 400:
        return None
    image = image[rows.min():rows.max() + 1, columns.min():columns.max() + 1]
    scale = longest / max(image.shape[:2])
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image


def emoji_name(stem: str) -> str | None:
    """Name of the single-code-point object emoji whose file stem is given ('1f697' -> 'automobile'), else None."""
    code = [part for part in stem.split("-") if part != "fe0f"]
    if len(code) != 1:
        return None
    point = int(code[0], 16)
    if point < 0x1F300 and not 0x2600 <= point < 0x2700:
        return None
    try:
        name = unicodedata.name(chr(point)).lower()
    except ValueError:
        return None
    return None if any(part in name for part in NO_OBJECT) else name


def make_emoji(out: Path) -> None:
    """Fetch and unpack the object emoji as out/NAME.webp with alpha."""
    with tempfile.TemporaryDirectory() as folder:
        _run(["npm", "pack", EMOJI_PACKAGE], Path(folder))
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            for member in archive:
                if not member.name.endswith(".webp"):
                    continue
                name = emoji_name(Path(member.name).stem)
                if name is None:
                    continue
                data = np.frombuffer(archive.extractfile(member).read(), np.uint8)
                image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
                if image is not None and image.shape[2] == 4 and (image := trim(image)) is not None:
                    _write(out / (name.replace(" ", "_").replace("/", "") + ".webp"), image)


def make_backgrounds(out: Path) -> None:
    """Fetch the wallpapers; one picture of each, at most 640 pixels a side, as out/NAME.jpg."""
    with tempfile.TemporaryDirectory() as folder:
        _run(["apt-get", "download", BACKGROUND_PACKAGE], Path(folder))
        _run(["dpkg", "-x", str(next(Path(folder).glob("*.deb"))), "files"], Path(folder))
        smallest: dict[str, Path] = {}
        for file in Path(folder, "files").rglob("*"):
            if file.suffix.lower() in (".jpg", ".png", ".webp") and "contents/images" in str(file):
                key = str(file).split("/contents/")[0]
                if key not in smallest or file.stat().st_size < smallest[key].stat().st_size:
                    smallest[key] = file
        for key, file in smallest.items():
            image = cv2.imread(str(file))
            if image is not None:
                scale = BACKGROUND_SIDE / max(image.shape[:2])
                image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
                cv2.imwrite(str(out / (Path(key).name + ".jpg")), image)


def cut_out(job: tuple[Path, list[float], Path]) -> bool:
    """GrabCut one box of one picture into a BGRA file; False where the result looks wrong."""
    file, (x, y, w, h), target = job
    image = cv2.imread(str(file))
    if image is None:
        return False
    height, width = image.shape[:2]
    margin = 0.25
    left, top = int(max(0, x - margin * w)), int(max(0, y - margin * h))
    right, bottom = int(min(width, x + w * (1 + margin))), int(min(height, y + h * (1 + margin)))
    patch = image[top:bottom, left:right]
    scale = min(1.0, CUTOUT_SIDE / max(patch.shape[:2]))
    if scale < 1:
        patch = cv2.resize(patch, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    rx, ry = max(1, int((x - left) * scale)), max(1, int((y - top) * scale))
    rw, rh = min(int(w * scale), patch.shape[1] - rx - 2), min(int(h * scale), patch.shape[0] - ry - 2)
    mask = np.zeros(patch.shape[:2], np.uint8)
    try:
        cv2.grabCut(patch, mask, (rx, ry, rw, rh), np.zeros((1, 65)), np.zeros((1, 65)), 4, cv2.GC_INIT_WITH_RECT)
    except cv2.error:
        return False
    solid = ((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)).astype(np.uint8)
    solid = cv2.morphologyEx(solid, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(solid)
    if count < 2:
        return False
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    solid = (labels == largest).astype(np.uint8)
    fills = solid.sum() / (rw * rh)
    if not 0.3 < fills < 0.93 or stats[largest, cv2.CC_STAT_WIDTH] < 0.75 * rw \
            or stats[largest, cv2.CC_STAT_HEIGHT] < 0.8 * rh:
        return False
    alpha = cv2.GaussianBlur(solid.astype(np.float32) * 255, (0, 0), 0.8)
    cut = trim(np.dstack([patch, alpha.astype(np.uint8)]))
    if cut is None or min(cut.shape[:2]) < 24:
        return False
    _write(target, cut)
    return True


def make_cutouts(data: Path, out: Path) -> None:
    """Cut objects out of the stills, as out/NAME__PICTURE_INDEX.webp; common names are capped."""
    with open(data / "stills.json") as file:
        rows = json.load(file)
    rows.sort(key=lambda row: hashlib.md5(row["file"].encode()).hexdigest())
    jobs, count = [], Counter()
    for row in rows:
        for index, thing in enumerate(row.get("objects", [])):
            x, y, w, h = thing["box"]
            name = thing["name"]
            truncated = x < 2 or y < 2 or x + w > row["width"] - 2 or y + h > row["height"] - 2
            if min(w, h) < MIN_BOX or truncated or not 0.25 < w / h < 4:
                continue
            cap = 350 if name in PEOPLE else 60 if name in COMMON else 25
            if count[name] >= cap or any(part in name for part in NO_CUTOUT):
                continue
            count[name] += 1
            stem = f"{name.replace(' ', '_').replace('/', '')}__{Path(row['file']).stem}_{index}"
            jobs.append((data / "stills" / row["file"], thing["box"], out / f"{stem}.webp"))
    from tqdm import tqdm

    # Spawned, not forked: OpenCV's threads of the steps before do not survive a fork, and the workers would hang.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        list(tqdm(pool.map(cut_out, jobs, chunksize=20), total=len(jobs), desc="cut-outs"))


def make_assets(data: str | Path, out: str | Path) -> dict[str, int]:
    """Make what is missing below ``out``; returns the number of files of each sort.

    Raises:
        AssetsError: no stills, or npm or apt-get cannot deliver.
    """
    data, out = Path(data), Path(out)
    if not (data / "stills.json").is_file():
        raise AssetsError(f"{data / 'stills.json'} is missing: give the folder of stills with --data")
    counts = {}
    for name, make in (("emoji", make_emoji), ("backgrounds", make_backgrounds),
                       ("cutouts", lambda folder: make_cutouts(data, folder))):
        folder = out / name
        if not folder.is_dir():
            # Made aside and renamed, so that a stopped run leaves no half-filled folder behind.
            partial = out / f"{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            make(partial)
            partial.rename(folder)
        counts[name] = sum(1 for _ in folder.iterdir())
    return counts


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data", help="folder with stills.json and stills/")
    parser.add_argument("--out", default="build/assets", help="folder to fill")
    arguments = parser.parse_args()
    try:
        counts = make_assets(arguments.data, arguments.out)
    except AssetsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(", ".join(f"{count} {name}" for name, count in counts.items()), "in", arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
