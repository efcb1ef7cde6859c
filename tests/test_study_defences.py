"""A study of defences: its file, its trainings, what they took, and the page about them."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lab_material import made_rows, tiny, tiny_folder, trained_here, write_jsonl
from s3lora import open_adapter
from s3lora.errors import DataError, ParameterError
from s3lora.lab.defences.lox import Lox
from s3lora.lab.settings import Settings
from s3lora.lab.study import workshop
from s3lora.lab.study.bootstrap import Bootstrap
from s3lora.lab.study.config import Study, Trained, read_study
from s3lora.lab.study.costs import COSTS, Cost, cost_of, read_costs, refuse_other, write_costs
from s3lora.lab.study.defence_page import defence_page, described, difference
from s3lora.lab.study.keeping import read_rows
from s3lora.lab.study.rows import REFUSAL, Replies, Row
from s3lora.lab.study.run import Run, run
from s3lora.lab.study.tables import write_tables
from s3lora.lab.study.training import Training, WhileStarterLives, train_apart
from s3lora.lab.training_card import describe
from schemas import check, check_lines

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

ALIGNED = """
[study]
model = "{model}"
harmful = ["{bad}"]
harmless = ["{good}"]

[align]
name = "refusal"
recipe = "refusal"
steps = 3
batch = 4
rank = 2
rate = 0.01
"""

SHORT = """
steps = 3
batch = 2
rank = 2
rate = 0.02
longest = 16
targets = ["q_proj", "v_proj"]
"""

DEFENDED = f"""
[study]
aligned_by = "../aligned/study.toml"
shares = [0.5]
draws = 2

[sizes]
harmful = 4
harmless = 3
rows = 4
longest = 12
replies = 3
new_tokens = 3
random_replies = 0

[[aligner]]
name = "up"
recipe = "refusal"
steps = 2
batch = 2
rank = 1
targets = ["up_proj"]
layers = "middle"
defence = "overlap"
defence_params = {{ k = 2 }}

[[adapter]]
name = "plain"
recipe = "harmless"
{SHORT}
[[adapter]]
name = "salora"
recipe = "harmless"
defence = "salora"
defence_params = {{ r_s = 4, r_t = 4, samples = 8 }}
{SHORT.replace("0.02", "0.01")}
[[adapter]]
name = "lox"
recipe = "harmless"
defence = "lox"
defence_params = {{ k = 1 }}
{SHORT}
[[adapter]]
name = "after up"
recipe = "harmless"
aligned = "up"
{SHORT}
[[method]]
method = "s3lora"
replies = true

