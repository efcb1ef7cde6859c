"""Errors: they reach the parent of a worker process whole, with the hint."""

from __future__ import annotations

import copy
import importlib
import pickle
import pkgutil
from concurrent.futures import ProcessPoolExecutor

import pytest

import s3lora
from adapters import write_adapter
from s3lora import open_adapter
from s3lora.errors import AdapterError, S3LoraError


def subclasses(kind: type[S3LoraError]) -> list[type[S3LoraError]]:
    return [kind, *(below for sub in kind.__subclasses__() for below in subclasses(sub))]


def every_kind() -> list[type[S3LoraError]]:
    """The errors of all modules that can be imported here."""
    for module in pkgutil.walk_packages(s3lora.__path__, "s3lora."):
        if not module.name.endswith("__main__"):
            try:
                importlib.import_module(module.name)
            except ImportError:  # an extra that is not installed
                continue
    return [kind for kind in subclasses(S3LoraError) if kind.__module__.startswith("s3lora")]


def test_errors_survive_pickle_and_copy():
    kinds = every_kind()
    assert len(kinds) >= 6
    for kind in kinds:
        error = kind.__new__(kind, "what is wrong")
        error.__dict__.update(hint="what to do", more=[1])
        for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
            assert type(again) is kind
            assert (str(again), again.hint, again.more) == ("what is wrong", "what to do", [1])
            assert again.exit_code == kind.exit_code


def test_an_error_with_arguments_of_its_own_is_restored_without_them():
    class OwnError(AdapterError):
        def __init__(self, path: str) -> None:
            super().__init__(f"{path} is broken", hint="save it again")

    again = copy.copy(OwnError("a"))
    assert (str(again), again.hint) == ("a is broken", "save it again")


def test_one_bad_adapter_does_not_break_a_pool_of_processes(tmp_path):
    good, bad = write_adapter(tmp_path / "good"), tmp_path / "bad"
    bad.mkdir()
    with ProcessPoolExecutor(1) as pool:
        failing, working = pool.submit(open_adapter, bad), pool.submit(names_of, str(good))
        with pytest.raises(AdapterError) as caught:
            failing.result(timeout=60)
        assert caught.value.hint
        assert working.result(timeout=60) == open_adapter(good).names


def names_of(ref: str) -> tuple[str, ...]:
    return open_adapter(ref).names
