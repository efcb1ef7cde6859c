"""Ctrl-C while the command `s3lora` is still importing: one line, not a traceback.

The package's own imports run before any `main`, for `python -m s3lora` as for the console script.
A program that imports s3lora as a library keeps its own way to end.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import PurePath
from types import TracebackType

INTERRUPTED = 130
"""Exit status after Ctrl-C, as a shell says it: 128 and the number of SIGINT."""


def is_command() -> bool:
    """Whether this process was started as `s3lora` or `python -m s3lora`."""
    words = getattr(sys, "argv", None) or [""]
    if words[0] == "-m":  # what it is while Python still looks for the module
        return sys.orig_argv[-len(words)] in ("s3lora", "-ms3lora", "s3lora.__main__")
    return PurePath(words[0]).stem in ("s3lora", "s3lora-script")


def end_in_one_line() -> None:
    """Let a KeyboardInterrupt that nobody catches write `interrupted` and end with 130."""
    former = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            former(kind, error, trace)
            return
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.write("interrupted\n")
            sys.stderr.flush()
        os._exit(INTERRUPTED)  # an uncaught KeyboardInterrupt would end by the signal itself

    sys.excepthook = hook