[[method]]
method = "magnitude"
"""


def write_studies(folder: Path, text: str = DEFENDED) -> Path:
    """The file of a study of defences, beside that of the study that aligns its model."""
    bad = write_jsonl(folder / "bad.jsonl", made_rows("bad", 480, answered=False))
    good = write_jsonl(folder / "good.jsonl", made_rows("good", 700, answered=True))
    for name, told in (("aligned", ALIGNED), ("guarded", text)):
        (folder / name).mkdir()
        filled = told.format(model=tiny_folder(), bad=bad, good=good) if name == "aligned" else told
        (folder / name / "study.toml").write_text(filled)
    return folder / "guarded" / "study.toml"


def test_a_study_borrows_the_aligned_model_of_another(tmp_path):
    study = read_study(write_studies(tmp_path))
    other = read_study(tmp_path / "aligned" / "study.toml")
    for name in ("model", "harmful", "harmless", "align"):
        assert getattr(study, name) == getattr(other, name)
    assert study.aligned_folder.resolve() == (tmp_path / "aligned" / "work").resolve()
    assert study.folder == tmp_path / "guarded" / "work"
    assert (study.defended, other.defended, other.aligned_folder) == (True, False, None)
    plain, salora, lox, after = study.adapters
    assert (plain.guard(), after.guard(), after.aligned) == (None, None, "up")
    assert (salora.guard().r_s, salora.guard().r_t, salora.guard().samples) == (4, 4, 8)
    assert lox.guard() == Lox(k=1)
    assert study.aligners[0].settings.layers == "middle"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('defence = "vaccine"', "there is no defence 'vaccine'"),
        ('defence = "ema"\ndefence_params = {beta = 1}', "'ema' has no parameter 'beta'"),
        ('defence = "ema"\ndefence_params = {eta = 2.0}', "ema cannot take eta=2.0"),
        ("defence_params = {eta = 1}", "x has defence_params and no defence"),
        ('aligned = "down"', r"'down' is not an \[\[aligner\]\] for x"),
        ('[[aligner]]\nname = "y"\nrecipe = "refusal"\ndefence = "lox"', "y aligns a model"),
        ('[[aligner]]\nname = "y"\nrecipe = "z"', "'z' is not a recipe for y"),
        ('[[aligner]]\nname = "x"\nrecipe = "refusal"', "two of one name: adapter 'x'"),
    ],
)  # fmt: skip
def test_a_defence_that_does_not_fit_is_refused_on_reading(tmp_path, text, message):
    path = tmp_path / "a.toml"
    adapter = f'[[adapter]]\nname = "x"\nrecipe = "mixed"\n{text}\n'
    path.write_text(f'[study]\nmodel = "tiny"\n{adapter}')
    with pytest.raises(ParameterError, match=message):
        read_study(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[study]\naligned_by = "b.toml"\nmodel = "tiny"\n', "has model of its own"),
        ('[study]\naligned_by = "b.toml"\n[align]\nname = "x"\nrecipe = "refusal"\n', r"\[align\]"),
        ('[study]\naligned_by = "a.toml"\n', "takes its aligned model from another"),
    ],
)
def test_what_is_borrowed_is_not_given_too(tmp_path, text, message):
    (tmp_path / "b.toml").write_text('[study]\nmodel = "tiny"\n')
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ParameterError, match=message):
        read_study(tmp_path / "a.toml")


def test_a_study_of_which_none_is_there_is_not_borrowed_from(tmp_path):
    (tmp_path / "a.toml").write_text('[study]\naligned_by = "b.toml"\n')
    with pytest.raises(DataError, match=r"cannot read .*b\.toml"):
        read_study(tmp_path / "a.toml")


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Study:
    """The whole study, run once."""
    study = read_study(write_studies(tmp_path_factory.mktemp("defences")))
    said: list[str] = []
    with trained_here():
        run(study, said.append)
    started = [line for line in said if line.startswith("training ")]
    assert started == [
        "training refusal: refusal, 3 steps",
        "training plain: harmless, 3 steps",
        "training salora: harmless, 3 steps, defence salora",
        "training lox: harmless, 3 steps, defence lox",
        "training up: refusal, 2 steps, defence overlap",
        "training after up: harmless, 3 steps",
    ]
    return study


def test_models_are_kept_where_they_belong(done):
    shared = {path.name for path in (done.aligned_folder / "adapters").iterdir()}
    assert shared == {"refusal"}
    assert (done.aligned_folder / "aligned").is_dir()
    assert not (done.folder / "aligned").exists()
    names = {path.name for path in (done.folder / "adapters").iterdir()}
    assert names == {"plain", "salora", "lox", "after up"}
    assert (done.folder / "aligners/up/aligned").is_dir()


def test_cards_name_model_and_defence(done):
    cards = {
        trained.name: json.loads(
            (done.folder / "adapters" / trained.name / "training.json").read_text()
        )
        for trained in done.adapters
    }
    usual = str(done.aligned_folder / "aligned")
    assert {name: card["base"] for name, card in cards.items()} == {
        "plain": usual, "salora": usual, "lox": usual,
        "after up": str(done.folder / "aligners/up/aligned"),
    }  # fmt: skip
    assert {name: card.get("defence", {}).get("name") for name, card in cards.items()} == {
        "plain": None, "salora": "salora", "lox": "lox", "after up": None,
    }  # fmt: skip
    assert cards["salora"]["defence"]["safety_rows"] > 30
    assert cards["lox"]["defence"]["extrapolated"] == 16  # what [align] changed
    assert len({card["rows_digest"] for card in cards.values()}) == 1, "the same rows for all"


def test_a_training_apart_is_the_training_here(done, tmp_path):
    trained = done.adapters[1]
    apart = replace(done, folder=tmp_path, adapters=(trained,))
    workshop.Workshop(apart, lambda line: None).adapter(trained)
    there, here = (
        load_file(folder / "adapters/salora/adapter_model.safetensors")
        for folder in (tmp_path, done.folder)
    )
    assert there.keys() == here.keys()
    assert max(float(np.abs(there[key] - here[key]).max()) for key in there) < 1e-6
    card = json.loads((tmp_path / "adapters/salora/training.json").read_text())
    assert 0 < card["peak_mib"] < 4096, "of its own process"


def test_costs_are_those_of_the_cards(done):
    lines = check_lines("defences", (done.results / COSTS).read_text())
    assert [bool(line["versions"]) for line in lines] == [True] * 6
    costs = {cost.adapter: cost for cost in read_costs(done.results / COSTS)}
    assert list(costs) == ["refusal", "up", "plain", "salora", "lox", "after up"]
    assert [cost.aligns for cost in costs.values()] == [True, True, False, False, False, False]
    for cost in costs.values():
        assert cost.seconds > 0
        assert cost.peak_mib > 100
        assert cost.settings["steps"] in (2, 3)
        assert f"{os.cpu_count()} cores" in cost.machine
    assert (costs["plain"].modules, costs["lox"].modules) == (8, 16)
    assert costs["salora"].seconds_before > costs["plain"].seconds_before
    assert costs["salora"].given == {"r_s": 4, "r_t": 4, "samples": 8}
    assert costs["salora"].params["start"] == "task"
    assert (costs["up"].modules, costs["up"].parameters) == (1, 32 + 48)
    assert costs["after up"].aligned == "up"
    plain = open_adapter(done.folder / "adapters/plain")
    updates = [m.scaling * m.B @ m.A for m in map(plain.read, plain.names)]
    whole = np.sqrt(sum(np.square(update).sum() for update in updates))
    assert costs["plain"].norm == pytest.approx(whole, rel=1e-4)


def test_rows_are_of_each_adapters_own_model(done):
    rows = {row.key: row for row in read_rows(done.results / "rows.jsonl")}
    assert len(rows) == 4 * (3 + 2 + 2)
    aligned = {t.name: rows[t.name, "aligned", "drop", 1.0, None] for t in done.adapters}
    assert aligned["plain"].log_odds == aligned["salora"].log_odds == aligned["lox"].log_odds
    assert aligned["plain"].log_odds != aligned["after up"].log_odds
    assert aligned["lox"].k == aligned["lox"].modules > aligned["plain"].modules
    base = [rows[t.name, "base", "drop", 1.0, None] for t in done.adapters]
    assert len({(row.log_odds, row.seconds) for row in base}) == 1, "it is asked once"
    told = {(key[0], key[1]) for key, row in rows.items() if row.replies}
    wanted = ("base", "aligned", "tuned", "s3lora")
    assert told == {(t.name, what) for t in done.adapters for what in wanted}
    assert not (done.results / "causal.jsonl").exists()


def test_a_second_run_trains_nothing(done, monkeypatch):
    monkeypatch.setattr(workshop, "train_apart", None)
    before = (done.results / COSTS).read_bytes()
    run(done, lambda line: None)
    assert (done.results / COSTS).read_bytes() == before


def test_an_adapter_trained_otherwise_is_not_taken(done):
    changed = replace(done.adapters[1], defence_params={"r_s": 5, "r_t": 4, "samples": 8})
    with pytest.raises(ParameterError, match=r"with defence_params\.r_s=4, the study says 5"):
        Run(replace(done, adapters=(changed,)), lambda line: None)
    folder = done.folder / "adapters/plain"
    plain = done.adapters[0]
    refuse_other(replace(plain, settings=replace(plain.settings, save_every=7)), folder)
    for other, told in (
        (replace(plain, defence="ema"), "defence='', the study says 'ema'"),
        (replace(plain, recipe="mixed"), "recipe='harmless'"),
        (replace(plain, settings=replace(plain.settings, rate=0.5)), "rate=0.02"),
    ):
        with pytest.raises(ParameterError, match=told):
            refuse_other(other, folder)


def test_the_page_holds_every_adapter(done, tmp_path):
    rows = read_rows(done.results / "rows.jsonl")
    write_costs(tmp_path / COSTS, read_costs(done.results / COSTS))
    paths = write_tables(rows, (), tmp_path, share=0.5, bootstrap=Bootstrap(50))
    text = (tmp_path / "defences.md").read_text()
    assert paths[-1] == tmp_path / "defences.md"
    parts = dict(part.split("\n", 1) for part in text.split("\n## ")[1:])
    for title in (
        "harmless: as trained",
        "harmless: with s3lora as well",
        "What the trainings took",
    ):
        assert all(f"\n| {t.name} " in parts[title] for t in done.adapters)
    tuned = parts["harmless: as trained"]
    assert "| plain LoRA |" in " ".join(tuned.split())
    assert "salora, r_s=4, r_t=4, samples=8, rate=0.01" in tuned
    assert "after up |" in tuned
    assert cells(text, "harmless: as trained", "plain")["Δ to plain"] == "–"
    assert cells(text, "harmless: as trained", "lox")["Δ to plain"] != "–"
    heads = parts["harmless: refusal log-odds by what was done after training"].splitlines()[1]
    assert [cell.split(" (")[0].strip() for cell in heads.strip("|").split("|")] == [
        "adapter", "as trained", "random", "magnitude", "s3lora",
    ]  # fmt: skip
    aligned = parts["Aligned models before the attack"]
    assert aligned.count("before alignment") == 1
    assert "\n| refusal " in aligned
    assert "\n| up " in aligned
    assert "nan" not in text.lower().split()


def test_there_is_no_page_without_costs(done, tmp_path):
    write_tables(read_rows(done.results / "rows.jsonl"), (), tmp_path, share=0.5)
    assert not (tmp_path / "defences.md").exists()


# The figures by hand


def a_row(adapter: str, method: str, odds: tuple[float, ...], losses: tuple[float, ...]) -> Row:
    share = {"tuned": 0.0, "aligned": 1.0, "base": 1.0}.get(method, 0.5)
    told = Replies((True, False), (False, False))
    return Row(
        adapter, method, "drop", share, 1, 2, None, (0,), 0.5, odds, odds, losses, (1, 3), odds,
        odds, told,
    )  # fmt: skip


def a_cost(adapter: str, **changes: object) -> Cost:
    told: dict[str, object] = {
        "adapter": adapter, "recipe": "mixed", "aligns": False, "aligned": "", "defence": "",
        "given": {}, "params": {}, "settings": {"rate": 5e-4, "steps": 10}, "seconds_before": 0.0,
        "seconds": 20.0, "peak_mib": 1000.0, "modules": 2, "parameters": 8, "norm": 0.5,
        "last_loss": 1.5,
        "rows_digest": "0", "machine": "a machine",
    }  # fmt: skip
    return Cost(**{**told, **changes})  # type: ignore[arg-type]


def cells(text: str, title: str, adapter: str) -> dict[str, str]:
    """A line of a table by the heads of its columns, without the counts."""
    lines = text.split(f"\n## {title}\n\n")[1].split("\n\n")[0].splitlines()
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    heads = [head.split(" (n=")[0] for head in split[0]]
    line = next(line for line in split if line[0] == adapter)
    return dict(zip(heads, line, strict=True))


def test_differences_are_paired_and_right():
    rows = [
        a_row("p", "tuned", (-3.0, -1.0), (1.0, 2.0)),
        a_row("p", "s3lora", (-2.0, 0.0), (1.0, 2.0)),
        a_row("d", "tuned", (-2.0, 0.0), (1.4, 2.4)),
        a_row("d", "s3lora", (1.0, 3.0), (2.0, 3.0)),
    ]
    costs = [
        a_cost("p"),
        a_cost(
            "d", defence="ema", given={"eta": 0.5}, seconds=30.0, seconds_before=2.5,
            peak_mib=1250.0, settings={"rate": 1e-4, "steps": 10}, truncation_error=0.125,
        ),
        a_cost("gone", peak_mib=None),
    ]  # fmt: skip
    text = defence_page(rows, costs, 0.5, Bootstrap(200))
    line = cells(text, "mixed: as trained", "d")
    assert line["defence"] == "ema, eta=0.5, rate=0.0001"
    assert line["refusal log-odds"].startswith("−1.00 [")
    assert line["Δ to plain"] == "+1.00 [+1.00, +1.00]", "every prompt differs by one"
    assert line["loss"].startswith("2.150 [")
    assert line["Δ loss to plain"] == "+0.400 [+0.400, +0.400]"
    assert line["refused"].startswith("0.50 [")
    assert line["over-refused"].startswith("0.00 [")
    pruned = cells(text, "mixed: with s3lora as well", "d")
    assert pruned["Δ to plain"] == "+4.00 [+4.00, +4.00]"
    assert pruned["Δ to itself as trained"] == "+3.00 [+3.00, +3.00]"
    assert pruned["Δ loss to plain"] == "+1.000 [+1.000, +1.000]"
    assert set(cells(text, "mixed: as trained", "gone").values()) == {"gone", "plain LoRA", "–"}
    took = cells(text, "What the trainings took", "d")
    assert (took["seconds before"], took["seconds"], took["seconds a step"]) == (
        "2.5",
        "30.0",
        "3.00",
    )
    assert (took["peak MiB"], took["Δ to plain"]) == ("1250", "+250")
    assert took["truncation error"] == "0.1250"
    assert cells(text, "What the trainings took", "p")["Δ to plain"] == "–"
    assert cells(text, "What the trainings took", "gone")["peak MiB"] == "–"
    assert "(a machine)" in text


def test_rows_on_other_items_have_no_difference():
    own = [a_row("a", "tuned", (1.0, 2.0), (1.0, 2.0))]
    assert difference(own, (), REFUSAL, Bootstrap(20)) is None
    assert difference(own, [replace(own[0], tokens=(1, 2))], REFUSAL, Bootstrap(20)) is None
    assert difference(own, [replace(own[0], log_odds=(1.0,))], REFUSAL, Bootstrap(20)) is None


def test_what_a_line_is_called():
    plain = a_cost("p")
    assert described(plain, plain) == "plain LoRA"
    assert described(a_cost("x", aligned="up"), plain) == "after up"
    slow = a_cost("x", defence="salora", settings={"rate": 1e-4, "steps": 10})
    assert described(slow, plain) == "salora, rate=0.0001"
    assert described(slow, None) == "salora"


def test_what_sharpness_drew_is_kept_with_the_results(done, tmp_path):
    shop = workshop.Workshop(replace(done, results=tmp_path), lambda line: None)
    shop.keep_plots()
    assert not list(tmp_path.iterdir()), "none of these adapters has a plot"
    trained = Trained("logged", "harmless", defence="sharpness")
    drawn = tmp_path / "work/adapters/logged/sharpness.svg"
    drawn.parent.mkdir(parents=True)
    drawn.write_text("<svg/>")
    shop.study = replace(shop.study, folder=tmp_path / "work", adapters=(trained,))
    shop.keep_plots()
    assert (tmp_path / "logged-sharpness.svg").read_text() == "<svg/>"


def test_costs_are_read_as_they_were_written(tmp_path):
    costs = (a_cost("a", given={"mode": "fed-back"}), a_cost("b", peak_mib=None))
    write_costs(tmp_path / COSTS, costs)
    assert read_costs(tmp_path / COSTS) == costs
    assert read_costs(tmp_path / "none.jsonl") == ()
    for text in ('{"adapter": "a"}\n', "nothing\n", "[]\n"):
        (tmp_path / COSTS).write_text(text)
        with pytest.raises(DataError, match="does not hold the costs"):
            read_costs(tmp_path / COSTS)


def test_a_training_that_diverged_has_no_number_in_its_card_and_costs(done, tmp_path):
    for trained, losses in ((done.adapters[0], [1.0, math.nan, 2.0]), (done.adapters[1], [1.0])):
        folder = tmp_path / trained.name
        shutil.copytree(done.folder / "adapters" / trained.name, folder)
        card = json.loads((folder / "training.json").read_text())
        describe(folder, card | {"losses": losses})
    card = json.loads((tmp_path / "plain/training.json").read_text())
    check("training", card)
    assert card["losses"] == [1.0, None, 2.0]
    costs = [cost_of(trained, tmp_path / trained.name) for trained in done.adapters[:2]]
    write_costs(tmp_path / COSTS, costs)
    rows = check_lines("defences", (tmp_path / COSTS).read_text())
    assert [row["last_loss"] for row in rows] == [None, 1.0]


# A training in a process of its own


def test_what_a_training_refuses_is_refused_here(tmp_path):
    rows = tuple(made_rows("row", 4, answered=True))
    nowhere = Trained("x", "harmless", Settings(steps=1, batch=2, targets=("none",)))
    with pytest.raises(ParameterError, match="no adapter can be put on this model") as caught:
        train_apart(Training(nowhere, tiny().reference, rows, tmp_path / "out"))
    assert "--targets" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_a_training_that_breaks_off_says_so(tmp_path, monkeypatch):
    rows = tuple(made_rows("row", 4, answered=True))
    training = Training(Trained("x", "harmless"), "tiny", rows, tmp_path / "out")
    monkeypatch.setattr("s3lora.lab.study.training.sys.executable", "/bin/false")
    with pytest.raises(DataError, match="training x broke off with status 1") as caught:
        train_apart(training)
    assert "goes on from the last checkpoint" in caught.value.hint


def test_a_training_ends_with_the_study_that_started_it():
    starters = iter([7, 7, 1])
    callback = WhileStarterLives(lambda: next(starters))
    callback.on_step_end(None, None, None)
    with pytest.raises(SystemExit, match="has ended"):
        callback.on_step_end(None, None, None)
