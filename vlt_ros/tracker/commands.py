# SPDX-License-Identifier: Apache-2.0
"""Commands at the door: a sentence and a box are checked here, once, whoever sends them."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

from vlt_ros.tracker.target import Box

MIN_BOX_SIDE = 2.0


class CommandError(ValueError):
    """A command cannot be followed; the message says why. The tracker keeps its old target."""


def validate_text(text: str, max_length: int = 256) -> str:
    """The sentence without surrounding white space.

    Raises:
        CommandError: control characters, invalid Unicode (lone surrogates), or longer than ``max_length``.
    """
    if not isinstance(text, str):
        raise CommandError(f"text must be a string, not {type(text).__name__}")
    if len(text) > max_length:
        raise CommandError(f"text has {len(text)} characters, at most {max_length} are allowed")
    text = text.strip()
    for position, character in enumerate(text):
        category = unicodedata.category(character)
        if category in ("Cc", "Cs"):
            kind = "a control character" if category == "Cc" else "a lone surrogate"
            raise CommandError(f"text holds {kind} (U+{ord(character):04X}) at position {position}")
    return text


def validate_box(box: Sequence[float], width: int, height: int) -> Box:
    """The box as floats, cut to the frame.

    Args:
        box: x, y, width, height in pixels. width, height: the frame's size in pixels.

    Raises:
        CommandError: not four finite numbers, no positive size, or less than 2 pixels inside the frame.
    """
    try:
        x, y, w, h = (float(v) for v in box)
    except (TypeError, ValueError, OverflowError) as error:
        raise CommandError(f"box must be four numbers x, y, width, height, not {box!r}") from error
    if not all(math.isfinite(v) for v in (x, y, w, h)):
        raise CommandError(f"box ({x}, {y}, {w}, {h}) holds NaN or infinity")
    if w <= 0 or h <= 0:
        raise CommandError(f"box ({x:g}, {y:g}, {w:g}, {h:g}) has no area: width and height must be positive")
    left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + w, width), min(y + h, height)
    if right - left < MIN_BOX_SIDE or bottom - top < MIN_BOX_SIDE:
        raise CommandError(f"box ({x:g}, {y:g}, {w:g}, {h:g}) has less than {MIN_BOX_SIDE:g} pixels a side inside "
                           f"the {width} x {height} frame")
    return left, top, right - left, bottom - top
