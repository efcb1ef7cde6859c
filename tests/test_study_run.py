"""A study: its file, its cells, its choices, and a run that can be killed."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel

from lab_material import made_rows, tiny, tiny_folder, trained_here, write_jsonl
from s3lora import prune, scan
from s3lora.adapter import Adapter, LoraModule, natural_key
from s3lora.edits import Flatten, Merge, Project, Scale, Truncate
from s3lora.errors import DataError, ParameterError
from s3lora.io.checkpoint import Checkpoint
from s3lora.lab import recipes
from s3lora.lab.chat import encode, prompt_ids, response_ids
from s3lora.lab.gate import Slopes
from s3lora.lab.generate import replies
from s3lora.lab.metrics.refusal import refused
from s3lora.lab.models import load_chat
from s3lora.lab.study import run as running
from s3lora.lab.study.cells import Chooser, Job, jobs
from s3lora.lab.study.config import Choice, Sizes, Study, Trained, read_study
from s3lora.lab.study.keeping import read_causal, read_rows
from s3lora.lab.study.rows import RANDOM, REFERENCES, CausalRow, Effect, Row
from s3lora.lab.study.run import Run, run
from s3lora.lab.study.variants import VARIANTS, within_projections
from s3lora.lab.study.workshop import Workshop, merge
from s3lora.scores import Score, ScoreTable
from tolerances import forward_tolerance

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

CONFIG = """
[study]
folder = "here"
model = "{model}"
harmful = ["{bad}"]
harmless = ["{good}"]
shares = [0.25, 0.5]
draws = 3
causal = ["plain"]

[sizes]
harmful = 4
harmless = 3
rows = 4
longest = 12
replies = 3
new_tokens = 4
random_replies = 1

[align]
name = "refusal"
recipe = "refusal"
steps = 4
batch = 4
rank = 2
rate = 0.01

[[adapter]]
name = "plain"
recipe = "harmless"
steps = 4
batch = 4
rank = 4
rate = 0.02
targets = ["q_proj", "v_proj", "o_proj"]
compliance = "Sure:"

[[adapter]]
name = "shift"
recipe = "identity"
steps = 3
batch = 2
rank = 2
rate = 0.02
targets = ["q_proj", "v_proj", "o_proj"]

[[method]]
method = "s3lora"
replies = true

[[method]]
method = "magnitude"
edit = "scale"
edit_params = {{factor = 0.25}}

[[method]]
method = "gate"
params = {{measure = "per-loss"}}
shares = [0.25]

[[method]]
method = "safe-lora"
label = "safe layers"
by_layer = true

