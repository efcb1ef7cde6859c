"""Write the corpus: `python fuzz/seeds.py`. One seed for each way in which s3lora was once wrong.

Every seed has a name that says what is odd about it. They are small: what is large on purpose is
made by `tests/test_hostile.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s3lora import TopK, compare, scan
from s3lora.plan import plan as planned
from s3lora.report import make_comparison, make_ranking, make_report
from s3lora.report.formats import render
from targets import CONFIG, PREFIX, Q, V, factors, sound_adapter

CORPUS = Path(__file__).parent / "corpus"


def file_of(raw_header: bytes, nbytes: int) -> bytes:
    """A safetensors file of a header as it stands and so many bytes of numbers."""
    return len(raw_header).to_bytes(8, "little") + raw_header + bytes(range(1, 65)) * (nbytes // 64)


def headers() -> dict[str, bytes]:
    """Weights files."""
    entry = '"{}":{{"dtype":"F32","shape":{},"data_offsets":[{},{}]}}'
    A, B = factors(Q)
    pair = entry.format(A, "[2,6]", 0, 48) + "," + entry.format(B, "[8,2]", 48, 112)
    sound = "{" + pair + "}"
    changes = {
        "sound": sound,
        "negative-zero-in-shape": sound.replace("[2,6]", "[-0,6]"),
        "negative-zero-in-offsets": sound.replace("[0,48]", "[-0,48]"),
        "half-character-in-metadata": '{"__metadata__":{"x":"\\ud800"},' + pair + "}",
        "half-character-in-name": sound.replace(A, "\\ud800"),
        "metadata-of-numbers": '{"__metadata__":{"x":1},' + pair + "}",
        "name-twice": "{" + pair + "," + pair + "}",
        "overlap": sound.replace("[48,112]", "[40,104]"),
        "hole": sound.replace("[48,112]", "[56,120]"),
        "float-in-shape": sound.replace("[2,6]", "[2.0,6]"),
        "exponent-in-offsets": sound.replace("[0,48]", "[0,4.8e1]"),
        "huge-shape": sound.replace("[2,6]", "[18446744073709551615,6]"),
        "unknown-field": sound.replace('"dtype"', '"x":0,"dtype"', 1),
        "byte-order-mark": "\ufeff" + sound,
        "space-before": " " + sound,
        "tab-after": sound + "\t",
        "nan-in-header": sound.replace("[2,6]", "[NaN,6]"),
        "four-bits": sound.replace("F32", "F4"),
    }
    files = {name: file_of(text.encode(), 128)[: 8 + len(text.encode()) + 112]
             for name, text in changes.items()}  # fmt: skip
    lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 7\n"
    return files | {
        "git-lfs-pointer": lfs,
        "cut-off": files["sound"][:100],
        "trailing-bytes": files["sound"] + b"x",
        "empty": b"",
        "gguf": b"GGUF\x03\0\0\0" + bytes(56),
        "zip": b"PK\x03\x04" + bytes(60),
        "html": b"<!DOCTYPE html><title>404</title>" + bytes(40),
    }


def configs() -> dict[str, bytes]:
    """adapter_config.json."""
    changes: dict[str, Mapping[str, Any]] = {
        "sound": {},
        "layer-replication": {"layer_replication": [[0, 2], [0, 3]]},
        "layers-pattern": {"layers_to_transform": [0], "layers_pattern": ["a" * 300]},
        "layers-pattern-expression": {"layers_to_transform": [0], "layers_pattern": ["(a|b"]},
        "megatron": {"megatron_config": {"x": 1}, "megatron_core": "evil"},
        "parent-library": {"auto_mapping": {"base_model_class": "X", "parent_library": "evil"}},
        "weight-tying": {"ensure_weight_tying": True, "target_modules": ["embed_tokens"]},
        "random-modules": {"init_lora_weights": False, "target_modules": r".*\.(q|v|o)_proj"},
        "announced-modules": {"modules_to_save": ["lm_head", "embed_tokens"]},
        "announced-tokens": {"trainable_token_indices": [1, 2]},
        "tokens-by-module": {"trainable_token_indices": {"embed_tokens": [1]}},
        "overflow": {"lora_alpha": 1.7e308, "use_rslora": True, "r": 2},
        "alpha-zero": {"lora_alpha": 0},
        "alpha-tiny": {"lora_alpha": 5e-324},
        "alpha-text": {"lora_alpha": "4"},
        "alpha-of-many-digits": {"lora_alpha": 10**400},
        "literal-pattern": {"alpha_pattern": {f"{Q}[1]": 1e6, "(": 3}},
        "catastrophic-pattern": {"rank_pattern": {"(a*)*$": 2}},
        "all-linear": {"target_modules": "all-linear", "exclude_modules": ".*v_proj"},
        "excluded": {"exclude_modules": ["v_proj"]},
        "bare-parameters": {"target_parameters": ["gate_up_proj", "down_proj"]},
        "dora": {"use_dora": True},
        "pissa": {"init_lora_weights": "pissa_niter_4"},
        "init-with-address": {"init_lora_weights": "pissa https://evil.example www.evil.example"},
        "alora": {"alora_invocation_tokens": [1, 2]},
        "arrow": {"arrow_config": {"top_k": 1}},
        "fan-in-fan-out": {"fan_in_fan_out": True},
        "unknown-setting": {"brand_new": {"a": [1]}},
        "x-lora": {"peft_type": "XLORA", "adapters": {"0": "adapters/0"}},
        "classifier": {"task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"]},
        "without-r-and-alpha": {"r": None, "lora_alpha": None},
        "flag-as-text": {"use_rslora": "true"},
    }
    files = {name: json.dumps({**CONFIG, **change}).encode() for name, change in changes.items()}
    sound = files["sound"]
    return files | {
        "byte-order-mark": b"\xef\xbb\xbf" + sound,
        "utf-16": json.dumps(dict(CONFIG)).encode("utf-16"),
        "key-twice": sound[:-1] + b',"r":8}',
        "nan": sound.replace(b'"r": 2', b'"r": NaN'),
        "deep": b"[" * 200 + b"]" * 200,
        "mlx": json.dumps({"fine_tune_type": "lora", "lora_parameters": {"rank": 8}}).encode(),
        "half-character": sound[:-1] + b',"x\\ud800":"\\udfff"}',
    }


def key_lists() -> dict[str, bytes]:
    """Names of tensors."""
    sound = [*factors(Q), *factors(V)]

    def all_with(old: str, new: str) -> list[str]:
        return [key.replace(old, new) for key in sound]

    layer = f"{PREFIX}model.layers.0"
    lists = {
        "sound": sound,
        "no-prefix": all_with(PREFIX, ""),
        "prefix-twice": all_with(PREFIX, PREFIX * 2),
        "fsdp": all_with(".self_attn", "._fsdp_wrapped_module.self_attn"),
        "checkpoint-wrapper": all_with(".self_attn", "._checkpoint_wrapped_module.self_attn"),
        "ddp": all_with(PREFIX, f"{PREFIX}module."),
        "compiled": all_with(PREFIX, f"{PREFIX}_orig_mod."),
        "adapter-name": all_with(".weight", ".other.weight"),
        "default-name": all_with(".weight", ".default.weight"),
        "both-names": [*sound, *all_with(".weight", ".default.weight")],
        "smuggled-head": [*sound, f"{PREFIX}lm_head.weight"],
        "smuggled-base": [*sound, f"{layer}.self_attn.q_proj.base_layer.weight"],
        "smuggled-norm": [*sound, f"{PREFIX}model.norm.weight"],
        "lora-head": [*sound, f"{PREFIX}lora_head.weight", f"{PREFIX}lora_head.bias"],
        "magnitude": [*sound, f"{layer}.self_attn.q_proj.lora_magnitude_vector"],
        "half": sound[:1],
        "embedding": [f"{PREFIX}model.embed_tokens.lora_embedding_{x}" for x in "AB"],
        "experts": [f"{layer}.mlp.experts{stack}.lora_{x}.weight"
                    for stack in ("", ".base_layer") for x in "AB"],
        "expert-and-module": [*sound, f"{layer}.self_attn.q_proj[0].lora_A.weight",
                              f"{layer}.self_attn.q_proj[0].lora_B.weight"],
        "attention": [f"{layer}.attn{stack}.lora_{x}.weight"
                      for stack in ("", ".base_layer.out_proj") for x in "AB"],
        "mlx": [f"model.layers.0.self_attn.q_proj.lora_{x}" for x in "ab"],
        "kohya": ["lora_unet_down.lora_down.weight", "lora_unet_down.lora_up.weight",
                  "lora_unet_down.alpha"],
        "paths": [*sound, "../../etc/passwd", "", ".", "\x1b[31m", "a..b"],
        "variants": [f"{layer}.q_proj.lora_{part}" for part in
                     ("E", "diag", "A.bias", "B.bias", "ranknum", "a.b.c", "A.x.y.weight")],
        "tokens": [*sound, f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta"],
    }  # fmt: skip
    return {name: "\n".join(lines).encode() for name, lines in lists.items()}


def indices() -> dict[str, bytes]:
    """model.safetensors.index.json of a base checkpoint."""
    shard = "model-1.safetensors"
    maps: dict[str, object] = {
        "sound": {f"{Q}.weight": shard},
        "renamed": {f"language_{Q}.weight": shard},
        "out-of-the-folder": {f"{Q}.weight": "../in/model-1.safetensors"},
        "absolute": {f"{Q}.weight": "/etc/passwd"},
        "missing-shard": {f"{Q}.weight": "model-2.safetensors"},
        "shard-without-it": {f"{V}.weight": shard},
        "numbers": {f"{Q}.weight": 1},
        "a-list": [shard],
        "nothing": None,
        "itself": {f"{Q}.weight": "model.safetensors.index.json"},
        "zero-byte": {f"{Q}.weight": "a\0b"},
    }
    return {name: json.dumps({"weight_map": value}).encode() for name, value in maps.items()}


def cards() -> dict[str, bytes]:
    """README.md of an adapter."""
    texts = {
        "plain": "---\nlibrary_name: peft\n---\n# m\n",
        "empty": "",
        "open-fence": "# m\n```\n",
        "open-tildes": "# m\n~~~~\n```\n",
        "open-comment": "# m\n<!-- ",
        "open-details": "# m\n<details><summary>x</summary>\n\n<pre>",
        "open-script": "<script>",
        "open-style": "# m\n<style>\n",
        "open-textarea": "<textarea>\n",
        "open-cdata": "<![CDATA[\n",
        "open-instruction": "<?php\n",
        "open-declaration": "<!X\n",
        "front-matter-never-ends": "---\nlibrary_name: peft\n# m\n",
        "front-matter-twice": "---\na: 1\n---\n---\nb: 2\n---\n",
        "front-matter-with-a-list": "---\n- a\n---\n",
        "windows-lines": "---\r\nlibrary_name: peft\r\n---\r\n# m\r\n",
        "byte-order-mark": "\ufeff---\nlibrary_name: peft\n---\n# m\n",
        "list-item": "- a\n  - b\n",
        "quote": "> a\n> ```\n",
        "indented": "    code\n",
        "figures": "valid plans 40 of 40\n",
        "said-before": "# Pruned with s3lora\n",
    }
    files = {name: text.encode() for name, text in texts.items()}
    return files | {
        "utf-16": "# m\n".encode("utf-16"),
        "utf-16-without-mark": "# m\n".encode("utf-16-le"),
        "latin-1": "# é\n".encode("latin-1"),
        "zero-bytes": b"# m\0\n",
    }


def results() -> dict[str, bytes]:
    """Saved results, and what may be changed in them by someone else."""
    adapter = sound_adapter()
    table = scan(adapter)
    policy = TopK(1)
    names = policy(table)
    outcome = planned(adapter, names)
    report = make_report(adapter, table, policy, chosen=names, plan=outcome)
    spectrum = scan(adapter, "spectrum")
    sound = {
        "scan": report,
        "rank": make_ranking(adapter, (table, spectrum), 1),
        "compare": make_comparison(adapter, adapter, compare(adapter, adapter)),
    }
    place = str(Path(adapter.ref).parent)  # of this process: it has no place in a seed
    files = {
        name: render(value, "json").replace(place, "folder").encode()
        for name, value in sound.items()
    }
    for name, path, value in CHANGES:
        document = json.loads(files["scan"])
        holder = document
        for step in path[:-1]:
            holder = holder[step]
        holder[path[-1]] = value
        files[f"scan-{name}"] = json.dumps(document).encode()
    return files


CHANGES: list[tuple[str, list[Any], Any]] = [
    ("shell-in-policy", ["policy", "params", "k"], "1; touch ${HOME}/x #"),
    ("number-of-many-digits", ["modules", 0, "module"], "m." + "1" * 5000 + ".q"),
    ("half-character-in-weights", ["adapter", "weights"], "\ud800x"),
    ("half-character-in-method", ["method", "name"], "\ud800"),
    ("extreme-spectrum", ["modules", 0, "spectra"], {"update": [1.7976931348623157e308] * 2}),
    ("among-a-number", ["policy", "params"], {"k": 1, "among": 3}),
    ("names-a-number", ["policy", "params"], {"names": 5}),
    ("names-of-numbers", ["policy", "params"], {"names": [1]}),
    ("finding-half-character", ["findings"],
     [{"rule": "unscanned-sibling", "severity": "low", "where": "\ud800", "message": "x"}]),
    ("score-as-text", ["modules", 0, "score"], "1"),
    ("rank-below-zero", ["modules", 0, "rank"], -1),
    ("plan-without-words", ["plan"], {}),
    ("edit-of-text", ["plan", "edits"], ["x"]),
    ("params-as-list", ["method", "params"], [1]),
    ("schema-two", ["schema"], 2),
    ("kind-unknown", ["kind"], "x"),
]  # fmt: skip


def plans() -> dict[str, bytes]:
    """Plans to prune."""
    scans = results()
    document = json.loads(scans["scan"])
    files = {"sound": scans["scan"], "ranking": scans["rank"], "empty": b"{}", "list": b"[]"}
    for name, path, value in PLAN_CHANGES:
        changed = json.loads(json.dumps(document))
        holder = changed
        for step in path[:-1]:
            holder = holder[step]
        holder[path[-1]] = value
        files[name] = json.dumps(changed).encode()
    return files


PLAN_CHANGES: list[tuple[str, list[Any], Any]] = [
    ("params-of-two-letters", ["plan", "edit"], {"name": "drop", "params": ["ab", "c"]}),
    ("flatten-by-text", ["plan", "edit"], {"name": "flatten", "params": {"level": "x"}}),
    ("scale-by-list", ["plan", "edit"], {"name": "scale", "params": {"factor": [1]}}),
    ("truncate-to-text", ["plan", "edit"], {"name": "truncate", "params": {"rank": "2"}}),
    ("truncate-to-nothing", ["plan", "edit"], {"name": "truncate", "params": {"rank": 0}}),
    ("edit-unknown", ["plan", "edit"], {"name": "x", "params": {}}),
    ("chosen-of-numbers", ["chosen"], [1, [2]]),
    ("chosen-unknown", ["chosen"], ["x"]),
    ("target-of-a-list", ["plan", "target"], []),
    ("fold-as-text", ["plan", "fold_scale"], "no"),
    ("digest-of-another", ["adapter", "sha256"], "0"),
    ("adapter-of-text", ["adapter"], "x"),
]


def main() -> None:
    """Write every seed; those that are there already are replaced."""
    for target, seeds in (
        ("header", headers()),
        ("config", configs()),
        ("keys", key_lists()),
        ("index", indices()),
        ("card", cards()),
        ("result", results()),
        ("plan", plans()),
    ):
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in seeds.items():
            (folder / name).write_bytes(data)
        print(f"{target}: {len(seeds)} seeds")


if __name__ == "__main__":
    main()
