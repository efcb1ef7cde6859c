"""The fuzz targets over their corpus, and over simple mutations of it: `fuzz/run.py` goes on."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

import seeds
import targets

FUZZ = Path(targets.__file__).parent
CORPUS = sorted(path for path in (FUZZ / "corpus").glob("*/*") if path.is_file())
MUTANTS = 3
"""Of each seed; with them a target is run some hundred times."""
TOKENS = (
    b"\x00", b"\xff", b"{}", b"[]", b"null", b"-0", b"1e999", b"NaN", b'"', b"\\ud800", b".", b"]",
    b"18446744073709551616", b"true", b"\n", b"[[[[[[[[", b"a" * 600,
)  # fmt: skip


def mutant(data: bytes, chance: random.Random) -> bytes:
    """The data with one to four pieces put in, taken out, replaced or doubled."""
    raw = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(raw) + 1)
        stop = min(len(raw), at + chance.choice((1, 1, 2, 8, 40)))
        piece = chance.choice((b"", chance.choice(TOKENS), bytes(raw[at:stop]) * 2))
        raw[at : chance.choice((at, stop))] = piece
    return bytes(raw)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_no_promise_is_broken(path):
    chance = random.Random(path.name)
    data = path.read_bytes()
    target = targets.TARGETS[path.parent.name]
    target(data)
    for _ in range(MUTANTS):
        changed = mutant(data, chance)
        try:
            target(changed)
        except Exception as error:
            raise AssertionError(f"the input {changed!r}") from error


def test_every_target_has_seeds_and_every_seed_a_target():
    assert {path.parent.name for path in CORPUS} == set(targets.TARGETS)


def test_the_corpus_is_what_the_script_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(seeds, "CORPUS", tmp_path)
    seeds.main()
    written = {path.relative_to(tmp_path) for path in tmp_path.glob("*/*")}
    kept = {path.relative_to(FUZZ / "corpus") for path in CORPUS}
    assert written <= kept
    assert "header" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("header", b"x" * 4),
        ("config", b"{"),
        ("keys", b"a"),
        ("index", b"{"),
        ("card", b"# m\n"),
        ("result", b"{"),
        ("plan", b"{"),
    ],
)
def test_a_target_notices_what_breaks_a_promise(name, data, monkeypatch):
    """Each reaches the code it is about: an error that is not s3lora's own comes through."""

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    for module, reader in (
        (targets, "TensorFile"),
        (targets, "open_adapter"),
        (targets, "Checkpoint"),
        (targets, "prune"),
        (targets.reading, "read"),
        (targets, "read_plan"),
    ):
        monkeypatch.setattr(module, reader, broken)
    targets.sound_adapter.cache_clear()
    monkeypatch.setattr(targets, "sound_adapter", lambda: None)
    with pytest.raises(ZeroDivisionError):
        targets.TARGETS[name](data)


def test_a_hidden_section_is_noticed():
    section = "# Pruned with s3lora\n\nwords\n"
    assert targets.section_is_shown(f"---\na: 1\n---\n{section}\n```\n")
    for hiding in ("```\n", "<!-- ", "<details>\n<pre>\n", "~~~\n"):
        assert not targets.section_is_shown(f"# m\n{hiding}{section}")


def test_the_runner_takes_a_target_by_name():
    told = subprocess.run(
        [sys.executable, FUZZ / "run.py", "no-such-target"], capture_output=True, text=True
    )
    assert told.returncode == 2
    assert "one of card, config, header" in told.stderr
