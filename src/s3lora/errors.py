"""What can go wrong, as a tree: catch the root, or the branch you can do something about.

    S3LoraError
    ├── AdapterError       the files are missing, broken or hostile                       exit 2
    ├── UnsupportedError   well formed, but the true update cannot be computed from them  exit 3
    ├── DataError          a model, data set or package of the lab cannot be read         exit 2
    ├── ParameterError     a method, policy or option that does not exist or does not fit exit 2
    └── OutputError        the result cannot be written where it was asked for            exit 2

Every error says what is wrong and, in `hint`, what to do about it.
"""

from __future__ import annotations

from typing import Any


def install_hint(extra: str) -> str:
    """What to do where a package of an extra is missing; s3lora itself is on no index yet."""
    return f"in a checkout of the repository of s3lora: pip install '.[{extra}]'"


class S3LoraError(Exception):
    """Root of the tree: a message for people, a hint, and the exit status of the command line."""

    exit_code = 2

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        """What pickle and copy make it of again; that of `Exception` would leave the hint out.

        An error of a worker process travels to its parent so.
        """
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[S3LoraError], args: tuple[Any, ...], state: dict[str, Any]) -> S3LoraError:
    """An error as it was, whatever the arguments of its class are."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class AdapterError(S3LoraError):
    """The adapter's files are missing, broken or hostile; nothing of them was judged."""


class UnsupportedError(S3LoraError):
    """The adapter is of a kind whose true update its files alone do not give: cannot judge."""

    exit_code = 3


class DataError(S3LoraError):
    """What is read beside adapters is missing, broken or not as pinned: a model, rows, a result."""


class ParameterError(S3LoraError):
    """A method, policy or option that does not exist, or a value that does not fit it."""


class OutputError(S3LoraError):
    """The result cannot be written there; nothing was written and nothing was changed."""
