"""Hints and messages name what there is: options of a command, and an install that works today."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import s3lora
from adapters import write_adapter
from s3lora.cli import cli

ROOT = Path(s3lora.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")
OF_INSPECT = {"--log-dir", "--max-tokens"}
"""Options of another program that a text of ours names."""


def commands(command: click.Command = cli, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command by its words, groups too."""
    yield path, command
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from commands(below, f"{path} {name}".strip())


def options_of(command: click.Command) -> set[str]:
    every = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    return every | {"--help"}


EVERY = set().union(*(options_of(command) for _, command in commands())) | OF_INSPECT


def texts(path: Path) -> Iterator[str]:
    """The texts of a file, those between the braces of an f-string apart."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_option_that_a_text_names_is_one_of_some_command(path):
    named = {option for text in texts(path) for option in OPTION.findall(text)}
    assert named <= EVERY


def hints(path: Path) -> Iterator[str]:
    """The hints in a file, without what is filled in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "hint":
            yield "".join(
                part.value
                for part in ast.walk(node.value)
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            )


OF_FILE = {
    name: {command for words, command in commands() if words.split()[-1:] == [name]}
    for name in ("scan", "prune", "rank", "compare", "report", "plot", "check", "train", "study")
}


@pytest.mark.parametrize("name", OF_FILE)
def test_a_hint_of_a_command_names_its_own_options(name):
    own = set().union(*map(options_of, OF_FILE[name]))
    for hint in hints(ROOT / "cli" / f"{name}.py"):
        if "s3lora " not in hint:  # that names another command
            assert set(OPTION.findall(hint)) <= own, hint


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_text_installs_the_package_from_an_index_that_lacks_it(path):
    assert not [text for text in texts(path) if re.search(r"pip install '?s3lora", text)]


def test_no_example_installs_the_package_from_an_index_that_lacks_it():
    root = ROOT.parent.parent
    pages = [*(root / "docs").rglob("*.md"), *(root / "examples").rglob("*.*")]
    for page in pages:
        if page.name != "lab-log.md" and page.suffix in (".md", ".yml", ".py", ".toml"):
            assert not re.search(r"pip install '?s3lora", page.read_text(encoding="utf-8")), page


def test_a_folder_that_is_there_is_refused_with_what_the_command_can_do(tmp_path):
    base, out = tmp_path / "base", tmp_path / "out"
    source = write_adapter(tmp_path / "a")
    base.mkdir()
    out.mkdir()
    pruning = CliRunner().invoke(cli, ["prune", str(source), "--top-k", "1", "-o", str(out)])
    assert pruning.exit_code == 2
    assert "--force" in pruning.stderr
    words = ["extrapolate", "--base", str(base), "--aligned", str(base), "-o", str(out)]
    other = CliRunner().invoke(cli, words)
    assert other.exit_code == 2
    assert "--force" not in other.stderr
