"""Fuzz the readers of hostile bytes with atheris: `python fuzz/run.py [--seconds N] [TARGET ...]`.

Each target runs in a process of its own, guided by coverage, from the seeds in `corpus/TARGET`. A
process that breaks a promise, takes more than ten seconds for one input, or more than a GiB of
memory leaves the input in `work/` and ends the run with status 1. What it learned stays in
`work/TARGET`, so that a longer run goes on from there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SLOW = 10
"""Seconds that one input may take."""
MEBIBYTES = 1024
LONGEST = 16384
"""Bytes of one input."""


def fuzz(name: str, words: list[str]) -> None:
    """Run one target in this process, until libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["s3lora"]):
        import targets

    atheris.Setup([name, *words], targets.TARGETS[name])
    atheris.Fuzz()


def main() -> int:
    """Run the targets one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all, if none is named")
    parser.add_argument("--seconds", type=int, default=8, help="for each target (default: 8)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    if options.child:
        fuzz(options.child, rest)
        return 0
    known = sorted(folder.name for folder in (HERE / "corpus").iterdir())
    for name in options.targets or known:
        if name not in known:
            parser.error(f"there is no target {name}; one of {', '.join(known)}")
        learned = HERE / "work" / name
        learned.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable, str(Path(__file__)), "--child", name,
            str(learned), str(HERE / "corpus" / name),
            f"-max_total_time={options.seconds}", f"-timeout={SLOW}",
            f"-rss_limit_mb={MEBIBYTES}", f"-max_len={LONGEST}",
            f"-artifact_prefix={HERE / 'work'}/{name}-", "-print_final_stats=1",
        ]  # fmt: skip
        told = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
        stats = [line for line in told.stderr.splitlines() if "number_of_executed_units" in line]
        print(f"{name}: {stats[0].split()[-1] if stats else '?'} inputs, status {told.returncode}")
        if told.returncode:
            print(told.stderr[-6000:], file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
