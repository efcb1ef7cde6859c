"""The tables of an evaluation at a terminal: no figure and no interval is cut at any width."""

from __future__ import annotations

import re
from io import StringIO

import pytest
from rich.console import Console

pytest.importorskip("torch")

from s3lora.cli.evaluation_table import _show_rows
from s3lora.lab.metrics.intervals import Figure
from s3lora.report.lines import Lines

ROWS = {
    "refusal_rate": [Figure("refusal rate", 0.51, 312, 0.45, 0.57, "share", "higher")] * 3,
    "log_odds_harmful": [
        Figure("log-odds", -12.345, 312, -15.678, -10.987, "nats", "higher"),
        Figure("log-odds", -1.345, 312, -2.678, 10.987, "nats", "higher"),
        None,
    ],
    "parameters": [Figure("parameters of LoRA", 123456789, 1, None, None, "", "lower")] * 3,
    "a_long_one": [Figure("seconds for a small batch of prompts", 1.5, 9, 1.25, 2.5, "s", "lower")]
    * 3,
}
HEADS = ["model", "adapter", "adapter after a plan that takes seventeen modules out"]


def shown(width: int, heads: list[str] = HEADS, sign: str = "-") -> str:
    file = StringIO()
    console = Console(file=file, width=width, color_system=None, highlight=False)
    _show_rows(heads, ROWS, Lines(console), sign)
    return file.getvalue()


def tokens(text: str) -> list[str]:
    return sorted(re.findall(r"[-−+\d\[][\d.,]*\d[\],]?", text))


@pytest.mark.parametrize("sign", ["-", "+"])
@pytest.mark.parametrize("width", [60, 72, 80, 90, 100, 120])
def test_every_figure_and_interval_is_there_at_any_width(width, sign):
    text, wide = shown(width, sign=sign), shown(300, sign=sign)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert set(tokens(text)) == set(tokens(wide))
    assert " ".join(text.split()).count("[0.45" if sign == "-" else "[+0.45") == 3


def test_intervals_stand_beside_their_figures_where_there_is_room():
    assert "0.51 [0.45, 0.57]" in shown(160)
    lines = shown(60).splitlines()
    at = next(at for at, line in enumerate(lines) if "refusal rate" in line)
    assert "0.51" in lines[at]
    assert "[0.45, 0.57]" in lines[at] + lines[at + 1]
