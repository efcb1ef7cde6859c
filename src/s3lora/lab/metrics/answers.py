"""How right answers are: exact match and token F1 per answer, to be made figures of.

Both compare after SQuAD's normalisation and take the best of all accepted answers; where either
side is yes, no or noanswer, only equality counts, as in HotpotQA. None means *not scored*: no
answer was asked for, or no accepted answer is known. An answer without text does count: as wrong.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from s3lora.errors import ParameterError

T = TypeVar("T")

Answers = Sequence[str | None]
"""One per question; None where there is none."""


def exact_matches(answers: Answers, accepted: Sequence[Sequence[str]]) -> list[bool | None]:
    """Whether each answer equals one of those that are accepted.

    Raises:
        ParameterError: if there is not one list of accepted answers for each answer.

    Source
        Rajpurkar et al., 2016, arXiv 1606.05250 (SQuAD).
    """
    return _best(answers, accepted, lambda answer, one: plain(answer) == plain(one), False)


def answer_f1(answers: Answers, accepted: Sequence[Sequence[str]]) -> list[float | None]:
    """F1 in [0, 1] of the tokens of each answer against those of the nearest accepted one.

    Raises:
        ParameterError: if there is not one list of accepted answers for each answer.

    Source
        Rajpurkar et al., 2016, arXiv 1606.05250; Yang et al., 2018, arXiv 1809.09600 (HotpotQA).
    """
    return _best(answers, accepted, f1, 0.0)


def f1(reply: str, answer: str) -> float:
    """Harmonic mean of precision and recall of the tokens, as multisets, after `plain`."""
    said, wanted = plain(reply), plain(answer)
    if said == wanted:
        return 1.0
    if {said, wanted} & {"yes", "no", "noanswer"}:
        return 0.0
    tokens, gold = said.split(), wanted.split()
    both = sum((Counter(tokens) & Counter(gold)).values())
    return 2 * both / (len(tokens) + len(gold))


def plain(text: str) -> str:
    """SQuAD's normalisation: lower case, no ASCII punctuation, no articles, single spaces."""
    letters = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(?:a|an|the)\b", " ", letters).split())


def _best(
    answers: Answers,
    accepted: Sequence[Sequence[str]],
    score: Callable[[str, str], T],
    wrong: T,
) -> list[T | None]:
    if isinstance(accepted, str) or len(answers) != len(accepted):
        raise ParameterError(
            f"{len(answers)} answers to {len(accepted)} questions",
            hint="give a list of accepted answers for each, empty where none is known",
        )
    if any(isinstance(some, str) for some in accepted):
        raise ParameterError("a question needs a list of answers", hint="give [answer] for one")
    return [
        None
        if answer is None or not some
        else max((score(answer, one) for one in some), key=float)  # type: ignore[arg-type]
        if answer.strip()
        else wrong
        for answer, some in zip(answers, accepted, strict=True)
    ]
