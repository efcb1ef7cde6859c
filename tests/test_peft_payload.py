"""Tensors that are not LoRA: which are ordinary, which only look so, and what is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from adapters import PREFIX, Array, Q, V, draw, factors, lora, write_tensors
from s3lora import open_adapter
from s3lora.io.peft_payload import SavedModules

Tensors = dict[str, Array]

BOTH = lora(Q, *factors()) | lora(V, *factors(seed=1))
EMBED = "model.embed_tokens"
BASE = "base-weight-payload"


def payload(**shapes: tuple[int, ...]) -> Tensors:
    """Tensors by their names in the base model, with `/` for a dot."""
    return {f"{PREFIX}{name.replace('/', '.')}": draw(*shape) for name, shape in shapes.items()}


def severities(folder: Any, extra: Tensors, **config: Any) -> dict[str, str]:
    """Severity by tensor of what is said of tensors that are not LoRA."""
    adapter = open_adapter(write_tensors(folder, BOTH | extra, **config))
    return {
        finding.where.removeprefix(PREFIX): finding.severity
        for finding in adapter.findings
        if finding.rule == BASE
    }


SEQ = {"task_type": "SEQ_CLS"}
CAUSAL = {"task_type": "CAUSAL_LM"}
SAVED: dict[str, Any] = {"modules_to_save": ["classifier", "score"]}

ORDINARY: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, Any]]] = {
    "head of a classifier": ({"score/weight": (2, 6)}, SEQ | SAVED),
    "head that the task alone names": ({"score/weight": (2, 6)}, SEQ),
    "DistilBERT": (
        {
            f"{name}/{leaf}": (2, 6)[: 2 if leaf == "weight" else 1]
            for name in ("pre_classifier", "classifier")
            for leaf in ("weight", "bias")
        },
        SEQ | SAVED,
    ),
    "RoBERTa": (
        {"classifier/dense/weight": (6, 6), "classifier/out_proj/bias": (2,)},
        SEQ | SAVED,
    ),
    "head of a tagger": ({"classifier/weight": (9, 6)}, {"task_type": "TOKEN_CLS"} | SAVED),
    "head for answers": ({"qa_outputs/weight": (2, 6)}, {"task_type": "QUESTION_ANS"}),
    "head of an image model without task": (
        {"classifier/weight": (9, 6)},
        {"modules_to_save": ["classifier"]},
    ),
    "embeddings and output layer": (
        {"model/embed_tokens/weight": (9, 6), "lm_head/weight": (9, 6)},
        CAUSAL | {"modules_to_save": ["embed_tokens", "lm_head"]},
    ),
    "embeddings of a model of images and text": (
        {"model/language_model/embed_tokens/weight": (9, 6)},
        CAUSAL | {"modules_to_save": ["embed_tokens"]},
    ),
    "output layer with a bias": (
        {"lm_head/weight": (9, 6), "lm_head/bias": (9,)},
        CAUSAL | {"modules_to_save": ["lm_head"]},
    ),
    "vocabulary resized": (
        {"model/embed_tokens/weight": (9, 6), "lm_head/weight": (9, 6)},
        CAUSAL,
    ),
    "rows of tokens": (
        {"model/embed_tokens/token_adapter/trainable_tokens_delta": (2, 6)},
        {"trainable_token_indices": [1, 2]},
    ),
    "biases of what is adapted": ({f"{Q}/base_layer/bias": (8,)}, {"bias": "lora_only"}),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_what_is_announced_and_expected_is_low(name, tmp_path):
    shapes, config = ORDINARY[name]
    told = severities(tmp_path, payload(**shapes), **config)
    assert told == {key.replace("/", "."): "low" for key in shapes}


DISGUISED: dict[str, tuple[str, tuple[int, ...], dict[str, Any], str]] = {
    "a projection": (f"{Q[:-6]}o_proj/weight", (6, 6), {"modules_to_save": ["o_proj"]}, "medium"),
    "all layers": (
        "model/layers/0/mlp/up_proj/weight",
        (6, 6),
        {"modules_to_save": ["layers"]},
        "medium",
    ),
    "the model": ("model/norm/weight", (6,), {"modules_to_save": ["model"]}, "medium"),
    "a layer's weight as a head": (
        "model/layers/3/mlp/classifier/weight",
        (6, 6),
        SEQ | SAVED,
        "medium",
    ),
    "a layer's weight as an output": (
        "model/layers/3/lm_head/weight",
        (9, 6),
        CAUSAL | {"modules_to_save": ["lm_head"]},
        "medium",
    ),
    "a head deep inside": ("model/mlp/gate/classifier/weight", (6, 6), SEQ | SAVED, "medium"),
    "a head where the task has none": ("classifier/weight", (2, 6), CAUSAL | SAVED, "medium"),
    "a head of another task": (
        "qa_outputs/weight",
        (2, 6),
        SEQ | {"modules_to_save": ["qa_outputs"]},
        "medium",
    ),
    "a head that nothing names": ("classifier/weight", (2, 6), CAUSAL, "high"),
    "something below an embedding": (
        "model/embed_tokens/extra/weight",
        (9, 6),
        CAUSAL | {"modules_to_save": ["embed_tokens"]},
        "medium",
    ),
    "an embedding of three dimensions": (
        "model/embed_tokens/weight",
        (3, 3, 6),
        CAUSAL | {"modules_to_save": ["embed_tokens"]},
        "medium",
    ),
    "an embedding that nothing names": ("model/embed_tokens/weight", (9, 6), CAUSAL, "medium"),
    "a bias of what is not adapted": ("model/norm/bias", (6,), {"bias": "all"}, "medium"),
    "a bias that is not announced": ("model/norm/bias", (6,), {"bias": "lora_only"}, "high"),
    "a bias that is a matrix": (f"{Q}/base_layer/bias", (6, 6), {"bias": "all"}, "medium"),
    "rows of a projection": (
        f"{Q}/token_adapter/trainable_tokens_delta",
        (2, 6),
        {"trainable_token_indices": {"q_proj": [1, 2]}},
        "medium",
    ),
    "rows of an embedding in a layer": (
        "model/layers/0/embed_tokens/token_adapter/trainable_tokens_delta",
        (2, 6),
        {"trainable_token_indices": [1, 2]},
        "medium",
    ),
    "what a wrapper keeps of the base": (
        "score/original_module/weight",
        (2, 6),
        SEQ | SAVED,
        "high",
    ),
    "a parameter of experts": ("model/mlp/experts/down_proj_bias", (3, 6), {}, "high"),
    "what is in a wrapper": ("score/modules_to_save/default/weight", (2, 6), SEQ | SAVED, "medium"),
    "the base below an announced head": ("score/base_layer/weight", (2, 6), SEQ | SAVED, "medium"),
}


@pytest.mark.parametrize("name", DISGUISED)
def test_what_only_looks_ordinary_is_not_low(name, tmp_path):
    key, shape, config, severity = DISGUISED[name]
    told = severities(tmp_path, payload(**{key: shape}), **config)
    assert told == {key.replace("/", "."): severity}


def test_a_head_without_the_prefix_is_not_where_peft_looks_for_it(tmp_path):
    assert severities(tmp_path, {"score.weight": draw(2, 6)}, **SEQ) == {"score.weight": "medium"}


def test_embedding_and_output_of_two_shapes_are_no_resized_vocabulary(tmp_path):
    extra = payload(**{"model/embed_tokens/weight": (9, 6), "lm_head/weight": (8, 6)})
    assert set(severities(tmp_path, extra).values()) == {"medium"}


@pytest.mark.parametrize("shape", [(6,), (3, 3, 6)])
def test_only_matrices_are_a_resized_vocabulary(shape, tmp_path):
    extra = payload(**{"model/embed_tokens/weight": shape, "lm_head/weight": shape})
    assert set(severities(tmp_path, extra).values()) == {"high"}


DELTA = "model/embed_tokens/token_adapter/trainable_tokens_delta"
ROWS: dict[str, tuple[tuple[int, ...], Any, bool]] = {
    "as many": ((2, 6), [1, 2], True),
    "one twice": ((2, 6), [1, 1], True),
    "too few": ((1, 6), [1, 2], False),
    "too many": ((3, 6), [1, 2], False),
    "no matrix": ((2,), [1, 2], False),
    "by name": ((2, 6), {"lm_head": [5], "embed_tokens": [1, 2]}, True),
    "by name, too few": ((1, 6), {"lm_head": [5], "embed_tokens": [1, 2]}, False),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_tokens_are_as_many_as_announced(name, tmp_path):
    shape, indices, fits = ROWS[name]
    tensors = BOTH | payload(**{DELTA: shape})
    adapter = open_adapter(write_tensors(tmp_path, tensors, trainable_token_indices=indices))
    rules = {finding.rule for finding in adapter.findings if finding.severity == "high"}
    assert rules == (set() if fits else {"shape-mismatch"})


def test_rows_of_tokens_that_are_announced_wrongly_are_not_low(tmp_path):
    tensors = BOTH | payload(**{DELTA: (2, 6)})
    for at, indices in enumerate([["1", 2], True, 5, "embed_tokens", {"embed_tokens": 2}]):
        folder = write_tensors(tmp_path / str(at), tensors, trainable_token_indices=indices)
        rules = {(row.rule, row.severity) for row in open_adapter(folder).findings}
        assert rules == {("refused-setting", "medium"), ("unknown-tensor", "medium")}


def adapted_embedding(rows: int) -> Tensors:
    """An adapted embedding of nine rows, beside a whole one of so many."""
    return {
        f"{PREFIX}{EMBED}.lora_embedding_A": draw(2, 9),
        f"{PREFIX}{EMBED}.lora_embedding_B": draw(6, 2),
        f"{PREFIX}{EMBED}.base_layer.weight": draw(rows, 6),
    }


@pytest.mark.parametrize(("rows", "severity"), [(9, "low"), (8, "medium")])
def test_the_base_of_an_adapted_embedding_is_expected_in_its_shape(rows, severity, tmp_path):
    targets = ["q_proj", "v_proj", "embed_tokens"]
    told = severities(tmp_path, adapted_embedding(rows), target_modules=targets)
    assert told == {f"{EMBED}.base_layer.weight": severity}


# --- what is announced and not there


def missing(folder: Any, extra: Tensors, **config: Any) -> list[str]:
    adapter = open_adapter(write_tensors(folder, BOTH | extra, **config))
    rows = [finding for finding in adapter.findings if finding.rule == "missing-module"]
    assert {row.severity for row in rows} <= {"medium"}
    return [row.where for row in rows]


SCORE = payload(**{"score/weight": (2, 6)})
HEAD = payload(**{"lm_head/weight": (9, 6)})

ABSENCES: dict[str, tuple[Tensors, dict[str, Any], list[str]]] = {
    "saved modules": (
        {},
        CAUSAL | {"modules_to_save": ["lm_head", "embed_tokens"]},
        ["embed_tokens", "lm_head"],
    ),
    "one of two": (
        HEAD,
        CAUSAL | {"modules_to_save": ["lm_head", "embed_tokens"]},
        ["embed_tokens"],
    ),
    "the head of a task": ({}, SEQ, ["task_type"]),
    "the head of a task that is named": ({}, SEQ | SAVED, ["task_type"]),
    "one head of the two that PEFT names": (SCORE, SEQ | SAVED, []),
    "the same without the task": (SCORE, SAVED, []),
    "both heads without the task": ({}, SAVED, ["classifier", "score"]),
    "a head in a wrapper only": (
        payload(**{"score/modules_to_save/default/weight": (2, 6)}),
        SEQ | SAVED,
        ["task_type"],
    ),
    "rows of tokens": ({}, {"trainable_token_indices": [1]}, ["trainable_token_indices"]),
    "a head that only ends alike": (
        payload(**{"pre_classifier/weight": (6, 6)}),
        SEQ | SAVED,
        ["task_type"],
    ),
    "the weight beside a bias": (
        SCORE | payload(**{"score/bias": (2,), "pre_classifier/bias": (6,)}),
        SEQ | SAVED,
        ["pre_classifier"],
    ),
    "a target below what is saved": (
        payload(**{"projector/linear/weight": (6, 6)}),
        {"modules_to_save": ["projector"], "target_modules": ["q_proj", "v_proj", "linear"]},
        [],
    ),
    "a parameter among the modules": ({}, {"target_modules": ["q_proj", "v_proj", "weight"]}, []),
}


@pytest.mark.parametrize("name", ABSENCES)
def test_what_is_announced_and_not_there_is_told(name, tmp_path):
    extra, config, expected = ABSENCES[name]
    assert missing(tmp_path, extra, **config) == expected


def test_modules_that_are_saved_are_found_as_by_endswith():
    rng = np.random.default_rng(0)
    words = ["a", "ba", "c.a", "b", "cb.a", "bb"]

    def some(most: int) -> list[str]:
        return [".".join(rng.choice(words, rng.integers(1, 4))) for _ in range(rng.integers(most))]

    for _ in range(300):
        names, modules = some(6), some(6)
        saved = SavedModules(names)
        for module in modules:
            pieces = module.split(".")
            above = [".".join(pieces[:length]) for length in range(1, len(pieces) + 1)]
            expected = next((at for at in above if at.endswith(tuple(names))), "") if names else ""
            assert saved.holding(module) == expected
