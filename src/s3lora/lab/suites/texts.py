"""What the plans of a suite are carried out on: questions, and the texts to search, read once."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from s3lora.errors import ParameterError
from s3lora.lab.planner.articles import collection as world
from s3lora.lab.planner.search import Index, read_collection
from s3lora.lab.questions import Question, all_articles, load_questions
from s3lora.lab.recipes import SEED


@lru_cache(maxsize=2)
def questions_of(name: str | None, file: str | None, most: int) -> tuple[Question, ...]:
    """The first questions of a published data set; none where none is named.

    Raises:
        DataError: if it cannot be read, or holds none.
        ParameterError: if there is no such data set, or a file is given without its name.
    """
    if name is None:
        if file is not None:
            raise ParameterError(
                f"nobody says whose questions {file} holds", hint="-T questions=hotpotqa"
            )
        return ()
    found = tuple(load_questions(name, Path(file) if file else None, most=most))
    if not found:
        raise ParameterError(f"{file or name} holds no question", hint="check the file")
    return found


@lru_cache(maxsize=2)
def index_of(
    collection: str | None, name: str | None = None, file: str | None = None, most: int = 1
) -> Index:
    """The texts to search: those of a path, else those that come with the questions, else ours.

    Raises:
        DataError: if they cannot be read.
        ParameterError: if the questions come without texts.
    """
    if collection is not None:
        return Index(read_collection(Path(collection)))
    asked = questions_of(name, file, most)
    if not asked:
        return Index(world("test", SEED))
    articles = all_articles(asked)
    if not articles:
        raise ParameterError(
            f"the questions of {name} come without texts to search",
            hint="-T collection=TEXTS, or -T carry_out=false",
        )
    return Index(articles)
