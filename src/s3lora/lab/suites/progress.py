"""How far a suite is: the samples of a task that Inspect has finished, counted.

Importing this registers the hook with Inspect, which then says so when it starts: import it where
somebody wants to see progress, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from inspect_ai.hooks import Hooks, SampleEnd, TaskStart, hooks

Progress = Callable[[int, int], None]
"""Takes the samples that are finished, and how many there are."""


class _Watcher:
    """What is counted of the tasks that run while it watches."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.finished = 0
        self.total = 0


_watchers: list[_Watcher] = []


@hooks(name="s3lora_progress", description="counts finished samples for s3lora")
class FinishedSamples(Hooks):
    """Tells whoever watches of each sample that ends; Inspect makes the only instance."""

    def enabled(self) -> bool:
        """Whether somebody watches."""
        return bool(_watchers)

    async def on_task_start(self, data: TaskStart) -> None:
        """Note how many samples the task has."""
        for watcher in _watchers:
            watcher.total += data.spec.dataset.samples or 0

    async def on_sample_end(self, data: SampleEnd) -> None:
        """Count the sample."""
        for watcher in _watchers:
            watcher.finished += 1
            watcher.progress(watcher.finished, max(watcher.total, watcher.finished))


@contextmanager
def watched(progress: Progress) -> Iterator[None]:
    """Have the samples that end inside the block told to `progress`."""
    watcher = _Watcher(progress)
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)
