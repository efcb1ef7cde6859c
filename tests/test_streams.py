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


INTERRUPTING = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPT_AT"]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
"""
SCRIPT = "import sys; sys.argv[0] = '/bin/s3lora'; from s3lora.__main__ import main; main()"


@pytest.mark.parametrize("module", ["numpy", "s3lora.adapter", "s3lora.cli", "s3lora.cli.train"])
@pytest.mark.parametrize("start", [["-m", "s3lora"], ["-c", SCRIPT]], ids=["module", "script"])
def test_ctrl_c_while_the_command_is_imported_is_one_line_too(start, module, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTING)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, *start, "methods"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": path, "INTERRUPT_AT": module},
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_ctrl_c_while_the_library_is_imported_is_the_program_s_own_matter(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTING)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", "import s3lora"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": path, "INTERRUPT_AT": "s3lora.adapter"},
    )
    assert done.stderr.endswith("KeyboardInterrupt\n")


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


@pytest.mark.parametrize(("closed", "status"), [(1, 2), (2, 0)])
@pytest.mark.parametrize("words", [["scan", "ADAPTER"], ["--help"], ["methods"], ["check", "."]])
def test_a_closed_stdout_is_an_error_and_a_closed_stderr_is_none(words, closed, status, adapter):
    words = [str(adapter) if word in ("ADAPTER", ".") else word for word in words]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}>&-', "sh", *COMMAND, *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    if closed == 1:
        error, hint = done.stderr.splitlines()
        assert error == "error: cannot write to stdout: Bad file descriptor"
        assert hint.startswith("hint: ")


def test_a_closed_stdout_that_nothing_is_written_to_is_no_error(adapter, tmp_path):
    words = [*COMMAND, "scan", adapter, "--format", "json", "-o", tmp_path / "out"]
    command = ["sh", "-c", 'exec "$@" >&-', "sh", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, f"wrote {tmp_path / 'out'}\n")
    assert (tmp_path / "out").read_text().startswith("{")


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
