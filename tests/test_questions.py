"""Questions of published data sets, from small files of their layouts."""

from __future__ import annotations

import csv
import json
import sys
from types import SimpleNamespace

import pytest

from s3lora.errors import DataError, ParameterError
from s3lora.lab.planner.articles import Article
from s3lora.lab.questions import SOURCES, Question, all_articles, load_questions

REWOO = {
    "instruction": "Make a plan. Tools: Wikipedia[input], LLM[input].",
    "input": "In which town was the author of Grey Lantern born?",
    "output": "Plan: Find the author.\n#E1 = Wikipedia[Grey Lantern]\n"
    "Plan: Find the town.\n#E2 = LLM[Where was the author born? Given #E1]\n",
}
HOTPOT = {
    "id": "5a8b",
    "question": "Are Haskby and Elvawick towns?",
    "answer": "yes",
    "type": "comparison",
    "level": "hard",
    "supporting_facts": {"title": ["Haskby"], "sent_id": [0]},
    "context": {
        "title": ["Haskby", "Elvawick"],
        "sentences": [["Haskby is a town.", " It is small."], ["Elvawick is a town."]],
    },
}
TRIVIA = {
    "question": "Who wrote Grey Lantern?",
    "question_id": "tc_1",
    "question_source": "made up",
    "answer": {
        "aliases": ["M. Teln", "Teln, Mara", "Mara Teln"],
        "normalized_aliases": ["m teln", "teln mara", "mara teln"],
        "value": "Mara Teln",
        "type": "WikipediaEntity",
    },
}
ROWS = {"rewoo": REWOO, "hotpotqa": HOTPOT, "triviaqa": TRIVIA}


def written(tmp_path, *rows, suffix=".json"):
    path = tmp_path / f"rows{suffix}"
    if suffix == ".json":
        path.write_text(json.dumps(list(rows)), encoding="utf-8")
    elif suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    elif suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
def test_plans_to_tune_on(tmp_path, suffix):
    (asked,) = load_questions("rewoo", written(tmp_path, REWOO, suffix=suffix))
    assert asked == Question(REWOO["input"], (), REWOO["output"].strip(), REWOO["instruction"])
    task = asked.task()
    assert (task.question, task.tools, task.hops) == (asked.question, ("Wikipedia", "LLM"), 2)
    assert (task.answer, task.kind, task.pair) == ("", "harmless", None)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_questions_with_their_articles(tmp_path, suffix):
    (asked,) = load_questions("hotpotqa", written(tmp_path, HOTPOT, suffix=suffix))
    articles = (
        Article("Haskby", "Haskby is a town. It is small."),
        Article("Elvawick", "Elvawick is a town."),
    )
    assert asked == Question(HOTPOT["question"], ("yes",), articles=articles, id="5a8b")
    assert asked.task().answer == "yes"
    assert all_articles([asked, asked]) == list(articles)


def test_the_original_layout_of_contexts(tmp_path):
    own = HOTPOT | {"_id": "5a8b", "context": [["Haskby", ["Haskby is a town.", " It is small."]]]}
    del own["id"]
    (asked,) = load_questions("hotpotqa", written(tmp_path, own))
    assert asked.id == "5a8b"
    assert asked.articles == (Article("Haskby", "Haskby is a town. It is small."),)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_aliases_are_answers(tmp_path, suffix):
    (asked,) = load_questions("triviaqa", written(tmp_path, TRIVIA, suffix=suffix))
    assert asked.answers == ("Mara Teln", "M. Teln", "Teln, Mara")
    assert asked.id == "tc_1"


def test_answers_that_a_split_hides_are_not_known(tmp_path):
    hidden = TRIVIA | {"answer": {"aliases": [], "normalized_aliases": [], "value": "<unk>"}}
    assert load_questions("triviaqa", written(tmp_path, hidden))[0].answers == ()
    hidden = HOTPOT | {"answer": None}
    assert load_questions("hotpotqa", written(tmp_path, hidden))[0].answers == ()


def test_only_as_many_as_asked_for(tmp_path):
    path = written(tmp_path, TRIVIA, TRIVIA, {"broken": 1})
    assert len(load_questions("triviaqa", path, most=2)) == 2


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("rewoo", {"instruction": "a", "input": "b"}),
        ("rewoo", REWOO | {"input": 3}),
        ("hotpotqa", {"answer": "a"}),
        ("hotpotqa", HOTPOT | {"answer": ["a"]}),
        ("hotpotqa", HOTPOT | {"context": {"title": ["a"], "sentences": []}}),
        ("hotpotqa", HOTPOT | {"context": "text"}),
        ("triviaqa", TRIVIA | {"answer": "Mara"}),
        ("triviaqa", TRIVIA | {"answer": {"aliases": [3], "value": "a"}}),
        ("triviaqa", TRIVIA | {"question": "  "}),
        ("triviaqa", "Who?"),
        ("triviaqa", None),
    ],
)
def test_a_row_of_another_layout_is_named(tmp_path, name, row):
    with pytest.raises(DataError, match=r"row 2 (is not of the layout|has no question)") as caught:
        load_questions(name, written(tmp_path, ROWS[name], row))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("rows.json", b"{"),
        ("rows.json", b'{"question": "a"}'),
        ("rows.jsonl", b"\xff"),
        ("rows.txt", b"a"),
        ("rows.parquet", b"no parquet"),
    ],
)
def test_a_broken_file_is_an_error(tmp_path, file, content):
    if file.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError):
        load_questions("triviaqa", tmp_path / file)


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    for name, reason in (("none.json", "cannot open"), ("none.parquet", "cannot read")):
        with pytest.raises(DataError, match=rf"^{reason} .*{name}: No such file[^:]*$"):
            load_questions("triviaqa", tmp_path / name)


def test_names_and_splits_are_checked(tmp_path):
    with pytest.raises(ParameterError, match="no data set 'squad'"):
        load_questions("squad")
    with pytest.raises(ParameterError, match="no splits"):
        load_questions("rewoo", tmp_path / "a.json", split="train")


@pytest.mark.parametrize("name", SOURCES)
def test_the_hub_is_asked_for_the_usual_split(monkeypatch, name):
    asked = []

    def load_dataset(repository, config, *, split):
        asked.append((repository, config, split))
        return [ROWS[name]]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert len(load_questions(name)) == 1
    assert len(load_questions(name, split="other")) == 1
    source = SOURCES[name]
    assert asked == [(source.repository, source.config, split) for split in (source.split, "other")]
    assert source.split == ("train" if name == "rewoo" else "validation")


def test_a_hub_that_cannot_be_reached_is_an_error(monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("offline")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(DataError, match="offline") as caught:
        load_questions("triviaqa")
    assert "local file" in caught.value.hint
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="needs the package datasets"):
        load_questions("triviaqa")
