"""The scoring methods, by name. Listing them imports none of them.

A method is a frozen dataclass whose fields are its parameters (docs/write-a-method.md). Another
package adds one through the entry point group `s3lora.methods`; nothing here changes for it.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

from s3lora.adapter import LoraModule, Weights
from s3lora.errors import ParameterError
from s3lora.parameters import typed_values
from s3lora.scores import Score, Skipped, Unsafe

GROUP = "s3lora.methods"

BUILTIN = {
    "s3lora": "s3lora.methods.s3lora:S3Lora",
    "spectrum": "s3lora.methods.spectrum:Spectrum",
    "magnitude": "s3lora.methods.magnitude:Magnitude",
    "random": "s3lora.methods.random:Random",
    "last-layers": "s3lora.methods.last_layers:LastLayers",
    "fingerprint": "s3lora.methods.fingerprint:Fingerprint",
    "rows": "s3lora.methods.rows:Rows",
    "safe-lora": "s3lora.methods.safe_lora:SafeLora",
    "splora": "s3lora.methods.splora:Splora",
    "lox-ratio": "s3lora.methods.lox_ratio:LoxRatio",
    "intruder": "s3lora.methods.intruder:Intruder",
    "s3lora-released": "s3lora.methods.s3lora_released:S3LoraReleased",
    "splora-released": "s3lora.methods.splora_released:SploraReleased",
}


class Method(Protocol):
    """Says something about one module at a time; knows nothing of the others."""

    name: ClassVar[str]
    """The name it is registered by."""

    needs: ClassVar[frozenset[str]]
    """Which weights it cannot do without: "base", "aligned", both or none."""

    @property
    def unsafe(self) -> Unsafe:
        """Whether a high or a low score is the one to look at."""
        ...

    def score(self, module: LoraModule, weights: Weights) -> Score | Skipped:
        """Score one module, or say why not.

        Args:
            module: Its factors are finite and its update is not zero.
            weights: The matrices that `needs` asks for are there, of the module's shape (m, n).
        """
        ...


@runtime_checkable
class TableMethod(Protocol):
    """A method whose scores depend on each other: it has the last word on the whole table."""

    def conclude(self, scores: tuple[Score, ...]) -> tuple[Score, ...]:
        """Give the scores of all modules, in the same order, their final values."""
        ...


def method_names() -> tuple[str, ...]:
    """The names of all methods: the built-in ones, then those of installed packages."""
    from importlib.metadata import entry_points  # slow to import, seldom needed

    others = sorted({entry.name for entry in entry_points(group=GROUP)} - BUILTIN.keys())
    return (*BUILTIN, *others)


def method_class(name: str) -> type[Method]:
    """The class registered under a name; only now is its module imported.

    Raises:
        ParameterError: if no method has that name, or a package's method cannot be imported.
    """
    if name in BUILTIN:
        module, _, attribute = BUILTIN[name].partition(":")
        found: type[Method] = getattr(importlib.import_module(module), attribute)
        return found
    from difflib import get_close_matches
    from importlib.metadata import entry_points

    for entry in entry_points(group=GROUP, name=name):
        try:
            loaded: type[Method] = entry.load()
        except Exception as error:
            raise ParameterError(
                f"the method {name!r} of {entry.value} cannot be loaded: {error}",
                hint="it comes from another package: repair or uninstall that package",
            ) from error
        return loaded
    close = get_close_matches(name, method_names(), n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    raise ParameterError(
        f"there is no method {name!r}", hint=f"{guess}methods: {', '.join(method_names())}"
    )


def make_method(name: str, params: Mapping[str, Any] | None = None) -> Method:
    """A method by name with its parameters set.

    Args:
        name: A registered name.
        params: Parameters by name; a string is converted to the type of the parameter's default.

    Raises:
        ParameterError: if there is no such method or parameter, or a value does not fit.
    """
    found = method_class(name)
    return found(**typed_values(found, f"the method {name!r}", params or {}))


def params_of(method: Method) -> dict[str, Any]:
    """The parameters of a method by name."""
    return dataclasses.asdict(method)  # type: ignore[call-overload, no-any-return]
