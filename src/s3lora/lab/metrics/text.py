"""Likeness of replies to reference texts: ROUGE, BLEU, chrF, METEOR.

A reply without text is scored as it is, 0: a model that says nothing has not answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from s3lora.errors import ParameterError
from s3lora.lab.metrics.extras import needed
from s3lora.lab.metrics.intervals import SEED, Figure, mean, missing

T = TypeVar("T")

ROUGE = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "rougeLsum": "ROUGE-Lsum"}
"""rouge-score's names, and ours."""

CORPUS_RESAMPLES = 200
"""Of BLEU and chrF, which are computed anew for each."""

NO_WORDNET = "WordNet is not installed: python -m nltk.downloader wordnet"


def rouge(replies: Sequence[str], references: Sequence[str]) -> tuple[Figure, ...]:
    """ROUGE-1, -2, -L and -Lsum: F-measure with stemmer, in [0, 1], mean over samples.

    Lsum takes lines for sentences.

    Raises:
        ParameterError: if rouge-score is missing, or not one reference for each reply.

    Source
        Lin, 2004; google-research/rouge (rouge-score).
    """
    pairs = _pairs(replies, references)
    scorer = needed("rouge_score.rouge_scorer").RougeScorer(list(ROUGE), use_stemmer=True)
    scored = [scorer.score(reference, reply) for reply, reference in pairs]
    return tuple(
        mean(name, [score[key].fmeasure for score in scored], "higher")
        for key, name in ROUGE.items()
    )


def bleu(replies: Sequence[str], references: Sequence[str]) -> Figure:
    """Corpus BLEU with sacrebleu's defaults, 0–100.

    Raises:
        ParameterError: if sacrebleu is missing, or not one reference for each reply.

    Source
        Papineni et al., 2002; Post, 2018 (sacrebleu).
    """
    return _corpus("BLEU", "BLEU", replies, references)


def chrf(replies: Sequence[str], references: Sequence[str]) -> Figure:
    """Corpus chrF2 with sacrebleu's defaults, 0–100.

    Raises:
        ParameterError: if sacrebleu is missing, or not one reference for each reply.

    Source
        Popović, 2015; Post, 2018 (sacrebleu).
    """
    return _corpus("chrF", "CHRF", replies, references)


def _corpus(name: str, kind: str, replies: Sequence[str], references: Sequence[str]) -> Figure:
    """A figure of the whole corpus; the interval is from resamples of the replies."""
    pairs = _pairs(replies, references)
    metric = getattr(needed("sacrebleu.metrics"), kind)()
    n = len(pairs)
    if n == 0:
        return missing(name, "0–100", "higher", "no samples")

    def score(rows: Sequence[int]) -> float:
        said, wanted = zip(*(pairs[row] for row in rows), strict=True)
        return float(metric.corpus_score(said, [wanted]).score)

    if n == 1:
        return Figure(name, score([0]), 1, None, None, "0–100", "higher")
    drawn = np.random.default_rng(SEED).integers(n, size=(CORPUS_RESAMPLES, n))
    low, high = np.percentile([score(rows.tolist()) for rows in drawn], (2.5, 97.5)).tolist()
    return Figure(name, score(range(n)), n, low, min(high, 100.0), "0–100", "higher")


def meteor(replies: Sequence[str], references: Sequence[str]) -> Figure:
    """METEOR, in [0, 1], mean over samples; not available where WordNet is not on this machine.

    Raises:
        ParameterError: if nltk is missing, or not one reference for each reply.

    Source
        Banerjee and Lavie, 2005; nltk, which never goes online for it.
    Deviations
        Words are split by nltk's `wordpunct_tokenize`, which needs no further data.
    """
    pairs = _pairs(replies, references)
    words = needed("nltk.tokenize").wordpunct_tokenize
    score = needed("nltk.translate.meteor_score").single_meteor_score
    wordnet = _wordnet()
    if wordnet is None:
        return missing("METEOR", "", "higher", NO_WORDNET)
    values = [score(words(reference), words(reply), wordnet=wordnet) for reply, reference in pairs]
    return mean("METEOR", values, "higher")


def _wordnet() -> Any:
    """The WordNet of nltk, loaded from this machine; None if it is not there."""
    wordnet = needed("nltk.corpus").wordnet
    try:
        wordnet.ensure_loaded()
    except LookupError:
        return None
    return wordnet


def _pairs(replies: Sequence[str], references: Sequence[T]) -> list[tuple[str, T]]:
    """Each reply with its reference."""
    if isinstance(references, str) or len(replies) != len(references):
        raise ParameterError(
            f"{len(replies)} replies and {len(references)} references do not pair",
            hint="give one for each reply",
        )
    return list(zip(replies, references, strict=True))
