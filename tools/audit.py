# SPDX-License-Identifier: Apache-2.0
"""Known vulnerabilities of the locked packages, by pip-audit in a venv of its own. `make audit`.

Exits 1 when there is one. Where nothing can be asked (no network) it says so and exits 0.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / "build" / "audit"
PIP_AUDIT = "pip-audit==2.10.1"
LIMIT_S = 300


def main() -> int:
    """Install pip-audit once, run it on each lock."""
    found = 0
    python = HOME / "bin" / "python"
    try:
        if not (HOME / "bin" / "pip-audit").is_file():
            venv.create(HOME, with_pip=True, clear=True)
            subprocess.run([python, "-m", "pip", "install", "-q", PIP_AUDIT], check=True, timeout=LIMIT_S,
                           capture_output=True)
        for name in ("requirements.lock", "requirements-cuda.lock"):
            done = subprocess.run([python, "-m", "pip_audit", "--require-hashes", "--disable-pip", "--progress-spinner",
                                   "off", "--timeout", "10", "--format", "json", "-r", ROOT / name],
                                  timeout=LIMIT_S, capture_output=True, text=True)
            try:
                packages = json.loads(done.stdout)["dependencies"]
            except ValueError:
                reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
                print(f"make audit: {name} not checked, no service answers: {reason[:200]}")
                continue
            checked = [package for package in packages if "vulns" in package]
            if not checked:
                print(f"make audit: {name} not checked: no vulnerability service can be reached from here")
                continue
            known = [(package, one) for package in checked for one in package["vulns"]]
            print(f"make audit: {name}: {len(checked)} of {len(packages)} packages checked (the service does not know "
                  f"the others), {len(known)} known vulnerabilities")
            for package, one in known:
                print(f"  {package['name']} {package['version']}: {one['id']}, mended in {one['fix_versions']}")
            found += len(known)
    except (subprocess.SubprocessError, OSError) as error:
        print(f"make audit: not checked, pip-audit cannot be had here: {str(error)[:200]}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
