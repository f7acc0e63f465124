"""Writes the page of commands from the command line itself, each time the site is built."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds `commands.md`."""
    files.append(File.generated(config, "commands.md", content="\n".join(_page())))
    return files


def _page() -> Iterator[str]:
    from typer.main import get_command

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from robust.cli import app

    yield "# Commands"
    yield "\nA mistake ends in one message and exit code 2. `--json` prints one JSON document and nothing else."
    group: Any = get_command(app)
    for name, command in group.commands.items():
        yield f"\n## robust {name}\n\n{' '.join((command.help or '').split())}"
        yield from _parameters(command.params)


def _parameters(parameters: list[Any]) -> Iterator[str]:
    shown = [one for one in parameters if not getattr(one, "hidden", False) and one.name != "help"]
    if not shown:
        return
    yield "\n| | | default |\n|---|---|---|"
    for one in shown:
        names = ", ".join(f"`{name}`" for name in (*one.opts, *one.secondary_opts))
        if one.param_type_name == "argument":
            names = f"`{one.metavar or one.name.upper()}`"
        default = "" if one.default in (None, False, (), []) or callable(one.default) else f"`{one.default}`"
        told = (one.help or "").replace("|", "\\|")
        yield f"| {names} | {told} | {'required' if one.required else default} |"
