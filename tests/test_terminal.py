"""What people see at a terminal, to the letter: tests/golden holds it.

`S3LORA_GOLDEN=write` writes the files anew; look at them then.
"""

from __future__ import annotations

import os
import re
from io import BytesIO, TextIOWrapper
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console
from safetensors.numpy import load_file, save_file

import s3lora
from adapters import PREFIX, draw, write_adapter
from s3lora import TopK, open_adapter, scan
from s3lora.adapter import ModuleName
from s3lora.cli import cli
from s3lora.report import make_report
from s3lora.report.formats import show
from s3lora.report.heat import SCALE, SHADES, show_heat, stacks
from s3lora.scores import Score, ScoreTable

GOLDEN = Path(__file__).parent / "golden"
EXAMPLE = Path(s3lora.__file__).parent / "example" / "adapter"


def run(*words: str, **environment: str) -> str:
    told = CliRunner().invoke(cli, list(words), env={"COLUMNS": "80"} | environment)
    assert told.exception is None or isinstance(told.exception, SystemExit), told.exception
    return told.stdout


def golden(name: str, text: str) -> None:
    """Hold a text to a file, but for blanks at the ends of lines."""
    text = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    file = GOLDEN / name
    if os.environ.get("S3LORA_GOLDEN") == "write":
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the example, an adapter with findings, and one that cannot be judged."""
    monkeypatch.chdir(tmp_path)
    Path("example").symlink_to(EXAMPLE)
    layers = "model.layers."
    pairs = {
        f"{layers}{at}.self_attn.{leaf}_proj": (np.eye(2, 6), np.eye(8, 2) * [1, 1 / (at + 2)])
        for at in range(3)
        for leaf in "qv"
    }
    payload = {f"{PREFIX}{layers}{at}.input_layernorm.weight": draw(4) for at in range(2)}
    folder = write_adapter(Path("odd"), pairs, None, payload | {f"{PREFIX}norm.weight": draw(4)})
    (folder / "chat_template.jinja").touch()
    write_adapter(Path("dora"), pairs, {"use_dora": True})
    return tmp_path


SESSIONS = {
    "scan": ["scan", "example"],
    "scan-fewer": ["scan", "example", "--top-k", "3"],
    "scan-low": ["scan", "example", "-m", "spectrum", "-p", "measure=stable-rank", "--top-k", "3"],
    "findings": ["scan", "odd", "-p", "fit=dense"],
    "findings-verbose": ["scan", "odd", "-p", "fit=dense", "-v"],
    "cannot-judge": ["scan", "dora"],
    "plan": ["prune", "example", "--top-k", "3", "--dry-run", "--target", "fused-safe"],
    "rank": ["rank", "example", "-m", "s3lora", "-m", "spectrum", "-m", "random"],
    "compare": ["compare", "odd", "dora"],
    "compare-same": ["compare", "odd", "odd"],
}


@pytest.mark.parametrize("name", SESSIONS)
def test_a_session_is_what_its_file_shows(name, here):
    text = run(*SESSIONS[name])
    assert max(map(len, text.splitlines())) <= 80
    golden(f"{name}.txt", text)


def test_what_is_odd_everywhere_is_one_line_and_all_of_it_with_verbose(tmp_path):
    names = [f"model.layers.{at}.self_attn.q_proj" for at in range(16)]
    folder = write_adapter(tmp_path, names)
    weights = folder / "adapter_model.safetensors"
    tensors = {k.removeprefix(PREFIX): v for k, v in load_file(weights).items()}
    save_file(tensors, weights)
    text = run("scan", str(folder))
    assert re.match(r"Findings: \d medium; ", text)
    assert text.count("unusual-key: ") == 1
    assert "unusual-key: 32 places, such as " in " ".join(text.split())
    assert run("scan", str(folder), "-v").count("unusual-key: ") == 32
    assert run("check", str(folder)).count("unusual-key: ") == 1


def test_the_map_in_colour_is_of_half_blocks(here):
    text = run("scan", "example", "--top-k", "1", FORCE_COLOR="1", TERM="xterm-256color")
    golden("scan-colour.ansi", text)
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert max(map(len, plain.splitlines())) <= 80
    assert plain.count("▀") == 30 * 4
    assert "38;5;" in text
    assert not set(plain) & set("░▒▓█")


@pytest.mark.parametrize("width", [40, 60, 120])
def test_it_reads_well_at_any_width(width, here):
    text = run("scan", "example", "--top-k", "2", COLUMNS=str(width))
    golden(f"scan-{width}.txt", text)
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [60, 80, 100, 120])
@pytest.mark.parametrize("name", ["scan", "scan-low", "findings", "plan", "rank", "compare"])
def test_no_figure_is_cut_at_any_width(name, width, here):
    wide, text = (run(*SESSIONS[name], COLUMNS=str(columns)) for columns in (300, width))
    assert max(map(len, text.splitlines())) <= width
    assert figures_of(text) == figures_of(wide)


def figures_of(text: str) -> list[str]:
    """The numbers with decimals in a text, sorted; those of a module's name have none."""
    return sorted(re.findall(r"(?<![\w.])[-+]?\d+\.\d+(?:e[-+]\d+)?(?![\w.])", text))


