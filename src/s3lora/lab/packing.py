"""Many token sequences as few: what sequences share at their start is computed once.

The sequences are laid out as a trie, one node a token, and each node sees its ancestors alone. So
a pack gives the same log-probabilities as every sequence by itself, without padding, and a system
message or a prompt with two continuations is paid for once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Continuation:
    """Tokens whose log-probability is wanted, and the tokens that they follow."""

    prompt: tuple[int, ...]
    """At least one token."""
    tokens: tuple[int, ...]
    """At least one token."""


@dataclass(frozen=True, slots=True)
class Pack:
    """Some continuations as one trie of L nodes."""

    ids: NDArray[np.int64]
    """Shape (L,): the token of each node; a node comes after its parent."""
    positions: NDArray[np.int64]
    """Shape (L,): the depth of each node."""
    visible: NDArray[np.bool_]
    """Shape (L, L): row i says which nodes node i sees, itself among them."""
    spots: NDArray[np.int64]
    """Shape (T,): for every token of every continuation, the node that predicts it."""
    targets: NDArray[np.int64]
    """Shape (T,): that token."""
    lengths: tuple[int, ...]
    """How many of the T tokens belong to each continuation, in order."""


def packs(continuations: Iterable[Continuation], limit: int = 512) -> Iterator[Pack]:
    """The continuations in packs of at most `limit` nodes, in order.

    A continuation that alone is longer than that gets a pack to itself. Attention costs O(L²) a
    pack, all else O(L).
    """
    trie = _Trie()
    for continuation in continuations:
        if trie.lengths and len(trie.ids) + trie.growth(continuation) > limit:
            yield trie.pack()
            trie = _Trie()
        trie.add(continuation)
    if trie.lengths:
        yield trie.pack()


class _Trie:
    """A pack in the making."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.parents: list[int] = []
        self.children: dict[tuple[int, int], int] = {}
        self.spots: list[int] = []
        self.targets: list[int] = []
        self.lengths: list[int] = []

    def growth(self, continuation: Continuation) -> int:
        """How many nodes the continuation would add."""
        node, path = -1, _path(continuation)
        for shared, token in enumerate(path):
            if (node, token) not in self.children:
                return len(path) - shared
            node = self.children[node, token]
        return 0

    def add(self, continuation: Continuation) -> None:
        """Add the nodes of a continuation; its last token predicts nothing and needs none."""
        node = -1
        first = len(continuation.prompt) - 1
        for at, token in enumerate(_path(continuation)):
            node = self._child(node, token)
            if at >= first:
                self.spots.append(node)
        self.targets += continuation.tokens
        self.lengths.append(len(continuation.tokens))

    def _child(self, parent: int, token: int) -> int:
        known = self.children.get((parent, token))
        if known is not None:
            return known
        self.ids.append(token)
        self.parents.append(parent)
        return self.children.setdefault((parent, token), len(self.ids) - 1)

    def pack(self) -> Pack:
        """The finished pack."""
        count = len(self.ids)
        visible = np.zeros((count, count), np.bool_)
        positions = np.zeros(count, np.int64)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                visible[node] = visible[parent]
                positions[node] = positions[parent] + 1
            visible[node, node] = True
        return Pack(
            np.array(self.ids, np.int64),
            positions,
            visible,
            np.array(self.spots, np.int64),
            np.array(self.targets, np.int64),
            tuple(self.lengths),
        )


def _path(continuation: Continuation) -> Sequence[int]:
    return (*continuation.prompt, *continuation.tokens[:-1])
