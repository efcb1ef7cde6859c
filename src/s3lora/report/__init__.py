"""The result of a scan, a ranking or a comparison as one value; the formats see nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from s3lora._version import __version__
from s3lora.adapter import Adapter, ModuleName, Replace
from s3lora.agreement import Agreement, label
from s3lora.agreement import agreement as agree
from s3lora.compare import Difference
from s3lora.findings import SEVERITIES, Finding, Severity, at_least
from s3lora.io.safetensors import TensorFile
from s3lora.plan import Plan
from s3lora.scores import Score, ScoreTable
from s3lora.selection import AnyPolicy, Policy


def tool() -> dict[str, str]:
    """Name and version of this tool."""
    return {"name": "s3lora", "version": __version__}


@dataclass(frozen=True, slots=True)
class ModuleFacts:
    """What the file says of a module besides its numbers."""

    rank: int
    """r; 0 if unknown."""
    shape: tuple[int, int]
    """(m, n); (0, 0) if unknown."""


@dataclass(frozen=True, slots=True)
class Source:
    """An adapter that was looked at."""

    ref: str
    """The folder or file as it was asked for."""
    weights: str
    """The weights file, as a path that begins as `ref` does."""
    sha256: str
    """Of the weights file."""
    base_model: str
    """As the config names it; empty if it does not."""
    nbytes: int
    """Size of the weights file."""
    parameters: int


@dataclass(frozen=True, slots=True)
class PlannedEdit:
    """What becomes of one module, without the numbers."""

    name: str
    """drop, zero or replace."""
    rank: int | None = None
    """Of the new factors; None unless they are replaced."""
    error: float = 0.0
    """‖wanted − written‖_F/‖wanted‖_F of the new factors."""


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """What a plan would do, or did; see `s3lora.plan.Plan`."""

    chosen: tuple[ModuleName, ...]
    edit: str
    """What was asked for: drop, zero, or an editor's name."""
    edit_params: Mapping[str, Any]
    target: str
    fold_scale: bool
    edits: Mapping[ModuleName, PlannedEdit]
    """A chosen module that the edit left as it is has none."""
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a scan, and a plan to prune, has to say."""

    tool: Mapping[str, str]
    """Name and version."""
    ref: str
    sha256: str
    """Of the weights file."""
    base_model: str
    """As the config names it; empty if it does not."""
    nbytes: int
    """Size of the weights file."""
    parameters: int
    modules: Mapping[ModuleName, ModuleFacts]
    """All LoRA modules in natural order."""
    table: ScoreTable
    findings: tuple[Finding, ...]
    """About the files and the numbers, most severe first; those of the table are among them."""
    policy_name: str
    policy_params: Mapping[str, Any]
    chosen: tuple[ModuleName, ...]
    plan: PlanFacts | None = None
    """What pruning would do, or did."""
    weights: str = ""
    """The weights file, as a path that begins as `ref` does."""

    def exit_code(self, fail_on: Severity) -> int:
        """1 if a finding reaches the level, else 3 if a module could not be judged, else 0."""
        if at_least(self.findings, fail_on):
            return 1
        return 3 if any(not row.judged for row in self.table.skipped) else 0


@dataclass(frozen=True, slots=True)
class Ranking:
    """Several methods on one adapter."""

    tool: Mapping[str, str]
    """Name and version."""
    source: Source
    modules: Mapping[ModuleName, ModuleFacts]
    """All LoRA modules in natural order."""
    tables: tuple[ScoreTable, ...]
    """One for each method; scores alone, without parts and series."""
    labels: tuple[str, ...]
    """What each table is called, here and in the agreement."""
    k: int
    """How many modules count as the top."""
    agreement: tuple[Agreement, ...]
    """For every pair of methods."""
    series: Mapping[ModuleName, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)
    """For each module the spectra of the first method that takes the most of them, as in
    `Score.series`; a module without any is left out."""

    @property
    def ref(self) -> str:
        """The adapter as it was asked for."""
        return self.source.ref


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two adapters, module by module."""

    tool: Mapping[str, str]
    """Name and version."""
    a: Source
    b: Source
    rows: tuple[Difference, ...]
    """For every module of either, in natural order of the names."""


