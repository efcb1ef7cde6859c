"""Questions of published data sets with their accepted answers, and gold plans where there are any.

Read from the hub by the package `datasets`, or from a local file with the same columns:

    rewoo      rewoo/planner_instruction_tuning_2k    instruction, input, output
    hotpotqa   hotpotqa/hotpot_qa, distractor         id, question, answer, context
    triviaqa   mandarjoshi/trivia_qa, rc.nocontext    question_id, question, answer
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from s3lora.errors import DataError, ParameterError
from s3lora.lab.metrics.extras import needed
from s3lora.lab.planner.articles import Article
from s3lora.lab.planner.grammar import parse
from s3lora.lab.planner.tasks import PlanningTask
from s3lora.lab.row_files import MAX_FILE, READERS, Row, ending_of, read_rows


@dataclass(frozen=True, slots=True)
class Question:
    """One row of a data set, whatever its layout."""

    question: str
    answers: tuple[str, ...] = ()
    """All that count as right, the usual one first; empty where none is known."""
    plan: str = ""
    """The gold plan as the source has it; empty where there is none."""
    system: str = ""
    """What the planner is told first, where the source says."""
    articles: tuple[Article, ...] = ()
    """Texts that come with the question."""
    id: str = ""

    def task(self) -> PlanningTask:
        """The question as a task for the metrics of plans; its tools are those of the gold plan.

        Calls of a gold plan count whatever their tool is called, and whether or not the plan keeps
        to our grammar.
        """
        tools = tuple(step.tool for step in parse(self.plan).steps)
        answer = self.answers[0] if self.answers else ""
        return PlanningTask(
            self.question, self.plan, tools, answer, len(tools), "harmless", None, "test", ()
        )


@dataclass(frozen=True, slots=True)
class Source:
    """Where a data set is on the hub, and how its rows are read."""

    repository: str
    config: str | None
    split: str
    """The usual one: the part to validate on, where there is one."""
    read: Callable[[Mapping[str, Any]], Question]
    """Raises KeyError, TypeError or ValueError for a row of another layout."""


def load_questions(
    name: str, file: Path | None = None, *, split: str | None = None, most: int | None = None
) -> list[Question]:
    """The questions of a data set.

    Args:
        name: One of `SOURCES`.
        file: A .json, .jsonl, .csv or .parquet file with the columns of the hub; the hub itself
            if None.
        split: Of the hub; the usual one of the data set if None.
        most: How many, from the start; all if None.

    Raises:
        DataError: if the data set cannot be read, or a row is of another layout.
        ParameterError: if there is no such name, or a split is asked of a file.
    """
    if name not in SOURCES:
        raise ParameterError(f"no data set {name!r}", hint=f"there are {', '.join(SOURCES)}")
    if file is not None and split is not None:
        raise ParameterError("a file has no splits", hint="leave the split out")
    source = SOURCES[name]
    rows = _of_file(file) if file is not None else _of_hub(source, split or source.split)
    return [_question(source, row) for row in islice(rows, most)]


def _question(source: Source, row: Row) -> Question:
    try:
        found = source.read(row.value)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(
            f"{row.place} is not of the layout of {source.repository}",
            hint=f"see the columns in the documentation of the data set: {error!r}",
        ) from error
    if not found.question.strip():
        raise DataError(f"{row.place} has no question", hint="check the file")
    return found


def _of_file(file: Path) -> Iterable[Row]:
    ending = ending_of(file)
    if ending in READERS:
        return read_rows(file)
    if ending != ".parquet":
        raise DataError(
            f"{file} is not a file of questions", hint="a .json, .jsonl, .csv or .parquet file"
        )
    try:
        size = file.stat().st_size
        if not file.is_file() or size > MAX_FILE:
            fault = f"{size} bytes are more than {MAX_FILE}" if file.is_file() else "it is no file"
            raise ValueError(fault)
        rows = needed("pyarrow.parquet").read_table(file).to_pylist()
    except (OSError, ValueError) as error:  # of pyarrow, a broken file is a ValueError too
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read {file}: {reason}", hint="check the file") from error
    return _rows_of(rows, file.name)


def _rows_of(rows: Iterable[Any], source: str) -> Iterable[Row]:
    return (Row(row, f"{source}, row {number}") for number, row in enumerate(rows, 1))


def _of_hub(source: Source, split: str) -> Iterable[Row]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataError(
            "reading a hub needs the package datasets",
            hint="pip install datasets, or give a local file with the same columns",
        ) from error
    try:
        rows = load_dataset(source.repository, source.config, split=split)
    except Exception as error:  # the library raises whatever its backends raise
        raise DataError(
            f"cannot read {source.repository} from the hub: {error}",
            hint="check the split and the network, or give a local file with the same columns",
        ) from error
    return _rows_of(rows, source.repository)


def _rewoo(row: Mapping[str, Any]) -> Question:
    """The instruction is what the planner is told, the output its plan; there is no answer."""
    return Question(
        _text(row["input"]), (), _text(row["output"]).strip(), _text(row["instruction"])
    )


def _hotpotqa(row: Mapping[str, Any]) -> Question:
    """One answer, if the split tells it, and about ten articles, of which two hold it."""
    answer = row.get("answer")
    return Question(
        _text(row["question"]),
        (_text(answer),) if answer is not None else (),
        articles=_context(row.get("context") or ()),
        id=str(row.get("id", row.get("_id", ""))),
    )


def _context(context: Any) -> tuple[Article, ...]:
    """Titles and sentences: two columns on the hub, pairs in the original file."""
    if isinstance(context, Mapping):
        context = zip(context["title"], context["sentences"], strict=True)
    return tuple(Article(_text(title), "".join(sentences)) for title, sentences in context)


def _triviaqa(row: Mapping[str, Any]) -> Question:
    """The answer and its aliases; the split for tests hides them."""
    answer = row["answer"]
    told = [answer.get("value"), *(answer.get("aliases") or ())]
    known = [_text(one) for one in told if one and one != HIDDEN]
    return Question(
        _text(row["question"]), tuple(dict.fromkeys(known)), id=str(row.get("question_id", ""))
    )


HIDDEN = "<unk>"
"""What TriviaQA has in place of an answer that it does not tell."""


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.60} is no text")
    return value


SOURCES: dict[str, Source] = {
    "rewoo": Source("rewoo/planner_instruction_tuning_2k", None, "train", _rewoo),
    "hotpotqa": Source("hotpotqa/hotpot_qa", "distractor", "validation", _hotpotqa),
    "triviaqa": Source("mandarjoshi/trivia_qa", "rc.nocontext", "validation", _triviaqa),
}
"""By the names that people know them by; the first has no split but the one to train on."""


def all_articles(questions: Sequence[Question]) -> list[Article]:
    """The texts of all questions, each once: the collection to search for their answers."""
    found = {(each.title, each.text): each for asked in questions for each in asked.articles}
    return list(found.values())
