"""Checks of a study's names and parameters that would else only fail in the middle of a run."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

from s3lora.edits import make_editor
from s3lora.errors import ParameterError
from s3lora.lab.gate import MEASURES
from s3lora.lab.study.parts import Choice
from s3lora.lab.study.variants import VARIANTS
from s3lora.methods import make_method

LONGEST_NAME = 100
"""Bytes of a name; file systems allow 255, and endings are added to it."""


def refuse_unsafe_name(what: str, name: str) -> None:
    """Refuse a name that would not become one folder within the study's own.

    Args:
        what: What the name is of, for the message.
        name: It becomes the name of a folder, and the beginning of names of files.

    Raises:
        ParameterError: if it is empty, has a separator or a control character, begins with a dot,
            begins or ends with a blank, or is too long.
    """
    faults = {
        "is empty": not name,
        "holds a separator of paths": any(mark in name for mark in "/\\:"),
        "begins with a dot": name.startswith("."),
        "holds a control character": has_control(name),
        "begins or ends with a blank": name != name.strip(),
        f"has more than {LONGEST_NAME} bytes": len(name.encode()) > LONGEST_NAME,
    }
    fault = next((fault for fault, applies in faults.items() if applies), None)
    if fault:
        raise ParameterError(
            f"the name of {what} {name[:60]!r} {fault}",
            hint="a folder gets this name: use letters, digits, - and _, such as harmless-1",
        )


def has_control(text: str) -> bool:
    """Whether a text holds control or formatting characters, or separators of lines."""
    return any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text)


def refuse_wrong_parameters(choice: Choice) -> None:
    """Refuse parameters that the method or the edit of a choice does not take.

    Raises:
        ParameterError: if there is no such method or parameter, or a value does not fit.
    """
    if choice.method == "gate":
        _refuse_others(choice, "params", choice.params, ("measure",))
        measure = choice.params.get("measure", "balance")
        if measure not in MEASURES:
            known = ", ".join(MEASURES)
            raise ParameterError(f"gate has no measure {measure!r:.60}", hint=f"one of {known}")
    elif choice.method in VARIANTS:
        _refuse_others(choice, "params", choice.params, ())
    else:
        make_method(choice.method, choice.params)
    if choice.edit == "drop":
        _refuse_others(choice, "edit_params", choice.edit_params, ())
        return
    given = dict(choice.edit_params)
    if choice.edit == "merge":
        if "safe" in given:
            raise ParameterError(
                f"[[method]] {choice.name!r} has safe in edit_params",
                hint="leave it out: the edit merge takes the study's refusal adapter",
            )
        given["safe"] = None  # the study's refusal adapter, which is not trained yet
    if choice.edit == "flatten":
        given.setdefault("level", 1.0)  # the median of the scores, which are not there yet
    make_editor(choice.edit, given)


def _refuse_others(
    choice: Choice, field: str, given: Mapping[str, object], known: Sequence[str]
) -> None:
    of = f"the method {choice.method!r}" if field == "params" else f"the edit {choice.edit!r}"
    other = next((key for key in given if key not in known), None)
    if other is not None:
        raise ParameterError(
            f"[[method]] {choice.name!r} has {other!r} in {field}, which {of} does not take",
            hint=f"it takes {', '.join(known) or 'no parameters'}",
        )
