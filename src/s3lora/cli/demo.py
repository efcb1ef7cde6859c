"""`s3lora demo`: the whole path on the adapter that the package ships."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

import click

from s3lora.cli.compare import compare
from s3lora.cli.prune import prune
from s3lora.cli.scan import scan
from s3lora.errors import OutputError


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("s3lora-demo"),
    show_default=True,
    help="The folder to write; it must not exist yet.",
)
def demo(output: Path) -> None:
    """Scan the example adapter, prune it, and compare the two.

    The example was trained on SmolLM2-135M-Instruct to write plans of tool
    calls. Every command that runs is shown.
    """
    if output.exists() or output.is_symlink():
        raise OutputError(f"{output} exists already", hint="give another folder with -o")
    pruned, report, page = output / "pruned", output / "scan.json", output / "scan.html"
    with as_file(files("s3lora") / "example" / "adapter") as example:
        _run(scan, [str(example)])
        _run(scan, [str(example), "--format", "json", "-o", str(report)])
        _run(scan, [str(example), "--format", "html", "-o", str(page)])
        _run(prune, [str(example), "-o", str(pruned)])
        _run(compare, [str(example), str(pruned)])
        click.echo(f"\nThe example adapter:  {example}")
    click.echo(f"The scan as JSON:     {report}")
    click.echo(f"The same as a page:   {page}  (open it in a browser)")
    click.echo(f"The pruned adapter:   {pruned}")
    click.echo(f"What was done to it:  {pruned / 's3lora.json'}")


def _run(command: click.Command, words: list[str]) -> None:
    """Show a command and run it."""
    click.echo(f"\n$ s3lora {command.name} {' '.join(words)}\n")
    command.main(words, standalone_mode=False)
