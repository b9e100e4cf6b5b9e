# SPDX-License-Identifier: Apache-2.0
"""Words for what is in a picture: colour names and tints, places, and the sentences around them."""

from __future__ import annotations

import re

import cv2
import numpy as np

# Hue in degrees (None: grey axis), saturation, value of each named colour.
COLOURS: dict[str, tuple[float | None, float, float]] = {
    "red": (0, 0.8, 0.75), "orange": (25, 0.9, 0.95), "yellow": (52, 0.85, 0.95), "green": (120, 0.7, 0.6),
    "blue": (225, 0.8, 0.75), "purple": (280, 0.6, 0.6), "pink": (330, 0.5, 0.98), "white": (None, 0, 0.95),
    "black": (None, 0, 0.12), "grey": (None, 0, 0.5), "brown": (22, 0.65, 0.4), "cyan": (185, 0.7, 0.85)}
# Pairs that people confuse: they are never told apart in one scene.
_CLOSE = {frozenset(pair) for pair in (
    ("red", "pink"), ("red", "orange"), ("orange", "yellow"), ("brown", "orange"), ("brown", "red"),
    ("brown", "black"), ("grey", "white"), ("grey", "black"), ("purple", "pink"), ("purple", "blue"),
    ("blue", "cyan"), ("green", "cyan"), ("brown", "grey"))}
PEOPLE = frozenset({"person", "american football player", "man", "woman"})

# Hue ranges in degrees in which a saturated pixel is called by a name without doubt.
_HUE_RANGES = (("red", -14, 12), ("orange", 17, 36), ("yellow", 44, 66), ("green", 80, 155), ("cyan", 172, 195),
               ("blue", 203, 252), ("purple", 262, 295), ("pink", 308, 338))
_SIDES = re.compile(r"\b(left|right)(most|hand|side|wards?|y)?\b", re.IGNORECASE)
# Words that say nothing of what a thing is.
_FILLERS = frozenset(("a", "an", "and", "are", "at", "by", "from", "her", "his", "in", "into", "is", "it", "its",
                      "object", "of", "off", "on", "one", "or", "over", "that", "the", "their", "thing", "to", "which",
                      "who", "with"))

# Names that may mean the same thing; a name is never called absent, or another's, beside one of its group.
_KINDS = tuple(frozenset(group.split()) for group in (
    "person man woman boy girl player guy pedestrian child baby rider climber", "car automobile vehicle taxi suv jeep",
    "truck lorry van pickup vehicle", "bus minibus trolleybus vehicle", "bike bicycle motorbike motorcycle scooter",
    "tv television monitor screen", "sofa couch", "boat ship canoe sailboat ferry speedboat",
    "aeroplane airplane plane airliner", "cup mug teacup", "cow bull ox buffalo", "rabbit bunny", "chicken hen rooster",
    "garbage trash wastebasket bin", "glass wine goblet", "table desk", "apple fruit", "can soda",
    "pig boar hog", "lion tiger leopard cat kitten", "dog puppy wolf fox", "drone quadcopter", "sheep ram goat"))


def content_words(text: str) -> set[str]:
    """The words of a name or sentence without articles, prepositions and the like, in lower case."""
    return set(re.findall(r"[\w'-]+", text.lower())) - _FILLERS


def same_kind(a: str, b: str) -> bool:
    """Whether two names or sentences may stand for the same sort of thing: a word in common, or words of one group."""
    words, others = content_words(a), content_words(b)
    return bool(words & others) or any(words & group and others & group for group in _KINDS)


def alike(a: str, b: str) -> bool:
    """Whether two colour names are the same or too close to tell objects apart."""
    return a == b or frozenset((a, b)) in _CLOSE


def mirror(text: str) -> str:
    """The sentence for the mirrored picture: left and right change places."""
    def other_side(match: re.Match) -> str:
        side, ending = match.group(1), match.group(2) or ""
        other = "right" if side.lower() == "left" else "left"
        return (other.capitalize() if side[0].isupper() else other) + ending

    return _SIDES.sub(other_side, text)


def sentence(noun: str, rng: np.random.Generator) -> str:
    """A noun phrase as somebody would type it: with or without article, verb, capital."""
    text = rng.choice(["the ", "the ", "the ", "", "a "]) + noun
    text = rng.choice(("", "", "", "", "follow ", "find ", "track ")) + text
    return text[0].upper() + text[1:] if rng.random() < 0.1 else text


def coloured_noun(name: str, colour: str, rng: np.random.Generator) -> str:
    """'red mug', 'red one'; for people their clothes: 'woman in the red coat'."""
    if name in PEOPLE:
        who = rng.choice(["person", "man", "person", "woman", "pedestrian", "one", "guy"]
                         if name != "american football player" else ["player", "person", "man"])
        garment = rng.choice(["jacket", "shirt", "coat", "top", "clothes", "jersey"])
        return str(rng.choice([f"{who} in {colour}", f"{who} in the {colour} {garment}",
                               f"{who} in a {colour} {garment}", f"{who} wearing {colour}",
                               f"{who} with the {colour} {garment}"]))
    which = rng.random()
    return f"{colour} {name}" if which < 0.7 else f"{colour} one" if which < 0.85 else f"{colour} thing"


