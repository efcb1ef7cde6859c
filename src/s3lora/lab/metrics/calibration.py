"""How far a scorer of refusals agrees with people who labelled the same replies."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import nan
from pathlib import Path

from s3lora.errors import ParameterError
from s3lora.lab.metrics.intervals import Figure, bootstrap, complete, missing, share
from s3lora.lab.metrics.labels import Labelled
from s3lora.lab.metrics.refusal import SCORERS, cohen_kappa, told
from s3lora.linalg import Array

Judging = Callable[[str], bool | None]
"""From a reply with text to whether it refuses; None if it cannot say."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far a scorer agrees with people; each figure has its n and a 95 % interval."""

    kappa: Figure
    """Cohen's κ in [−1, 1]: agreement beyond chance."""
    recall: Figure
    """Share of the refusals that the scorer finds."""
    false_refusals: Figure
    """Share of the other replies that it takes for refusals."""
    people: Figure
    """Share of the replies that people call refusals."""
    scorer: Figure
    """Share of them that the scorer does."""
    unscored: int
    """Replies without text, label or score, left out."""


def calibrate(scorer: str | Judging, rows: Sequence[Labelled]) -> Calibration:
    """Agreement of a scorer with people's labels.

    Args:
        scorer: A name of `s3lora.lab.metrics.refusal.SCORERS`, MODULE:FUNCTION, or a function.
        rows: Labelled replies.

    Raises:
        ParameterError: if there is no such scorer, or it says anything but yes, no or None.
    """
    judging = scorer_of(scorer) if isinstance(scorer, str) else scorer
    said = [_said(judging, row.reply, at) for at, row in enumerate(rows, start=1)]
    pairs = [
        (flag, row.refusal)
        for flag, row in zip(said, rows, strict=True)
        if flag is not None and row.refusal is not None
    ]
    return Calibration(
        _kappa(pairs),
        share("recall of refusals", [flag for flag, label in pairs if label], "higher"),
        share("false refusals", [flag for flag, label in pairs if not label], "lower"),
        share("refusals, people", [label for _, label in pairs], "neither"),
        share("refusals, scorer", [flag for flag, _ in pairs], "neither"),
        len(rows) - len(pairs),
    )


def scorer_of(reference: str) -> Judging:
    """A scorer by name, or as MODULE:FUNCTION; modules of the working folder are found too.

    Raises:
        ParameterError: if there is no such scorer.
    """
    if reference in SCORERS:
        return SCORERS[reference]
    module, mark, name = reference.partition(":")
    hint = f"one of {', '.join(SCORERS)}, or MODULE:FUNCTION that takes a reply"
    if not mark or not module or not name:
        raise ParameterError(f"there is no scorer {reference!r}", hint=hint)
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ParameterError(f"cannot load {reference}: {error}", hint=hint) from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise ParameterError(f"{reference} is no function", hint=hint)
    judging: Judging = found
    return judging


def _said(scorer: Judging, reply: str, at: int) -> bool | None:
    """What the scorer says of one reply."""
    try:
        flag = told(reply, scorer)
    except Exception as error:  # a scorer is whatever a caller gives
        raise ParameterError(
            f"the scorer fails on reply {at}: {type(error).__name__}: {error}",
            hint="a scorer takes any text and says whether it refuses",
        ) from error
    if flag is None or flag != flag:  # NaN differs from itself
        return None
    if flag not in (0, 1):
        raise ParameterError(
            f"the scorer says {flag!r} of reply {at}", hint="True, False, or None if unscored"
        )
    return bool(flag)


def _kappa(pairs: Sequence[tuple[bool, bool]]) -> Figure:
    """Cohen's κ with a bootstrap interval over replies."""
    name = "Cohen's kappa"
    (said, label), _ = complete([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    value = _kappa_of(said, label)
    if value != value:
        why = "everything is in one class" if pairs else "no samples"
        return missing(name, "", "higher", why, len(pairs))
    return Figure(name, value, len(pairs), *bootstrap(_kappa_of, said, label), "", "higher")


def _kappa_of(said: Array, label: Array) -> float:
    """κ of flags (n,) of 0 and 1; NaN where chance alone gives full agreement."""
    hits = int((said * label).sum())
    value = cohen_kappa(hits, int(said.sum()) - hits, int(label.sum()) - hits, len(said))
    return nan if value is None else value
