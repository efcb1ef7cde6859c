"""What a training takes, also over several processes if it was interrupted."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from s3lora.errors import ParameterError
from s3lora.lab.metrics.cost import memory_peak

STATUS = Path("/proc/self/status")


@dataclass(slots=True)
class Spent:
    """Seconds and memory so far; what a checkpoint keeps of it goes on in another process."""

    before: float = 0.0
    """Seconds that a defence took before the first step."""
    earlier: float = 0.0
    """Seconds of the steps in processes that were interrupted, up to their last checkpoint."""
    highest: float = 0.0
    """The largest resident memory of those processes, in MiB."""
    started: float | None = None
    """The clock when the steps of this process began; None: not yet."""

    def start(self) -> None:
        """The steps begin."""
        self.started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Of all steps so far."""
        return self.earlier + (time.perf_counter() - self.started if self.started else 0.0)

    @property
    def peak(self) -> float | None:
        """The largest resident memory so far, in MiB; None where it is not known."""
        now = process_peak()
        return None if now is None else max(now, self.highest)

    def kept(self) -> dict[str, str]:
        """For a checkpoint."""
        told = {"before": self.before, "earlier": self.seconds, "highest": self.peak or 0.0}
        return {key: str(value) for key, value in told.items()}

    @classmethod
    def from_kept(cls, kept: Mapping[str, str]) -> Spent:
        """What `kept` gave."""
        return cls(**{key: float(kept[key]) for key in ("before", "earlier", "highest")})


def process_peak() -> float | None:
    """The largest resident memory of this process, in MiB; None where it is not known.

    Linux tells it in /proc for the program that runs now alone; `memory_peak` there starts with
    that of the process it was started by.
    """
    if STATUS.exists():
        told = re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text(encoding="utf-8"))
        if told:
            return int(told[1]) / 2**10
    try:
        return memory_peak()
    except ParameterError:
        return None


def machine() -> str:
    """System, processor and number of cores, in a few words."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
