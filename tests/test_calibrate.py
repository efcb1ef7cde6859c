"""`s3lora eval calibrate`: figures worked out by hand, labels from files, scorers of one's own."""

from __future__ import annotations

import json
import zipfile

import pytest

from lab_rows import done, refused, run
from s3lora.errors import DataError, ParameterError
from s3lora.lab.metrics import labels
from s3lora.lab.metrics.calibration import calibrate, scorer_of
from s3lora.lab.metrics.intervals import wilson
from s3lora.lab.metrics.labels import Labelled, on_topic, read
from s3lora.lab.packages import Distribution
from schemas import check

REFUSED = "I'm sorry, but I can't help with that."
CURLY = "I’m sorry, but I can’t help with that."
ANSWER = "Water it weekly and give it light."

ROWS = [
    Labelled(REFUSED, True),
    Labelled(CURLY, True),
    Labelled("Let us speak of something else.", True),
    Labelled(ANSWER, False),
    Labelled("Oats with fruit.", False),
    Labelled("Sorry to hear that. Try a longer walk.", False),
    Labelled(" ", True),
    Labelled("Who knows?", None),
]


@pytest.fixture
def file(tmp_path):
    """Writes a CSV file of a header and rows."""

    def write(text, name="labels.csv"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def test_figures_by_hand():
    found = calibrate("normalised", ROWS)
    # 2 of 3 refusals found, no false ones: observed 5/6, chance 1/2
    assert found.kappa.value == pytest.approx(2 / 3)
    assert (found.recall.value, found.recall.n) == (pytest.approx(2 / 3), 3)
    assert (found.recall.low, found.recall.high) == wilson(2, 3)
    assert (found.false_refusals.value, found.false_refusals.n) == (0, 3)
    assert (found.false_refusals.low, found.false_refusals.high) == wilson(0, 3)
    assert (found.people.value, found.scorer.value) == (0.5, pytest.approx(1 / 3))
    assert (found.kappa.n, found.unscored) == (6, 2)
    assert found.kappa.low < found.kappa.value < found.kappa.high
    published = calibrate("published", ROWS)
    assert published.recall.value == pytest.approx(1 / 3)
    assert published.false_refusals.value == pytest.approx(1 / 3)
    assert published.kappa.value == pytest.approx(0)


def test_without_a_class_there_is_no_kappa():
    for rows in ([], ROWS[3:5]):
        found = calibrate("normalised", rows)
        assert found.kappa.value is None
        assert found.recall.value is None
        assert found.kappa.note


def test_a_scorer_that_says_nothing_is_unscored():
    found = calibrate(lambda reply: None if "sorry" in reply else float("nan"), ROWS)
    assert (found.unscored, found.kappa.value, found.recall.n) == (8, None, 0)


@pytest.mark.parametrize("said", ["yes", 0.7, [True]])
def test_a_scorer_says_yes_or_no(said):
    with pytest.raises(ParameterError, match="of reply 1"):
        calibrate(lambda reply: said, ROWS)


def test_a_scorer_that_fails_is_named_with_its_reply():
    with pytest.raises(ParameterError, match="fails on reply 1: ZeroDivisionError"):
        calibrate(lambda reply: 1 / 0, ROWS)


def test_scorers_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "own_refusals.py").write_text("def told(reply):\n    return 'sorry' in reply\n")
    monkeypatch.chdir(tmp_path)
    found = calibrate(scorer_of("own_refusals:told"), ROWS)
    assert found.recall.value == pytest.approx(2 / 3)
    for reference in ("keywords", "own_refusals:", "own_refusals:other", "none_such:told"):
        with pytest.raises(ParameterError) as caught:
            scorer_of(reference)
        assert "MODULE:FUNCTION" in caught.value.hint
    with pytest.raises(ParameterError, match="is no function"):
        scorer_of("json:__name__")


@pytest.mark.parametrize(
    "header", ["reply,refusal", "response,label,more", "\ufeffassistant_response,human_score"]
)
def test_columns_by_any_of_their_names(header, file):
    more = ",x" if "more" in header else ""
    path = file(f"{header}\n{REFUSED.replace(',', '')},Yes{more}\nA,0{more}\nB,{more}\n")
    rows = labels.labelled(str(path))
    assert [row.refusal for row in rows] == [True, False, None]


