"""What Inspect finds through the entry point: everything that is imported here is `s3lora/NAME`."""

from s3lora.lab.suites.graders import harmfulness, strongreject
from s3lora.lab.suites.peft import peft
from s3lora.lab.suites.scorers import SCORERS, figure
from s3lora.lab.suites.solvers import rewoo
from s3lora.lab.suites.tasks import over_refusal, planner, refusal

__all__ = [
    "SCORERS",
    "figure",
    "harmfulness",
    "over_refusal",
    "peft",
    "planner",
    "refusal",
    "rewoo",
    "strongreject",
]
