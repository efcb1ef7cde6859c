"""Results for the tests of the pages: adapters of four projections, and names that mean harm."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from adapters import draw, write_adapter
from s3lora import compare, open_adapter, prune, scan
from s3lora.adapter import ModuleName
from s3lora.findings import Finding
from s3lora.report import (
    ModuleFacts,
    Report,
    Result,
    make_comparison,
    make_ranking,
    make_report,
)
from s3lora.scores import Score, ScoreTable, Skipped
from s3lora.selection import Policy, TopK, default_policy

MANY = [f"model.layers.{layer}.self_attn.{leaf}_proj" for layer in range(12) for leaf in "qkvo"]
OUTSIDE = "lm_head"
ZERO = "model.layers.3.self_attn.k_proj"
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", OUTSIDE]

HOSTILE = (
    "model.layers.0.</script><script>document.title='owned'</script>",
    "model.layers.1.<img src=x onerror=\"document.title='owned'\">",
    "model.layers.2.<!--<script>",
    "model.layers.3.'\"`${1+1}{{ 7*7 }}&amp;&#60;",
    "model.layers.4.\x00\x1b[31m\r\n\t\u2028\u2029",
    "model.layers.5.\u202ejorp_q\u2066\u200f",
    "model.layers.6.\ud800lone",
    "model.layers.7.a b,c; rm -rf $HOME",
    "x" * 10_000,
    "__proto__",
    "constructor",
    "",
)

HOSTILE_MAP = tuple(
    f"{path}.{layer}.{leaf}"
    for path in ("</title><script>", "\u202eb\x00")
    for layer in range(2)
    for leaf in ("<b>&amp;", "$\\frac{1}{$", "\u202ejorp", "y" * 5000)
)
"""The same where there are layers, so that a map is drawn."""


def write_many(folder: Path) -> Path:
    """An adapter of 49 modules: one outside the layers, one that is zero, some of equal scores."""
    modules = {
        name: (draw(3, 6, seed=at // 2), draw(8, 3, seed=1000 + at // 2))
        for at, name in enumerate([*MANY, OUTSIDE])
    }
    modules[ZERO] = draw(3, 6), np.zeros((8, 3), np.float32)
    return write_adapter(folder, modules, {"target_modules": TARGETS, "r": 3})


def one_of_each(folder: Path, out: Path) -> dict[str, Result]:
    """A result of each kind, of the adapter in a folder and of what pruning leaves in another."""
    adapter = open_adapter(folder)
    tables = tuple(scan(adapter, name) for name in ("s3lora", "magnitude", "random"))
    prune(adapter, TopK(5)(tables[0]), out, table=tables[0])
    after = open_adapter(out)
    return {
        "scan": scanned(folder),
        "rank": make_ranking(adapter, tables, 4),
        "compare": make_comparison(adapter, after, compare(adapter, after)),
    }


def scanned(folder: Path, policy: Policy | None = None, method: str = "s3lora") -> Report:
    """The report of an adapter."""
    adapter = open_adapter(folder)
    table = scan(adapter, method)
    policy = policy or default_policy(table)
    return make_report(adapter, table, policy, chosen=policy(table))


def made_up(names: tuple[str, ...] = HOSTILE, rank: int = 4, skipped: int = 1) -> Report:
    """A report of modules with any names, without files; the last ones have no score."""
    known = [ModuleName(name) for name in names]
    rng = np.random.default_rng(0)
    spectra = np.sort(rng.random((len(known), rank)))[:, ::-1]
    scores = tuple(
        Score(
            name,
            float(rng.random()),
            {"frobenius": float(np.linalg.norm(s)), f"part {name[:40]}": 1.5},
            {"update": tuple(s.tolist()), "rebuild": tuple((s[:3] * 0.9).tolist())},
        )
        for name, s in zip(known[: len(known) - skipped], spectra, strict=False)
    )
    without = tuple(Skipped(name, f"because {name}") for name in known[len(known) - skipped :])
    table = ScoreTable("s3lora", {"keep": 5, "fit": "projected"}, "high", scores, without)
    return Report(
        tool={"name": "s3lora", "version": "0"},
        ref=names[0],
        sha256="0" * 64,
        base_model=names[0],
        nbytes=1,
        parameters=14 * rank * len(known),
        modules={name: ModuleFacts(rank, (8, 6)) for name in known},
        table=table,
        findings=tuple(Finding("unknown-tensor", "high", n, f"about {n}") for n in known),
        policy_name="top-k",
        policy_params={"k": 1},
        chosen=(table.ranked()[0].module,),
    )
