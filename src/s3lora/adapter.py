"""What an adapter is: modules known by name, each an update s·B·A, read one at a time.

Nothing here knows of files: a layout in `s3lora.io` says which tensors make a module, and a
`Tensors` hands them over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NewType, Protocol

import numpy as np
from numpy.typing import NDArray

from s3lora.errors import ParameterError, UnsupportedError
from s3lora.findings import Finding
from s3lora.linalg import Array

ModuleName = NewType("ModuleName", str)
"""The full path of a weight matrix in the base model: the only identity a module has."""

Kind = Literal["linear", "embedding", "convolution", "expert"]
Variant = Literal["dora", "pissa", "olora"]


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key that puts layer 2 before layer 10."""
    pieces = re.findall(r"\d+|\D+", name)
    key = [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in pieces]
    return (*key, (2, 0, name))  # "a01" and "a1" are still two names


def layer_of(name: str) -> str:
    """The part of a module's name up to its depth, `model.layers.3`; without one, the name."""
    match = re.match(r"(?:.*?\.)??\d+(?=\.)", name)
    return match.group() if match else name


def projection_of(name: str) -> str:
    """The last part of a module's name: q_proj, c_attn, lm_head, …"""
    return name.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class LoraModule:
    """One adapted weight matrix and its update s·B·A."""

    name: ModuleName
    """Full path in the base model."""
    A: Array
    """Down projection, shape (r, n)."""
    B: Array
    """Up projection, shape (m, r)."""
    scaling: float
    """s, applied to B·A: alpha/r, or alpha/√r with rank-stabilised LoRA."""

    @property
    def finite(self) -> bool:
        """Whether the factors hold neither NaN nor Inf."""
        return bool(np.isfinite(self.A).all() and np.isfinite(self.B).all())


@dataclass(frozen=True, slots=True)
class Weights:
    """The weight matrices that a module's update stands beside; what is not at hand is None."""

    base: Array | None = None
    """Of the model before alignment, shape (m, n)."""
    aligned: Array | None = None
    """Of the aligned model, shape (m, n)."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one module is in the file, and what is known of it without reading its numbers."""

    keys: tuple[str, ...]
    """Every tensor that belongs to the module: both factors first, if both are there."""
    kind: Kind
    """How the stored factors are laid out."""
    rank: int
    """r; 0 if unknown."""
    shape: tuple[int, int]
    """(m, n) of the update; (0, 0) if unknown."""
    scaling: float
    """s."""
    expert: int = 0
    """Which of the stacked experts this module is."""
    experts: int = 1
    """How many experts the stored factors stack."""
    parameter: str = ""
    """The stacked parameter that this module is, or of whose experts it is one; empty otherwise."""
    target: str = ""
    """The module whose part this one is and that `target_modules` names for both: of the output
    projection of an `nn.MultiheadAttention`, the attention. Empty where it is the module itself."""
    unscored: str = ""
    """Why the update cannot be judged from the file; empty if it can."""
    variant: Variant | None = None
    """With base weights at hand: how the true update comes of them; None for s·B·A itself."""
    transposed: bool = False
    """Whether the model stores the weight as (n, m), as GPT-2 does."""

    @property
    def parameters(self) -> int:
        """How many numbers the two factors hold."""
        return self.rank * sum(self.shape)


