"""docs/zoo.md, README.md and `robust victims` name the victims that there are, as they are."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from robust.cli import main
from tests.robust.test_guides import HOME, Block, blocks

GUIDE = HOME / "docs" / "zoo.md"
ROW = re.compile(r"^\| `([^`|]+)` \|.*\|$", re.MULTILINE)


@pytest.fixture
def victims(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What `robust victims --json` tells."""
    monkeypatch.setattr(sys, "argv", ["robust", "victims", "--json"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    told: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return told


def rows(page: Path, heading: str) -> list[str]:
    """Lines of the table below a line of headings, without the rule."""
    _, found, rest = page.read_text().partition(f"{heading}\n|---")
    assert found, f"{page.name} has no table {heading}"
    return rest.partition("\n\n")[0].splitlines()[1:]


def test_the_table_is_what_the_command_tells(victims: list[dict[str, Any]]) -> None:
    """Where it is not, the failure shows the lines to put there."""
    expected = [
        f"| `{one['name']}` | {one['family']} | {one['summary']} | {one['parity'] or 'none'} | "
        f"{'yes' if one['loads_upstream'] else ''} |"
        for one in victims
        if ":" not in one["name"]
    ]
    found = rows(GUIDE, "| victim | family | what it is | parity | upstream weights |")
    missing, stale = ([row for row in one if row not in other] for one, other in ((expected, found), (found, expected)))
    assert not missing + stale, "\n".join(["missing:", *missing, "stale:", *stale])
    assert found == expected  # in this order


def test_every_prefix_is_told(victims: list[dict[str, Any]]) -> None:
    named = ROW.findall("\n".join(rows(GUIDE, "| name | what it is |")))
    assert sorted(named) == sorted(one["name"] for one in victims if ":" in one["name"])


def test_the_victim_of_the_guide_is_one_file_of_under_forty_lines() -> None:
    (added,) = [block for block in blocks(GUIDE) if block.title == "my_victim.py"]
    assert len(added.text.splitlines()) < 40
    assert max(map(len, added.text.splitlines())) <= 120
    assert added.text.count("@robust.register(") == 1


def test_commands_of_the_guide_take_it_by_file_and_function() -> None:
    lines = [line for block in blocks(GUIDE) if block.language == "bash" for line in commands(block)]
    assert any("robust attack --model my_victim.py:build" in line for line in lines)
    for prefix in ("timm:", "hf:", "concat:", "hear:"):
        assert any(f"--model {prefix}" in line for line in lines), prefix


def commands(block: Block) -> list[str]:
    return [line for line in block.text.splitlines() if line.startswith("robust ")]


def test_the_readme_has_a_row_for_every_victim_with_weights(victims: list[dict[str, Any]]) -> None:
    """With its parameters and its accuracy on `events`; the failure shows what a row must say."""
    found = {ROW.findall(row)[0]: row for row in rows(HOME / "README.md", README_TABLE)}
    wrong = {}
    for one in victims:
        if not one["embedded"]:
            continue
        said = f"| {one['parameters']:,} | "
        if one["embedded"] == "events":
            said += "{score:.1f} % [{low:.1f}, {high:.1f}] |".format(
                **{end: 100 * one["clean"][end] for end in ("score", "low", "high")}
            )
        if said not in found.get(one["name"], ""):
            wrong[one["name"]] = said
    assert not wrong
    assert found.keys() == {one["name"] for one in victims if one["embedded"]}


README_TABLE = "| model | what | parameters | accuracy on `events` test |"


@pytest.mark.parametrize("columns", [60, 80, 100, 120, 150, 180])
def test_no_cell_is_cut_in_a_terminal(
    columns: int,
    victims: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Half a name or a family would read like another one; parity alone may take more lines than one."""
    for name, value in {"COLUMNS": str(columns), "FORCE_COLOR": "1", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["robust", "victims"])
    with pytest.raises(SystemExit):
        main()
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= columns
    assert "…" not in "".join(lines)
    words = set(" ".join(lines).split())
    for one in victims:
        assert {one["name"], one["family"], f"{one['parameters']:,}" if one["parameters"] else "-"} <= words
        assert set(one["parity"].split()) <= words
        if one["embedded"]:
            line = next(line for line in lines if line.startswith(f" {one['name']} ") and "%" in line)
            assert f"{100 * one['clean']['score']:.1f} % ({one['embedded']})" in line
