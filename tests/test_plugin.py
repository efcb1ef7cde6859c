"""A method from another package: the one of docs/write-a-method.md, installed and used."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adapters import NAMES, write_adapter
from s3lora import open_adapter, scan
from s3lora.methods import BUILTIN, make_method

pytestmark = pytest.mark.needs("hatchling")

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/write-a-method.md"
BROKEN = ROOT / "tests/plugin/broken"
SHADOW = ROOT / "tests/plugin/shadow"


def blocks() -> dict[str, str]:
    """The code blocks of the page by language; there is one of each."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert sorted(language for language, _ in found) == ["python", "sh", "toml"]
    return dict(found)


def install(source: Path, target: Path) -> Path:
    """Install a package into a folder, as pip does, with nothing from a network."""
    told = subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
            "--no-build-isolation", "--disable-pip-version-check", "--target", target, source,
        ],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    return target


@pytest.fixture(scope="session")
def loudest(tmp_path_factory):
    """Where the package of the page is installed."""
    source, parts = tmp_path_factory.mktemp("package"), blocks()
    (source / "s3lora_loudest").mkdir()
    (source / "s3lora_loudest/__init__.py").write_text(parts["python"], encoding="utf-8")
    (source / "pyproject.toml").write_text(parts["toml"], encoding="utf-8")
    return install(source, tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="session")
def packages(tmp_path_factory):
    """Where the packages of tests/plugin are installed, by name."""
    made: dict[Path, Path] = {}

    def get(source: Path) -> Path:
        if source not in made:
            copy = tmp_path_factory.mktemp("copy") / source.name
            copy.mkdir()
            for path in source.iterdir():  # building leaves files beside the source
                if path.is_file():
                    (copy / path.name).write_bytes(path.read_bytes())
            made[source] = install(copy, tmp_path_factory.mktemp("site"))
        return made[source]

    return get


@pytest.fixture
def adapter(tmp_path):
    return write_adapter(tmp_path / "adapter")


def run(paths: list[Path], *args: object) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own that finds packages in these folders."""
    return subprocess.run(
        [sys.executable, "-m", "s3lora", *[str(arg) for arg in args]],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "COLUMNS": "80"},
    )


def by_hand(folder: Path, power: float) -> dict[str, float]:
    """The score of the page's method from the dense update."""
    adapter, shares = open_adapter(folder), {}
    for name in adapter.names:
        module = adapter.read(name)
        rows = np.linalg.norm(module.scaling * module.B @ module.A, axis=1) ** power
        shares[name] = rows.max() / rows.sum()
    return shares


def test_it_is_listed_and_described_once_it_is_installed(loudest):
    assert "loudest-row" not in run([], "methods").stdout
    told = run([loudest], "methods")
    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [*BUILTIN, "loudest-row"]
    assert lines[-1].endswith("Share of the update that its loudest row holds, in (0, 1]; "
                              "invariant to scale.")  # fmt: skip
    assert "-p power=2.0  (the default)" in run([loudest], "methods", "loudest-row").stdout


@pytest.mark.parametrize("power", [2.0, 1.0])
def test_it_scans(loudest, adapter, power):
    asked = ["-p", f"power={power:g}"] if power != 2.0 else []
    told = run([loudest], "scan", adapter, "-m", "loudest-row", *asked, "--format", "json")
    assert told.returncode == 0, told.stderr
    document = json.loads(told.stdout)
    assert document["method"] == {
        "name": "loudest-row",
        "params": {"power": power},
        "unsafe": "high",
    }
    found = {row["module"]: row["score"] for row in document["modules"]}
    assert found == pytest.approx(by_hand(adapter, power), rel=1e-9)
    assert {row["parts"]["rows"] for row in document["modules"]} == {8.0}


def test_a_wrong_parameter_is_an_error_as_for_any_other(loudest, adapter):
    told = run([loudest], "scan", adapter, "-m", "loudest-row", "-p", "strength=1")
    assert told.returncode == 2
    assert "error: the method 'loudest-row' has no parameter 'strength'" in told.stderr
    told = run([loudest], "scan", adapter, "-m", "loudest-row", "-p", "power=much")
    assert told.returncode == 2
    assert "power='much' is not a value" in told.stderr


