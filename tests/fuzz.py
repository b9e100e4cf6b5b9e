# SPDX-License-Identifier: Apache-2.0
"""Coverage-guided fuzzing of the doors in abuse.py with atheris: `make fuzz`, or

    python tests/fuzz.py image --seconds 60
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings

import atheris

with atheris.instrument_imports(include=["vlt_ros", "abuse", "yaml", "rosbags"]):
    from abuse import CHECKS
    from test_abuse import SEEDS

    import vlt_ros.evaluation.sequences
    import vlt_ros.media
    import vlt_ros.networks.weights
    import vlt_ros.ros.images
    import vlt_ros.ros.parameters
    import vlt_ros.tracker
    import vlt_ros.training.datasets
    import vlt_ros.training.trainer  # noqa: F401


def main() -> None:
    """Run one door until the time is over; an input that breaks a promise is written to out/fuzz and ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("door", choices=CHECKS)
    parser.add_argument("--seconds", type=int, default=60)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    corpus = f"out/fuzz/{arguments.door}"
    os.makedirs(corpus, exist_ok=True)
    for number, seed in enumerate(SEEDS.get(arguments.door, [])):
        with open(f"{corpus}/seed{number}", "wb") as file:
            file.write(seed)
    check = CHECKS[arguments.door]
    atheris.Setup([sys.argv[0], corpus, f"-max_total_time={arguments.seconds}", "-timeout=20", "-rss_limit_mb=4096",
                   f"-artifact_prefix=out/fuzz/{arguments.door}-", "-print_final_stats=1", "-verbosity=0"],
                  lambda data: check(data) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
