"""The tolerances let rounding pass, on this machine's kernels, and nothing that is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from models import Base, gpt2, llama, load, logits, lora_layers, mixtral, save_adapter
from tolerances import UNIT, apart, forward_tolerance, gamma, norm_tolerance, product_tolerance

pytestmark = [
    pytest.mark.numerics,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]

EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS: dict[str, tuple[Base, dict[str, Any]]] = {
    "llama": (llama, {"target_modules": EVERY}),
    "llama, amplifying": (llama, {"target_modules": EVERY, "use_rslora": True, "r": 6}),
    "gpt2": (gpt2, {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "mixtral": (mixtral, {"target_modules": ["q_proj", "o_proj"]}),
}


@pytest.fixture(scope="module", params=ADAPTERS)
def loaded(request, tmp_path_factory) -> Callable[[], torch.nn.Module]:
    """Loads a model with an adapter, anew at each call."""
    base, config = ADAPTERS[request.param]
    folder = save_adapter(tmp_path_factory.mktemp("adapter"), base, **config)
    return lambda: load(base, folder)


def scale_by(model: torch.nn.Module, factor: float, count: int | None = None) -> None:
    for layer in list(lora_layers(model).values())[:count]:
        layer.scaling["default"] *= factor


def test_one_update_merged_or_beside_its_weight_is_the_same(loaded):
    assert apart(loaded(), loaded().merge_and_unload(), logits) <= 1


def test_a_scale_moved_from_one_factor_to_the_other_is_the_same(loaded):
    model = loaded()
    for layer in lora_layers(model).values():
        layer.lora_A["default"].weight.data.mul_(0.3)
        layer.lora_B["default"].weight.data.div_(0.3)
    assert apart(loaded(), model, logits) <= 1


def test_neurons_in_another_order_are_the_same(loaded):
    """Sums over the same products, in an order that no kernel has."""
    model = loaded().merge_and_unload()
    torch.manual_seed(3)
    for part in model.modules():
        if hasattr(part, "down_proj") and hasattr(part.down_proj, "weight"):
            order = torch.randperm(part.down_proj.weight.shape[1])
            part.down_proj.weight.data = part.down_proj.weight.data[:, order]
            for leaf in (part.gate_proj, part.up_proj):
                leaf.weight.data = leaf.weight.data[order]
        elif hasattr(part, "c_fc"):
            order = torch.randperm(part.c_fc.weight.shape[1])
            part.c_fc.weight.data = part.c_fc.weight.data[:, order]
            part.c_fc.bias.data = part.c_fc.bias.data[order]
            part.c_proj.weight.data = part.c_proj.weight.data[order]
    assert apart(loaded(), model, logits) <= 1


def test_one_module_more_is_seen(loaded):
    model = loaded()
    exact, spare = logits(model), forward_tolerance(model, logits)
    for name, layer in lora_layers(model).items():
        weight = layer.lora_B["default"].weight
        trained = weight.data.clone()
        weight.data.zero_()
        assert float((logits(model) - exact).abs().max()) > 10 * spare, name
        weight.data.copy_(trained)
    assert torch.equal(logits(model), exact)


@pytest.mark.parametrize("factor", [1.001, 0.999])
def test_a_scale_that_is_off_by_a_thousandth_is_seen(loaded, factor):
    model = loaded()
    scale_by(model, factor)
    assert apart(loaded(), model, logits) > 10


def test_a_quantity_that_nothing_can_change_has_no_tolerance(loaded):
    with pytest.raises(AssertionError, match="does not depend on what the model computes"):
        forward_tolerance(loaded(), lambda model: [1.0, 2.0])


@pytest.mark.parametrize("k", [1, 24, 128])
def test_products_in_float32_are_within_their_bound_and_not_far_below(k):
    rng = np.random.default_rng(k)
    B, A = (rng.standard_normal(shape).astype(np.float32) for shape in ((9, k), (k, 7)))
    exact = B.astype(np.float64) @ A.astype(np.float64)
    bound = product_tolerance(B, A)
    for order in (slice(None), slice(None, None, -1), rng.permutation(k)):
        for found in (B[:, order] @ A[order], (torch.from_numpy(B) @ torch.from_numpy(A)).numpy()):
            assert (np.abs(found - exact) <= bound).all()
    assert not (np.abs(1.001 * exact - exact) <= bound).all()
    assert np.linalg.norm(bound) < 2 * k**0.5 * gamma(k + 2) * np.linalg.norm(exact)


def test_the_norm_of_a_rounding_is_within_its_bound():
    rng = np.random.default_rng(0)
    B, A = rng.standard_normal((24, 6)), rng.standard_normal((6, 16))
    rounded = B.astype(np.float32) @ A.astype(np.float32)
    assert 0 < np.linalg.norm(rounded - B @ A) <= norm_tolerance(B @ A)
    assert np.linalg.norm(1e-3 * B @ A) > 10 * norm_tolerance(B @ A)


def test_gamma_is_that_of_the_book():
    assert gamma(1) == UNIT / (1 - UNIT)
    assert gamma(2**23) == 1.0


KERNELS = {
    "ATEN_CPU_CAPABILITY": lambda: torch.backends.cpu.get_cpu_capability().lower(),
    "OPENBLAS_CORETYPE": lambda: next(
        pool["architecture"].lower()
        for pool in threadpool_info()
        if pool["internal_api"] == "openblas"
    ),
}


@pytest.mark.parametrize("setting", KERNELS)
def test_the_kernels_in_use_are_those_of_the_environment(setting):
    requested = os.environ.get(setting)
    if requested is None:
        pytest.skip(f"{setting} is not set: the machine's own")
    assert KERNELS[setting]() == requested.lower()