Result = Report | Ranking | Comparison
"""What a format can be asked to render."""


def gate_findings(table: ScoreTable, gate: AnyPolicy, asked: str) -> tuple[Finding, ...]:
    """A finding for each module that a policy, used as a gate, picks."""
    values = {score.module: score.value for score in table.scores}
    return tuple(
        Finding("score-gate", "high", name, f"score {values[name]:.4g} is beyond {asked}")
        for name in gate(table)
    )


def make_report(
    adapter: Adapter,
    table: ScoreTable,
    policy: Policy,
    *,
    chosen: tuple[ModuleName, ...],
    gated: tuple[Finding, ...] = (),
    plan: Plan | None = None,
) -> Report:
    """Put a report together; reads the weights file once more for its hash."""
    findings = [*adapter.findings, *table.findings, *gated]
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    source = source_of(adapter)
    return Report(
        tool=tool(),
        ref=source.ref,
        sha256=source.sha256,
        base_model=source.base_model,
        nbytes=source.nbytes,
        parameters=source.parameters,
        modules=_facts(adapter),
        table=table,
        findings=tuple(findings),
        policy_name=policy.name,
        policy_params=policy.params,
        chosen=chosen,
        plan=None if plan is None else plan_facts(plan),
        weights=source.weights,
    )


def make_ranking(adapter: Adapter, tables: tuple[ScoreTable, ...], k: int) -> Ranking:
    """Put the tables of several methods together; reads the weights file for its hash.

    Raises:
        ParameterError: if two tables are of the same method with the same parameters.
    """
    series: dict[ModuleName, Mapping[str, tuple[float, ...]]] = {}
    for table in tables:
        for score in table.scores:
            if len(score.series) > len(series.get(score.module, ())):
                series[score.module] = score.series
    return Ranking(
        tool=tool(),
        source=source_of(adapter),
        modules=_facts(adapter),
        tables=tuple(_plain(table) for table in tables),
        labels=tuple(label(table) for table in tables),
        k=k,
        agreement=agree(tables, k),
        series=series,
    )


def make_comparison(a: Adapter, b: Adapter, rows: tuple[Difference, ...]) -> Comparison:
    """Put a comparison together; reads both weights files for their hashes."""
    return Comparison(tool(), source_of(a), source_of(b), rows)


def source_of(adapter: Adapter) -> Source:
    """What is said of an adapter itself."""
    base = adapter.config.get("base_model_name_or_path")
    file = adapter.tensors.path if isinstance(adapter.tensors, TensorFile) else adapter.ref
    return Source(
        ref=adapter.ref,
        weights=str(file),
        sha256=adapter.digest,
        base_model=base if isinstance(base, str) else "",
        nbytes=adapter.tensors.nbytes,
        parameters=adapter.parameters,
    )


def plan_facts(plan: Plan) -> PlanFacts:
    """A plan without its numbers."""
    edits = {
        name: PlannedEdit("replace", len(edit.A), edit.error)
        if isinstance(edit, Replace)
        else PlannedEdit(edit.name)
        for name, edit in plan.edits.items()
    }
    return PlanFacts(
        chosen=plan.chosen,
        edit=plan.edit,
        edit_params=plan.edit_params,
        target=plan.target,
        fold_scale=plan.fold_scale,
        edits=edits,
        notes=plan.notes,
    )


def _facts(adapter: Adapter) -> dict[ModuleName, ModuleFacts]:
    return {name: ModuleFacts(slot.rank, slot.shape) for name, slot in adapter.slots.items()}


def _plain(table: ScoreTable) -> ScoreTable:
    scores = tuple(Score(score.module, score.value) for score in table.scores)
    return replace(table, scores=scores, findings=())
