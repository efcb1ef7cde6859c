"""Work in threads that nobody has to wait for: with a limit of time, and several at once.

A thread cannot be stopped from outside. Work that takes too long is left behind in a daemon
thread, which does not keep the process from ending; long work asks `left_behind` now and then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Event, Thread, local
from typing import TypeVar

T = TypeVar("T")

LONGEST_WAIT = 10_000_000.0
"""In seconds; locks cannot wait much longer."""

_thread = local()
"""In a thread that was started here, `check` is what `left_behind` asks."""


def within(seconds: float, work: Callable[[], T]) -> T:
    """What the work returns, if it does so in time.

    Raises:
        TimeoutError: if it takes longer; the work is left behind and its result dropped.
        Exception: whatever the work raises.
    """
    if seconds <= 0:
        raise TimeoutError("there was no time left for it")
    box: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
    left = Event()
    _start(lambda: box.put(_tried(work)), left)
    try:
        return _opened(box.get(timeout=min(seconds, LONGEST_WAIT)))
    except Empty:
        raise TimeoutError(f"it took longer than {seconds:.3g} s") from None
    finally:
        left.set()


def side_by_side(jobs: Sequence[Callable[[], T]], workers: int) -> list[T]:
    """What the jobs return, in their order; at most `workers` of them run at a time.

    They start in their order.

    Raises:
        Exception: what the first of the jobs that raise raises, once all are done.
    """
    waiting: SimpleQueue[tuple[int, Callable[[], T]]] = SimpleQueue()
    done: SimpleQueue[tuple[int, tuple[T | None, BaseException | None]]] = SimpleQueue()
    left = Event()
    for numbered in enumerate(jobs):
        waiting.put(numbered)

    def work() -> None:
        while not left_behind():
            try:
                at, job = waiting.get_nowait()
            except Empty:
                return
            done.put((at, _tried(job)))

    for _ in range(min(workers, len(jobs))):
        _start(work, left)
    try:
        found = dict(done.get() for _ in jobs)
    finally:
        left.set()
    return [_opened(found[at]) for at in range(len(jobs))]


def left_behind() -> bool:
    """Whether nobody waits any more for what this thread does."""
    check: Callable[[], bool] | None = getattr(_thread, "check", None)
    return check is not None and check()


def _start(work: Callable[[], None], left: Event) -> None:
    """Start a thread that is left behind once `left` is set, or once this thread is."""
    outer: Callable[[], bool] | None = getattr(_thread, "check", None)

    def started() -> None:
        _thread.check = lambda: left.is_set() or (outer is not None and outer())
        work()

    Thread(target=started, daemon=True).start()


def _tried(work: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    try:
        return work(), None
    except BaseException as error:  # it is raised again where the result is awaited
        return None, error


def _opened(result: tuple[T | None, BaseException | None]) -> T:
    value, error = result
    if error is not None:
        raise error
    return value  # type: ignore[return-value]
