"""Overlap and sharpness: what is added to the loss, and the log of how sharp updates are."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from defence_runs import begun, card_of, trained, updates
from s3lora import open_adapter
from s3lora.adapter import Weights
from s3lora.errors import ParameterError
from s3lora.lab.defences.interface import branches_of
from s3lora.lab.defences.overlap import SIDES, Overlap
from s3lora.lab.defences.sharpness import Sharpness, concentration
from s3lora.lab.defences.sharpness_plot import figure
from s3lora.methods.s3lora import S3Lora
from schemas import check, check_lines

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

# Overlap


def drawn(m: int, n: int, r: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return torch.randn(m, r), torch.randn(r, n)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_the_penalty_is_that_of_the_dense_update(side, weighted, norm):
    run = begun()
    defence = Overlap(weight=0.3, side=side, k=4, weighted=weighted, norm=norm)
    guard = defence.begin(run)
    total = 0.0
    for at, branch in enumerate(branches_of(run.model)):
        branch.set(*drawn(*branch.W.shape, 2, seed=at))
        X = (branch.B @ branch.A).detach().double().numpy()
        U, s, Vh = np.linalg.svd(branch.W.double().numpy())
        size = s[:4] if weighted else np.ones(4)
        left, right = size[:, None] * U[:, :4].T, Vh[:4].T * size
        if norm:
            left, right = left / np.linalg.norm(left), right / np.linalg.norm(right)
        seen = {"column": left @ X, "row": X @ right, "both": left @ X @ right}[side]
        total += np.linalg.norm(seen) ** 2 / (np.linalg.norm(X) ** 2 if norm else 1)
    assert float(guard.penalty().detach()) == pytest.approx(0.3 * total, rel=1e-4)


@pytest.mark.parametrize("side", ["column", "row"])
@pytest.mark.parametrize("norm", [True, False])
def test_an_orthogonal_update_costs_nothing(side, norm):
    run = begun()
    guard = Overlap(side=side, k=3, norm=norm).begin(run)
    for branch in branches_of(run.model):
        U, _, Vh = torch.linalg.svd(branch.W)
        B, A = drawn(*branch.W.shape, 2)
        out, into = U[:, :3], Vh[:3].T
        branch.set(B - out @ (out.T @ B), A) if side == "column" else branch.set(
            B, A - (A @ into) @ into.T
        )
    assert float(guard.penalty().detach()) < 1e-9
    along = branches_of(run.model)[0]
    U, _, Vh = torch.linalg.svd(along.W)
    along.set(U[:, :2], Vh[:2])
    assert float(guard.penalty().detach()) > 1e-3


def test_an_update_of_zero_costs_nothing_and_moves_nothing():
    run = begun()
    penalty = Overlap().begin(run).penalty()
    penalty.backward()
    assert float(penalty.detach()) == 0
    assert not any(branch.B.grad.any() for branch in branches_of(run.model))


def test_a_k_that_is_too_large_for_one_module_is_kept_for_the_next():
    run = begun(targets=("v_proj", "gate_proj"))
    kept = Overlap(k=30).begin(run).kept()
    for branch in branches_of(run.model):
        assert kept[f"{branch.name}.V"].shape == (32, min(30, len(branch.W)))


def test_the_penalty_takes_the_update_out_of_the_leading_directions(tmp_path):
    strong = Overlap(weight=30.0, k=4, weighted=False)
    plain, held = trained(tmp_path / "plain", None), trained(tmp_path / "held", strong)
    shares = []
    run = begun()
    for folder in (plain, held):
        told = updates(folder)
        parts = []
        for branch in branches_of(run.model):
            U = np.linalg.svd(branch.W.double().numpy())[0][:, :4]
            X = told[branch.name]
            parts.append(np.linalg.norm(U.T @ X) ** 2 / np.linalg.norm(X) ** 2)
        shares.append(np.mean(parts))
    assert shares[1] < 0.6 * shares[0]
    card = card_of(held)
    assert len(card["penalties"]) == len(card["losses"]) == 9
    assert card["penalties"][0] == 0 < card["penalties"][-1]
    assert card["losses"][0] == pytest.approx(card_of(plain)["losses"][0], abs=1e-4)
    assert "penalties" not in card_of(plain)


# Sharpness


def test_the_concentration_is_that_of_the_spectrum():
    B, A = drawn(9, 7, 3)
    s = np.linalg.svd((B @ A).double().numpy(), compute_uv=False)
    wanted = (s**4).sum() / (s**2).sum() ** 2
    assert float(concentration(B, A)) == pytest.approx(wanted, rel=1e-5)
    Q = torch.linalg.qr(torch.randn(9, 3)).Q
    assert float(concentration(Q, Q.T)) == pytest.approx(1 / 3)
    assert float(concentration(B[:, :1], A[:1])) == pytest.approx(1)
    G = torch.randn(3, 3)
    assert float(concentration(B @ G, torch.linalg.inv(G) @ A)) == pytest.approx(wanted, rel=1e-3)
    assert float(concentration(3 * B, A)) == pytest.approx(wanted, rel=1e-5)


def test_the_concentration_is_smooth_even_at_zero():
    B, A = (factor.double() for factor in drawn(5, 4, 2))
    for size in (0.0, 1e-6, 1e-2, 1.0):
        at = (size * B).requires_grad_()
        assert torch.autograd.gradcheck(lambda b: concentration(b, A, 0.5), (at,), atol=1e-7)
    zero = torch.zeros(5, 2, dtype=torch.float64, requires_grad=True)
    concentration(zero, A, 0.5).backward()
    assert not zero.grad.any()


def test_a_module_counts_once_it_has_some_size():
    run = begun()
    guard = Sharpness(weight=2.0, floor=1e-3).begin(run)
    branches = branches_of(run.model)
    penalty = guard.penalty()
    penalty.backward()
    assert float(penalty.detach()) == 0
    for branch in branches:
        b, a = drawn(*branch.W.shape, 1)
        branch.set(torch.cat([b, b], 1), torch.cat([a, a]))
    assert float(guard.penalty().detach()) == pytest.approx(2.0, rel=1e-3)
    branches[0].set(0 * branches[0].B.detach(), branches[0].A.detach())
    count = len(branches)
    assert float(guard.penalty().detach()) == pytest.approx(2.0 * (count - 1) / count, rel=1e-3)


def test_a_weight_holds_the_sharpness_down(tmp_path):
    run = {"rank": 4, "steps": 30, "save_every": 30}
    free = trained(tmp_path / "free", Sharpness(), **run)
    held = trained(tmp_path / "held", Sharpness(weight=5.0), **run)

    def mean(folder, method: Callable[[np.ndarray], float]) -> float:
        return float(np.mean([method(X) for X in updates(folder).values()]))

    def concentrated(X):
        s = np.linalg.svd(X, compute_uv=False)
        return (s**4).sum() / (s**2).sum() ** 2

    assert mean(held, concentrated) < 0.7 * mean(free, concentrated)
    rows = {folder: logged(folder) for folder in (free, held)}
    last = {
        folder: np.mean([row["ssi"] for row in found if row["step"] == 30])
        for folder, found in rows.items()
    }
    assert last[held] < last[free], "and SSI with it"
    assert 0.25 * 5 <= card_of(held)["penalties"][-1] < card_of(held)["penalties"][5]


def logged(folder) -> list[dict]:
    return check_lines("sharpness", (folder / "sharpness.jsonl").read_text(encoding="utf-8"))


def test_only_to_log_changes_nothing(tmp_path):
    plain = trained(tmp_path / "plain", None)
    out = trained(tmp_path / "out", Sharpness(every=2))
    weights = "adapter_model.safetensors"
    assert (plain / weights).read_bytes() == (out / weights).read_bytes()
    rows = logged(out)
    assert [row["step"] for row in rows[::8]] == [2, 4, 6, 8, 9], "and the last"
    opened = open_adapter(out)
    for row in rows[-8:]:
        parts = S3Lora().score(opened.read(row["module"]), Weights()).parts
        for key in ("ssi", "plain_ssi", "sigma_1", "frobenius"):
            assert row[key] == pytest.approx(parts[key], rel=1e-6)
    assert [row["module"] for row in rows[-8:]] == [
        branch.name for branch in branches_of(begun().model)
    ]
    assert card_of(out)["defence"]["logged_steps"] == 5
    picture = (out / "sharpness.svg").read_text()
    assert picture.startswith("<?xml")
    assert all(text in picture for text in ("SSI", "q_proj", "v_proj", "step"))


def test_an_update_of_zero_has_no_sharpness(tmp_path):
    out = trained(tmp_path / "out", Sharpness(every=1), steps=2)
    first = logged(out)[0]  # the rate of the first step is zero
    assert (first["step"], first["ssi"], first["reason"]) == (1, None, "the update is zero")
    assert isinstance(logged(out)[-1]["ssi"], float)


def test_factors_that_are_not_finite_are_told_as_such():
    run = begun()
    guard = Sharpness(every=1).begin(run)
    branches_of(run.model)[0].set(math.nan * branches_of(run.model)[0].B.detach(), 0)
    state = type("State", (), {"global_step": 1, "max_steps": 9})
    guard.callbacks[0].on_step_end(None, state, None)
    rows = list(guard.callbacks[0].rows())
    assert rows[0]["reason"] == "the factors hold NaN or Inf"
    assert rows[1]["reason"] == "the update is zero"
    for row in rows:
        check("sharpness", row)


def test_the_plot_has_a_line_for_each_projection():
    made = [
        {"step": step, "module": f"m.{layer}.{leaf}_proj", "ssi": 0.3 + 0.1 * layer * step}
        for step in (1, 2)
        for layer in (0, 1, 2)
        for leaf in "qv"
    ]
    rows = [{**row, "plain_ssi": None if row["step"] == 1 else 0.5} for row in made]
    left, right = figure(rows).axes
    assert [line.get_label() for line in left.lines] == ["q_proj", "v_proj"]
    np.testing.assert_allclose(left.lines[0].get_xydata(), [[1, 0.4], [2, 0.5]])
    np.testing.assert_allclose(right.lines[1].get_xydata(), [[2, 0.5]])
    assert figure([]).axes, "of nothing, an empty picture"


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (Overlap, {"weight": 0.0}), (Overlap, {"weight": math.inf}), (Overlap, {"k": 0}),
        (Overlap, {"side": "left"}), (Sharpness, {"every": 0}), (Sharpness, {"keep": 0}),
        (Sharpness, {"weight": -1.0}), (Sharpness, {"weight": math.nan}), (Sharpness, {"floor": 0}),
    ],
)  # fmt: skip
def test_parameters_that_cannot_be(kind, wrong):
    with pytest.raises(ParameterError, match=f"cannot take .*{next(iter(wrong))}="):
        kind(**wrong)


def test_an_update_of_rank_one_cannot_be_held_from_being_sharp(tmp_path):
    with pytest.raises(ParameterError, match="rank 1"):
        trained(tmp_path / "out", Sharpness(weight=1.0), rank=1)
    assert list(tmp_path.iterdir()) == []
