"""What is said after Ctrl-C: what is kept, and what the same call does when it is given again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def kept_words(words: str | Callable[[], str]) -> Iterator[None]:
    """Give a Ctrl-C in the block the words that are printed for it.

    Args:
        words: What is kept and how it goes on, or what gives it once it is needed.

    Raises:
        KeyboardInterrupt: the same, with the words.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(words if isinstance(words, str) else words()) from None
