# SPDX-License-Identifier: Apache-2.0
"""Plant a bug behind each promise, in a copy of the sources, and see that a test fails. `make bugs`.

Each entry: the promise, the file, the right text, the wrong one, the tests that must fail. tests/test_bugs.py keeps
the list in step with the sources.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Bug(NamedTuple):
    """A change that breaks a promise, and the test that must see it."""

    promise: str
    file: str
    right: str
    wrong: str
    test: str


NODE, INFERENCE, PARAMETERS = "vlt_ros/ros/node.py", "vlt_ros/ros/inference.py", "vlt_ros/ros/parameters.py"
FACE, FAULTS, WORLD = "tests/ros/test_ros_interface.py", "tests/ros/test_ros_faults.py", "tests/ros/test_ros_world.py"
BUGS = [
    Bug("one-slot mailbox", INFERENCE, "self._frame = frame\n            self._changed.notify()",
        "self._jobs.append(lambda: self._process(frame))\n            self._changed.notify()",
        "tests/ros/test_ros_inference.py"),
    Bug("queue of depth 1", NODE, "newest = QoSProfile(depth=1,", "newest = QoSProfile(depth=10,",
        f"{WORLD}::test_queues_have_the_depths_of_the_contract"),
    Bug("waiting commands are bounded", INFERENCE, "elif len(self._jobs) == MAX_JOBS:", "elif False:",
        "tests/ros/test_ros_inference.py"),
    Bug("an image is answered under its own header", NODE, "self._header, self._size, self._instead = header,",
        "self._header, self._size, self._instead = Header(),", FACE),
    Bug("silence is INPUT_TIMEOUT", NODE, "            return SILENT\n", "            return \"\"\n",
        f"{FACE}::test_silence_is_input_timeout_and_never_an_old_box"),
    Bug("no old box in INPUT_TIMEOUT", "vlt_ros/ros/messages.py", "    if state is None:\n", "    if True:\n",
        f"{FACE}::test_silence_is_input_timeout_and_never_an_old_box"),
    Bug("unusable images are said", NODE, "            return UNUSABLE\n", "            return \"\"\n",
        f"{WORLD}::test_stream_of_nothing_but_malformed_images_is_said"),
    Bug("a hanging network is said", NODE, "            return STUCK\n", "            return \"\"\n",
        f"{FAULTS}::test_hanging_inference_is_reported_and_survived"),
    Bug("a hanging network does not hold the process", NODE, "if not thread.stop(max(", "if not thread.stop(100 + max(",
        f"{FAULTS}::test_hanging_node_ends_on_sigterm"),
    Bug("an exception of the network is guarded", INFERENCE, "except Exception as error:", "except KeyError as error:",
        "tests/ros/test_ros_inference.py"),
    Bug("stamps of the past and future", NODE, "if now and abs(age) > oldest:", "if now and age > oldest:",
        f"{WORLD}::test_stamps_from_the_past_and_the_future"),
    Bug("a stamp that goes back is not ignored", NODE, "frame.stamp < self._last_stamp:", "False:",
        f"{FACE}::test_looped_bag_clears_the_memory_of_the_target"),
    Bug("malformed images", "vlt_ros/ros/images.py", "    if message.step < width * pixel_bytes:\n", "    if False:\n",
        "tests/ros/test_ros_images.py"),
    Bug("claimed gigabytes of pixels", "vlt_ros/ros/images.py", "str(1 << 26)", "str(1 << 40)",
        "tests/ros/test_ros_images.py"),
    Bug("a failed load is a FAILURE", NODE, "                return failure\n",
        "                return TransitionCallbackReturn.SUCCESS\n",
        f"{FACE}::test_missing_and_damaged_weights_leave_the_node_unconfigured_alive_and_saying_why"),
    Bug("a wrong hash is refused", "vlt_ros/networks/weights.py", "if sha256 and file_sha256(path) != sha256.lower():",
        "if False:", "tests/networks/test_weights.py"),
    Bug("a pickle is not run", "vlt_ros/networks/checkpoints.py", "weights_only=True", "weights_only=False",
        "tests/networks/test_start.py"),
    Bug("out of memory twice deactivates", NODE, "        elif self._out_of_memory:\n", "        elif False:\n",
        f"{FAULTS}::test_out_of_memory_twice_and_a_lost_device_deactivate_and_say_why"),
    Bug("control characters are refused", "vlt_ros/tracker/commands.py", 'if category in ("Cc", "Cs"):', "if False:",
        "tests/tracker/test_commands.py"),
    Bug("a command that fails is rejected", NODE, "            self._reject(f\"the network failed on it,",
        "            (f\"the network failed on it,",
        f"{FAULTS}::test_command_on_which_the_network_fails_is_rejected_and_the_old_target_kept"),
    Bug("a search survives a failure", "vlt_ros/tracker/search.py",
        "            self._frames = self._sweep()\n            next(self._frames)\n            raise\n",
        "            raise\n", f"{FAULTS}::test_search_goes_on_after_one_failure"),
    Bug("NaN is no target", "vlt_ros/tracker/look.py",
        "if not all(map(math.isfinite, values)) or not bool(torch.isfinite(maps.score).all()):",
        "if False:",
        f"{FAULTS}::test_nan_from_the_network_is_no_target"),
    Bug("NaN is no value of a parameter", PARAMETERS, "not low <= value <= high", "(value < low or value > high)",
        "tests/ros/test_ros_parameters.py"),
    Bug("a read-only disk is survived", NODE, "        if \"logging\" not in str(error):\n            raise\n",
        "        raise\n", f"{WORLD}::test_full_and_read_only_disk_and_no_socket_but_fast_dds"),
    Bug("namesakes are said", NODE, "        if count > self._namesakes:\n", "        count = 0\n        if False:\n",
        f"{WORLD}::test_second_node_of_the_same_name_is_said"),
    Bug("a place is kept for the main target", "vlt_ros/tracker/targets.py", "if len(self._others) + 1 >= self.most:",
        "if len(self._others) >= self.most:", "tests/tracker/test_targets.py"),
    Bug("targets of one batch are not mixed up", "vlt_ros/tracker/look.py",
        "Maps(*(part[row:row + 1] for part in maps))", "Maps(*(part[:1] for part in maps))",
        "tests/tracker/test_targets.py"),
    Bug("a line for a state", NODE, "            if news != self._last_logged:\n", "            if True:\n",
        f"{WORLD}::test_states_are_logged_once_each"),
    Bug("diagnostics at 1 Hz", NODE, "self.create_timer(1.0, self._publish_diagnostics",
        "self.create_timer(3.0, self._publish_diagnostics",
        f"{WORLD}::test_diagnostics_come_at_1_hz_and_name_what_the_contract_names"),
    Bug("a transition leaves nothing behind", NODE,
        "        for service in self._own_services:\n            self.destroy_service(service)\n",
        "        threading.Thread(target=threading.Event().wait, daemon=True).start()\n",
        f"{WORLD}::test_lifecycle_in_every_order_without_a_leak"),
    Bug("the policy names what the node has", "config/sros2_policy.xml",
        "            <topic>~/transition_event</topic>\n", "",
        "tests/ros/test_ros_security.py"),
    Bug("no download at start", "vlt_ros/networks/text.py", "from __future__ import annotations\n",
        "from __future__ import annotations\n\nimport socket\n\nsocket.create_connection((\"192.0.2.1\", 80), 1)\n",
        f"{WORLD}::test_shipped_weights_start_without_any_network"),
    Bug("zero is no depth", "vlt_ros/ros/depth.py", "(inner > 0)", "(inner >= 0)", "tests/ros/test_ros_depth.py"),
    Bug("depth of another time is not used", "vlt_ros/ros/position.py", ") > slop:", ") > 100 + slop:",
        "tests/ros/test_ros_position.py"),
    Bug("the servo stops on silence", "vlt_ros/ros/control.py", "if now - self._heard > settings.target_timeout_s:",
        "if False:", "tests/ros/test_ros_control.py"),
    Bug("the servo stands when the target is lost", "vlt_ros/ros/control.py",
        'if self._state not in ("TRACKING", "UNCERTAIN"):', "if False:", "tests/tracker/test_servo.py"),
]


def plant(bug: Bug, folder: Path) -> None:
    """Put the bug into a copy of the sources."""
    file = folder / bug.file
    text = file.read_text()
    if text.count(bug.right) != 1:
        sys.exit(f"{bug.promise}: {bug.right!r} is {text.count(bug.right)} times in {bug.file}; mend this tool")
    file.write_text(text.replace(bug.right, bug.wrong))


def main() -> int:
    """Plant those whose promise contains an argument, or all; say which were seen."""
    chosen = [bug for bug in BUGS if not sys.argv[1:] or any(word in bug.promise for word in sys.argv[1:])]
    missed = 0
    for bug in chosen:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for part in ("vlt_ros", "tests", "config", "launch", "msg", "demo", "tools", "models"):
                shutil.copytree(ROOT / part, folder / part, symlinks=True)
            shutil.copy(ROOT / "pyproject.toml", folder)
            plant(bug, folder)
            done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", bug.test],
                                  cwd=folder, env=os.environ | {"PYTHONPATH": name}, capture_output=True, text=True)
        seen = done.returncode == 1
        missed += not seen
        print(f"{'seen  ' if seen else 'MISSED'}  {bug.promise}: {bug.test}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} planted bugs seen")
    return missed > 0


if __name__ == "__main__":
    sys.exit(main())
