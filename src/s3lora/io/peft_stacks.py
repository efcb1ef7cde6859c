"""Stacked experts: which parameter of a module the factors at a path belong to.

PEFT adapts a parameter whose full name is one of `target_parameters`, or ends in one after a dot.
It wraps the parameters of one module one inside the other, in the order in which the model defines
them, and names the factors by the wrapper: with `gate_up_proj` and `down_proj` targeted,
`experts.base_layer` is `gate_up_proj`, defined first, and `experts` is `down_proj`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice

from s3lora.io.patterns import endings

WRAPPED = ".base_layer"
DEFINED = (
    (
        "gate_up_proj",
        "gate_up_proj_bias",
        "gate_proj",
        "up_proj",
        "down_proj",
        "down_proj_bias",
    ),
    ("w1", "v1", "w2"),
)
"""The parameters of experts in the order in which the models of transformers 5 define them: nearly
all of them, and DBRX."""
MAX_LEAVES = 16
"""Most parameters of one module that are told apart; models have up to four."""


def unwrapped(path: str) -> str:
    """The module whose parameter is adapted at a path."""
    while path.endswith(WRAPPED):
        path = path.removesuffix(WRAPPED)
    return path


class Stacks:
    """The stacked parameters that a config targets.

    Args:
        parameters: `target_parameters`.
        paths: Where the file has factors.
        modules: Those of the paths that `target_modules` adapts as they are.
    """

    def __init__(
        self, parameters: Iterable[str], paths: Iterable[str], modules: Collection[str]
    ) -> None:
        self._modules = modules
        self._leaves: dict[str, dict[str, None]] = {}
        for parameter in parameters:
            owner, _, leaf = parameter.rpartition(".")
            self._leaves.setdefault(owner, {})[leaf] = None
        self._nested = {unwrapped(path) for path in paths if path.endswith(WRAPPED)}

    def parameter(self, path: str) -> str | None:
        """The parameter whose factors are at a path.

        Empty if it is one of several that cannot be told apart, None if it is none of them.
        """
        module = unwrapped(path)
        if not self._leaves or module in self._modules:
            return None
        leaves = self._targeted(module)
        depth = (len(path) - len(module)) // len(WRAPPED)
        if depth >= len(leaves):
            return None
        if len(leaves) == 1:
            return min(leaves)
        order = next((names for names in DEFINED if leaves <= set(names)), ())
        outer_first = [name for name in reversed(order) if name in leaves]
        return outer_first[depth] if outer_first else ""

    def _targeted(self, module: str) -> set[str]:
        """The targeted parameters that a module may have.

        A parameter that is targeted by its name alone may be of any module; only a module called
        experts, or one with several wrappers, is taken to have it.
        """
        owners = list(endings(module))
        if module.endswith("experts") or module in self._nested:
            owners.append("")
        leaves: set[str] = set()
        for owner in owners:
            leaves.update(islice(self._leaves.get(owner, ()), MAX_LEAVES + 1))
        return leaves
