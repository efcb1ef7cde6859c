"""Search in a local collection of texts by BM25."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from s3lora.errors import DataError
from s3lora.lab.metrics.extras import needed
from s3lora.lab.planner.articles import Article

WORD = r"(?u)\b\w+\b"
"""Numbers of one digit are words too."""

WORDS_A_PASSAGE = 120
LONGEST_QUERY = 2000  # characters
SUFFIXES = (".txt", ".md")
TITLE_FIELDS = ("title", "name", "id")
TEXT_FIELDS = ("text", "contents", "content", "passage")


class Index:
    """Passages of articles, to be searched; safe to share among threads once it is built."""

    def __init__(self, articles: Iterable[Article], words: int = WORDS_A_PASSAGE) -> None:
        """Split the articles into passages.

        Args:
            articles: The collection.
            words: Longest passage.

        Raises:
            DataError: if there is no text in any of them.
            ParameterError: if bm25s is not installed.
        """
        self._bm25s = needed("bm25s")
        self.passages = tuple(part for article in articles for part in passages(article, words))
        if not self.passages:
            raise DataError("there is no text to search", hint="give a collection with texts")
        self._scores = self._built

    def find(self, query: str, most: int = 3) -> tuple[Article, ...]:
        """The passages that share words with the query, the best first.

        Args:
            query: Words; what is beyond `LONGEST_QUERY` characters is left out.
            most: How many.

        Source
            Robertson and Zaragoza, 2009 (BM25, in Lucene's form with k1 = 1.5 and b = 0.75);
            bm25s.
        """
        words = [word for word in self._words([query[:LONGEST_QUERY]])[0] if self._knows(word)]
        if not words:
            return ()
        scores = self._scores.get_scores(words)  # (passages,)
        best = np.argsort(-scores, kind="stable")[:most]
        return tuple(self.passages[at] for at in best if scores[at] > 0)

    def _knows(self, word: str) -> bool:
        return word in self._scores.vocab_dict

    def _words(self, texts: Sequence[str]) -> list[list[str]]:
        return self._bm25s.tokenize(
            list(texts), stopwords="en", token_pattern=WORD, return_ids=False, show_progress=False
        )

    @cached_property
    def _built(self) -> Any:
        made = self._bm25s.BM25()
        texts = [f"{passage.title}\n{passage.text}" for passage in self.passages]
        made.index(self._words(texts), create_empty_token=False, show_progress=False)
        return made


def passages(article: Article, words: int = WORDS_A_PASSAGE) -> list[Article]:
    """The article in parts of at most so many words, each with its title."""
    said = article.text.split()
    return [
        Article(article.title, " ".join(said[at : at + words])) for at in range(0, len(said), words)
    ]


def read_collection(path: Path) -> list[Article]:
    """A collection of texts.

    Args:
        path: A file with one JSON object a line, each with a text (`text`, `contents`, `content`
            or `passage`) and maybe a `title`; or a folder of .txt and .md files, whose names are
            the titles.

    Raises:
        DataError: if it cannot be read, or holds no text.
    """
    try:
        found = _of_folder(path) if path.is_dir() else _of_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read the collection {path}: {getattr(error, 'strerror', None) or error}",
            hint="a .jsonl file, or a folder of text files, in UTF-8",
        ) from error
    if not found:
        raise DataError(
            f"the collection {path} holds no text",
            hint=f"lines of JSON with a field text, or files that end in {' or '.join(SUFFIXES)}",
        )
    return found


def _of_folder(path: Path) -> list[Article]:
    files = sorted(each for each in path.rglob("*") if each.suffix in SUFFIXES and each.is_file())
    read = [Article(file.stem, file.read_text(encoding="utf-8")) for file in files]
    return [article for article in read if article.text.strip()]


def _of_lines(path: Path) -> list[Article]:
    with path.open(encoding="utf-8") as lines:
        numbered = enumerate(lines, start=1)
        return [_of_line(line, number, path) for number, line in numbered if line.strip()]


def _of_line(line: str, number: int, path: Path) -> Article:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    fields = row if isinstance(row, dict) else {}
    text = _first(fields, TEXT_FIELDS)
    if text is None:
        raise DataError(
            f"line {number} of {path} is no JSON object with a text",
            hint=f"a field of the name {', '.join(TEXT_FIELDS)}",
        )
    return Article(_first(fields, TITLE_FIELDS) or f"{path.stem} {number}", text)


def _first(fields: dict[str, Any], names: Sequence[str]) -> str | None:
    told = (fields.get(name) for name in names)
    return next((each for each in told if isinstance(each, str) and each.strip()), None)
