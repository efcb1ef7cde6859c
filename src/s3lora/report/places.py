"""Where each module stands in the heat map: layers against projections, one map for each stack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from s3lora.adapter import layer_of, natural_key, projection_of

USUAL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Projections that are shown first, in this order."""
EMPTY = 6
"""A map with more than so many times as many places as modules is not drawn."""
MOST = 24
"""How many maps are drawn."""


@dataclass(frozen=True, slots=True)
class Stack:
    """The layers under one path, such as model.layers."""

    path: str
    layers: tuple[str, ...]
    """Numbers, ascending."""
    projections: tuple[str, ...]
    """What follows the number in the modules' names."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The projections by their last part, where that says which one is meant."""
        leaves = [projection_of(name) for name in self.projections]
        pairs = zip(self.projections, leaves, strict=True)
        counts = Counter(leaves)
        return tuple(leaf if counts[leaf] == 1 else name for name, leaf in pairs)


@dataclass(frozen=True, slots=True)
class Place:
    """One module's place."""

    stack: int
    layer: int
    projection: int


@dataclass(frozen=True, slots=True)
class Places:
    """The places of all modules."""

    stacks: tuple[Stack, ...]
    places: tuple[Place | None, ...]
    """For each module; None for one that has no layer or is shown apart."""


def places_of(names: Sequence[str]) -> Places:
    """Where the modules stand."""
    split = [_split(name) for name in names]
    paths: dict[str, list[tuple[str, str, str]]] = {}
    for parts in split:
        if parts:
            paths.setdefault(parts[0], []).append(parts)
    stacks = []
    for path in sorted(paths, key=natural_key)[:MOST]:
        members = paths[path]
        layers = tuple(sorted({layer for _, layer, _ in members}, key=natural_key))
        projections = tuple(sorted({last for _, _, last in members}, key=_order))
        if len(layers) * len(projections) <= EMPTY * len(members) + EMPTY:
            stacks.append(Stack(path, layers, projections))
    return Places(tuple(stacks), _found(stacks, split))


def _found(
    stacks: Sequence[Stack], split: Sequence[tuple[str, str, str] | None]
) -> tuple[Place | None, ...]:
    at = {stack.path: number for number, stack in enumerate(stacks)}
    layers = [{name: n for n, name in enumerate(stack.layers)} for stack in stacks]
    columns = [{name: n for n, name in enumerate(stack.projections)} for stack in stacks]
    found: list[Place | None] = []
    for parts in split:
        number = at.get(parts[0]) if parts else None
        if parts is None or number is None:
            found.append(None)
        else:
            found.append(Place(number, layers[number][parts[1]], columns[number][parts[2]]))
    return tuple(found)


def _split(name: str) -> tuple[str, str, str] | None:
    """Path, number and the rest of a module's name; None if it has no layer."""
    layer = layer_of(name)
    if layer == name:
        return None
    path, _, number = layer.rpartition(".")
    return path, number, name[len(layer) + 1 :]


def _order(projection: str) -> tuple[int, tuple[tuple[int, int, str], ...]]:
    leaf = projection_of(projection)
    return USUAL.index(leaf) if leaf in USUAL else len(USUAL), natural_key(projection)