def tint(rgb: np.ndarray, colour: str, rng: np.random.Generator, rows: slice | None = None) -> np.ndarray:
    """Give an object a named colour and keep its shading.

    Args:
        rgb: uint8 (H, W, 3). colour: a key of :data:`COLOURS`. rows: only these rows (a person's clothes).
    """
    hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV).astype(np.float32)
    hue, saturation, value = COLOURS[colour]
    light = hsv[..., 2] / 255
    mean = light[rows].mean() if rows is not None else light.mean()
    shade = np.clip(1 + 0.9 * (light - mean) / max(mean, 0.25), 0.35, 1.6)
    new_value = np.clip(value * rng.uniform(0.88, 1.1) * shade, 0.02, 1)
    if hue is None:
        new_saturation = np.full_like(light, rng.uniform(0, 0.06))
        new_hue = np.full_like(light, rng.uniform(0, 179))
    else:
        new_saturation = np.clip(saturation * rng.uniform(0.85, 1.15) * (0.8 + 0.2 * hsv[..., 1] / 255), 0, 1)
        new_hue = np.full_like(light, ((hue + rng.uniform(-7, 7)) % 360) / 2)
    stack = np.stack([new_hue, new_saturation * 255, new_value * 255], -1).astype(np.uint8)
    tinted = cv2.cvtColor(stack, cv2.COLOR_HSV2RGB)
    if rows is None:
        return tinted
    mask = np.zeros(rgb.shape[:2], np.float32)
    mask[rows] = 1
    mask = cv2.GaussianBlur(mask, (0, 0), 1.2)[..., None]
    return (tinted * mask + rgb * (1 - mask)).astype(np.uint8)


def measured_colour(image: np.ndarray, box: list[float], person: bool) -> str | None:
    """The colour that most of an object's middle (a person's chest) clearly has, None when it is not clear.

    Args:
        image: RGB uint8 (H, W, 3). box: x, y, width, height in pixels.
    """
    x, y, w, h = box
    if person:
        x, y, w, h = x + 0.25 * w, y + 0.2 * h, 0.5 * w, 0.32 * h
    else:
        x, y, w, h = x + 0.2 * w, y + 0.2 * h, 0.6 * w, 0.6 * h
    patch = image[int(y):int(y + h) + 1, int(x):int(x + w) + 1]
    if patch.shape[0] < 3 or patch.shape[1] < 3:
        return None
    pixels = cv2.cvtColor(patch, cv2.COLOR_RGB2HSV).reshape(-1, 3).astype(np.float32)
    hue, saturation, value = pixels[:, 0] * 2, pixels[:, 1] / 255, pixels[:, 2] / 255
    names = np.full(len(pixels), "", object)
    names[value < 0.25] = "black"
    names[(saturation < 0.16) & (value > 0.72)] = "white"
    names[(saturation < 0.16) & (value >= 0.28) & (value <= 0.65)] = "grey"
    vivid = (saturation > 0.42) & (value > 0.28)
    turned = np.where(hue > 345, hue - 360, hue)
    for name, low, high in _HUE_RANGES:
        chosen = vivid & (turned >= low) & (turned <= high)
        if name == "orange":
            chosen &= value > 0.6           # a dark orange is brown
        names[chosen] = name
    found, counts = np.unique(names, return_counts=True)
    best = np.argsort(-counts)[0]
    return str(found[best]) if found[best] and counts[best] >= 0.55 * len(pixels) else None


def place(centres: np.ndarray, index: int, rng: np.random.Generator) -> tuple[str, bool] | None:
    """A place that is true of one candidate only, with a margin.

    Args:
        centres: (K, 2) x, y as fractions of the picture. index: the candidate.

    Returns:
        words, and whether they stand before the noun ('left' mug) or after it (mug 'on the left'); None when no
        place is clearly its own.
    """
    margin = 0.09
    x, y = centres[index]
    others = np.delete(centres, index, 0)
    options: list[tuple[str, bool]] = []
    if (others[:, 0] > x + margin).all():
        options += [("on the left", False), ("leftmost", True), ("left", True), ("on the far left", False),
                    ("to the left", False)]
    if (others[:, 0] < x - margin).all():
        options += [("on the right", False), ("rightmost", True), ("right", True), ("on the far right", False),
                    ("to the right", False)]
    if (others[:, 1] > y + margin).all():
        options += [("at the top", False), ("top", True), ("upper", True), ("on top", False)]
    if (others[:, 1] < y - margin).all():
        options += [("at the bottom", False), ("bottom", True), ("lower", True)]
    between = (others[:, 0] < x - margin).sum() == 1 and (others[:, 0] > x + margin).sum() == 1
    if len(centres) == 3 and between and abs(centres[:, 1] - 0.5).max() < 0.5:
        options += [("in the middle", False), ("middle", True)]
    for corner_y, vertical in ((0, "top"), (1, "bottom")):
        for corner_x, horizontal in ((0, "left"), (1, "right")):
            distance = np.abs(centres - np.array([corner_x, corner_y])).sum(1)
            if distance[index] < 0.8 and (np.delete(distance, index) > distance[index] + 0.25).all():
                options.append((f"on the {vertical} {horizontal}", False))
    return options[rng.integers(len(options))] if options else None


def placed_noun(where: tuple[str, bool], noun: str) -> str:
    """'left mug' or 'mug on the left'."""
    words, before = where
    return f"{words} {noun}" if before else f"{noun} {words}"