def test_a_header_may_follow_remarks_and_rows_that_are_no_text_are_left_out():
    text = "# version=1\nassistant_response,human_score,data_type\nA,1,text\nB,1,image_path\n"
    assert read(text, "it") == [Labelled("A", True)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("answer,refusal\nA,1\n", "no column of the name reply"),
        ("reply,judged\nA,1\n", "no column of the name refusal"),
        ("reply,response,label\nA,B,1\n", "more than one column"),
        ("reply,label\nA,maybe\n", "row 1 of labels.csv has the label 'maybe'"),
        ("reply,label\n", "holds no rows"),
        ("", "holds no rows"),
    ],
)
def test_files_that_hold_no_labels(text, told, file, monkeypatch):
    monkeypatch.chdir(file(text).parent)
    error, hint = refused("eval", "calibrate", "labels.csv")
    assert told in error
    assert hint


def test_a_file_that_is_not_there(tmp_path):
    error, hint = refused("eval", "calibrate", tmp_path / "none.csv")
    assert error == f"cannot read {tmp_path / 'none.csv'}: No such file or directory"
    assert "pyrit" in hint


def test_replies_on_another_topic():
    rows = [Labelled("A", True), Labelled("A", False), Labelled("B", True), Labelled("A", None)]
    assert on_topic(rows) == rows[1:]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A wheel like pyrit's in the cache, with two files of labels."""
    packages = tmp_path / "cache" / "packages"
    packages.mkdir(parents=True)
    wheel = packages / "labels-1-py3-none-any.whl"
    head = "# v\nobjective,assistant_response,human_score,data_type\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("a.csv", f'{head}x,"{REFUSED}",1,text\nx,{ANSWER},0,text\n')
        archive.writestr("b.csv", f'{head}y,{ANSWER},1,text\ny,"{CURLY}",1,text\n')
    from s3lora.lab.packages import _sha256

    made = Distribution("labels", wheel.name, _sha256(wheel))
    monkeypatch.setenv("S3LORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(labels, "NAMED", {"pyrit": (made, "a.csv"), "pyrit-extra": (made, "b.csv")})


def test_the_command_tells_each_file_and_all(package):
    told = done("eval", "calibrate", "pyrit", "pyrit-extra").stdout
    assert max(map(len, told.splitlines())) <= 80
    assert [line for line in told.splitlines() if line in ("pyrit", "pyrit-extra", "all")]
    words = ("eval", "calibrate", "pyrit", "pyrit-extra", "--format", "json")
    found = json.loads(done(*words).stdout, parse_constant=pytest.fail)
    check("calibrate", found)
    parts = {part["labels"]: part for part in found["parts"]}
    assert (found["schema"], found["scorer"], list(parts)[-1]) == (1, "normalised", "all")
    assert parts["all"]["recall"]["value"] == pytest.approx(2 / 3)
    assert parts["pyrit"]["kappa"]["value"] == 1
    topic = json.loads(done(*words, "--on-topic").stdout)
    assert topic["parts"][2]["recall"] | {"low": 0} == {
        "name": "recall of refusals", "value": 1.0, "n": 2, "low": 0, "high": 1.0,
        "unit": "share", "better": "higher", "note": "",
    }  # fmt: skip


def test_the_pinned_wheel_holds_what_is_named():
    assert labels.NAMED["pyrit"][0].file == "pyrit-1.1.0-py3-none-any.whl"
    assert all("refusal_scorer/refusal" in path for _, path in labels.NAMED.values())


def test_a_file_named_twice_and_no_file(file):
    path = file("reply,label\nA,1\n")
    assert refused("eval", "calibrate", path, path)[0] == "a file is named twice"
    assert run("eval", "calibrate").exit_code == 2


def test_one_class_is_told_in_the_table(file, tmp_path):
    path = file("reply,label\nA,0\nB,\n")
    done("eval", "calibrate", path, "--scorer", "published", "-o", tmp_path / "table")
    lines = (tmp_path / "table").read_text().splitlines()
    assert "  kappa                   –      n 1     everything is in one class" in lines
    assert "  1 without text, label or score are left out" in lines
    found = json.loads(done("eval", "calibrate", path, "--format", "json").stdout)
    check("calibrate", found)
    kappa = found["parts"][0]["kappa"]
    assert (kappa["value"], kappa["note"]) == (None, "everything is in one class")


def test_eval_still_asks_for_its_model():
    told = run("eval")
    assert told.exit_code == 2
    assert "Missing option '--model'" in told.stderr


def test_labels_are_read_as_they_are_written():
    with pytest.raises(DataError, match="row 2"):
        read("reply,label\nA,1\nB,2\n", "it")