def test_it_is_ranked_beside_the_others(loudest, adapter):
    asked = ["-m", "loudest-row", "-m", "loudest-row:power=1", "-m", "s3lora"]
    told = run([loudest], "rank", adapter, *asked, "--format", "json")
    assert told.returncode == 0, told.stderr
    document = json.loads(told.stdout)
    labels = [method["label"] for method in document["methods"]]
    assert labels == ["loudest-row", "loudest-row(power=1.0)", "s3lora"]
    found = {row["module"]: row["scores"]["loudest-row(power=1.0)"] for row in document["modules"]}
    assert found == pytest.approx(by_hand(adapter, 1.0), rel=1e-9)
    assert "loudest-row" in run([loudest], "rank", adapter, *asked).stdout


def test_it_prunes(loudest, adapter, tmp_path):
    out = tmp_path / "out"
    told = run([loudest], "prune", adapter, "-m", "loudest-row", "--top-k", 1, "-o", out)
    assert told.returncode == 0, told.stderr
    shares = by_hand(adapter, 2.0)
    gone = max(shares, key=shares.get)
    assert set(open_adapter(out).names) == set(NAMES) - {gone}
    assert json.loads((out / "s3lora.json").read_text())["method"]["name"] == "loudest-row"


def test_the_commands_of_the_page_are_commands(loudest, adapter, tmp_path):
    for line in blocks()["sh"].splitlines():
        words = line.replace("ADAPTER", str(adapter)).replace("OUT", str(tmp_path / "out")).split()
        assert words[0] == "s3lora"
        told = run([loudest], *words[1:])
        assert told.returncode == 0, told.stderr
    assert (tmp_path / "out/s3lora.json").exists()


def test_the_page_keeps_what_it_says_of_conclude(adapter):
    table = scan(open_adapter(adapter), make_method("s3lora"))
    assert len(table.scores) == len(NAMES)
    assert "conclude" in dir(make_method("s3lora"))


def test_a_broken_package_is_named_when_its_method_is_asked_for(packages, adapter):
    told = run([packages(BROKEN)], "scan", adapter, "-m", "broken")
    assert told.returncode == 2
    assert "error: the method 'broken' of s3lora_broken:Broken cannot be loaded" in told.stderr
    assert "No module named 'a_package_that_is_not_there'" in told.stderr
    assert "hint: it comes from another package" in told.stderr
    assert "Traceback" not in told.stderr


@pytest.mark.parametrize("command", ["scan", "rank"])
def test_a_broken_package_is_in_nobody_elses_way(packages, loudest, adapter, command):
    both = [packages(BROKEN), loudest]
    told = run(both, command, adapter, "-m", "loudest-row")
    assert told.returncode == 0, told.stderr


def test_a_broken_package_does_not_break_the_list(packages, loudest):
    told = run([packages(BROKEN), loudest], "methods")
    assert told.returncode == 0, told.stderr
    names = [line.split()[0] for line in told.stdout.splitlines()]
    assert names == [*BUILTIN, "broken", "loudest-row"]
    assert "cannot be loaded" in told.stdout + told.stderr


def test_a_package_cannot_take_the_name_of_a_built_in_method(packages, adapter):
    plain, shadowed = (
        run(paths, "scan", adapter, "-m", "random", "--format", "json")
        for paths in ([], [packages(SHADOW)])
    )
    assert shadowed.returncode == 0, shadowed.stderr
    assert json.loads(shadowed.stdout)["modules"] == json.loads(plain.stdout)["modules"]
    listed = [run(paths, "methods").stdout.splitlines() for paths in ([], [packages(SHADOW)])]
    assert [line.split() for line in listed[1][:-1]] == [line.split() for line in listed[0]]


def test_what_is_no_dataclass_is_no_method(packages, adapter):
    told = run([packages(SHADOW)], "scan", adapter, "-m", "plain-function")
    assert told.returncode == 2
    assert "error: the method 'plain-function' is no dataclass" in told.stderr
    assert "docs/write-a-method.md" in told.stderr
