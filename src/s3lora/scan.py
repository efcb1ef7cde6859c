"""The only loop over modules: read one, let the method score it, keep the reason if it cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

import numpy as np
from threadpoolctl import threadpool_limits

from s3lora.adapter import Adapter, LoraModule, ModuleName, Weights
from s3lora.errors import UnsupportedError
from s3lora.findings import Finding
from s3lora.io.checkpoint import Checkpoint, Sources, sources_for
from s3lora.methods import Method, TableMethod, make_method, params_of
from s3lora.recover import true_update
from s3lora.scores import Score, ScoreTable, Skipped

Track = Callable[[Iterable[ModuleName]], Iterable[ModuleName]]


def scan(
    adapter: Adapter,
    method: str | Method = "s3lora",
    *,
    base: Checkpoint | None = None,
    aligned: Checkpoint | None = None,
    track: Track = iter,
) -> ScoreTable:
    """Score every module of an adapter with one method.

    Args:
        adapter: From `open_adapter`.
        method: A method, or the name of one with its default parameters.
        base: The weights of the model before alignment; alone, those of the model that the
            adapter was trained on. With them the true update of DoRA, PiSSA and OLoRA modules is
            scored.
        aligned: The weights of the aligned model, on which the adapter was trained then.
        track: Wraps the iteration over the module names, for a progress bar.

    Returns:
        Scores and skipped modules in natural order of the names. NaN and Inf are findings and
        never a score; so is an adapter whose every update is zero.

    Raises:
        ParameterError: if there is no method of that name, it needs weights that are not given,
            or the weights are not those of the adapter's model.
        UnsupportedError: if a method that compares modules cannot tell them apart.

    Cost
        One module is in memory at a time. BLAS is held to one thread meanwhile: on matrices this
        small several threads cost more than they give.
    """
    chosen = make_method(method) if isinstance(method, str) else method
    asker = f"the method {chosen.name}"
    sources = sources_for(adapter, asker, chosen.needs, base=base, aligned=aligned)
    _keep_freed_memory()
    with threadpool_limits(limits=1, user_api="blas"), np.errstate(all="ignore"):
        rows = [_row(adapter, name, chosen, sources) for name in track(adapter.names)]
    scores = tuple(row for row in rows if isinstance(row, Score))
    if scores and isinstance(chosen, TableMethod):
        scores = chosen.conclude(scores)
    skipped = tuple(row for row in rows if isinstance(row, Skipped))
    return ScoreTable(
        method=chosen.name,
        params=params_of(chosen),
        unsafe=chosen.unsafe,
        scores=scores,
        skipped=skipped,
        findings=_findings(adapter, scores, skipped),
    )


NON_FINITE = "holds NaN or Inf"
OUT_OF_RANGE = "the update or its score is outside the range of float64"
BROKEN_WEIGHTS = "the {} weights of the module hold NaN or Inf"
ZERO = "zero update"
BEYOND_LOADERS = "beyond the range of float32, in which loaders hold factors and updates"
BELOW_LOADERS = "zero update in float32, in which loaders hold factors and updates"
LARGEST = float(np.finfo(np.float32).max)
SMALLEST = 2.0**-150
"""What is not above half of the smallest number of float32 becomes zero there."""


def _keep_freed_memory() -> None:
    """Have the allocator keep what arrays leave behind, for the next module's.

    glibc maps every large array anew, page by page, until a block at least as large as it was
    freed once (up to 32 MiB, mallopt(3)); elsewhere this does nothing. The block is not touched.
    It halves the time of a scan.
    """
    np.empty(2**25 - 2**16, np.uint8)


def _row(adapter: Adapter, name: ModuleName, method: Method, sources: Sources) -> Score | Skipped:
    """One module's score, or why it has none: what is common to all methods is handled here."""
    slot = adapter.slots[name]
    trained_on = "aligned" if "aligned" in sources else "base"
    recovered = slot.unscored and slot.variant and trained_on in sources
    if slot.unscored and not recovered:
        return Skipped(name, slot.unscored)
    wanted = method.needs | ({trained_on} if recovered else frozenset())
    matrices = {role: sources[role].matrix(name, slot) for role in sorted(wanted)}
    for role, W in matrices.items():
        if not np.isfinite(W).all():
            return Skipped(name, BROKEN_WEIGHTS.format(role))
    try:
        if recovered:
            module = true_update(adapter, name, matrices[trained_on])
        else:
            module = adapter.read(name)
        reason = _unfit(module)
        if reason:
            return Skipped(name, reason, judged=reason in (ZERO, BELOW_LOADERS))
        score = method.score(module, Weights(**matrices))
    except (np.linalg.LinAlgError, UnsupportedError, MemoryError) as error:
        return Skipped(name, _failure(error))
    if isinstance(score, Skipped):
        return score
    if not np.isfinite([score.value, *score.parts.values(), *chain(*score.series.values())]).all():
        return Skipped(name, OUT_OF_RANGE)
    return score


def _failure(error: Exception) -> str:
    """Why a module could not be scored, in words."""
    if isinstance(error, MemoryError):
        return "it takes more memory than there is"
    if isinstance(error, np.linalg.LinAlgError):
        return f"the decomposition failed: {error}"
    return str(error)


def _unfit(module: LoraModule) -> str:
    """Why no method can score the module; empty if it can."""
    largest = [max(factor.max(), -factor.min()) for factor in (module.A, module.B)]
    if not np.isfinite([*largest, module.scaling]).all():
        return NON_FINITE
    if not all(largest) or not module.scaling:
        return ZERO
    return _outside_float32(module, *largest)


def _outside_float32(module: LoraModule, a: float, b: float) -> str:
    """Why the update is another one, or none, where it is applied; empty if it is the same.

    Args:
        module: With finite factors that are not zero.
        a: The largest size of an entry of A.
        b: The same of B.
    """
    entry = len(module.A) * a * b  # no entry of B·A is larger
    with_scale = sorted((entry, entry * abs(module.scaling)))
    if max(a, b) > LARGEST:
        return BEYOND_LOADERS
    if with_scale[1] > LARGEST:
        grams = (module.A @ module.A.T) * (module.B.T @ module.B)
        norm = float(np.sqrt(max(grams.sum(), 0.0)))
        if max(norm, norm * abs(module.scaling)) > LARGEST:
            return BEYOND_LOADERS
    return BELOW_LOADERS if min(a, b, with_scale[0]) <= SMALLEST else ""


def _findings(
    adapter: Adapter, scores: tuple[Score, ...], skipped: tuple[Skipped, ...]
) -> tuple[Finding, ...]:
    """What the numbers themselves brought up."""
    findings = [
        Finding("non-finite", "high", row.module, row.reason)
        for row in skipped
        if row.reason in (NON_FINITE, OUT_OF_RANGE, BEYOND_LOADERS)
    ]
    if skipped and not scores and all(row.judged for row in skipped):
        scaled = any(slot.scaling for slot in adapter.slots.values())
        reason = "" if scaled else " because lora_alpha is 0"
        if any(row.reason == BELOW_LOADERS for row in skipped):
            reason = " in float32, in which loaders hold factors and updates"
        text = f"every update is zero{reason}: the adapter does nothing"
        findings.append(Finding("zero-update", "medium", "all modules", text))
    return tuple(findings)