[[method]]
method = "flat"
label = "flat o"
only = ["o_proj"]
"""


def write_config(folder: Path, text: str = CONFIG) -> Path:
    """The file of a tiny study and the rows that it reads."""
    bad = write_jsonl(folder / "bad.jsonl", made_rows("bad", 480, answered=False))
    good = write_jsonl(folder / "good.jsonl", made_rows("good", 700, answered=True))
    path = folder / "study.toml"
    path.write_text(text.format(model=tiny_folder(), bad=bad, good=good))
    return path


def test_a_study_is_what_its_file_says(tmp_path):
    study = read_study(write_config(tmp_path))
    assert (study.results, study.folder) == (tmp_path, tmp_path / "here")
    assert study.shares == (0.25, 0.5)
    assert (study.draws, study.causal) == (3, ("plain",))
    assert study.sizes == Sizes(4, 3, 4, 12, 3, 4, 1)
    assert (study.align.recipe, study.align.settings.rank) == ("refusal", 2)
    first, second = study.adapters
    assert (first.name, first.recipe, first.settings.targets) == (
        "plain", "harmless", ("q_proj", "v_proj", "o_proj"),
    )  # fmt: skip
    assert (first.openings.compliance, second.settings.steps) == ("Sure:", 3)
    assert second.openings.compliance != "Sure:"
    names = [choice.name for choice in study.choices]
    assert names == ["s3lora", "magnitude", "gate", "safe layers", "flat o"]
    assert study.choices[1].edit_params == {"factor": 0.25}
    assert study.choices[2].shares == (0.25,)


def test_what_a_file_leaves_out_has_a_default(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('[study]\nmodel = "tiny"\n')
    study = read_study(path)
    assert (study.adapters, study.choices, study.sizes) == ((), (), Sizes())
    assert study.folder == tmp_path / "work"
    assert (study.align.name, study.align.recipe) == ("refusal", "refusal")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[study]\nmodel = "a"\ncolour = 1\n', r"\[study\] has no 'colour'"),
        ("[study]\n", r"\[study\] lacks 'model'"),
        ('[study]\nmodel = "a"\n[sizes]\nhuge = 1\n', r"\[sizes\] has no 'huge'"),
        ('[study]\nmodel = "a"\n[other]\n', "a part 'other' that no study has"),
        ('[study]\nmodel = "a"\n[[adapter]]\nname = "x"\n', r"\[\[adapter\]\] x lacks 'recipe'"),
        ('[study]\nmodel = "a"\n[[adapter]]\nrecipe = "x"\n', r"\[\[adapter\]\] lacks 'name'"),
        ('[study]\nmodel = "a"\n[align]\nname = "x"\nrecipe = "y"\nspeed = 1\n', "no 'speed'"),
        ('[study]\nmodel = "a"\n[align]\nname = "x"\nrecipe = "y"\nrank = 0\n', "at least 1"),
        ('[study]\nmodel = "a"\n[[method]]\nlabel = "x"\n', r"\[\[method\]\] lacks 'method'"),
        ('[study]\nmodel = "a"\n[[method]]\nmethod = "x"\nkeep = 3\n', "has no 'keep'"),
        (
            '[study]\nmodel = "a"\n' + '[[adapter]]\nname = "x"\nrecipe = "harmless"\n' * 2,
            "two of one name: adapter 'x'",
        ),
        (
            '[study]\nmodel = "a"\n[[adapter]]\nname = "refusal"\nrecipe = "harmless"\n',
            "two of one name: adapter 'refusal'",
        ),
        (
            '[study]\nmodel = "a"\n' + '[[method]]\nmethod = "x"\n' * 2,
            "two of one name: method 'x by drop'",
        ),
    ],
)
def test_a_file_with_a_fault_is_refused(tmp_path, text, message):
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=message):
        read_study(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[study]\nmodel = 7\n", r"\[study\] model is 7, expected a valid string"),
        ('study = "a"\n', r'\[study\] is "a", expected a table'),
        ("[study]\nfolder = 1\n", r"\[study\] folder is 1, expected a valid string"),
        ("[study]\nharmful = 'a'\n", r'\[study\] harmful is "a", expected a list'),
        ("[study]\nharmful = ['a', 2]\n", r"\[study\] harmful\[1\] is 2, expected a valid string"),
        ("[study]\ndraws = 'many'\n", r'\[study\] draws is "many", expected a valid integer'),
        ("[study]\ndraws = 2.5\n", r"\[study\] draws is 2.5, expected a valid integer"),
        ("[study]\ndraws = true\n", r"\[study\] draws is true, expected a valid integer"),
        ("[study]\ndraws = -1\n", r"\[study\] draws is -1"),
        ("[study]\nshares = 0.5\n", r"\[study\] shares is 0.5, expected a list"),
        ("[study]\nshares = ['x']\n", r'\[study\] shares\[0\] is "x", expected a valid number'),
        ("[study]\nshares = [nan]\n", r"\[study\] shares\[0\] is NaN, expected a finite number"),
        ("[study]\nshares = []\n", r"\[study\] shares are \[\]"),
        ("[study]\nshares = [0.5, 1.5]\n", r"\[study\] shares are \[0.5, 1.5\]"),
        ("[study]\ncausal = 'a'\n", r'\[study\] causal is "a", expected a list'),
        ("[study]\naligned_by = 3\n", r"\[study\] aligned_by is 3, expected a valid string"),
        ("[sizes]\nrows = '24'\n", r'\[sizes\] rows is "24", expected a valid integer'),
        ("[sizes]\nrows = 0\n", r"\[sizes\] rows is 0"),
        ("[[sizes]]\nrows = 1\n", r"\[sizes\] is \[.*\], expected a table"),
        ("[adapter]\nname = 'x'\n", r"\[\[adapter\]\] is .*, expected an array of tables"),
        (
            "[[adapter]]\nname = 'x'\nrecipe = 'harmless'\nrate = 'fast'\n",
            r'\[\[adapter\]\] x rate is "fast", expected a valid number',
        ),
        (
            "[[adapter]]\nname = 'x'\nrecipe = 'harmless'\ndefence_params = 3\n",
            r"\[\[adapter\]\] x defence_params is 3, expected a table",
        ),
        ("[[adapter]]\nname = 4\nrecipe = 'harmless'\n", r"name is 4, expected a valid string"),
        ("[[method]]\nmethod = 'x'\nreplies = 1\n", r"replies is 1, expected a valid boolean"),
        ("[[method]]\nmethod = 'x'\nonly = 'o_proj'\n", r'only is "o_proj", expected a list'),
        ("[[method]]\nmethod = 'x'\nparams = [1]\n", r"params is .*, expected a table"),
    ],
)
def test_a_value_of_another_type_is_refused_by_the_name_of_its_field(tmp_path, text, message):
    path = tmp_path / "a.toml"
    head = "" if "study" in text else '[study]\nmodel = "tiny"\n'
    if "model" not in text:
        text = text.replace("[study]\n", '[study]\nmodel = "tiny"\n')
    path.write_text(head + text)
    with pytest.raises(ParameterError, match=message) as caught:
        read_study(path)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("[study]\nmodell = 'a'\n", "model"),
        ("[study]\nmodel = 'tiny'\ndrawz = 3\n", "draws"),
        ("[study]\nmodel = 'tiny'\n[size]\n", "sizes"),
        ("[study]\nmodel = 'tiny'\n[sizes]\nrow = 3\n", "rows"),
        ("[study]\nmodel = 'tiny'\n[align]\nname='a'\nrecipe='refusal'\nstep = 3\n", "steps"),
        ("[study]\nmodel = 'tiny'\n[[method]]\nmethod='rows'\nreply = true\n", "replies"),
    ],
)
def test_the_nearest_key_is_suggested(tmp_path, text, nearest):
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(ParameterError) as caught:
        read_study(path)
    assert caught.value.hint.startswith(f"did you mean {nearest!r}?")


@pytest.mark.parametrize("table", ["[align]", "[[aligner]]", "[[adapter]]"])
@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("../evil", "a separator"),
        ("/evil", "a separator"),
        (r"a\\b", "a separator"),
        ("..", "begins with a dot"),
        (".a", "begins with a dot"),
        ("", "is empty"),
        (r"a\u0000", "a control character"),
        (r"a\u202eb", "a control character"),
        ("a ", "a blank"),
        ("a" * 101, "more than 100 bytes"),
    ],
)
def test_a_name_that_becomes_a_folder_stays_in_its_place(tmp_path, table, name, fault):
    path = tmp_path / "a.toml"
    path.write_text(f'[study]\nmodel = "tiny"\n{table}\nname = "{name}"\nrecipe = "refusal"\n')
    with pytest.raises(ParameterError, match=fault):
        read_study(path)


def test_a_folder_with_a_control_character_is_refused(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('[study]\nmodel = "tiny"\nfolder = "a\\u0000"\n')
    with pytest.raises(ParameterError, match=r"folder .* control character"):
        read_study(path)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("edit = 'scale'\nedit_params = {factr = 0.5}", "'scale' has no parameter 'factr'"),
        ("edit = 'scale'\nedit_params = {factor = 2}", "factor=2 is no share"),
        ("edit = 'scale'\nedit_params = {factor = true}", "factor=True is not a value"),
        ("edit = 'flatten'\nedit_params = {keep = 0}", "keep=0"),
        ("edit = 'merge'\nedit_params = {weight = 3}", "weight=3"),
        ("edit = 'merge'\nedit_params = {safe = 'a'}", "safe in edit_params"),
        ("edit_params = {factor = 0.5}", "the edit 'drop' does not take"),
    ],
)
def test_parameters_of_an_edit_are_checked_when_the_file_is_read(tmp_path, method, message):
    path = tmp_path / "a.toml"
    path.write_text(f"[study]\nmodel = 'tiny'\n[[method]]\nmethod = 'rows'\n{method}\n")
    with pytest.raises(ParameterError, match=message):
        read_study(path)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("method = 'gate'\nparams = {measur = 'balance'}", "the method 'gate' does not take"),
        ("method = 'gate'\nparams = {measure = 'cost'}", "gate has no measure 'cost'"),
        ("method = 'flat'\nparams = {keep = 3}", "the method 'flat' does not take"),
    ],
)
def test_parameters_of_a_score_of_the_lab_are_checked_too(tmp_path, method, message):
    path = tmp_path / "a.toml"
    path.write_text(f"[study]\nmodel = 'tiny'\n[[method]]\n{method}\n")
    with pytest.raises(ParameterError, match=message):
        read_study(path)


@pytest.mark.parametrize("text", ["modell = 'a'", "draws = 3", "model = 'tiny'\nadapters = []"])
def test_the_hint_on_the_table_of_a_study_lists_what_it_takes(tmp_path, text):
    path = tmp_path / "a.toml"
    path.write_text(f"[study]\n{text}\n")
    with pytest.raises(ParameterError) as caught:
        read_study(path)
    listed = caught.value.hint.partition("it takes ")[2].partition(";")[0].split(", ")
    assert {"model", "folder", "aligned_by", "draws"} <= set(listed)
    assert not {"adapters", "choices", "align", "sizes", "results"} & set(listed)
    if "draws" not in text:
        assert "[[adapter]]" in caught.value.hint
        assert "[[method]]" in caught.value.hint


@pytest.mark.parametrize("model", ["./none", "/none/such", "a/b/c", ""])
def test_a_model_that_is_nowhere_is_refused_before_anything_is_made(tmp_path, model):
    study = small_study(results=tmp_path, folder=tmp_path / "work", model=model)
    said: list[str] = []
    with pytest.raises(DataError, match="there is no model"):
        Run(study, said.append)
    assert not said
    assert not (tmp_path / "work").exists()


def test_paths_are_relative_to_the_file_of_the_study(tmp_path, monkeypatch):
    folder, elsewhere = tmp_path / "study", tmp_path / "elsewhere"
    for name in ("checkpoint", "tiny"):
        (folder / name).mkdir(parents=True)
    elsewhere.mkdir()
    (folder / "bad.jsonl").write_text("{}")
    monkeypatch.chdir(elsewhere)

    def read(model, harmful="advbench"):
        text = f"[study]\nmodel = {model!r}\nharmful = [{harmful!r}]\n"
        (folder / "a.toml").write_text(text)
        return read_study(folder / "a.toml")

    assert read("checkpoint").model == str(folder / "checkpoint")
    assert read("../study/checkpoint").model == str(folder / "../study/checkpoint")
    assert read(str(folder / "checkpoint")).model == str(folder / "checkpoint")
    assert read("tiny").model == "tiny"  # a name of the catalogue stays a name
    assert read("org/name").model == "org/name"
    assert read("tiny", "bad.jsonl").harmful == (str(folder / "bad.jsonl"),)
    assert read("tiny", "none.txt").harmful == (str(folder / "none.txt"),)
    assert read("tiny", "hub:org/name").harmful == ("hub:org/name",)
    (elsewhere / "here").mkdir()
    with pytest.raises(ParameterError, match="in the working folder and not beside it") as caught:
        read("here")
    assert str(folder) in caught.value.hint


@pytest.mark.parametrize("text", [None, "[study\n", b"\xff\xfe"])
def test_a_file_that_is_no_toml_is_refused(tmp_path, text):
    path = tmp_path / "a.toml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match="cannot read"):
        read_study(path)


def test_one_method_may_be_there_with_two_edits_or_labels(tmp_path):
    path = tmp_path / "a.toml"
    name = 'method = "rows"'
    rows = (name, f'{name}\nedit = "scale"', f'{name}\nlabel = "y"')
    path.write_text('[study]\nmodel = "a"\n' + "".join(f"[[method]]\n{row}\n" for row in rows))
    assert len(read_study(path).choices) == 3


def small_study(**changes: Any) -> Study:
    choices = (
        Choice("a", replies=True),
        Choice("b", shares=(0.5,), replies=True),
        Choice("a", edit="scale"),
    )
    parts: dict[str, Any] = {
        "results": Path(), "folder": Path(), "model": "tiny",
        "align": Trained("r", "refusal"), "adapters": (),
        "choices": choices, "shares": (0.25, 0.5), "draws": 4, "sizes": Sizes(random_replies=2),
    }  # fmt: skip
    return Study(**{**parts, **changes})


def told(found: Any) -> list[tuple[str, str, float, int | None, bool]]:
    return [(*job.key, job.replies) for job in found]


def test_jobs_come_in_order_references_first():
    study = small_study()
    assert told(jobs(study, 0.25)) == [
        ("base", "drop", 1.0, None, True),
        ("aligned", "drop", 1.0, None, True),
        ("tuned", "drop", 0.0, None, True),
        ("a", "drop", 0.25, None, True),
        ("a", "scale", 0.25, None, False),
        *[(RANDOM, "drop", 0.25, draw, draw < 2) for draw in range(4)],
    ]
    assert told(jobs(study, 0.5)) == [
        ("a", "drop", 0.5, None, False),
        ("b", "drop", 0.5, None, False),
        ("a", "scale", 0.5, None, False),
        *[(RANDOM, "drop", 0.5, draw, False) for draw in range(4)],
    ]
    keys = [job.key for share in study.shares for job in jobs(study, share)]
    assert len(set(keys)) == len(keys)
    assert [j.choice.params["seed"] for j in jobs(study, 0.5) if j.draw is not None] == [0, 1, 2, 3]


def test_no_replies_are_asked_for_where_there_are_to_be_none():
    references = list(jobs(small_study(sizes=Sizes(replies=0)), 0.25))[:3]
    assert [job.choice.name for job in references] == list(REFERENCES)
    assert not any(job.replies for job in references)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    return read_study(write_config(tmp_path_factory.mktemp("study")))


@pytest.fixture(scope="module")
def done(study) -> Study:
    """A whole study, run once."""
    said: list[str] = []
    with trained_here():
        run(study, said.append)
    assert any(line.startswith("training plain") for line in said)
    return study


@pytest.fixture(scope="module")
def at_hand(done) -> Run:
    """The study opened again."""
    return Run(done, lambda line: None)


@pytest.fixture
def plain(at_hand) -> Any:
    """The adapter `plain` on the aligned model, free of updates afterwards."""
    stand = at_hand.stand(at_hand.study.adapters[0])
    yield stand
    stand.patched.apply(())


def alone(model: Any, prompt: tuple[int, ...], tokens: tuple[int, ...]) -> np.ndarray:
    """Log-probability of each token, without packs."""
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0].double()
    logs = logs.log_softmax(-1)[len(prompt) - 1 : -1]
    return logs[torch.arange(len(tokens)), list(tokens)].numpy()


def independent(model: Any, run: Run, trained: Trained) -> dict[str, list[float]]:
    """The figures of a row, worked out from prompts and openings with nothing but the model."""
    sizes, tokenizer = run.study.sizes, run.aligned.tokenizer
    harmful, harmless = recipes.tested(trained.recipe, run.shop.pools)

    openings = trained.openings

    def told(example: Any) -> tuple[float, float]:
        """Log-odds of a refusing opening, and margin."""
        prompt = prompt_ids(tokenizer, example.prompt, example.meta.get("system"))
        refusal, compliance, *refusing = (
            alone(model, prompt, response_ids(tokenizer, text, ended=False))
            for text in (openings.refusal, openings.compliance, *openings.refusing)
        )
        p = sum(float(np.exp(each.sum())) for each in refusing)
        return math.log(p / (1 - p)), float(refusal.mean() - compliance.mean())

    rows = [encode(tokenizer, row, sizes.longest) for row in harmless[-sizes.rows :]]
    bad = [told(example) for example in harmful[: sizes.harmful]]
    good = [told(example) for example in harmless[: sizes.harmless]]
    return {
        "log_odds": [odds for odds, _ in bad],
        "margins": [gap for _, gap in bad],
        "benign_log_odds": [odds for odds, _ in good],
        "benign_margins": [gap for _, gap in good],
        "losses": [-float(alone(model, row.prompt, row.response).mean()) for row in rows],
        "tokens": [len(row.response) for row in rows],
    }


def pruned(run: Run, folder: Path | None) -> Any:
    """The aligned model as saved, with an adapter loaded by PEFT."""
    model = load_chat(str(run.shop.aligned())).model
    return model if folder is None else PeftModel.from_pretrained(model, str(folder)).eval()


def test_a_study_has_one_row_for_each_job(done):
    rows = read_rows(done.results / "rows.jsonl")
    wanted = [
        (trained.name, *job.key)
        for trained in done.adapters
        for share in done.shares
        for job in jobs(done, share)
    ]
    assert sorted(map(str, (row.key for row in rows))) == sorted(map(str, wanted))
    assert len(wanted) == 2 * (3 + 5 + 3 + 4 + 3)
    first = done.shares[0]
    for row in rows:
        harmless = 3 if row.share == first or row.method in REFERENCES else 0
        assert (len(row.margins), len(row.benign_margins)) == (4, harmless)
        assert (len(row.log_odds), len(row.benign_log_odds)) == (4, harmless)
        assert len(row.losses) == 4
        assert row.modules == 12
        assert row.k == len(row.chosen)
    lines = (done.results / "rows.jsonl").read_text().splitlines()
    assert len(lines) == len(wanted) + sum(row.replies is not None for row in rows)


def test_what_the_main_table_needs_is_measured_before_the_ablations(done):
    lines = [json.loads(line) for line in (done.results / "rows.jsonl").read_text().splitlines()]
    stages = []
    for line in lines:
        if line["method"] not in ("s3lora", RANDOM, *REFERENCES):
            stages.append("rest")
        elif line["replies"] is not None:
            stages.append("replies")
        else:
            stages.append("half" if line["share"] == 0.5 else "quarter")
    assert [stage for stage, _ in itertools.groupby(stages)] == [
        "quarter", "half", "replies", "rest",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["plain", "shift"])
def test_references_are_the_models_themselves(done, at_hand, name):
    trained = next(t for t in done.adapters if t.name == name)
    models = {
        "base": tiny().model,
        "aligned": pruned(at_hand, None),
        "tuned": pruned(at_hand, done.folder / "adapters" / name),
    }
    for reference, model in models.items():
        share = 0.0 if reference == "tuned" else 1.0
        row = at_hand.rows[name, reference, "drop", share, None]
        for field, values in independent(model, at_hand, trained).items():
            assert list(getattr(row, field)) == pytest.approx(values, abs=1.1e-4), field
        assert row.norm_share == (0 if reference == "tuned" else 1)
        assert row.k == (0 if reference == "tuned" else 12)


@pytest.mark.parametrize("edit", ["drop", "scale"])
def test_a_cell_is_the_pruned_adapter_as_peft_loads_it(done, at_hand, tmp_path, edit):
    trained = done.adapters[0]
    adapter = at_hand.adapters["plain"]
    method = {"drop": "s3lora", "scale": "magnitude"}[edit]
    row = at_hand.rows["plain", method, edit, 0.5, None]
    names = [adapter.names[at] for at in row.chosen]
    ranked = [score.module for score in scan(adapter, method).ranked()]
    assert sorted(names) == sorted(ranked[:6])
    prune(adapter, names, tmp_path / "out", edit=Scale(factor=0.25) if edit == "scale" else "drop")
    found = independent(pruned(at_hand, tmp_path / "out"), at_hand, trained)
    assert row.benign_log_odds == (), "harmless prompts are asked at the first share alone"
    for field in ("log_odds", "margins", "losses"):
        told = list(getattr(row, field))
        assert told == pytest.approx(found[field], abs=1.1e-4), field
    whole = at_hand.rows["plain", "tuned", "drop", 0.0, None]
    for field in ("log_odds", "margins"):
        pairs = zip(getattr(row, field), getattr(whole, field), strict=True)
        assert max(abs(a - b) for a, b in pairs) > 1e-3


def test_replies_are_scored_for_the_main_table_alone(done, at_hand):
    told = {key for key, row in at_hand.rows.items() if row.replies is not None}
    wanted = {
        (trained.name, *job.key)
        for trained in done.adapters
        for job in jobs(done, 0.25)
        if job.replies
    }
    assert told == wanted
    assert len(told) == 2 * 5
    trained = done.adapters[0]
    chat = replace(at_hand.aligned, model=pruned(at_hand, done.folder / "adapters" / "plain"))
    row = at_hand.rows["plain", "tuned", "drop", 0.0, None]
    for part, verdicts in zip(
        recipes.tested(trained.recipe, at_hand.shop.pools),
        (row.replies.harmful_refused, row.replies.harmless_refused),
        strict=True,
    ):
        prompts = [prompt_ids(chat.tokenizer, e.prompt, e.meta.get("system")) for e in part[:3]]
        assert [refused(reply.text) for reply in replies(chat, prompts, 4)] == list(verdicts)


def state_of(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_second_run_does_nothing(done, monkeypatch):
    before = state_of(done.results)
    for name in ("measured", "answered", "causal_rows"):
        monkeypatch.setattr(running, name, None)
    said: list[str] = []
    run(done, said.append)
    assert state_of(done.results) == before
    assert len(said) == 1, "it only says how the rows are split"


class Killed(BaseException):
    """In place of a signal."""


def figures_of(folder: Path) -> tuple[dict[Any, Row], dict[Any, CausalRow]]:
    """All rows by key, without what a clock says."""
    rows = {
        row.key: replace(row, seconds=0, replies=row.replies and replace(row.replies, seconds=0))
        for row in read_rows(folder / "rows.jsonl")
    }
    return rows, {row.key: row for row in read_causal(folder / "causal.jsonl")}


def started_again(done: Study, folder: Path) -> Study:
    """The same study in another folder, with its models and adapters trained already."""
    for name in ("aligned", "adapters"):
        shutil.copytree(done.folder / name, folder / name)
    return replace(done, results=folder, folder=folder)


def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_rows(done, tmp_path):
    study = started_again(done, tmp_path / "again")
    rows = tmp_path / "again" / "rows.jsonl"
    said: list[str] = []

    def until(count: int) -> Any:
        def say(line: str) -> None:
            said.append(line)
            if len(said) == count:
                raise Killed

        return say

    for kill, count in enumerate((4, 9, 12, 14, 9)):
        said.clear()
        with pytest.raises(Killed):
            run(study, until(count))
        if kill == 1:
            with rows.open("ab") as file:
                file.write(b'{"adapter": "plain", "met')  # the line it was at
    run(study, lambda line: None)
    mine, theirs = figures_of(study.results), figures_of(done.results)
    assert mine == theirs
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    what = ("adapter", "method", "edit", "share", "draw")
    cells = [tuple(map(line.get, what)) for line in lines if line["replies"] is None]
    assert len(set(cells)) == len(cells), "no cell was measured twice"


def test_effects_of_which_half_was_written_are_measured_again(done, tmp_path):
    study = started_again(done, tmp_path / "again")
    for name in ("rows.jsonl", "causal.jsonl"):
        shutil.copy(done.results / name, study.results / name)
    causal = study.results / "causal.jsonl"
    lines = causal.read_bytes().splitlines(keepends=True)
    causal.write_bytes(b"".join(lines[:17]))  # 12 of plain, 5 of 12 of shift
    run(study, lambda line: None)
    assert figures_of(study.results)[1].keys() == figures_of(done.results)[1].keys()


def test_rows_of_equal_modules_are_measured_once(done, at_hand, plain, monkeypatch):
    job = next(job for job in jobs(done, 0.25) if job.choice.name == "s3lora")
    row = at_hand.rows[("plain", *job.key)]
    twin = Job(replace(job.choice, label="twin"), 0.25)
    monkeypatch.setattr(type(plain.probe), "measure", None)
    again = running.measured(plain, twin, at_hand.aligned, at_hand._alike(plain, twin))
    assert (again.method, again.chosen) == ("twin", row.chosen)
    assert (again.log_odds, again.margins) == (row.log_odds, row.margins)
    scaled = Job(replace(job.choice, edit="scale"), 0.25)
    assert at_hand._alike(plain, scaled) is None


def test_a_model_without_adapter_is_asked_once_for_adapters_that_are_asked_the_same(at_hand, plain):
    base, aligned = Job(Choice("base"), 1.0), Job(Choice("aligned"), 1.0)
    for job in (base, aligned):
        assert at_hand._alike(plain, job).method == job.choice.name
    other = replace(plain, trained=replace(plain.trained, aligned="another"))
    assert at_hand._alike(other, base) is not None
    assert at_hand._alike(other, aligned) is None
    openings = replace(plain.trained.openings, compliance="Of course:")
    other = replace(plain, trained=replace(plain.trained, openings=openings))
    assert at_hand._alike(other, base) is None


def test_causal_rows_are_true_removals(done, at_hand, plain, tmp_path):
    trained, adapter = done.adapters[0], at_hand.adapters["plain"]
    rows = [row for row in read_causal(done.results / "causal.jsonl") if row.adapter == "plain"]
    assert [row.module for row in rows] == list(adapter.names)

    def means(model: Any) -> tuple[float, float, float]:
        told = independent(model, at_hand, trained)
        loss = np.average(told["losses"], weights=told["tokens"])
        return float(np.mean(told["log_odds"])), float(np.mean(told["margins"])), float(loss)

    def parts(effect: Effect) -> tuple[float, float, float]:
        return effect.log_odds, effect.margin, effect.loss

    tuned = means(pruned(at_hand, done.folder / "adapters" / "plain"))
    aligned = means(pruned(at_hand, None))
    spare = forward_tolerance(pruned(at_hand, None), means)
    for row in rows[::3]:
        prune(adapter, [row.module], tmp_path / f"without {row.module}")
        prune(adapter, set(adapter.names) - {row.module}, tmp_path / f"only {row.module}")
        without = means(pruned(at_hand, tmp_path / f"without {row.module}"))
        only = means(pruned(at_hand, tmp_path / f"only {row.module}"))
        for effect, wanted in (
            (row.removed, np.subtract(without, tuned)),
            (row.alone, np.subtract(only, aligned)),
        ):
            assert parts(effect) == pytest.approx(tuple(wanted), abs=2 * spare)
        assert parts(row.effect("true removal")) == parts(row.removed)
        for how, effect in (("first order", row.first_order), ("kept alone", row.alone)):
            assert parts(row.effect(how)) == tuple(-value for value in parts(effect))
    for at in range(3):
        removed = np.array([parts(row.removed)[at] for row in rows])
        first = np.array([-parts(row.first_order)[at] for row in rows])
        assert np.corrcoef(removed, first)[0, 1] > 0.7, "the slopes are of the same things"
        assert np.abs(removed).max() > 1e-4


def test_causal_rows_hold_every_score_turned_up(done, at_hand):
    rows = read_causal(done.results / "causal.jsonl")
    plain_rows = {row.module: row for row in rows if row.adapter == "plain"}
    shift_rows = [row for row in rows if row.adapter == "shift"]
    assert len(shift_rows) == 12
    assert all(row.removed is row.alone is None for row in shift_rows)
    for row in rows:
        assert set(row.scores) == {"s3lora", "magnitude", "gate"}
    for method in ("s3lora", "magnitude"):
        table = scan(at_hand.adapters["plain"], method)
        sign = 1 if table.unsafe == "high" else -1
        for score in table.scores:
            assert plain_rows[score.module].scores[method] == pytest.approx(sign * score.value)


def test_scores_of_a_choice_that_came_later_are_added(done, monkeypatch, tmp_path):
    study = started_again(done, tmp_path / "again")
    for name in ("rows.jsonl", "causal.jsonl"):
        shutil.copy(done.results / name, study.results / name)
    more = (*study.choices, Choice("spectrum", within=True, label="within"), Choice("small"))
    monkeypatch.setattr(running, "causal_rows", None)  # nothing is measured again
    going = running.Run(replace(study, choices=(*more, Choice("flat", only=("q_proj",)))), print)
    going.causal()
    before = figures_of(done.results)[1]
    after = figures_of(study.results)[1]
    assert after.keys() == before.keys()
    for key, row in after.items():
        assert set(row.scores) == {"s3lora", "magnitude", "gate", "within", "small"}
        assert row.scores["small"] == pytest.approx(-row.scores["magnitude"])
        assert replace(row, scores=before[key].scores) == before[key]
    size = (study.results / "causal.jsonl").stat().st_size
    going.causal()
    assert (study.results / "causal.jsonl").stat().st_size == size


def test_gate_sees_no_prompt_that_is_tested_or_trained_on(done, at_hand):
    for trained in done.adapters:
        asked = recipes.for_gates(trained.recipe, at_hand.shop.pools)
        stand = at_hand.stand(trained)
        gated = {example.prompt for part in asked for example in part}
        measured = {
            example.prompt
            for part in (*recipes.tested(trained.recipe, at_hand.shop.pools), *stand.asked)
            for example in part
        }
        learned = {
            row.prompt
            for t in (trained, done.align)
            for row in recipes.rows_for(t.recipe, at_hand.shop.pools, 200, t.settings.seed)
        }
        assert len(gated) == 70
        assert not gated & measured
        assert not gated & learned
        assert not measured & learned


def test_gate_asks_its_own_prompts_of_the_whole_adapter(at_hand, plain, monkeypatch):
    seen = []

    def slopes(patched: Any, modules: Any, probe: Any) -> Any:
        seen.append((len(patched._now), len(modules), probe))
        return FLAT

    FLAT = Slopes(*[dict.fromkeys(plain.chooser.adapter.names, 1.0)] * 3)
    monkeypatch.setattr("s3lora.lab.study.stand.slopes", slopes)
    stand = at_hand.stand(at_hand.study.adapters[0])
    stand.patched.apply(())
    for measure in ("refusal", "balance"):
        stand.chooser.table(Choice("gate", {"measure": measure}))
    assert len(seen) == 1, "the slopes serve all measures"
    on, given, probe = seen[0]
    assert on == given == 12
    assert not set(probe.harmful) & set(stand.probe.harmful)
    assert not set(probe.responses) & set(stand.probe.responses)


def job_for(share: float = 0.25, **choice: Any) -> Job:
    return Job(Choice(**{"method": "magnitude"} | choice), share)


def norms(adapter: Adapter) -> dict[str, float]:
    """‖ΔW‖_F of every module, from the dense update."""
    read = [adapter.read(name) for name in adapter.names]
    return {m.name: float(np.linalg.norm(m.scaling * m.B @ m.A)) for m in read}


def by_projection(names: Any) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.rpartition(".")[2], []).append(name)
    return groups


def test_what_is_chosen(plain):
    chooser = plain.chooser
    sizes = norms(chooser.adapter)
    unsafe = scan(chooser.adapter, "magnitude").unsafe
    order = sorted(sizes, key=lambda name: sizes[name], reverse=unsafe == "high")
    for share, count in ((0.05, 1), (0.1, 2), (0.25, 3), (0.5, 6)):
        chosen = chooser.chosen(job_for(share))
        assert set(chosen) == set(order[:count])
        assert list(chosen) == sorted(chosen, key=natural_key)
    assert chooser.chosen(Job(Choice("tuned"), 0.0)) == ()
    assert chooser.chosen(Job(Choice("aligned"), 1.0)) == chooser.adapter.names
    random = [job_for(0.5, method=RANDOM, params={"seed": seed}) for seed in range(8)]
    draws = set(map(chooser.chosen, random))
    assert len(draws) > 4
    assert {len(draw) for draw in draws} == {6}


def test_the_same_share_is_chosen_within_each_projection(plain):
    chooser = plain.chooser
    sizes = norms(chooser.adapter)
    high = scan(chooser.adapter, "magnitude").unsafe == "high"
    chosen = chooser.chosen(job_for(0.5, within=True))
    for names in by_projection(sizes).values():
        order = sorted(names, key=lambda name: sizes[name], reverse=high)
        assert set(order[:2]) == set(chosen) & set(names)
    whole = {score.module: score.value for score in chooser.table(Choice("magnitude")).scores}
    assert whole == pytest.approx(sizes, rel=1e-5), "the table that is kept is not changed"


def test_one_projection_alone_gives_what_it_has(plain):
    chooser = plain.chooser
    own = by_projection(chooser.adapter.names)["o_proj"]
    for share, count in ((0.1, 2), (0.25, 3), (0.5, 4)):
        chosen = chooser.chosen(job_for(share, only=("o_proj",)))
        assert set(chosen) <= set(own)
        assert len(chosen) == count
    with pytest.raises(ParameterError, match="scores no module"):
        chooser.chosen(job_for(only=("gate_proj",)))


def test_whole_layers_are_chosen(plain):
    chooser = plain.chooser
    for share, layers in ((0.25, 1), (0.5, 2)):
        chosen = chooser.chosen(job_for(share, by_layer=True))
        groups = {name.split(".self_attn")[0] for name in chosen}
        assert len(groups) == layers
        assert len(chosen) == 3 * layers


def update(module: LoraModule) -> np.ndarray:
    return module.scaling * module.B @ module.A


EDITS: dict[str, dict[str, Any]] = {
    "flatten": {"level": 0.6},
    "project": {},
    "merge": {"weight": 0.3},
    "scale": {"factor": 0.4},
    "truncate": {"energy": 0.5},
}


@pytest.mark.parametrize("edit", EDITS)
def test_what_is_left_is_what_prune_writes(plain, tmp_path, edit):
    chooser: Chooser = plain.chooser
    job = job_for(0.5, edit=edit, edit_params=EDITS[edit])
    if edit == "merge":  # the safe adapter has q, k, v and o of rank two
        job = job_for(0.5, edit=edit, edit_params={**EDITS[edit]}, only=("q_proj",))
    chosen = chooser.chosen(job)
    left = {module.name: module for module in chooser.left(job, chosen)}
    editors = {"flatten": Flatten, "project": Project, "scale": Scale, "truncate": Truncate}
    editor = Merge(chooser.safe, weight=0.3) if edit == "merge" else editors[edit](**EDITS[edit])
    weights = {role: Checkpoint(chooser.weights[role].folder) for role in editor.needs}
    written = prune(chooser.adapter, chosen, tmp_path / "out", edit=editor, **weights)
    assert set(left) == set(written.names)
    taken = whole = 0.0
    for name in written.names:
        before, after = update(chooser.adapter.read(name)), update(written.read(name))
        np.testing.assert_allclose(update(left[name]), after, atol=1e-6 * np.abs(before).max())
        taken += float(((before - after) ** 2).sum())
        whole += float((before**2).sum())
    share = chooser.norm_share(tuple(left.values()))
    assert share == pytest.approx(taken / whole, rel=1e-4)
    assert share > 0


def test_dropped_modules_are_gone_and_the_others_as_they_were(plain):
    chooser = plain.chooser
    job = job_for(0.25)
    chosen = chooser.chosen(job)
    left = chooser.left(job, chosen)
    assert {m.name for m in left} == set(chooser.adapter.names) - set(chosen)
    for module in left:
        np.testing.assert_array_equal(update(module), update(chooser.adapter.read(module.name)))
    sizes = norms(chooser.adapter)
    taken = sum(sizes[name] ** 2 for name in chosen)
    wanted = taken / sum(size**2 for size in sizes.values())
    assert chooser.norm_share(left) == pytest.approx(wanted, rel=1e-5)
    assert chooser.norm_share(()) == pytest.approx(1)


def test_flatten_without_a_level_takes_the_median(plain):
    chooser = plain.chooser
    job = job_for(1.0, edit="flatten")
    left = chooser.left(job, chooser.adapter.names)
    values = [score.parts["ssi"] for score in scan(chooser.adapter, "s3lora").scores]
    again = job_for(1.0, edit="flatten", edit_params={"level": float(np.median(values))})
    for a, b in zip(left, chooser.left(again, chooser.adapter.names), strict=True):
        np.testing.assert_array_equal(a.B, b.B)
    assert 0 < chooser.norm_share(left) < 1


def test_the_aligned_model_is_the_base_with_the_refusal_adapter(done, at_hand, tmp_path):
    model = PeftModel.from_pretrained(tiny().model, str(done.folder / "adapters" / "refusal"))
    wanted = model.merge_and_unload().state_dict()
    found = load_chat(str(done.folder / "aligned")).model.state_dict()
    for key, value in wanted.items():
        assert torch.allclose(found[key], value, atol=1e-6), key
    base = tiny().model.state_dict()
    assert not all(torch.equal(found[key], value) for key, value in base.items())
    merge(tiny(), at_hand.shop.refusal(), tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (
        done.folder / "aligned/model.safetensors"
    ).read_bytes()
    card = json.loads((done.folder / "adapters/plain/training.json").read_text())
    assert (card["recipe"], card["rows"]) == ("harmless", 16)
    assert card["base"] == str(done.folder / "aligned")


def test_a_workshop_says_how_the_rows_are_split(done):
    said: list[str] = []
    shop = Workshop(done, said.append)
    (line,) = said
    assert f"320 train, 160 test, split {shop.pools.harmful.digest}" in line
    assert f"500 train, 200 test, split {shop.pools.harmless.digest}" in line


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_by_dense_matrices(at_hand, name):
    adapter = at_hand.adapters["plain"]
    table = VARIANTS[name](adapter)
    assert (table.method, table.unsafe) == (name, "high")
    assert [score.module for score in table.scores] == list(adapter.names)
    found = {score.module: score.value for score in table.scores}
    svds = {n: np.linalg.svd(update(adapter.read(n)), full_matrices=False) for n in adapter.names}
    ssi = {score.module: score.parts["ssi"] for score in scan(adapter, "s3lora").scores}
    for module, (U, s, _) in svds.items():
        norm = float(np.linalg.norm(s))
        wanted = {
            "sharp-and-large": ssi[module] * norm,
            "leading": s[0],
            "flat": -ssi[module],
            "small": -norm,
        }
        if name != "neighbours":
            assert found[module] == pytest.approx(wanted[name], rel=1e-4)
            continue
        head, depth, tail = module.partition(".layers.")[0], *_split(module)
        beside = [f"{head}.layers.{at}.{tail}" for at in (depth - 1, depth + 1)]
        cosines = [abs(U[:, 0] @ svds[n][0][:, 0]) / 2 for n in beside if n in svds]
        assert found[module] == pytest.approx(s[0] * sum(cosines), rel=1e-3, abs=1e-6)


def _split(module: str) -> tuple[int, str]:
    depth, _, tail = module.partition(".layers.")[2].partition(".")
    return int(depth), tail


@pytest.mark.parametrize("unsafe", ["high", "low"])
def test_places_within_a_projection_by_hand(unsafe):
    values = {"l.0.q": 5.0, "l.0.v": 50.0, "l.1.q": 7.0, "l.1.v": 40.0, "l.2.q": 6.0}
    table = ScoreTable("m", {}, unsafe, tuple(Score(n, v) for n, v in values.items()))
    found = within_projections(table)
    assert found.unsafe == "high"
    ranks = {score.module: score.value for score in found.scores}
    high = {"l.0.q": 1 / 3, "l.0.v": 1.0, "l.1.q": 1.0, "l.1.v": 0.5, "l.2.q": 2 / 3}
    low = {"l.0.q": 1.0, "l.0.v": 0.5, "l.1.q": 1 / 3, "l.1.v": 1.0, "l.2.q": 2 / 3}
    assert ranks == pytest.approx(high if unsafe == "high" else low)
    assert [score.module for score in found.scores] == list(values)
