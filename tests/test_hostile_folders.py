"""Folders drawn at random, in the shapes that strangers' folders have: no promise may break on one.

Tensors, config and siblings are each sound or odd in one of the known ways, so that oddities meet.
S3LORA_FOLDERS=5000 draws more of them by hand.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters import (
    ABSENT,
    CODES,
    CONFIG,
    PREFIX,
    WEIGHTS,
    Array,
    Q,
    V,
    config_fields,
    draw,
    tensor_bytes,
)
from s3lora import open_adapter
from s3lora.cli import cli

FOLDERS = int(os.environ.get("S3LORA_FOLDERS", "60"))
LAYERS = ("model.layers.0", "model.layers.1", "model.layers.10", "base_model.model.model.layers.2")
MODULES = (
    "self_attn.q_proj", "self_attn.v_proj", "mlp.experts", "mlp.experts.base_layer", "mlp.w[1]",
    "mlp.experts.3.w1", "lora_head", "attn", "attn.base_layer.out_proj",
)  # fmt: skip
NAMES = st.sampled_from([f"{layer}.{module}" for layer in LAYERS for module in MODULES])
PREFIXES = st.sampled_from([PREFIX] * 6 + ["", PREFIX * 2, f"{PREFIX}module.", "_orig_mod."])
INFIXES = st.sampled_from([""] * 8 + [".default", ".other", ".a.b"])
PAYLOAD = st.sampled_from(
    [
        "lm_head.weight", "model.norm.weight", "classifier.bias", "score.weight",
        "model.embed_tokens.weight", f"{Q}.base_layer.weight", f"{Q}.lora_magnitude_vector",
        f"{Q}.lora_B.bias", "model.embed_tokens.token_adapter.trainable_tokens_delta", "x",
    ]
)  # fmt: skip
NUMBERS = st.sampled_from([1.0] * 8 + [0.0, np.nan, np.inf, 1e38, 1e-45])

FIELDS: dict[str, list[Any]] = {
    "r": [2, 2, 2, 4, 0, -1, "2", None, ABSENT, True, 10**12],
    "lora_alpha": [6, 6, 0, -4, 1e308, 5e-324, 10**400, "6", None, ABSENT, [6]],
    "use_rslora": [False, True, "yes", 1],
    "target_modules": [
        ["q_proj", "v_proj"],
        ["q_proj"],
        "all-linear",
        r".*\.(q|v)_proj",
        "(",
        "(a*)*b",
        [],
        None,
        [Q],
        ["experts"],
        {"a": 1},
        ["."],
        [""],
        ["q_proj"] * 3,
    ],
    "exclude_modules": [None, ["v_proj"], ".*layers.1.*", "["],
    "target_parameters": [None, ["gate_up_proj", "down_proj"], ["mlp.experts.up_proj"], [1]],
    "modules_to_save": [None, ["lm_head"], ["classifier", "score"], ["q_proj"], "lm_head", [""]],
    "rank_pattern": [{}, {"q_proj": 2}, {"v_proj": 4}, {f"{Q}[1]": 2}, {"(": 2}, {"q": "2"}, []],
    "alpha_pattern": [{}, {"q_proj": 1e300}, {".*": 1}, {"^q": 3}, {"q_proj": None}],
    "layers_to_transform": [None, 0, [0, 1], [-1], "0", [1.5]],
    "layers_pattern": [None, "layers", ["layers"], ["("], ""],
    "init_lora_weights": [True, False, "gaussian", "pissa", "unheard", 3],
    "use_dora": [False, True],
    "bias": ["none", "all", "lora_only", 3],
    "task_type": ["CAUSAL_LM", "SEQ_CLS", None, 7],
    "trainable_token_indices": [None, [1, 2], {"embed_tokens": [1]}, "x"],
    "layer_replication": [None, [[0, 2], [1, 3]]],
    "ensure_weight_tying": [False, True],
    "megatron_config": [None, {"a": 1}],
    "megatron_core": ["megatron.core", "evil"],
    "auto_mapping": [None, {"base_model_class": "X", "parent_library": "evil"}],
    "alora_invocation_tokens": [None, [1]],
    "peft_type": ["LORA"] * 6 + ["LOHA", "XLORA", None, 3],
    "fan_in_fan_out": [False, True],
    "lora_bias": [False, True],
    "brand_new": [None, {"deep": [[[]]]}],
}
"""What a field of the config may be; the first is what is usual."""

SIBLINGS = (
    "README.md", "s3lora.json", ".gitattributes", "training_args.bin", "tokenizer.json",
    "evil.py", "chat_template.jinja", "zz.safetensors", "model.safetensors.index.json",
    "adapter_model.bin", "a\x1b[31mb", "ö", "-rf", "adapter_model.safetensors.incomplete",
)  # fmt: skip
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def module(name: str, prefix: str = PREFIX, infix: str = "", rank: int = 2) -> dict[str, Array]:
    """The two factors of a module by their keys."""
    return {
        f"{prefix}{name}.lora_A{infix}.weight": draw(rank, 6, seed=1),
        f"{prefix}{name}.lora_B{infix}.weight": draw(8, rank, seed=2),
    }


@st.composite
def weights(pick: st.DrawFn) -> dict[str, Array]:
    """Tensors by key: two modules, odd ones in half of the files, payload in a third."""
    tensors = module(Q) | module(V)
    if pick(st.booleans()):
        for name in pick(st.lists(NAMES, max_size=3, unique=True)):
            rank = pick(st.sampled_from([2] * 6 + [1, 4]))
            pair = module(name, pick(PREFIXES), pick(INFIXES), rank)
            for key in pick(st.sampled_from([[*pair]] * 6 + [[*pair][:1]])):
                tensors[key] = pair[key] * np.float32(pick(NUMBERS))
    if not pick(st.integers(0, 2)):
        for key in pick(st.lists(PAYLOAD, max_size=2, unique=True)):
            tensors[PREFIX + key] = draw(4, 4)
    code = pick(st.sampled_from(["F32"] * 6 + ["F16", "BF16", "I8"]))
    with np.errstate(all="ignore"):
        return {key: value.astype(CODES[code]) for key, value in tensors.items()}


@st.composite
def configs(pick: st.DrawFn) -> dict[str, Any]:
    """A config with up to three fields that are not as usual."""
    fields = pick(st.lists(st.sampled_from(sorted(FIELDS)), max_size=2, unique=True))
    return config_fields(**{field: pick(st.sampled_from(FIELDS[field])) for field in fields})


SIBLING = st.tuples(
    st.sampled_from(SIBLINGS), st.sampled_from(["file", "folder", "link", "dangling", "pipe"])
)


def make(folder: Path, tensors: Mapping[str, Array], config: object, siblings: Any) -> None:
    """Write the folder; the secret that a link points to lies beside it."""
    folder.mkdir()
    (folder.parent / "secret").write_text("s3cret-of-the-user")
    (folder / WEIGHTS).write_bytes(tensor_bytes(tensors))
    (folder / CONFIG).write_text(json.dumps(config))
    for name, kind in siblings:
        path = folder / name
        if kind == "folder":
            path.mkdir()
            (path / "inside.py").touch()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind in ("link", "dangling"):
            path.symlink_to("../secret" if kind == "link" else "nowhere")
        else:
            path.write_bytes(b"# words\n")


def state(folder: Path) -> dict[str, str]:
    """What is in a folder: a hash for files, the target for links."""
    rows = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            rows[name] = str(path.readlink())
        else:
            rows[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return rows


def run(*words: object) -> Result:
    """Run a command; whatever it thinks of the folder, it says so in words and by its status."""
    done = CliRunner().invoke(cli, [str(word) for word in words], env={"COLUMNS": "80"})
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code in (0, 1, 2, 3)
    assert not CONTROL.search(done.stdout), "a control character reaches stdout"
    assert not CONTROL.search(done.stderr), "a control character reaches stderr"
    assert "s3cret" not in done.output
    return done


def refused(done: Result) -> bool:
    """Whether the command refused the folder; then it has said why, and what to do."""
    if done.stdout:
        return False
    assert done.exit_code in (2, 3)
    assert "error: " in done.stderr
    assert "hint: " in done.stderr
    return True


def check_scan(folder: Path) -> None:
    """The promises about scanning."""
    done = run("scan", folder, "--format", "json")
    if refused(done):
        return
    document = json.loads(done.stdout, parse_constant=not_json)
    adapter = open_adapter(folder)
    keys = {key for slot in adapter.slots.values() for key in slot.keys}
    where = {finding["where"] for finding in document["findings"]}
    assert adapter.tensors.infos.keys() <= keys | where, "a tensor is not classified"
    assert len(document["modules"]) + len(document["skipped"]) == len(adapter.slots)
    payload = [key for key in adapter.tensors.infos if ".lora_" not in key]
    assert where >= set(payload), "payload without a finding"
    if done.exit_code == 0:
        assert all(row.get("judged", True) for row in document["skipped"])


def check_prune(folder: Path, out: Path) -> None:
    """The promises about writing: whole or not at all, what stays byte for byte, no secrets."""
    done = run("prune", folder, "--top-k", "1", "-o", out)
    assert not [path for path in out.parent.iterdir() if path.name.endswith(".partial")]
    if refused(done) or not out.exists():
        return
    assert done.exit_code in (0, 1, 3)
    before, after = open_adapter(folder), open_adapter(out)
    assert set(after.names) < set(before.names)
    for key in after.tensors.infos:
        owner, _, leaf = key.rpartition(".")
        wrapped = f"{owner}.base_layer.{leaf}"  # so called while its module has LoRA factors
        source = key if key in before.tensors.infos else wrapped
        assert b"".join(after.tensors.chunks(key)) == b"".join(before.tensors.chunks(source))
    manifest = json.loads((out / "s3lora.json").read_text())
    hashes = state(out)
    del hashes["s3lora.json"]
    assert manifest["output"]["files"] == hashes
    assert not any(b"s3cret" in path.read_bytes() for path in out.iterdir())


def not_json(word: str) -> None:
    """Refuse NaN and Infinity."""
    raise AssertionError(f"{word} is not JSON")


@settings(
    max_examples=FOLDERS,
    deadline=None,
    derandomize=FOLDERS < 1000,
    suppress_health_check=list(HealthCheck),
)
@given(weights(), configs(), st.lists(SIBLING, max_size=3, unique_by=lambda row: row[0]))
def test_no_folder_breaks_a_promise(tensors, config, siblings):
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "adapter"
        make(folder, tensors, config, siblings)
        before = state(folder)
        check_scan(folder)
        check_prune(folder, Path(root) / "out")
        done = run("check", root)
        assert done.exit_code != 0 or "no adapter" not in done.output
        assert state(folder) == before, "the input has changed"


def test_the_folders_are_of_all_kinds():
    """Of a hundred folders some are clean, some not, some not to be judged, some refused."""
    statuses = set()

    @settings(max_examples=100, deadline=None, derandomize=True, database=None)
    @given(weights(), configs())
    def look(tensors, config):
        with tempfile.TemporaryDirectory() as root:
            make(Path(root) / "adapter", tensors, config, [])
            statuses.add(run("scan", Path(root) / "adapter", "--format", "json").exit_code)

    look()
    assert statuses == {0, 1, 2, 3}


def test_a_sound_folder_is_clean(tmp_path):
    make(tmp_path / "adapter", module(Q) | module(V), config_fields(), [("README.md", "file")])
    assert run("scan", tmp_path / "adapter").exit_code == 0
    check_prune(tmp_path / "adapter", tmp_path / "out")
    assert (tmp_path / "out").is_dir()
