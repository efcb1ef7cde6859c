"""JSON that may be hostile, configs field by field, and bytes that mean nothing at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters import (
    ABSENT,
    NAMES,
    PREFIX,
    Q,
    V,
    config_fields,
    factors,
    file_bytes,
    header_of,
    lora,
    tensor_bytes,
    write_raw,
)
from s3lora import S3LoraError, open_adapter, scan
from s3lora.errors import AdapterError, UnsupportedError
from s3lora.io import patterns
from s3lora.io.peft_config import validated
from s3lora.io.peft_keys import parse_key
from s3lora.io.peft_stacks import Stacks
from s3lora.io.peft_targets import resolve
from s3lora.io.safetensors import TensorFile
from s3lora.io.strict_json import MAX_DEPTH, parse

# --- strict JSON


def parsed(raw: bytes, marks: int = 1000) -> dict[str, Any]:
    return parse(raw, "it", marks=marks, hint="look at it")


def test_plain_json_is_what_json_says():
    document = {"a": [1, -2.5, "ü\n", None, True], "b": {"c": {}}}
    assert parsed(json.dumps(document).encode()) == document


BAD_JSON = {
    "key twice": (b'{"a": 1, "b": 2, "a": 1}', "the key 'a' twice"),
    "key twice below": (b'{"x": [{"a": 1, "a": 2}]}', "the key 'a' twice"),
    "key twice by an escape": (b'{"r": 1, "\\u0072": 2}', "the key 'r' twice"),
    "NaN": (b'{"a": NaN}', "NaN"),
    "Infinity": (b'{"a": Infinity}', "Infinity"),
    "minus Infinity": (b'{"a": [-Infinity]}', "-Infinity"),
    "a number beyond float64": (b'{"a": 1e999}', "1e999"),
    "a number of 5000 digits": (
        b'{"a": ' + b"9" * 5000 + b"}",
        "a whole number of more than 4300 digits",
    ),
    "a list": (b"[1]", "not a JSON object"),
    "a word": (b"null", "not a JSON object"),
    "nothing": (b"", "not valid JSON"),
    "half of it": (b'{"a": 1', "not valid JSON"),
    "more after it": (b'{"a": 1} x', "not valid JSON"),
    "Latin-1": (b'{"a": "\xe9"}', "not valid JSON"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "not valid JSON"),
    "two byte order marks": (b'\xef\xbb\xbf\xef\xbb\xbf{"a": 1}', "not valid JSON"),
    "minus zero": (b'{"a": -0}', "-0"),
    "minus zero in a list": (b'{"a": [1,-0,2]}', "-0"),
    "control character": (b'{"a": "\x1b"}', "not valid JSON"),
    "nested too deeply": (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "too deeply"),
    "nested a hundred thousand deep": (b'{"a":' + b"[" * 100_000, "too deeply"),
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_bad_json_is_refused(name):
    raw, message = BAD_JSON[name]
    with pytest.raises(AdapterError, match=r"^it ") as caught:
        parsed(raw, marks=1_000_000)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


def test_byte_order_mark_before_json_is_passed_over():
    assert parsed(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


def test_numbers_and_text_that_look_like_minus_zero_are_read():
    document = {"a": -0.0, "b": -0.5, "c": "-0", "d": -1e-3, "layer-0": -10}
    assert parsed(json.dumps(document).encode()) == document


LARGE_IN_MEMORY = {
    "empty lists": b"[]," * 3_000_000,
    "empty objects": b"{}," * 3_000_000,
    "objects of one field": b'{"a":1},' * 800_000,
    "lists of one number": b"[1]," * 2_500_000,
    "numbers": b"999," * 6_000_000,
    "short texts": b'"ab",' * 3_000_000,
    "fields": b"{" + b",".join(b'"%d":1' % at for at in range(900_001)) + b"},",
    "objects of a field each": b"".join(b'{"%d":1},' % at for at in range(700_000)),
    "one wide character in much text": b'"' + "\U0001f600".encode() + b"a" * 60_000_000 + b'",',
}


@pytest.mark.parametrize("name", LARGE_IN_MEMORY)
def test_json_that_takes_much_more_memory_than_bytes_is_refused(name):
    raw = b'{"a": [' + LARGE_IN_MEMORY[name] + b"1]}"
    with pytest.raises(AdapterError, match=r"more memory|more entries"):
        parsed(raw, marks=20_000_000)


def test_result_of_fifty_thousand_modules_is_not_too_large():
    row = {"module": "model.layers.0.q_proj", "score": 0.123456789, "parts": {"a": 1.5, "b": 2.5}}
    rows = [row | {f"field{at}": at for at in range(10)} for _ in range(50_000)]
    assert parsed(json.dumps({"modules": rows}).encode(), marks=20_000_000)["modules"] == rows


@pytest.mark.parametrize("filler", [b"[],", b"{},", b"1,", b'"",'])
def test_json_with_more_marks_than_allowed_is_refused(filler):
    raw = b'{"a": [' + filler * 1000 + b"1]}"
    assert len(parsed(raw, marks=3003)["a"]) == 1001
    with pytest.raises(AdapterError, match="more entries"):
        parsed(raw, marks=1000)


def test_json_as_deep_as_allowed_is_read():
    raw = b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH
    assert parsed(raw)["a"]


# --- fields

WRONG = {
    "peft_type": [ABSENT, None, 1, ["LORA"]],
    "r": [None, 0, -4, True, "8", 8.0, [8], 2**31, 10**400],
    "lora_alpha": [None, "16", True, [16], 10**400],
    "use_rslora": ["true", 1, []],
    "init_lora_weights": [1, ["pissa"], {"pissa": 1}],
    "rank_pattern": [
        ["q"],
        "q",
        {"q" * (2**16 + 1): 2},
        {"q": 0},
        {"q": -1},
        {"q": "8"},
        {"q": True},
        {"q": 2.0},
    ],
    "alpha_pattern": [["q"], "q", {"q": "8"}, {"q": None}, {"q": True}, {"q": 10**400}],
    "target_modules": [1, {"q": 1}, [1], [["q"]], [""], ["a b"], ["../q"], ["q\x1b"], ["x" * 513]],
    "exclude_modules": [1, [None], ["q\u202e"]],
    "modules_to_save": [1, [1], ["(a+)+$"], ["a b"], {"a": 1}, "lm_head", [""], ["x" * 513]],
    "target_parameters": [1, [1], ["w.*"], "experts.w", [""]],
    "layers_to_transform": ["1", [True], [1.0], {"a": 1}, True],
    "layers_pattern": [1, ["(layers)"], "h|layers", ["x"] * 11, "x" * 513],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in WRONG.items() for value in values],
    ids=lambda value: "absent" if value is ABSENT else str(value)[:20],
)
def test_field_with_a_value_it_cannot_have_is_refused_by_name(field, value):
    with pytest.raises(AdapterError, match=rf"adapter_config\.json: {field}") as caught:
        validated(config_fields(**{field: value}))
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("field", "most"),
    [
        ("target_modules", 100_000),
        ("exclude_modules", 100_000),
        ("modules_to_save", 1000),
        ("target_parameters", 100_000),
    ],
)
def test_list_of_more_names_than_any_adapter_has_is_refused(field, most):
    validated(config_fields(**{field: [f"n{at}" for at in range(most)]}))
    with pytest.raises(AdapterError, match=f"{field} has {most + 1} entries"):
        validated(config_fields(**{field: [f"n{at}" for at in range(most + 1)]}))


@pytest.mark.parametrize("alpha", [0, -3, 1.5, 1e-300, 2**60])
def test_alpha_may_be_any_finite_number(alpha):
    resolved = resolve(validated(config_fields(lora_alpha=alpha)), NAMES)
    assert set(resolved.scaling.values()) == {alpha / 2}


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern", "exclude_modules"])
@pytest.mark.parametrize("empty", [None, {}, ""])
def test_empty_fields_mean_nothing(field, empty):
    empty = [] if field == "exclude_modules" and empty == {} else empty
    plain, set_to_nothing = validated(config_fields()), validated(config_fields(**{field: empty}))
    assert resolve(set_to_nothing, NAMES) == resolve(plain, NAMES)


@pytest.mark.parametrize("empty", [None, "", []])
def test_empty_list_of_layer_names_means_any_list(empty):
    fields = config_fields(layers_to_transform=[0], layers_pattern=empty)
    assert resolve(validated(fields), NAMES).targeted == {Q, V}


def test_config_that_matches_nothing_says_so():
    fields = config_fields(
        target_modules=["q_proj", "k_proj"],
        rank_pattern={"o_proj": 4, "q.*x": 4},
        target_parameters=["experts.w"],
    )
    found = resolve(validated(fields), NAMES).findings
    assert {(f.rule, f.severity, f.where) for f in found} == {
        ("missing-module", "medium", "k_proj"),
        ("missing-module", "medium", "experts.w"),
        ("dead-pattern", "low", "o_proj"),
        ("dead-pattern", "low", "q.*x"),
    }


def test_expression_that_targets_nothing_says_so():
    (found,) = resolve(validated(config_fields(target_modules="x.*")), NAMES).findings
    assert (found.rule, found.where) == ("missing-module", "x.*")


@pytest.mark.parametrize("init", ["pissa", "PISSA_niter_4", "olora" + "x" * 100_000, "x" * 100_000])
def test_reason_for_a_strange_start_is_short(init):
    assert 0 < len(validated(config_fields(init_lora_weights=init)).unscored) < 200


# --- patterns


@pytest.mark.parametrize("pattern", ["(", "*", "a{2", "[", "(?P<x>a)(?P<x>b)", "\\", "(?<=a*)b"])
@pytest.mark.parametrize("field", ["target_modules", "exclude_modules", "rank_pattern"])
def test_what_is_no_expression_is_refused_or_matches_as_in_python(field, pattern):
    value = {pattern: 4} if field == "rank_pattern" else pattern
    config = validated(config_fields(**{field: value}))
    if pattern == "a{2":
        assert resolve(config, NAMES).rank == dict.fromkeys(NAMES, 2)
    else:
        with pytest.raises(AdapterError, match="is not a regular expression"):
            resolve(config, NAMES)


def test_pattern_of_a_megabyte_is_refused():
    with pytest.raises(AdapterError, match="a pattern of 1000000 characters"):
        resolve(validated(config_fields(target_modules="(" * 1_000_000)), NAMES)


def test_all_patterns_together_have_one_bound_on_time():
    names = ["x" * 20 + ".q_proj"]
    one = validated(config_fields(rank_pattern={"(x+x+)+0": 4}))
    many = validated(config_fields(rank_pattern={f"(x+x+)+{at}": 4 for at in range(99)}))
    assert resolve(one, names).rank == {names[0]: 2}
    with pytest.raises(AdapterError, match="take more than 1 s"):
        resolve(many, names)


def test_plain_patterns_have_the_same_bound(monkeypatch):
    monkeypatch.setattr(patterns, "SECONDS", 0.0)
    with pytest.raises(AdapterError, match="take more than 0 s"):
        resolve(validated(config_fields(rank_pattern={"q_proj": 4})), NAMES)


@pytest.mark.parametrize(
    "config",
    [
        {"modules_to_save": [f"x{at}" for at in range(1000)]},
        {"rank_pattern": dict.fromkeys(("a.a", "aa.", ".aa", "a..", "..a"), 2)},
        {"layers_to_transform": [0], "layers_pattern": ["a" * 200 + ".b"]},
        {"target_modules": ".*"},
    ],
    ids=lambda config: min(config),
)
def test_whatever_is_compared_with_every_module_has_that_bound(config, monkeypatch):
    fields = {"target_modules": ["q"]} | config
    names = [f"{at}.{'a' * 400}.q" for at in range(200)]
    resolve(validated(config_fields(**fields)), names)
    monkeypatch.setattr(patterns, "SECONDS", 0.0)
    with pytest.raises(AdapterError, match="take more than 0 s"):
        resolve(validated(config_fields(**fields)), names)


def test_many_names_cost_what_they_are_and_not_what_they_are_times_each_other():
    names = [f"m.{at}.experts.w" for at in range(2000)]
    many = [f"m.{at}.q" for at in range(100_000)]
    for field in ("target_modules", "exclude_modules", "target_parameters"):
        fields = {"target_modules": ["w"], field: many}
        assert len(resolve(validated(config_fields(**fields)), names).rank) == 2000


# --- keys

KEYS = {
    f"{PREFIX}{Q}.lora_A.weight": (Q, "A"),
    f"{PREFIX}{Q}.lora_B.weight": (Q, "B"),
    f"{PREFIX}{Q}.lora_B.bias": (Q, "B.bias"),
    f"{PREFIX}{Q}.lora_A.default.weight": (Q, "A"),
    f"{PREFIX}e.lora_embedding_A": ("e", "embedding_A"),
    f"{PREFIX}e.lora_embedding_B.default": ("e", "embedding_B"),
    f"{PREFIX}{Q}.lora_magnitude_vector": (Q, "magnitude_vector"),
    f"{PREFIX}{Q}.lora_magnitude_vector.default.weight": (Q, "magnitude_vector"),
    f"{PREFIX}e.base_layer.lora_A.weight": ("e.base_layer", "A"),
    f"{PREFIX}{PREFIX}{Q}.lora_A.weight": (Q, "A"),
    f"_orig_mod.{PREFIX}{Q}.lora_A.weight": (Q, "A"),
    f"{PREFIX}x.lora_A.y.lora_B.weight": ("x.lora_A.y", "B"),
    f"{PREFIX}_fsdp_wrapped_module.{Q}.lora_A.weight": (Q, "A"),
    f"{PREFIX}x._checkpoint_wrapped_module.q.lora_B.weight": ("x.q", "B"),
    f"module.{PREFIX}{Q}.lora_A.weight": (Q, "A"),
    f"{PREFIX}module.{Q}.lora_A.weight": (f"module.{Q}", "A"),
    f"{PREFIX}{Q}.lora_A": None,
    f"{PREFIX}{Q}.lora_A.a.b.weight": None,
    f"{PREFIX}{Q}.weight": None,
    f"{PREFIX}{Q}.base_layer.weight": None,
    ".lora_A.weight": None,
    "lora_A.weight": None,
    "_orig_mod.lora_A.weight": None,
}


@pytest.mark.parametrize("key", KEYS)
def test_key_is_taken_apart(key):
    found = parse_key(key)
    assert (found and (found.path, found.part)) == KEYS[key]


ODDITIES = {
    f"{PREFIX}{Q}.lora_A.weight": None,
    f"{PREFIX}{Q}.lora_A.default.weight": "low",
    f"{PREFIX}{Q}.lora_A.other.weight": "medium",
    f"{PREFIX}_fsdp_wrapped_module.{Q}.lora_A.weight": "medium",
    f"{PREFIX}x._checkpoint_wrapped_module.q.lora_A.weight": "medium",
    f"module.{PREFIX}{Q}.lora_A.weight": "medium",
    f"{PREFIX}module.{Q}.lora_A.weight": "medium",
    f"{PREFIX}language_model.{Q}.lora_A.weight": "low",
}


@pytest.mark.parametrize("key", ODDITIES)
def test_key_that_peft_ignores_is_medium(key):
    found = parse_key(key)
    assert found is not None
    assert (found.oddity and found.oddity[0]) == ODDITIES[key]


STACKED = {
    "bare": (["gate_up_proj", "down_proj"], ["x.experts.base_layer", "x.experts"]),
    "non-gated": (["experts.up_proj", "experts.down_proj"], ["x.experts.base_layer", "x.experts"]),
    "alone": (["experts.gate_up_proj"], ["x.experts"]),
    "router": (["gate.weight"], ["x.gate"]),
    "a dense layer beside": (["down_proj"], ["x.experts"]),
    "no experts": (["o_proj"], []),
}


@pytest.mark.parametrize("name", STACKED)
def test_parameters_are_told_by_the_order_in_which_models_define_them(name):
    parameters, paths = STACKED[name]
    stacks = Stacks(parameters, [*paths, "x.mlp.o_proj", "x.mlp.down_proj"], {"x.mlp.down_proj"})
    told = [stacks.parameter(path) for path in paths]
    assert told == [parameter.rpartition(".")[2] for parameter in parameters[: len(paths)]]
    assert stacks.parameter("x.mlp.down_proj") is None
    assert stacks.parameter("x.mlp.o_proj") is None  # the config names no module so


def test_pattern_that_is_a_modules_very_name_counts_where_it_does_not_match():
    fields = config_fields(target_modules=["w[1]"], alpha_pattern={"odd.w[1]": 1e6})
    resolved = resolve(validated(fields), ["odd.w[1]", "odd.w1"])
    assert resolved.scaling == {"odd.w[1]": 5e5, "odd.w1": 5e5}
    fields["alpha_pattern"] = {r"odd\.w\[1]": 4, "odd.w[1]": 1e6}
    assert resolve(validated(fields), ["odd.w[1]"]).scaling == {"odd.w[1]": 2}


EXPLAINED = {
    "by the same name": ["o_proj"],
    "by an ending": ["proj", "x.o_proj"],
    "by an expression": ".*visual.*",
}


@pytest.mark.parametrize("name", EXPLAINED)
def test_target_that_is_excluded_again_is_not_missing(name):
    fields = config_fields(target_modules=["q_proj", "v_proj", "o_proj"])
    assert resolve(validated(fields), NAMES).findings
    fields["exclude_modules"] = EXPLAINED[name]
    assert resolve(validated(fields), NAMES).findings == ()


# --- fuzzing: whatever the bytes are, only our own errors come out

WEIGHTS = tensor_bytes(lora(Q, *factors()) | lora(V, *factors(seed=1)))

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(0, 64),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.sampled_from(["LORA", "F32", "BF16", "I8", "q_proj", ".*", "(a|b)+", "pissa", Q]),
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=12,
)
FIELDS = st.sampled_from(sorted({*config_fields(), *WRONG, "use_dora", "bias"}))
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "F8_E4M3", "I64", "F4"]) | JSON,
        "shape": st.lists(st.integers(0, 8), max_size=4) | JSON,
        "data_offsets": st.lists(st.integers(0, 64), min_size=2, max_size=2) | JSON,
    }
)
PARTS = ["A.weight", "B.weight", "A.x.weight", "embedding_A", "embedding_B", "B.bias", "new"]
TENSOR_NAMES = st.one_of(
    st.builds(
        lambda prefix, module, part: f"{prefix}{module}.lora_{part}",
        st.sampled_from(["", PREFIX, "_orig_mod."]),
        st.sampled_from([Q, V, "e", "m.experts", "m.experts.base_layer", ""]),
        st.sampled_from(PARTS),
    ),
    st.sampled_from(["__metadata__", "lm_head.weight", f"{PREFIX}{Q}.weight"]),
    st.text(max_size=30),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzzed")


def read_through(folder, weights: bytes, config: object) -> None:
    """Open and score an adapter; only an error of ours may come out of opening it.

    Every tensor is a module's or told of, and a module with more than its two factors has no score.
    """
    write_raw(folder, weights, config)
    try:
        adapter = open_adapter(folder)
    except S3LoraError:
        return
    table = scan(adapter)
    assert len(table.scores) + len(table.skipped) == len(adapter.names) > 0
    assert all(len(adapter.slots[score.module].keys) == 2 for score in table.scores)
    owned = {key for slot in adapter.slots.values() for key in slot.keys}
    told = {finding.where for finding in adapter.findings}
    assert isinstance(adapter.tensors, TensorFile)
    assert adapter.tensors.infos.keys() <= owned | told


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(FIELDS, JSON, max_size=4))
def test_any_config_is_read_or_refused(folder, changes):
    read_through(folder, WEIGHTS, config_fields() | changes)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_for_a_config_are_read_or_refused(folder, raw):
    read_through(folder, WEIGHTS, raw)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(TENSOR_NAMES, ENTRIES | JSON, max_size=5), st.binary(max_size=64))
def test_any_header_is_read_or_refused(folder, header, data):
    read_through(folder, file_bytes(header, data), config_fields())


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        TENSOR_NAMES.filter(lambda name: name != "__metadata__"),
        st.tuples(
            st.sampled_from(["F32", "F8_E4M3", "I8"]),
            st.lists(st.integers(0, 3), max_size=4).map(tuple),
        ),
        max_size=6,
    ),
    st.integers(0, 255),
    st.sampled_from(
        [{}, {"target_modules": None, "target_parameters": ["experts.a", "experts.b"]}]
    ),
)
def test_any_tensors_are_read_or_refused(folder, shapes, byte, config):
    tensors = {}
    for name, (dtype, shape) in shapes.items():
        size = 4 if dtype == "F32" else 1
        for length in shape:
            size *= length
        tensors[name] = (dtype, shape, size)
    data = bytes([byte]) * sum(nbytes for *_, nbytes in tensors.values())
    read_through(folder, file_bytes(header_of(tensors), data), config_fields(**config))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(WEIGHTS) - 1), st.binary(min_size=1, max_size=8))
def test_any_damage_to_the_weights_is_read_or_refused(folder, at, noise):
    read_through(folder, WEIGHTS[:at] + noise + WEIGHTS[at + len(noise) :], config_fields())


@settings(max_examples=50, deadline=None)
@given(st.integers(0, len(WEIGHTS) - 1))
def test_any_cut_through_the_weights_is_refused(folder, length):
    with pytest.raises(AdapterError):
        open_adapter(write_raw(folder, WEIGHTS[:length], config_fields()))


def test_other_kind_of_adapter_is_no_broken_one():
    with pytest.raises(UnsupportedError, match="IA3"):
        validated(config_fields(peft_type="IA3", r=ABSENT))
