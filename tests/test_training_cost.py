"""Seconds and memory of a training, over several processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from s3lora.lab import training_cost
from s3lora.lab.training_cost import Spent, machine, process_peak


def test_an_interrupted_training_goes_on_counting(monkeypatch):
    clock = iter([10.0, 14.0, 100.0, 103.0, 103.0])
    monkeypatch.setattr(training_cost.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(training_cost, "process_peak", lambda: 700.0)
    first = Spent(before=2.5)
    assert first.seconds == 0
    first.start()
    kept = first.kept()  # after 4 s
    monkeypatch.setattr(training_cost, "process_peak", lambda: 500.0)
    second = Spent.from_kept(kept)
    second.start()
    assert (second.before, second.seconds) == (2.5, 4.0 + 3.0)
    assert second.peak == 700, "that of the first process was higher"
    assert Spent().peak == 500


def test_memory_that_is_not_known_is_none(monkeypatch):
    monkeypatch.setattr(training_cost, "process_peak", lambda: None)
    assert Spent(highest=3.0).peak is None


@pytest.mark.skipif(not training_cost.STATUS.exists(), reason="Linux keeps it there")
def test_the_peak_is_not_that_of_the_process_it_was_started_by(tmp_path):
    held = bytearray(os.urandom(1)) * (300 * 2**20)  # 300 MiB that are touched
    assert process_peak() > 300
    code = "import re; print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert int(told.stdout) / 1024 < 100
    assert len(held)


def test_a_machine_has_a_name():
    assert machine().endswith(f"{os.cpu_count()} cores")
