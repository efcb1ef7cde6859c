"""The command that makes a choice again, in words that are safe to paste into a shell.

The page puts the numbers and the projections in; every word that comes from a file or from the
command line is quoted here, and a value counts as a number only if it is one.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any

from s3lora.edits import EDITORS
from s3lora.errors import ParameterError
from s3lora.methods import method_class
from s3lora.report import PlanFacts, Report
from s3lora.scores import ScoreTable

FLAGS = {
    "k": "--top-k",
    "fraction": "--fraction",
    "threshold": "--threshold",
    "z": "--outliers",
    "granularity": "--granularity",
}
"""For each parameter of a policy the option that gives it."""
LONGEST = 250
"""Of one part of a list, in characters."""


def word(text: str) -> str | None:
    """One word of a shell command; None if it cannot be shown and pasted as it is."""
    return shlex.quote(text) if text and text.isprintable() else None


def listed(text: str) -> str | None:
    """One part of a list with commas, such as that of --among; None if it cannot be one."""
    fits = len(text) <= LONGEST and "," not in text and text.strip() == text
    return word(text) if fits else None


def command(ref: str, table: ScoreTable, plan: PlanFacts | None = None) -> dict[str, str] | None:
    """The command but for the choice, as what stands before it and after it.

    Args:
        ref: The adapter as it was asked for.
        table: Whose method and parameters the command names.
        plan: Whose edit and target the command names.

    Returns:
        `head` and `tail`, and in `note` what is left to fill in; None if a word cannot be pasted.
    """
    path = word(f"./{ref}" if ref.startswith("-") else ref)
    words = ["-m", table.method, *_assigned("-p", table.params)]
    needs = _needs(table.method)
    if plan is not None:
        edit, more = _editing(plan)
        words += edit
        needs |= more
    filled = [word(text) for text in (*words, "-o", "pruned")]
    if path is None or None in filled:
        return None
    folders = [f"--{role} {role.upper()}" for role in ("base", "aligned") if role in needs]
    tail = " ".join([*folders, *(text for text in filled if text)])
    roles = " and ".join(role.upper() for role in ("base", "aligned") if role in needs)
    note = f"Put the checkpoint folders in for {roles}."
    return {"head": f"s3lora prune {path}", "tail": tail, "note": note if needs else ""}


def _assigned(flag: str, params: Mapping[str, Any]) -> list[str]:
    given = {key: value for key, value in params.items() if value is not None}
    return [part for key, value in given.items() for part in (flag, f"{key}={value}")]


def _needs(method: str) -> set[str]:
    """The weights a method cannot do without; none if it is not a registered one."""
    try:
        return set(method_class(method).needs) & {"base", "aligned"}
    except ParameterError:
        return set()


def _editing(plan: PlanFacts) -> tuple[list[str], set[str]]:
    """The options that ask for a plan's edit and target, and the weights that the edit needs."""
    params = {k: v for k, v in plan.edit_params.items() if k not in ("with", "sha256")}
    words = [] if plan.edit == "drop" else ["--edit", plan.edit, *_assigned("-e", params)]
    if "with" in plan.edit_params:
        words += ["--with", str(plan.edit_params["with"])]
    if plan.target != "minimal":
        words += ["--target", plan.target]
    if plan.fold_scale:
        words.append("--fold-scale")
    return words, set(EDITORS[plan.edit].needs) if plan.edit in EDITORS else set()


def choice(report: Report) -> dict[str, Any]:
    """The policy of a report as the page's control holds it.

    One that the control has no rule for is kept as `asked`: its modules, and its options in
    `words`, which are None where they cannot be pasted.
    """
    params = dict(report.policy_params)
    among = params.pop("among", None)
    kinds = {"top-k": "k", "threshold": "threshold", "outliers": "z"}
    if list(params) == [kinds.get(report.policy_name)] and _is_number(*params.values()):
        kind, (value,) = report.policy_name, params.values()
        return {"kind": kind, "value": value, "among": among}
    parts = None if among is None else [listed(name) for name in among]
    return {
        "kind": "asked",
        "name": report.policy_name,
        "words": _options(params, parts),
        "among": None,
    }


def _options(params: Mapping[str, Any], among: list[str | None] | None) -> str | None:
    """The options of a policy as words of a command."""
    if "names" in params:
        return _flag("--modules", [listed(name) for name in params["names"]])
    if not params.keys() <= FLAGS.keys():
        return None
    words = [word(f"{FLAGS[key]}={value}") for key, value in params.items()]
    words += [] if among is None else [_flag("--among", among)]
    return None if None in words else " ".join(text for text in words if text)


def _is_number(value: object) -> bool:
    """Whether the page's control can take a value: it puts it into the command as it is."""
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _flag(flag: str, parts: list[str | None]) -> str | None:
    if None in parts or not parts:
        return None
    return f"{flag}={','.join(part for part in parts if part)}"
