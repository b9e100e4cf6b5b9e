# SPDX-License-Identifier: Apache-2.0
"""Write the generated parts of docs/reference.md from the declarations in the code. Run by `make docs`."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference.md"
PART = re.compile(r"(<!-- generated: (?P<name>[a-z ]+) -->\n).*?(<!-- end -->\n)", re.DOTALL)


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table."""
    lines = [list(head), *[[str(cell).replace("|", "\\|") for cell in row] for row in rows]]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def code(value: object) -> str:
    """A value as it is written in YAML, as code; text that is empty stays visible."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{text}`" if text else '`""`'


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None else f"{low:g} to {high:g}"


def tracker_parameters() -> str:
    """vlt_tracker's, from the dataclass that declares them."""
    from vlt_ros.ros.parameters import Parameters

    return table(("parameter", "type", "default", "range", "changes", "what"), (
        (f"`{spec.name}`", type(spec.default).__name__, code(spec.default),
         _range(spec.metadata["low"], spec.metadata["high"]),
         "any time" if spec.metadata["runtime"] else "by configure", spec.metadata["description"])
        for spec in fields(Parameters)))


def servo_parameters() -> str:
    """vlt_servo's, from the running node, which declares some of them itself. They are read at start."""
    import rclpy

    from vlt_ros.ros.servo import VltServo

    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    node = VltServo(context=context, start_parameter_services=False, enable_rosout=False)
    rows = []
    # Those that every node has: use_sim_time and the like.
    shared = rclpy.create_node("shared", context=context)
    for name in node.get_parameters_by_prefix(""):
        if shared.has_parameter(name) or name.startswith("qos_overrides"):
            continue
        descriptor, value = node.describe_parameter(name), node.get_parameter(name).value
        limits = [(one.from_value, one.to_value) for one in descriptor.floating_point_range] or [(None, None)]
        rows.append((f"`{name}`", type(value).__name__, code(value), _range(*limits[0]), descriptor.description))
    for one in (node, shared):
        one.destroy_node()
    context.try_shutdown()
    return table(("parameter", "type", "default", "range", "what"), rows)


def messages() -> str:
    """The definitions as they are."""
    return "\n".join(f"`vlt_ros/msg/{file.stem}`\n\n```text\n"
                     f"{file.read_text().removeprefix('# SPDX-License-Identifier: Apache-2.0').strip()}\n```\n"
                     for file in sorted((ROOT / "msg").glob("*.msg")))


def commands() -> str:
    """Every subcommand of `vlt`, from click's declarations."""
    from vlt_ros.cli import main

    parts = []
    for name, command in main.commands.items():
        context = click.Context(command, info_name=f"vlt {name}")
        usage = " ".join(command.collect_usage_pieces(context))
        rows = [record for one in command.params if (record := one.get_help_record(context))]
        text = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
        parts.append(f"### `vlt {name} {usage}`\n\n{text}\n\n"
                     + table(("option", "what"), ((code(options), what) for options, what in rows)))
    return "\n".join(parts)


def launch_arguments() -> str:
    """Those of every launch file, from its source: launch itself is not on PyPI."""
    rows = []
    for file in sorted((ROOT / "launch").glob("*.launch.py")):
        for call in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(call, ast.Call) and getattr(call.func, "id", "") == "DeclareLaunchArgument"):
                continue
            words = {word.arg: word.value for word in call.keywords}
            default = "required"
            if "default_value" in words:
                # The one that is no constant is a path below the package's config/.
                given = words["default_value"]
                values = [node.value for node in ast.walk(given) if isinstance(node, ast.Constant)]
                default = code(values[0] if isinstance(given, ast.Constant) else f"config/{values[-1]}")
            rows.append((f"`{file.name}`", f"`{call.args[0].value}`", default, ast.literal_eval(words["description"])))
    return table(("file", "argument", "default", "what"), rows)


PARTS = {"tracker parameters": tracker_parameters, "servo parameters": servo_parameters, "messages": messages,
         "commands": commands, "launch arguments": launch_arguments}


def generated(page: str) -> str:
    """The page with all of its generated parts made anew. Raises KeyError for a part that nobody makes."""
    return PART.sub(lambda part: f"{part[1]}\n{PARTS[part['name']]()}\n{part[3]}", page)


def main() -> int:
    PAGE.write_text(generated(PAGE.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
