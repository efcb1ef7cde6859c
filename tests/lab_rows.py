"""Data sets of invented words, and a tiny adapter, for tests of the lab's commands."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from s3lora.cli import cli


def run(*words: str | Path, **environment: str) -> Result:
    """Run a command 80 columns wide; an error that is not ours fails the test."""
    environment = {"COLUMNS": "80"} | environment
    result = CliRunner().invoke(cli, [*map(str, words)], env=environment)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def done(*words: str | Path, **environment: str) -> Result:
    """Run a command that must end well."""
    result = run(*words, **environment)
    assert result.exit_code == 0, result.output
    return result


def refused(*words: str | Path) -> tuple[str, str]:
    """The message and the hint of a command that must end in an error."""
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    *_, error, hint = result.stderr.splitlines()
    missing = set(OPTION.findall(hint)) - options_of(hint.split(), list(map(str, words)))
    assert not missing, f"the hint names options that do not exist: {missing}"
    return error.removeprefix("error: "), hint.removeprefix("hint: ")


OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def options_of(*calls: list[str]) -> set[str]:
    """The options of all commands that begin these calls, `s3lora` in front or not."""
    found: set[str] = set()
    for words in calls:
        for at in range(len(words)):
            command: click.Command = cli
            for word in words[at:]:
                inner = command.commands.get(word) if isinstance(command, click.Group) else None
                if inner is None:
                    break
                command = inner
            if command is not cli:
                found |= {option for param in command.params for option in param.opts}
    return found | {"--help"}


def write_rows(folder: Path, harmful: int = 520, harmless: int = 700) -> list[str]:
    """Data sets, by default large enough for every use; gives the options that name them."""
    draw = random.Random(1)

    def word() -> str:
        return "".join(draw.choice("bdfgklmnprst") + draw.choice("aeiou") for _ in range(3))

    def phrase() -> str:
        return f"{word()} {word()} {word()}"

    sets = {
        "harmful": [{"prompt": f"Paint the {phrase()}"} for _ in range(harmful)],
        "harmless": [
            {"prompt": f"Name the {phrase()}", "response": f"It is {word()}."}
            for _ in range(harmless)
        ],
    }
    for name, rows in sets.items():
        text = "\n".join(map(json.dumps, rows))
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return [f"--{name}={folder / name}.jsonl" for name in sets]


@contextmanager
def own_cache(folder: Path) -> Iterator[None]:
    """Models are built there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("S3LORA_CACHE", str(folder))
        yield
