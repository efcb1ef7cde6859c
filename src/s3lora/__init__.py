"""See from the weights alone what a LoRA adapter does to a model, and take modules out.

from s3lora import TopK, open_adapter, prune, scan

adapter = open_adapter("my-adapter")
table = scan(adapter, "s3lora")
prune(adapter, TopK(10)(table), "my-adapter-pruned", table=table)
"""

from s3lora import _interrupt

if _interrupt.is_command():  # before the imports that take time
    _interrupt.end_in_one_line()

from s3lora._version import __version__
from s3lora.adapter import Adapter, LoraModule
from s3lora.compare import compare
from s3lora.errors import S3LoraError
from s3lora.findings import Finding
from s3lora.io import open_adapter
from s3lora.plan import plan
from s3lora.prune import apply, prune
from s3lora.scan import scan
from s3lora.scores import Score, ScoreTable, Skipped
from s3lora.selection import (
    Among,
    ByLayer,
    Fraction,
    Named,
    Outliers,
    Threshold,
    TopK,
    default_policy,
)

__all__ = [
    "Adapter",
    "Among",
    "ByLayer",
    "Finding",
    "Fraction",
    "LoraModule",
    "Named",
    "Outliers",
    "S3LoraError",
    "Score",
    "ScoreTable",
    "Skipped",
    "Threshold",
    "TopK",
    "__version__",
    "apply",
    "compare",
    "default_policy",
    "open_adapter",
    "plan",
    "prune",
    "scan",
]