def test_baselines_are_shown_and_not_averaged_in(here):
    text = run("rank", "example", "-m", "s3lora", "-m", "random", "-m", "last-layers")
    assert "(random and last-layers left out)" in " ".join(text.split())
    rows = [line.split() for line in text.splitlines() if line.startswith("model.layers.")]
    assert [int(row[1]) for row in rows[:15]] == list(range(1, 16))
    alone = run("rank", "example", "-m", "random", "-m", "last-layers")
    assert "left out" not in alone


def test_no_color_and_a_pipe_get_shades(here):
    piped = run("scan", "example")
    without = run("scan", "example", FORCE_COLOR="1", TERM="xterm-256color", NO_COLOR="1")
    assert set(SHADES) <= set(piped)
    assert re.sub(r"\x1b\[[\d;]*m", "", without) == piped


def test_a_terminal_with_ascii_alone_gets_digits():
    adapter = open_adapter(EXAMPLE)
    table = scan(adapter, "spectrum")
    policy = TopK(1)
    report = make_report(adapter, table, policy, chosen=policy(table))
    raw = BytesIO()
    file = TextIOWrapper(raw, encoding="ascii", errors="backslashreplace")
    show(report, Console(file=file, width=80, color_system=None, highlight=False), verbose=False)
    file.flush()
    lines = raw.getvalue().decode("ascii").splitlines()
    rows = [line for line in lines if re.fullmatch(r"\w+_proj +\d{60}", line)]
    assert len(rows) == 7
    assert set("".join(row.split()[1] for row in rows)) == set("0123456789")


# --- the map


def table(values: dict[str, float], unsafe: str = "high") -> ScoreTable:
    scores = tuple(Score(ModuleName(name), value) for name, value in values.items())
    return ScoreTable("m", {}, unsafe, scores)  # type: ignore[arg-type]


def drawn(found: ScoreTable, width: int = 80) -> list[str]:
    file = TextIOWrapper(BytesIO(), encoding="utf-8")
    shown = show_heat(found, Console(file=file, width=width, color_system=None))
    file.seek(0)
    lines = file.read().splitlines()
    assert shown == bool(lines)
    return lines


@pytest.mark.parametrize("unsafe", ["high", "low"])
def test_the_darkest_cell_is_the_score_to_look_at_first(unsafe):
    values = {f"h.{at}.attn.c_attn": float(at) for at in range(5)}
    title, row = drawn(table(values, unsafe))
    cells = "".join(c * 2 for c in SHADES)
    assert row == f"c_attn {cells if unsafe == 'high' else cells[::-1]}"
    ends = ("· 0 to █ 4", "· 4 to █ 0")
    assert title.endswith(ends[unsafe == "low"])


def test_layers_that_lack_a_projection_are_blank_and_other_modules_are_left_out():
    values = {"h.0.q": 0.0, "h.1.q": 1.0, "h.1.v": 1.0, "h.2.q": 0.5, "lm_head": 2.0}
    assert drawn(table(values))[1:] == ["q ··▒▒░░", "v   ▒▒"]


def test_encoder_and_decoder_have_a_map_each():
    values = {
        f"{stack}.layers.{at}.q": float(at) for stack in ("encoder", "decoder") for at in range(2)
    }
    titles = [line for line in drawn(table(values)) if "left to right" in line]
    assert [title.split()[1] for title in titles] == ["decoder.layers.0", "encoder.layers.0"]


def test_experts_of_a_layer_share_a_cell_that_shows_the_first_to_look_at():
    values = {f"h.{at}.experts.{e}.w1": float(e == 1 and at) for at in range(2) for e in range(3)}
    (stack,) = stacks(table(values))
    assert stack.heat == {("w1", 0): 0.0, ("w1", 1): 1.0}


def test_a_deep_model_has_several_layers_in_a_column():
    values = {f"h.{at}.q": float(at == 77) for at in range(200)}
    *title, row = drawn(table(values), width=60)
    assert "4 to a column" in " ".join(title)
    assert row.index("█") - 2 == 77 // 4
    assert len(row) == 2 + 50


@pytest.mark.parametrize(
    "values",
    [{}, {"h.0.q": 1.0, "h.1.q": 1.0}, {"h.0.q": 1.0, "h.0.v": 2.0}, {"a": 1.0, "b": 2.0}],
    ids=["nothing", "no spread", "one layer", "no layers"],
)
def test_without_layers_or_spread_there_is_no_map(values):
    assert drawn(table(values)) == []


def test_the_scale_can_be_told_apart_by_lightness_alone():
    lightness = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in SCALE]
    steps = np.diff(lightness)
    assert (steps > 30).all()


def test_control_characters_of_a_name_do_not_reach_the_terminal():
    values = {f"h.{at}.q\x1b[31m": float(at) for at in range(2)}
    assert "\x1b" not in "".join(drawn(table(values)))
