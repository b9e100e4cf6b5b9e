# SPDX-License-Identifier: Apache-2.0
"""README.md, CONTRIBUTING.md and docs/*.md as the tests read them: their shell commands, tables and links."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


class Command(NamedTuple):
    """A shell command: where it stands, and its words without comment, assignments and the venv's path."""

    place: str
    words: list[str]

    def __str__(self) -> str:
        return f"{self.place}: {shlex.join(self.words)}"


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Fenced blocks in a language, each with the number of its first line."""
    text = page.read_text()
    return [(text.count("\n", 0, found.start(1)) + 1, found[1])
            for found in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


def commands(*start: str) -> list[Command]:
    """All shell commands that begin with these words; a line with && holds several."""
    found = []
    for page in PAGES:
        for first, block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                # What the shell fills in is one word here.
                line = re.sub(r"\$\((?:[^()]|\([^()]*\))*\)", "FILLED_IN", line)
                for part in line.split(" && "):
                    words = shlex.split(part, comments=True)
                    while words and re.match(r"[A-Z_]+=", words[0]):
                        words.pop(0)
                    if words:
                        words[0] = words[0].removeprefix(".venv/bin/")
                        found.append(Command(f"{page.relative_to(ROOT)}, block at line {first}", words))
    return [command for command in found if command.words[:len(start)] == list(start)]


def rows(page: Path, heading: str) -> list[list[str]]:
    """Cells of the tables below a heading of the second level, without their heads."""
    sections = re.split(r"^## ", page.read_text(), flags=re.MULTILINE)
    text = next(one for one in sections if one.startswith(f"{heading}\n"))
    table = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
             for line in text.splitlines() if line.startswith("|")]
    rules = {number for number, cells in enumerate(table) if set("".join(cells)) == {"-"}}
    return [cells for number, cells in enumerate(table) if number not in rules and number + 1 not in rules]