class Tensors(Protocol):
    """The tensors of one file, read on demand."""

    def read(self, key: str) -> NDArray[Any]:
        """The tensor `key` in its stored shape and dtype."""
        ...

    def sha256(self) -> str:
        """SHA-256 of the whole file, as hexadecimal digits: of the bytes that `read` gave."""
        ...

    @property
    def nbytes(self) -> int:
        """Size of the whole file in bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter: its config, its modules by name, and what is odd about its files.

    Opening one reads the header and the config only; `read` fetches a single module.
    """

    ref: str
    """What was asked for: a folder or a file."""
    config: Mapping[str, Any]
    """The config as it stands in the file, validated."""
    slots: Mapping[ModuleName, Slot]
    """Every LoRA module of the file by name, in natural order."""
    tensors: Tensors
    """Where the numbers come from."""
    findings: tuple[Finding, ...]
    """What is odd about the files, most severe first."""
    config_digest: str = ""
    """SHA-256 of the config's bytes as they were read, as hexadecimal digits; empty if the config
    comes from no file."""

    @property
    def names(self) -> tuple[ModuleName, ...]:
        """The modules' names in natural order (layer 2 before layer 10)."""
        return tuple(self.slots)

    @property
    def digest(self) -> str:
        """SHA-256 of the weights file, as hexadecimal digits; reads the file once.

        Raises:
            AdapterError: if the file cannot be read, or has changed since it was opened.
        """
        return self.tensors.sha256()

    @property
    def parameters(self) -> int:
        """How many numbers the factors of all modules hold together."""
        return sum(slot.parameters for slot in self.slots.values())

    def read(self, name: str) -> LoraModule:
        """Fetch one module, in float64.

        Args:
            name: Full path of the module in the base model.

        Returns:
            The module with A (r, n) and B (m, r); NaN and Inf are passed on as they are.

        Raises:
            ParameterError: if the adapter has no module of that name.
            UnsupportedError: if the file alone does not give the module's update.
        """
        slot = self.slots.get(ModuleName(name))
        if slot is None:
            raise ParameterError(
                f"the adapter has no module {name!r}",
                hint="`Adapter.names` lists its modules; names are full paths in the base model",
            )
        if slot.unscored:
            raise UnsupportedError(
                f"{name}: {slot.unscored}", hint="such a module can be taken out by name, not read"
            )
        return self.stored(ModuleName(name))

    def stored(self, name: ModuleName) -> LoraModule:
        """The two factors as the file holds them, whether or not they alone make the update."""
        slot = self.slots[name]
        A, B = (self.tensors.read(key) for key in slot.keys[:2])
        A, B = arranged(slot, A, B)
        with np.errstate(invalid="ignore"):  # a signalling NaN is a finding, not a warning
            return LoraModule(
                name,
                np.ascontiguousarray(A, np.float64),
                np.ascontiguousarray(B, np.float64),
                slot.scaling,
            )


@dataclass(frozen=True, slots=True)
class Drop:
    """The module leaves the adapter: its tensors and its name in the config."""

    name: ClassVar[str] = "drop"


@dataclass(frozen=True, slots=True)
class Zero:
    """The module stays with B = 0, for loaders that want every module to be there."""

    name: ClassVar[str] = "zero"


@dataclass(frozen=True, slots=True, eq=False)
class Replace:
    """The module's factors are replaced; its scaling s stays, so that the update is s·B·A."""

    A: Array
    """Shape (r', n)."""
    B: Array
    """Shape (m, r')."""
    error: float = 0.0
    """‖wanted − written‖_F/‖wanted‖_F, where the edit could not be exact at its rank."""

    name: ClassVar[str] = "replace"


Edit = Drop | Zero | Replace
"""What is done to one module."""


def arranged(slot: Slot, A: NDArray[Any], B: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The stored factors as A (r, n) and B (m, r), so that the weight's update is s·B·A.

    An embedding's update is s·(B·A)ᵀ, so its factors trade places. A convolution's kernel is
    flattened into the columns of A. Of stacked experts, expert e owns rows [e·r, (e+1)·r) of A and
    the columns {e, e + E, e + 2E, …} of B: B is stored rank-major.
    """
    match slot.kind:
        case "linear":
            return A, B
        case "embedding":
            return B.T, A.T
        case "convolution":
            return A.reshape(A.shape[0], -1), B.reshape(B.shape[0], -1)
        case "expert":
            rows = slice(slot.expert * slot.rank, (slot.expert + 1) * slot.rank)
            return A[rows], B[:, slot.expert :: slot.experts]


def by_name(slots: Mapping[ModuleName, Slot]) -> Mapping[ModuleName, Slot]:
    """The slots in natural order of their names, not to be changed any more."""
    return MappingProxyType({name: slots[name] for name in sorted(slots, key=natural_key)})
