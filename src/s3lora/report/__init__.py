"""The result of a scan as one value; the formats see nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from s3lora.adapter import Adapter, ModuleName
from s3lora.agreement import Agreement
from s3lora.findings import SEVERITIES, Finding, Severity, at_least
from s3lora.manifest import tool
from s3lora.plan import Plan
from s3lora.scores import ScoreTable
from s3lora.selection import AnyPolicy, Policy


@dataclass(frozen=True, slots=True)
class ModuleFacts:
    """What the file says of a module besides its numbers."""

    rank: int
    shape: tuple[int, int]
    """(m, n)."""


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
    """About the files and the numbers, most severe first."""
    policy_name: str
    policy_params: Mapping[str, Any]
    chosen: tuple[ModuleName, ...]
    plan: Plan | None = None
    """What pruning would do, or did."""

    def exit_code(self, fail_on: Severity) -> int:
        """1 if a finding reaches the level, else 3 if a module could not be judged, else 0."""
        if at_least(self.findings, fail_on):
            return 1
        return 3 if any(not row.judged for row in self.table.skipped) else 0


@dataclass(frozen=True, slots=True)
class Ranking:
    """Several methods on one adapter."""

    ref: str
    tables: tuple[ScoreTable, ...]
    """One for each method."""
    k: int
    """How many modules count as the top."""
    agreement: tuple[Agreement, ...]
    """For every pair of methods."""


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
    base = adapter.config.get("base_model_name_or_path")
    findings = [*adapter.findings, *table.findings, *gated]
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Report(
        tool=tool(),
        ref=adapter.ref,
        sha256=adapter.digest,
        base_model=base if isinstance(base, str) else "",
        nbytes=adapter.tensors.nbytes,
        parameters=adapter.parameters,
        modules={name: ModuleFacts(s.rank, s.shape) for name, s in adapter.slots.items()},
        table=table,
        findings=tuple(findings),
        policy_name=policy.name,
        policy_params=policy.params,
        chosen=chosen,
        plan=plan,
    )
