"""What s3lora says of a config and a file is what PEFT does with them.

Random configs on models of every kind, saved by PEFT, half of them changed afterwards as files in
the wild are; each is loaded by PEFT and opened by s3lora, and the two are compared. By hand, more
and others: `PEFT_AGREEMENT_CASES=500 PEFT_AGREEMENT_SEED=7 pytest tests/test_peft_agreement.py`
(so many for each architecture).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from adapter_changes import changed
from adapters import CONFIG
from architectures import ARCHITECTURES, fresh
from lora_configs import Fields, Random, one, save, saved, some
from peft_reading import Reading, Update, loaded, merged, quietly, reading, shares_weight, without
from s3lora import open_adapter, prune
from s3lora.adapter import Adapter, Slot, arranged, projection_of
from s3lora.errors import AdapterError, ParameterError, S3LoraError, UnsupportedError
from s3lora.findings import Finding, at_least
from s3lora.io import patterns
from s3lora.io.peft_config import validated
from s3lora.io.peft_targets import TIED

CASES = int(os.environ.get("PEFT_AGREEMENT_CASES", "8"))
SEED = int(os.environ.get("PEFT_AGREEMENT_SEED", "0"))


ONLY_THE_BASE_TELLS = {
    r"KeyError: '.*\.bias'": "whether the head that is saved has a bias",
    r"modules_to_save cannot be applied to .*Linear": "whether `all-linear` adapts a module whose "
    "name ends in that of the head: pre_classifier of DistilBERT",
    r"Cannot convert PEFT target": "which experts transformers stacks: it takes no half of a stack",
    r"size of tensor a .* must match": "whether OLoRA and DoRA meet a Conv1D, where PEFT's own "
    "arithmetic fails",
    r"size mismatch for .*\.experts\.": "how many experts there are: with one parameter, half the "
    "rank looks like twice as many",
}
"""Known differences: what makes PEFT fail and is neither in the config nor in the file."""


def same_update(adapter: Adapter, name: str, update: Update) -> bool:
    """Whether s3lora reads the update that PEFT applies."""
    slot = adapter.slots[name]
    if slot.rank != len(update.A) or not np.isclose(
        slot.scaling, update.scaling, rtol=1e-6, atol=0
    ):
        return False
    if slot.unscored:
        return same_factors(adapter, slot, update)
    module = adapter.read(name)
    delta = module.scaling * module.B @ module.A
    # A sum of r products in float32, times s, is wrong by r + 2 roundings of the sum of sizes.
    sizes = abs(module.scaling) * np.abs(module.B) @ np.abs(module.A)
    bound = (slot.rank + 2) * np.finfo(np.float32).eps * sizes
    fits = delta.shape == update.delta.shape
    return fits and bool((np.abs(delta - update.delta) <= bound).all())


def same_factors(adapter: Adapter, slot: Slot, update: Update) -> bool:
    """Whether the factors of a module that is not scored are those that PEFT holds."""
    if len(slot.keys) < 2:
        return False
    A, B = (adapter.tensors.read(key) for key in slot.keys[:2])
    if slot.kind == "expert":
        A, B = arranged(slot, A, B)
    return np.array_equal(A, update.A) and np.array_equal(B, update.B)


def disagreements(adapter: Adapter, peft: Reading) -> Iterator[str]:
    """In what PEFT and the modules of s3lora differ."""
    live = {name for name, update in peft.updates.items() if update.live}
    if validated(adapter.config).rebased:  # a start that was cut out of the base adds up to it
        live &= adapter.slots.keys()
    for name in sorted(live - adapter.slots.keys()):
        yield f"{name} is live in PEFT, s3lora does not have it"
    for name in adapter.names:
        update = peft.updates.get(name)
        if update is None:
            yield f"PEFT does not have {name}"
        elif not same_update(adapter, name, update):
            yield f"PEFT applies another {name}"


def faults(folder: Path, name: str, random: Random, before: Adapter | None) -> Iterator[str]:
    """What s3lora says wrongly, or does not say, of the adapter in a folder.

    `before` is the adapter as PEFT saved it, if it was changed since; what was odd about that one
    explains nothing.
    """
    try:
        adapter = open_adapter(folder)
    except S3LoraError as error:
        if before is None:
            yield f"s3lora refuses what PEFT saved: {error}"
        return
    warned = at_least(adapter.findings, "medium")
    lasting = [finding for finding in warned if finding.rule == "random-module"]
    explained = bool(lasting) or not set(warned) <= set(before.findings if before else ())
    try:
        peft = reading(name, folder)
    except Exception as error:  # PEFT raises whatever it runs into
        text = f"{type(error).__name__}: {error}"
        if not warned and not any(re.search(known, text) for known in ONLY_THE_BASE_TELLS):
            yield f"PEFT cannot load it, s3lora has nothing: {text}"
        return
    differences = list(disagreements(adapter, peft))
    if before is None or not explained:
        yield from differences
    if before is None:
        missing = peft.updates.keys() - adapter.slots.keys()
        yield from (f"s3lora lacks {name}" for name in sorted(missing))
        yield from (f"finding: {f}" for f in warned if not expected(f, adapter))
    payload = [f for f in adapter.findings if f.rule == "base-weight-payload"]
    replaced = [tensor for tensor in peft.replaced if not restarted(adapter, tensor)]
    if replaced and not payload and not adapter.config.get("layer_replication"):
        yield f"PEFT replaces {sorted(replaced)}, and nothing is said"
    carried = peft.updates.keys() <= adapter.slots.keys()
    if carried and not differences and not at_least(adapter.findings, "high"):
        yield from pruned_faults(folder, name, adapter, peft, random)


def pruned_faults(
    folder: Path, name: str, adapter: Adapter, peft: Reading, random: Random
) -> Iterator[str]:
    """In what the merged weights of a pruned adapter differ from those that they shall be."""
    if len(adapter.names) == 1:
        return
    gone = some(random, adapter.names, len(adapter.names) - 1)
    whole = [module for module in gone if adapter.slots[module].unscored]
    if any(shares_weight(peft.model.get_base_model(), module) for module in whole):
        return  # of what is shared, one cannot be put back alone
    if adapter.config.get("ensure_weight_tying") and not TIED.isdisjoint(map(projection_of, gone)):
        return  # PEFT holds the factors of both as one
    out = folder.with_name(f"{folder.name} pruned")
    try:
        prune(adapter, gone, out, target=one(random, ("minimal", "fused-safe", "zero-fill")))
    except (AdapterError, ParameterError, UnsupportedError):
        return  # said, not done
    after = loaded(name, out)
    try:
        wanted = without(peft, adapter, gone, fresh(name).state_dict())
    except RuntimeError:
        return  # PEFT merges neither: lora_bias where the base has no bias, grouped convolutions
    pruned = merged(after)
    differing = [key for key, tensor in pruned.items() if not torch.equal(tensor, wanted[key])]
    if differing or pruned.keys() != wanted.keys():
        yield f"without {gone} PEFT has other weights in {differing}"


def expected(finding: Finding, adapter: Adapter) -> bool:
    """Whether a finding of medium severity or more is right about what PEFT itself saved."""
    if finding.rule == "base-weight-payload":  # of a head it is low
        resized = "resize" in finding.message  # one of the two layers, where the other is adapted
        biases = adapter.config.get("bias", "none") != "none"
        return bool(resized or biases or "announces" in finding.message)
    if finding.rule == "missing-module":  # an expression that PEFT found nothing for either
        return finding.where == adapter.config["target_modules"]
    return finding.rule in ("replicated-layers", "tied-update", "imported-code", "random-module")


def restarted(adapter: Adapter, tensor: str) -> bool:
    """Whether PEFT cuts a start out of this tensor (PiSSA, OLoRA), which is no payload.

    It may be one that shares the weight of an adapted module.
    """
    names = (key.replace(".base_layer", "") for key in adapter.tensors.infos)
    return validated(adapter.config).rebased and not any(name.endswith(tensor) for name in names)


def case(folder: Path, name: str, number: int) -> list[str]:
    """What is wrong about one case, with what it takes to see it again."""
    random = np.random.default_rng([SEED, number, *name.encode()])
    with quietly():
        saved(folder, random, name)
        before, change = None, "as saved"
        if number % 2:
            before, change = open_adapter(folder), changed(folder, random, name)
        rows = list(faults(folder, name, random, before))
    config = json.loads((folder / CONFIG).read_text())
    fields = {key: value for key, value in config.items() if value not in (None, {}, [], False)}
    return [f"seed {SEED}, case {number}, {change}: {row}\n{fields}" for row in rows]


def usual(name: str) -> Iterator[tuple[str, Fields]]:
    """What most people write for an architecture."""
    architecture = ARCHITECTURES[name]
    plain: Fields = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": list(architecture.endings),
        "task_type": architecture.task,
        "fan_in_fan_out": name == "gpt2",
    }
    yield "projections", plain
    if architecture.all_linear:
        yield "all-linear", plain | {"target_modules": "all-linear"}
    yield "scaled by the root", plain | {"use_rslora": True, "rank_pattern": {"0": 2}}
    if architecture.heads:
        yield "head", plain | {"modules_to_save": list(architecture.heads)}
    if architecture.embedding:
        targets = [*architecture.endings, architecture.embedding]
        yield "embedding", plain | {"target_modules": targets}
        yield "token rows", plain | {"trainable_token_indices": {architecture.embedding: [1, 3]}}
    if architecture.parameters:
        parameters = {"target_parameters": list(architecture.parameters)}
        attention = {"target_modules": [architecture.endings[0]]}
        yield "parameters", plain | parameters | attention
        yield "parameters alone", plain | parameters | {"target_modules": []}
    for excluded in architecture.excluded:
        every = {"target_modules": "all-linear", "exclude_modules": excluded}
        yield f"without {excluded}", plain | every


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        pytest.param(a, fields, id=f"{a}: {what}")
        for a in ARCHITECTURES
        for what, fields in usual(a)
    ],
)
def test_the_usual_adapter_is_read_as_peft_reads_it(tmp_path, monkeypatch, name, fields):
    monkeypatch.setattr(patterns, "SECONDS", 60.0)  # what is asked is not how fast this machine is
    with quietly():
        save(tmp_path / "adapter", name, fields)
        rows = list(faults(tmp_path / "adapter", name, np.random.default_rng(SEED), None))
    assert not rows, "\n".join(rows)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_s3lora_says_what_peft_does(tmp_path, monkeypatch, name):
    monkeypatch.setattr(patterns, "SECONDS", 60.0)
    rows = [row for n in range(CASES) for row in case(tmp_path / str(n), name, n)]
    assert not rows, "\n\n".join(rows)
