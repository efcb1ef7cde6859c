"""`s3lora methods`: which methods there are, and what one of them does."""

from __future__ import annotations

import dataclasses
import inspect

import click

from s3lora.errors import ParameterError
from s3lora.methods import make_method, method_class, method_names


@click.command()
@click.argument("name", required=False)
def methods(name: str | None) -> None:
    """List the methods, or describe the one called NAME."""
    if name is None:
        names = method_names()
        width = max(map(len, names)) + 2
        for known in names:
            try:
                summary = (inspect.getdoc(method_class(known)) or "").partition("\n")[0]
            except ParameterError as error:  # a broken package must not hide the others
                summary = str(error)
            click.echo(f"{known:<{width}}{summary}")
        return
    method = make_method(name)
    click.echo(f"{name}: the {method.unsafe} scores are the ones to look at\n")
    click.echo(inspect.getdoc(type(method)) or "")
    for field in dataclasses.fields(method):  # type: ignore[arg-type]
        click.echo(f"\n-p {field.name}={getattr(method, field.name)}  (the default)")
