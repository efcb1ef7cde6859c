"""The exit status where a stream or the user ends a command: never that of findings."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adapters import write_adapter

FULL = Path("/dev/full")
COMMAND = [sys.executable, "-m", "s3lora"]


def run(*words: object, **streams: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        text=True,
        timeout=120,
        check=False,
        **({"stderr": subprocess.PIPE} | streams),  # type: ignore[call-overload]
    )


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("streams") / "adapter")


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(
    "words",
    [
        ["scan", "ADAPTER"],
        ["scan", "ADAPTER", "--format", "html"],
        ["rank", "ADAPTER", "-m", "spectrum", "--format", "json"],
        ["prune", "ADAPTER", "--top-k", "1", "--dry-run"],
        ["check", "ADAPTER"],
        ["methods"],
        ["--help"],
        ["scan", "--help"],
    ],
    ids=" ".join,
)
def test_a_full_disk_on_stdout_is_an_error(words, adapter):
    with FULL.open("w") as full:
        done = run(*(adapter if word == "ADAPTER" else word for word in words), stdout=full)
    assert done.returncode == 2
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: cannot ")
    assert error.endswith("No space left on device")
    assert hint.startswith("hint: ")


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(("words", "status"), [(["scan", "ADAPTER"], 0), (["scan", "nowhere"], 2)])
def test_a_full_disk_on_stderr_changes_no_status(words, status, adapter):
    with FULL.open("w") as full:
        done = run(
            *(adapter if word == "ADAPTER" else word for word in words),
            stdout=subprocess.DEVNULL,
            stderr=full,
        )
    assert done.returncode == status


@pytest.mark.parametrize("form", ["table", "html"])
@pytest.mark.parametrize("words", [["scan", "ADAPTER", "-v"], ["scan", "--help"], ["--help"]])
def test_a_reader_that_has_gone_is_no_finding(form, words, adapter):
    command = [*words, "--format", form] if "ADAPTER" in words else words
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run(*(adapter if word == "ADAPTER" else word for word in command), stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_ctrl_c_is_one_line_and_status_130(tmp_path):
    # Reading a pipe that nobody writes to would do too, but no command of ours waits for one.
    code = (
        "import s3lora.cli, sys, time\n"
        "def wait(ref):\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "sys.modules['s3lora.cli.scan'].open_adapter = wait\ns3lora.cli.main()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, "scan", "anything"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, "interrupted\n")


def test_a_fault_of_ours_is_not_the_status_of_findings():
    code = (
        "import s3lora.cli, sys\n"
        "def fail(ref):\n    raise ZeroDivisionError('ours')\n"
        "sys.modules['s3lora.cli.scan'].open_adapter = fail\ns3lora.cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "scan", "anything"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "ZeroDivisionError: ours" in done.stderr
    assert done.stderr.endswith("please report it.\n")


@pytest.mark.parametrize("closed", [1, 2])
def test_a_closed_stream_is_no_traceback(closed, adapter):
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}>&-', "sh", *COMMAND, "scan", str(adapter)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["scan", "ADAPTER", "--format", "html", "-o", "out"],
        ["prune", "ADAPTER", "--top-k", "1", "-o", "out"],
        ["check", "ADAPTER", "--sarif", "out"],
    ],
    ids=lambda words: words[0],
)
def test_a_file_system_that_takes_no_more_leaves_nothing_and_is_an_error(words, adapter, tmp_path):
    def limit() -> None:  # writing beyond it fails as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))

    (tmp_path / "out.html").write_text("old")
    done = subprocess.run(
        [*COMMAND, *(str(adapter) if word == "ADAPTER" else word for word in words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
        preexec_fn=limit,
    )
    assert done.returncode == 2
    assert "error: cannot write out: File too large" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out.html"]
