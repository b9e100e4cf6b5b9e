# SPDX-License-Identifier: Apache-2.0
"""Write requirements.lock and requirements-cuda.lock: every package with the hashes of its files. `make lock`.

The hashes of all files of a version are listed, so one lock serves all platforms and Python versions. CUDA's
packages, which only PyTorch's CUDA builds need, are apart. Run with a Python that has uv.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PINS = ("requirements.txt", "requirements-ros.txt", "requirements-nodeps.txt")
CUDA = ("nvidia-", "cuda-", "triton")
HEAD = "# SPDX-License-Identifier: Apache-2.0\n# Written by `make lock` from {}. Do not edit.\n"
# PyTorch's own build for CPUs, where a machine offers it in place of the registry's: its SHA-256.
TORCH_CPU = ("6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",)     # 2.13.0+cpu, 3.11, x86-64


def compile_pins(*pins: str, deps: bool = True) -> list[str]:
    """What uv finds: one entry for each package, with its hashes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "lock"
        subprocess.run([sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes",
                        "--no-header", "--no-annotate", "--python-version", "3.11", *([] if deps else ["--no-deps"]),
                        *(str(ROOT / pin) for pin in pins), "-o", str(out)], check=True)
        lines = out.read_text().splitlines()
    entries: list[str] = []
    for line in lines:
        if line.startswith(" "):
            entries[-1] += "\n" + line
        elif line:
            entries.append(line)
    return entries


def main() -> None:
    """Compile and split."""
    entries = compile_pins(*PINS[:2]) + compile_pins(PINS[2], deps=False)
    for index, entry in enumerate(entries):
        if entry.startswith("torch=="):
            entries[index] += "".join(f" \\\n    --hash=sha256:{value}" for value in TORCH_CPU)
    for name, chosen in (("requirements.lock", [e for e in entries if not e.startswith(CUDA)]),
                         ("requirements-cuda.lock", [e for e in entries if e.startswith(CUDA)])):
        (ROOT / name).write_text(HEAD.format(", ".join(PINS)) + "\n".join(chosen) + "\n")
        print(f"{name}: {len(chosen)} packages")


if __name__ == "__main__":
    main()
