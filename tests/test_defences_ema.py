"""Averaging along the way: both modes, of factors and of products."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from defence_runs import SHORT, Each, begun, best, card_of, shaken, trained, updates
from s3lora import open_adapter
from s3lora.errors import ParameterError
from s3lora.lab.defences.ema import Ema, near
from s3lora.lab.defences.interface import branches_of

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

MODES = [(mode, space) for mode in ("shadow", "fed-back") for space in ("factors", "product")]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("plain") / "out", None)


@pytest.mark.parametrize(("mode", "space"), MODES)
@pytest.mark.parametrize("every", [1, 4])
def test_eta_of_zero_is_plain_training(tmp_path, plain, mode, space, every):
    out = trained(tmp_path / "out", Ema(eta=0, mode=mode, space=space, every=every))
    wanted = updates(plain)
    for name, update in updates(out).items():
        np.testing.assert_allclose(update, wanted[name], atol=2e-5 * np.abs(wanted[name]).max())
    assert card_of(out)["defence"]["truncation_error"] < 1e-6


@pytest.mark.parametrize(("mode", "space"), MODES)
def test_eta_of_one_is_no_training(tmp_path, mode, space):
    out = trained(tmp_path / "out", Ema(eta=1, mode=mode, space=space))
    assert not any(update.any() for update in updates(out).values())
    if space == "factors":
        run = begun()
        opened = open_adapter(out)
        for branch in branches_of(run.model):
            np.testing.assert_array_equal(opened.read(branch.name).A, branch.module().A)


@pytest.mark.parametrize(("every", "start"), [(1, 0), (1, 3), (2, 1)])
@pytest.mark.parametrize("space", ["factors", "product"])
def test_the_shadow_is_the_closed_form(tmp_path, every, start, space):
    seen: list[dict[str, Any]] = []

    def look(model):
        seen.append({branch.name: branch.module() for branch in branches_of(model)})

    run = begun(rank=16, targets=("k_proj", "v_proj"))
    look(run.model)
    eta, wide = 0.7, {"rank": 16, "targets": ("k_proj", "v_proj")}
    ema = Ema(eta=eta, space=space, every=every, start=start)
    out = trained(tmp_path / "out", ema, callbacks=[Each(look)], **wide)
    steps = [0, *(n for n in range(1, 10 - start) if n % every == 0 or n == 9 - start)]
    taken = [seen[start + step] for step in steps]
    T = len(taken) - 1
    shares = [eta**T, *((1 - eta) * eta ** (T - i) for i in range(1, T + 1))]
    assert sum(shares) == pytest.approx(1)
    opened = open_adapter(out)
    for name in opened.names:
        module = opened.read(name)

        def mean(of, name=name):
            return sum(p * of(one[name]) for p, one in zip(shares, taken, strict=True))

        if space == "factors":
            np.testing.assert_allclose(module.A, mean(lambda m: m.A), atol=1e-6)
            np.testing.assert_allclose(module.B, mean(lambda m: m.B), atol=1e-6)
        else:  # of rank 16 at most, so nothing is lost
            wanted = mean(lambda m: m.scaling * m.B @ m.A)
            np.testing.assert_allclose(module.scaling * module.B @ module.A, wanted, atol=1e-6)
    assert card_of(out)["defence"]["truncation_error"] < 1e-6


def test_the_mean_of_products_is_cut_to_the_best_of_its_rank(tmp_path):
    seen: list[dict[str, Any]] = []

    def look(model):
        seen.append({branch.name: branch.module() for branch in branches_of(model)})

    out = trained(tmp_path / "out", Ema(eta=0.8, space="product"), callbacks=[Each(look)])
    errors = []
    opened = open_adapter(out)
    for name in opened.names:
        mean = 0.0
        for one in seen:
            mean = 0.8 * mean + 0.2 * one[name].scaling * one[name].B @ one[name].A
        s = np.linalg.svd(mean, compute_uv=False)
        errors.append(np.linalg.norm(s[2:]) / np.linalg.norm(s))
        module = opened.read(name)
        np.testing.assert_allclose(module.scaling * module.B @ module.A, best(mean, 2), atol=1e-5)
    told = card_of(out)["defence"]["truncation_error"]
    assert told == pytest.approx(max(errors), rel=1e-3)
    assert told > 1e-4


@pytest.mark.parametrize(("mode", "space"), MODES)
def test_what_does_not_move_is_its_own_mean(mode, space):
    run = begun()
    shaken(run.model)
    before = {branch.name: branch.module() for branch in branches_of(run.model)}
    guard = Ema(eta=0.3, mode=mode, space=space).begin(run)
    state = type("State", (), {"global_step": 1, "max_steps": 9})
    for state.global_step in range(1, 10):
        guard.callbacks[0].on_step_end(None, state, None)
    guard.export.args[1].deploy()
    for branch in branches_of(run.model):
        was, now = before[branch.name], branch.module()
        np.testing.assert_allclose(now.B @ now.A, was.B @ was.A, atol=1e-4)


@pytest.mark.parametrize("space", ["factors", "product"])
def test_fed_back_training_goes_on_from_the_mean(space):
    run = begun()
    guard = Ema(eta=0.25, mode="fed-back", space=space).begin(run)
    before = {branch.name: branch.module() for branch in branches_of(run.model)}
    shaken(run.model)
    stepped = {branch.name: branch.module() for branch in branches_of(run.model)}
    state = type("State", (), {"global_step": 1, "max_steps": 9})
    guard.callbacks[0].on_step_end(None, state, None)
    for branch in branches_of(run.model):
        was, moved, now = before[branch.name], stepped[branch.name], branch.module()
        if space == "factors":
            np.testing.assert_allclose(now.A, 0.25 * was.A + 0.75 * moved.A, atol=1e-6)
            np.testing.assert_allclose(now.B, 0.25 * was.B + 0.75 * moved.B, atol=1e-6)
        else:
            np.testing.assert_allclose(now.B @ now.A, 0.75 * moved.B @ moved.A, atol=1e-5)
            np.testing.assert_allclose(now.A, moved.A, atol=1e-5)


def test_factors_near_a_given_one_lose_nothing_but_the_rank():
    rng = np.random.default_rng(0)
    wide_B, wide_A, A = (rng.standard_normal(shape) for shape in ((9, 4), (4, 7), (2, 7)))
    B, found, error = near(wide_B, wide_A, A)
    wanted = best(wide_B @ wide_A, 2)
    np.testing.assert_allclose(B @ found, wanted, atol=1e-10)
    lost = np.linalg.norm(wide_B @ wide_A - wanted) / np.linalg.norm(wide_B @ wide_A)
    assert error == pytest.approx(lost)
    B, found, error = near(wide_B[:, :1], wide_A[:1], A)
    np.testing.assert_allclose(B @ found, wide_B[:, :1] @ wide_A[:1], atol=1e-10)
    assert error < 1e-10
    assert np.linalg.matrix_rank(found) == 2, "a second direction is left to learn with"
    B, found, error = near(np.zeros((9, 2)), A, A)
    assert (B.any(), error) == (False, 0.0)
    np.testing.assert_array_equal(found, A)


def test_averaging_that_would_never_begin_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="start=9 is not before the last of 9 steps"):
        trained(tmp_path / "out", Ema(start=SHORT.steps))
