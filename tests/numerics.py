"""Runs the tests whose results may depend on the processor under the kernels that it has.

`make test-numerics` does this. Each round is a pytest process with settings of its own, because
libraries choose their kernels when they are loaded:

- ATEN_CPU_CAPABILITY: PyTorch's own vector code.
- ONEDNN_MAX_CPU_ISA and MKL_CBWR: the matrix products that PyTorch leaves to oneDNN and MKL.
- OPENBLAS_CORETYPE: numpy's matrix products and decompositions.

They do not touch each other, so one round changes all of them. What a processor lacks is left
out; a setting that does not take is an error, by a test in `test_tolerances.py` where the library
tells which kernels it uses.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from threadpoolctl import threadpool_info

OLDEST, AVX2, OWN = "the oldest kernels", "AVX2", "the processor's own"
ROUNDS = {
    OLDEST: {
        "ATEN_CPU_CAPABILITY": "default",
        "OPENBLAS_CORETYPE": "Nehalem",
        "MKL_CBWR": "COMPATIBLE",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
    },
    AVX2: {
        "ATEN_CPU_CAPABILITY": "avx2",
        "OPENBLAS_CORETYPE": "Haswell",
        "MKL_CBWR": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    },
    OWN: {},
}
HERE = Path(__file__).parent


def supported() -> list[str]:
    """The rounds that this processor can do, none of them twice.

    Only its own where it is no x86. Where its own kernels are those for AVX2, that round does for
    both, with the setting that makes sure of it.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return [OWN]
    capability = torch.backends.cpu.get_cpu_capability()
    if (capability, openblas_kernel()) == ("AVX2", "Haswell"):
        return [OLDEST, AVX2]
    return [name for name in ROUNDS if name != AVX2 or capability == "AVX512"]


def openblas_kernel() -> str:
    """Which kernel numpy's OpenBLAS has chosen."""
    pools = threadpool_info()
    return next(pool["architecture"] for pool in pools if pool["internal_api"] == "openblas")


def one_round(name: str) -> tuple[str, int, str, float]:
    """Run the marked tests under the settings of a round: name, status, output, seconds."""
    start = time.monotonic()
    own = {key: value for key, value in os.environ.items() if key not in ROUNDS[AVX2]}
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "numerics", "-p", "no:cacheprovider", HERE],
        cwd=HERE.parent,
        env=own | one_thread | ROUNDS[name],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return name, result.returncode, result.stdout, time.monotonic() - start


def main() -> int:
    """Run all rounds, as many at once as there are processors; the worst status."""
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"this processor: PyTorch {capability}, OpenBLAS {openblas_kernel()}")
    with ThreadPoolExecutor(min(len(ROUNDS), os.cpu_count() or 1)) as pool:
        results = list(pool.map(one_round, supported()))
    for name, status, output, seconds in results:
        settings = " ".join(f"{key}={value}" for key, value in ROUNDS[name].items())
        print(f"{name}: {'passed' if status == 0 else 'FAILED'} in {seconds:.0f} s  {settings}")
        print("" if status == 0 else output, end="")
    return max(status for _, status, _, _ in results)


if __name__ == "__main__":
    sys.exit(main())
