# SPDX-License-Identifier: Apache-2.0
"""The list of planted bugs fits the sources: each still changes one place, and its test exists."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_planted_bug_still_fits():
    spec = importlib.util.spec_from_file_location("plant_bugs", ROOT / "tools" / "plant_bugs.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    for bug in tool.BUGS:
        assert (ROOT / bug.file).read_text().count(bug.right) == 1, bug.promise
        file, _, test = bug.test.partition("::")
        assert f"def {test}(" in (ROOT / file).read_text() if test else (ROOT / file).is_file(), bug.test
