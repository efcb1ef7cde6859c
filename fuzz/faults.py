"""Faults put into the system calls of `s3lora prune`, one a run: `python fuzz/faults.py`.

Needs strace.
A sound run is traced first. Then, for every call that it makes on the adapter, on the output and on
stdout and stderr, the command runs again and that one call fails with an error that it can have (no
space, an input/output error, no permission), or the process is killed at it. Calls by which Python
itself looks for modules are left alone. After each run:

- the input is what it was, byte for byte;
- the output is there whole, as its own manifest says, or it is not there at all;
- a run that failed says so in words, with status 2 and no traceback, and leaves nothing behind
  (a killed one may leave its `.partial` folder);
- a run that says it succeeded has written the output.

The counts go to `fuzz/results/faults.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from targets import CONFIG, Q, V, factors, write_config, write_weights

HERE = Path(__file__).parent

ERRORS: dict[str, tuple[str, ...]] = {
    "open": ("EACCES", "EMFILE", "EIO"),
    "openat": ("EACCES", "EMFILE", "EIO"),
    "read": ("EIO",),
    "pread64": ("EIO",),
    "preadv": ("EIO",),
    "preadv2": ("EIO",),
    "write": ("ENOSPC", "EIO"),
    "pwrite64": ("ENOSPC",),
    "sendfile": ("ENOSPC", "EIO"),
    "copy_file_range": ("ENOSPC",),
    "fsync": ("EIO", "ENOSPC"),
    "ftruncate": ("ENOSPC",),
    "mkdir": ("EACCES", "ENOSPC"),
    "rename": ("EACCES", "ENOSPC"),
    "renameat": ("EACCES",),
    "renameat2": ("EACCES",),
    "unlink": ("EACCES",),
    "unlinkat": ("EACCES",),
    "rmdir": ("EACCES",),
    "chmod": ("EPERM",),
    "fchmod": ("EPERM",),
    "fchmodat": ("EPERM",),
    "newfstatat": ("EACCES", "EIO"),
    "fstat": ("EIO",),
    "stat": ("EACCES",),
    "lstat": ("EACCES",),
    "statx": ("EACCES",),
    "getdents64": ("EIO",),
    "lseek": ("EIO",),
    "readlink": ("EACCES",),
    "close": ("EIO",),
}
"""The errors that a call is made to end with."""

KILL = "SIGKILL"
OPTIONS = ("--modules", Q, "--format", "json")


def adapter(folder: Path) -> Path:
    """An adapter of two modules with a card."""
    folder.mkdir(parents=True)
    write_weights(folder, {**factors(Q), **factors(V)})
    write_config(folder, CONFIG)
    (folder / "README.md").write_text("---\nlibrary_name: peft\n---\n# m\n", encoding="utf-8")
    return folder


def digest(folder: Path) -> str:
    """SHA-256 over names and bytes of everything in a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        total.update(f"{path.relative_to(folder)}\0".encode())
        total.update(path.read_bytes() if path.is_file() else b"")
    return total.hexdigest()


def whole(out: Path) -> bool:
    """Whether every file of the output is the one that its manifest tells of."""
    manifest = json.loads((out / "s3lora.json").read_bytes())
    hashes = manifest["output"]["files"]
    return hashes.keys() | {"s3lora.json"} == {path.name for path in out.iterdir()} and all(
        hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
        for name, digest in hashes.items()
    )


class Stand:
    """A place where prune runs under strace, again and again."""

    def __init__(self, root: Path, command: list[str]) -> None:
        self.root = root
        self.source = adapter(root / "in" / "adapter")
        self.before = digest(self.source)
        self.out = root / "outputs" / "out"
        self.command = command

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run prune under strace with its options, into an empty place."""
        shutil.rmtree(self.out.parent, ignore_errors=True)
        self.out.parent.mkdir()
        words = ["strace", "-f", "-qq", *options, *self.command, "prune", str(self.source)]
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [*words, "-o", str(self.out), *OPTIONS],
            capture_output=True, text=True, check=False, timeout=120, env=environment,
        )  # fmt: skip

    def calls(self) -> Iterator[tuple[str, int]]:
        """Every call of a sound run on the adapter or an output: its name and its number."""
        log = self.root / "trace"
        named = ",".join(f"?{name}" for name in ERRORS)
        done = self.run("-y", "-o", str(log), "-e", f"trace={named}")
        if done.returncode or not whole(self.out):
            raise SystemExit(f"the sound run failed: {done.stderr}")
        numbers: Counter[str] = Counter()
        for line in log.read_text("utf-8", "replace").splitlines():
            match = re.match(r"\d+ +(\w+)\(", line)
            if match is None:
                continue
            numbers[match[1]] += 1
            if str(self.root) in line or re.match(r"\d+ +write\([12]<", line):
                yield match[1], numbers[match[1]]

    def fault(self, call: str, number: int, error: str) -> str:
        """What became of a run in which one call failed: a word, or what is wrong with it."""
        how = f"signal={error}" if error == KILL else f"error={error}"
        done = self.run("-o", "/dev/null", "-e", f"inject={call}:{how}:when={number}")
        there = os.path.lexists(self.out)
        remains = [path.name for path in self.out.parent.iterdir() if path != self.out]
        if digest(self.source) != self.before:
            return "WRONG: the input has changed"
        if there and not whole(self.out):
            return "WRONG: half an output"
        if "Traceback" in done.stderr:
            return "WRONG: traceback: " + done.stderr.strip().splitlines()[-1]
        if error == KILL:
            return "killed, whole" if there else "killed, nothing"
        if remains:
            return f"WRONG: left behind: {remains}"
        if done.returncode == 0:
            return "succeeded" if there else "WRONG: status 0 without output"
        if done.returncode != 2 or "error: " not in done.stderr:
            # once stderr itself cannot be written to there are no words
            spoken = done.returncode == 2 and call == "write"
            return "failed, said" if spoken else f"WRONG: status {done.returncode}: {done.stderr}"
        return "failed, whole" if there else "failed, nothing"


def main() -> int:
    """Run every fault, print what is wrong, and record the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--every", type=int, default=1, help="only each Nth fault")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "faults.json")
    options = parser.parse_args()
    outcomes: Counter[str] = Counter()
    by_call: dict[str, Counter[str]] = {}
    wrong: list[dict[str, Any]] = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="s3lora-faults-") as root:
        stand = Stand(Path(root), [sys.executable, "-m", "s3lora"])
        faults = [(call, n, e) for call, n in stand.calls() for e in (*ERRORS[call], KILL)]
        for call, number, error in faults[:: options.every]:
            outcome = stand.fault(call, number, error)
            kind = outcome.split(":")[0]
            outcomes[kind] += 1
            by_call.setdefault(call, Counter())[kind] += 1
            if kind == "WRONG":
                wrong.append({"call": call, "number": number, "error": error, "what": outcome})
                print(f"{call} {number} {error}: {outcome}", flush=True)
    record = {
        "faults": sum(outcomes.values()),
        "outcomes": dict(sorted(outcomes.items())),
        "calls": {call: dict(sorted(counts.items())) for call, counts in sorted(by_call.items())},
        "wrong": wrong,
        "seconds": round(time.monotonic() - started),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.system()} {platform.machine()}",
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{record['faults']} faults: {record['outcomes']}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
