"""Tests without the extras: files that need what is not installed are skipped, and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
import pytest
raise SystemExit(pytest.main(sys.argv[1:]))
"""

LAB = ("torch", "transformers", "peft")


def pytest_without(blocked: tuple[str, ...], *words: str) -> subprocess.CompletedProcess[str]:
    code = BLOCKED.format(blocked=blocked)
    paths = [str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, "-c", code, "-p", "no:cacheprovider", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )


def test_the_suite_collects_without_the_lab():
    told = pytest_without(LAB, "--collect-only")
    assert told.returncode == 0, told.stdout[-3000:]
    assert "tests/test_architecture.py::" in told.stdout
    assert "tests/test_lab_model.py::" not in told.stdout


FILES = {
    "test_extra.py": "import torch",
    "test_ours.py": "import s3lora.nothing",
    "test_other.py": "import no_such_library",
    "test_inside.py": "def test_a():\n    import torch.nn",
    "test_ours_inside.py": "def test_a():\n    import s3lora.nothing",
}


def test_nothing_but_an_extra_is_a_reason_to_skip(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    options = ("-p", "conftest", "-rsfE", "--continue-on-collection-errors")
    told = pytest_without(LAB, *options, str(tmp_path))
    for name in ("ERROR .*test_ours.py", "ERROR .*test_other.py", "FAILED .*test_ours_inside.py"):
        assert re.search(name, told.stdout), told.stdout
    skipped = [line for line in told.stdout.splitlines() if line.startswith("SKIPPED")]
    assert len(skipped) == 2
    assert all("torch is not installed" in line for line in skipped)
    assert "1 failed, 2 skipped, 2 errors" in told.stdout
