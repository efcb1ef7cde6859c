"""Write docs/reference.md from the code: commands, methods, findings and targets.

    python docs/make_reference.py

A test holds the file to what this script would write.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from s3lora.cli import cli
from s3lora.findings import RULES
from s3lora.methods import BUILTIN, method_class, params_of
from s3lora.targets import TARGETS

PAGE = Path(__file__).parent / "reference.md"


def sections() -> Iterator[str]:
    """The parts of the page."""
    yield "# Reference\n\nMade from the code by `docs/make_reference.py`."
    yield "## Commands"
    for name, command in sorted(cli.commands.items()):
        yield f"### s3lora {name}\n\n```text\n{help_of(name, command)}\n```"
        if isinstance(command, click.Group):
            for part, inner in sorted(command.commands.items()):
                told = help_of(f"{name} {part}", inner)
                yield f"### s3lora {name} {part}\n\n```text\n{told}\n```"
    yield "## Methods"
    for name in BUILTIN:
        found = method_class(name)
        params = ", ".join(f"`{k}` = {v}" for k, v in params_of(found()).items())
        yield f"### {name}\n\nParameters: {params or 'none'}\n\n```text\n{found.__doc__}\n```"
    yield "## Findings"
    yield "\n".join(f"- `{rule}`: {text}" for rule, text in RULES.items())
    yield "## Targets of prune"
    yield "\n".join(f"- `{target}`: {text}" for target, text in TARGETS.items())


def help_of(name: str, command: click.Command) -> str:
    """A command's help, 80 columns wide whatever the terminal is."""
    parent = click.Context(cli, info_name="s3lora", **cli.context_settings)
    with click.Context(command, parent=parent, info_name=name, max_content_width=80) as context:
        context.terminal_width = 80
        return command.get_help(context)


def page() -> str:
    """The whole page."""
    return "\n\n".join(inspect.cleandoc(part) for part in sections()) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    click.echo(f"wrote {PAGE}")
