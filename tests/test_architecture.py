"""The rules of ARCHITECTURE.md that a machine can check: who imports whom, and at what cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import s3lora

ROOT = Path(s3lora.__file__).parent

FLOORS = [
    {"_interrupt", "_version", "errors", "linalg", "findings"},
    {"adapter", "mas_svd", "parameters"},
    {"alignment", "scores"},
    {"io", "methods", "recover"},
    {"scan", "selection", "edits", "extrapolate", "agreement"},
    {"compare", "targets", "verify"},
    {"plan"},
    {"report"},
    {"manifest"},
    {"prune"},
    {"lab"},
    {"cli"},
]
"""A room imports from floors below its own, or from within itself."""

HEAVY = {"torch", "transformers", "peft", "click", "rich", "scipy", "pandas"}


def room(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0]


def floor(name: str) -> int:
    return next(at for at, rooms in enumerate(FLOORS) if name in rooms)


def imports(path: Path):
    """Every (module, whether it is only for type checkers) that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or ""


SOURCES = sorted(p for p in ROOT.rglob("*.py") if p.parent != ROOT or not p.stem.startswith("__"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_from_below(path):
    own = room(path)
    for module in imports(path):
        if module.startswith("s3lora."):
            other = module.split(".")[1]
            assert other == own or floor(other) < floor(own), f"{path.name} imports {module}"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "methods").glob("[a-z]*.py")), ids=lambda path: path.stem
)
def test_a_method_imports_no_other_method(path):
    assert not [m for m in imports(path) if m.startswith("s3lora.methods")]


def test_every_room_has_a_floor():
    rooms = {room(path) for path in SOURCES} - {"example"}
    assert rooms == set().union(*FLOORS)


def loaded_by(code: str) -> set[str]:
    told = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in told.stdout.split()}


def test_importing_the_library_loads_nothing_heavy():
    assert not loaded_by("import s3lora") & HEAVY


def test_the_command_line_loads_no_torch_and_rich_only_when_it_prints_tables():
    assert loaded_by("import s3lora.cli") & HEAVY == {"click"}


def test_the_public_names_are_those_of_all():
    public = {name for name in vars(s3lora) if not name.startswith("_")}
    modules = {name for name in public if type(vars(s3lora)[name]).__name__ == "module"}
    assert public - modules == set(s3lora.__all__) - {"__version__"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_stays_small_enough_to_be_read(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 320
