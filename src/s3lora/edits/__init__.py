"""Softer edits than taking a module out: what is put in the place of its update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from s3lora.adapter import LoraModule, Replace, Weights
from s3lora.edits.flatten import Flatten
from s3lora.edits.merge import Merge
from s3lora.edits.project import Project
from s3lora.edits.scale import Scale
from s3lora.edits.truncate import Truncate
from s3lora.errors import ParameterError
from s3lora.parameters import typed_values

__all__ = ["EDITORS", "Editor", "Flatten", "Merge", "Project", "Scale", "Truncate", "make_editor"]


class Editor(Protocol):
    """Says what becomes of one module; knows neither its score nor the others."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    """Which weights it cannot do without: "base", "aligned", both or none."""

    @property
    def params(self) -> dict[str, Any]:
        """Its parameters by name, for the manifest."""
        ...

    def __call__(self, module: LoraModule, weights: Weights) -> Replace:
        """The factors that this module gets."""
        ...


EDITORS: dict[str, type[Editor]] = {
    "project": Project,
    "flatten": Flatten,
    "scale": Scale,
    "truncate": Truncate,
    "merge": Merge,
}


def make_editor(name: str, params: Mapping[str, Any]) -> Editor:
    """An editor by name with its parameters set; text becomes the type of the parameter.

    Raises:
        ParameterError: if there is no such editor or parameter, or a value does not fit.
    """
    if name not in EDITORS:
        raise ParameterError(f"there is no edit {name!r}", hint=f"one of {', '.join(EDITORS)}")
    return EDITORS[name](**typed_values(EDITORS[name], f"the edit {name!r}", params))
