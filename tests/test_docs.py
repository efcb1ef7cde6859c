"""Documents that cannot drift: generated pages, shown commands, links, the examples."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from s3lora.cli import cli
from s3lora.findings import RULES
from s3lora.methods import method_names

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def reference():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.page()


def test_the_tests_that_security_names_exist():
    named = set(re.findall(r"`(tests/test_\w+\.py)`", (ROOT / "SECURITY.md").read_text("utf-8")))
    assert len(named) > 15
    assert not [path for path in named if not (ROOT / path).is_file()]


def test_the_reference_is_what_the_code_says():
    assert (ROOT / "docs/reference.md").read_text(encoding="utf-8") == reference()


def test_every_command_method_and_rule_is_in_the_reference():
    page = reference()
    for name in (*cli.commands, *method_names()):
        assert re.search(rf"^### (s3lora )?{name}$", page, re.MULTILINE), name
    for rule in RULES:
        assert f"`{rule}`" in page


def test_every_rule_that_the_code_gives_is_described():
    used = set()
    for path in (ROOT / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        used |= set(re.findall(r'Finding\(\s*"([a-z-]+)"', text))
    assert used <= RULES.keys()
    assert len(used) > 10


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if not target.startswith(("http", "mailto:")):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_files_that_are_named_exist(path):
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:src|tests|docs|benchmarks|examples)/[\w./-]+)`", text):
        assert "yours" in name or (ROOT / name).exists(), name


def test_the_session_in_the_readme_is_a_real_one(tmp_path, monkeypatch):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    session = next(b for b in text.split("```console\n") if b.startswith("$ s3lora scan src/"))
    monkeypatch.chdir(ROOT)
    printed: list[str] = []
    for line in session.partition("```")[0].splitlines():
        if line.startswith("$ s3lora "):
            words = [w.replace("demo-out", str(tmp_path)) for w in line.split()[2:]]
            result = CliRunner().invoke(cli, words)
            assert result.exit_code == 0, result.output
            printed = [row.rstrip() for row in result.output.splitlines()]
        elif line != "…":
            assert line in printed


def test_three_commands_in_the_readme_end_in_opening_the_report(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.partition("```console\n")[2].partition("```")[0]
    demo, scan, look = (line.removeprefix("$ ") for line in block.splitlines())
    assert demo.split()[:2] == ["make", "demo"]
    (tmp_path / "src").symlink_to(ROOT / "src")
    command = Path(sys.executable).with_name("s3lora")
    browser = tmp_path / "browser"
    browser.write_text('#!/bin/sh\nprintf %s "$1" > opened\n')
    browser.chmod(0o755)
    subprocess.run(
        ["sh", "-c", f"{scan.replace('.venv/bin/s3lora', str(command))} && {look}"],
        cwd=tmp_path,
        env=os.environ | {"BROWSER": f"{browser} %s"},
        check=True,
    )
    assert (tmp_path / "opened").read_text() == (tmp_path / "scan.html").as_uri()
    assert "model.layers.22.self_attn.q_proj" in (tmp_path / "scan.html").read_text()


def test_the_library_example_runs(tmp_path):
    script = ROOT / "examples/scan_and_prune.py"
    told = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "out")], capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    assert "210 modules before, 193 after" in told.stdout
    assert (tmp_path / "out/s3lora.json").exists()


def test_the_demo_shows_its_commands_and_where_everything_is(tmp_path):
    result = CliRunner().invoke(cli, ["demo", "-o", str(tmp_path / "demo")])
    assert result.exit_code == 0, result.output
    for command in ("$ s3lora scan", "$ s3lora prune", "$ s3lora compare"):
        assert command in result.output
    for name in ("scan.json", "pruned/adapter_model.safetensors", "pruned/s3lora.json"):
        assert (tmp_path / "demo" / name).exists()
    again = CliRunner().invoke(cli, ["demo", "-o", str(tmp_path / "demo")])
    assert again.exit_code == 2


def test_every_rule_is_in_the_table_of_findings_with_the_severities_that_the_code_gives():
    page = (ROOT / "docs/findings.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `([a-z-]+)` \| ([a-z, ]+) \|", page, re.MULTILINE))
    assert table.keys() == RULES.keys()
    given: dict[str, set[str]] = {}
    for path in (ROOT / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for rule, severity in re.findall(r'Finding\(\s*"([a-z-]+)",\s*"(high|medium|low)"', text):
            given.setdefault(rule, set()).add(severity)
    for rule, severities in given.items():
        assert severities <= set(table[rule].split(", ")), rule
