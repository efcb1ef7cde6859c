"""How far two equal computations in float32 may be apart: one derivation for all tests.

A processor sums the products of a dot product in an order of its own, so two programs that are
equal on paper (a scale folded into a factor, an update merged into its weight, sequences packed
together) agree to rounding and no better, and how well depends on the machine. A number that was
fitted on one machine fails on the next. What holds on all of them, for a dot product of length k
in any order of summation, with or without fused multiply-add:

    fl(x.y) = sum x_i y_i (1 + d_i),   |d_i| <= gamma_k = k u / (1 - k u)

where u is the unit roundoff, 2^-24 in float32 (Higham, Accuracy and Stability of Numerical
Algorithms, 2002, section 3.1). For products of matrices that is a bound, entry by entry:
`product_tolerance`.

For a whole model, bounds multiplied from layer to layer would be so loose that no fault could be
seen. There errors d_i are put in at every module that has weights, and what comes of them at the
end is measured, so that depth, width, magnitudes and condition enter through the model itself:
`forward_tolerance`. Their size is sqrt(k) u with random signs, because rounding errors behave as
independent ones of mean zero, whose sum grows with the root of the length (Higham and Mary, A new
approach to probabilistic rounding error analysis, SIAM J. Sci. Comput. 41, 2019). That is more
than a sum in sequence errs by: there the i-th partial sum, about sqrt(i) p for products of size p,
is rounded once, which adds up to sqrt(1 + 2 + … + k) u p < k u p; the products moved by sqrt(k) u
each give k u p. Blocked sums, which processors do, err by less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

UNIT = 2.0**-24
"""Unit roundoff of float32: half the distance from 1 to the next number."""
DRAWS = 8
"""How often signs are drawn; the largest deviation counts."""

Quantity = Callable[[Any], Any]
"""What is computed from a model: a tensor, an array, a number or a sequence of numbers."""


def gamma(k: int, unit: float = UNIT) -> float:
    """The relative bound of a sum of k rounded products: gamma_k."""
    return k * unit / (1 - k * unit)


def product_tolerance(*factors: ArrayLike, unit: float = UNIT) -> np.ndarray:
    """The bound of a product of matrices that is computed in float32, entry by entry.

    gamma_k |X1| |X2| …, with k the lengths of all dot products and one rounding more for each
    factor, which may itself have been rounded when it was stored.
    """
    absolute = [np.abs(np.asarray(factor, np.float64)) for factor in factors]
    lengths = sum(factor.shape[0] for factor in absolute[1:])
    size = absolute[0]
    for factor in absolute[1:]:
        size = size @ factor
    return gamma(lengths + len(absolute), unit) * size


def norm_tolerance(update: ArrayLike) -> float:
    """The bound of an update's distance, in the Frobenius norm, that was kept as float32 factors.

    gamma_k ‖|B||A|‖ with k = r + 3: a product, the storing of both factors, and a scale. For
    balanced factors ‖|B||A|‖ <= sqrt(r) ‖BA‖, and r is at most the smaller side.
    """
    values = np.asarray(update, np.float64)
    rank = min(values.shape)
    return gamma(rank + 3) * rank**0.5 * float(np.linalg.norm(values))


def matrix_tolerance(function: Callable[[np.ndarray], np.ndarray], W: np.ndarray) -> float:
    """How far a function of a matrix may be off, by entry, when it is computed in float32.

    A decomposition is the exact one of a matrix W + E with ‖E‖ <= p(n) u ‖W‖, p(n) a low power of
    the size n (LAPACK Users' Guide, section 4.9; n itself is taken here). What comes of such
    matrices is measured, as in `forward_tolerance`; gamma is for weights that take the result in.
    """
    exact, signs = function(W), np.random.default_rng(0)
    size = gamma(max(W.shape)) * float(np.linalg.norm(W)) / W.size**0.5
    moved = [function(W + size * signs.choice([-1, 1], W.shape)) for _ in range(DRAWS)]
    largest = float(np.abs(W).max() + np.abs(exact).max())
    return 2 * max(float(np.abs(each - exact).max()) for each in moved) + gamma(2) * largest


def forward_tolerance(model: torch.nn.Module, quantity: Quantity) -> float:
    """How far apart `quantity` of this model and of an equal one may be, both in float32.

    Args:
        model: In float32. Of two ways to compute the same, take the one that does more: factors
            beside a weight rather than the merged weight.
        quantity: What is compared; called with the model, once as it is and once a draw.
    Returns:
        The largest deviation of an entry in `DRAWS` draws, twice: each side may be off by one.
    Raises:
        AssertionError: if nothing moves, so that a tolerance of zero would be meaningless.
    """
    return forward_tolerances(model, lambda of: {"": quantity(of)})[""]


def forward_tolerances(
    model: torch.nn.Module, quantities: Callable[[Any], Mapping[str, Any]]
) -> dict[str, float]:
    """The tolerance of each of several quantities that are computed together, by name."""
    exact = {name: _flat(values) for name, values in quantities(model).items()}
    gaps = dict.fromkeys(exact, 0.0)
    for seed in range(DRAWS):
        with rounding(model, torch.Generator().manual_seed(seed)):
            for name, values in quantities(model).items():
                gaps[name] = max(gaps[name], float(np.abs(_flat(values) - exact[name]).max()))
    assert min(gaps.values()) > 0, "the quantity does not depend on what the model computes"
    return {name: 2 * gap for name, gap in gaps.items()}


def apart(model: torch.nn.Module, other: Any, quantity: Quantity) -> float:
    """How far apart a quantity of two models is, in units of `forward_tolerance` of the first.

    Args:
        model: As for `forward_tolerance`.
        other: Another model, or the values to compare with.
        quantity: What is compared.
    Returns:
        At most 1 if they are equal but for rounding.
    """
    wanted = quantity(other) if isinstance(other, torch.nn.Module) else other
    gap = np.abs(_flat(quantity(model)) - _flat(wanted)).max()
    return float(gap) / forward_tolerance(model, quantity)


@contextmanager
def rounding(model: torch.nn.Module, signs: torch.Generator) -> Iterator[None]:
    """Move by ± sqrt(k) u what goes into and comes out of each module that has weights of its own.

    k is the longest dot product at hand: along the features, or along the sequence, which is what
    attention sums over. What comes out counts too, because attention and activations work on it
    in sums that are no modules.
    """

    def moved(x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            return x
        sign = torch.randint(0, 2, x.shape, generator=signs) * 2 - 1
        return x * (1 + max(x.shape[-2:]) ** 0.5 * UNIT * sign)

    def before(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(map(moved, inputs))

    def after(module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        return moved(output)

    with ExitStack() as stack:
        for module in model.modules():
            if next(module.parameters(recurse=False), None) is not None:
                stack.callback(module.register_forward_pre_hook(before).remove)
                stack.callback(module.register_forward_hook(after).remove)
        yield


def _flat(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().numpy()
    return np.asarray(values, np.float64).ravel()
