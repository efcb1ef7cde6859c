"""Files beside an adapter's weights and config: a finding for each, by what a loader does with it.

Who reads what
    SGLang and vLLM (`DefaultModelLoader`) load every `*.safetensors` of a folder, else `*.bin`,
    else `*.pt`, with an index only the files that it names, and leave out what a trainer writes
    (`filter_files_not_needed_for_inference`); PEFT falls back to `adapter_model.bin`; transformers
    imports the Python files that `auto_map` names if it is told to trust remote code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from s3lora.errors import AdapterError
from s3lora.findings import Finding, Severity
from s3lora.io.layouts import CONFIG
from s3lora.io.regular_file import read_head, read_small, stays_with
from s3lora.io.strict_json import parse

CARD = "README.md"
MANIFEST = "s3lora.json"
TRAINING = "training.json"

EXPECTED = frozenset((CONFIG, CARD, MANIFEST, TRAINING, ".gitattributes", ".gitignore"))
"""Files beside the weights that need no remark where they are plain files."""

MAX_SIBLINGS = 1000
"""How many findings there are of one severity, at most; the others are counted."""
MAX_JSON = 16 * 2**20
"""Largest file that is searched for `auto_map`, in bytes."""

TRAINERS = re.compile(
    r"training_args\.bin|(?:optimizer|scheduler|scaler)\.(?:pt|bin)|rng_state.*\.pth"
)
"""Pickles that trainers write and no loader of models reads."""
PROGRAMS = (b"#!", b"\x7fELF", b"MZ")
"""How programs begin."""
AUTO_MAPS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
)
"""Where transformers looks for the names of Python files to import."""

_LOW = "this file was not scanned"
_WEIGHTS = "other weights beside the adapter, which were not scanned"
_PICKLE = f"{_WEIGHTS}, and a pickle: reading it can run code that is in it"
BY_SUFFIX: dict[str, tuple[Severity, str]] = {
    ".safetensors": (
        "medium",
        f"{_WEIGHTS}: SGLang loads every .safetensors file of the folder",
    ),
    ".gguf": ("medium", f"{_WEIGHTS}: llama.cpp loads them"),
    **dict.fromkeys((".bin", ".pt", ".pth", ".ckpt", ".lora", ".nemo"), ("medium", _PICKLE)),
    **dict.fromkeys(
        (".pkl", ".pickle", ".joblib", ".dill"),
        ("medium", "a pickle, which was not scanned: reading it can run code that is in it"),
    ),
    ".jinja": (
        "low",
        "a chat template, which was not scanned: a program that servers run on each prompt",
    ),
    ".py": (
        "low",
        "Python code, which was not scanned: a loader that is told to trust remote code may "
        "import it",
    ),
}
"""What is said of files by how they end."""
INDEX: tuple[Severity, str] = (
    "medium",
    "an index of weights, which was not scanned: SGLang loads the files that it names, which need "
    "not be this adapter's",
)
TOKENIZER = re.compile(r"(?:tokenizer|added_tokens|special_tokens_map|vocab|merges|spiece).*", re.I)


def sibling_findings(weights: Path) -> Iterator[Finding]:
    """What lies beside the weights and was not looked into, the severe ones first."""
    folder = weights.parent
    names = sorted(file.name for file in folder.iterdir() if file.name != weights.name)
    imported = _imported(folder, names)
    rows: dict[Severity, list[tuple[str, str]]] = {"high": [], "medium": [], "low": []}
    for name in names:
        remark = _remark(folder, name, imported)
        if remark:
            severity, text = remark
            rows[severity].append((name, text))
    for level, remarks in rows.items():
        for name, text in remarks[:MAX_SIBLINGS]:
            yield Finding("unscanned-sibling", level, name, text)
        if len(remarks) > MAX_SIBLINGS:
            more = f"{len(remarks) - MAX_SIBLINGS} more files were not scanned"
            yield Finding("unscanned-sibling", level, str(folder), more)


def _remark(folder: Path, name: str, imported: dict[str, str]) -> tuple[Severity, str] | None:
    """How severe a file beside the weights is, and why; None if it needs no remark."""
    path = folder / name
    suffix = path.suffix.lower()
    if name in EXPECTED:
        odd = _oddity(folder, path)
        return ("low", odd) if odd else None
    if name in imported:
        text = f"Python code that {imported[name]} names in auto_map: a loader that is told to "
        return "medium", f"{text}trust remote code imports it"
    if TRAINERS.fullmatch(name):
        text = "written by a trainer, who unpickles it to resume: that can run code"
        return "low", text
    if name.lower().endswith(".index.json"):
        return INDEX
    if suffix in BY_SUFFIX:
        return BY_SUFFIX[suffix]
    if path.is_dir():
        return "low", "a folder, which was not searched"
    if not path.is_file():
        return "low", "not a regular file"
    if name.startswith("chat_template"):
        return BY_SUFFIX[".jinja"]
    if TOKENIZER.fullmatch(name):
        text = "a part of a tokenizer, which was not scanned: it decides what the model reads, and "
        return "low", f"{text}may hold a chat template"
    return "low", _LOW


def _oddity(folder: Path, path: Path) -> str:
    """What is odd about a file that is known by name; empty if it is a plain file."""
    if path.is_dir():
        return "a folder under the name of a file, which was not searched"
    if not path.is_file():
        return "not a regular file"
    if not stays_with(folder, path):
        return "a link to a file outside the folder"
    try:
        program = read_head(path, 4).startswith(PROGRAMS)
    except AdapterError:
        return "it cannot be read"
    return "a program under the name of another file" if program else ""


def _imported(folder: Path, names: list[str]) -> dict[str, str]:
    """The Python files that `auto_map` names, with the file where it does.

    Of a file that cannot be read, it has to be assumed that it names them all.
    """
    code = [name for name in names if name.endswith(".py")]
    imported: dict[str, str] = {}
    for file in AUTO_MAPS:
        if code and file in names:
            try:
                raw = read_small(folder / file, MAX_JSON, "")
                modules = _modules(parse(raw, file, marks=MAX_JSON, hint="").get("auto_map"))
            except AdapterError:
                modules = {name.removesuffix(".py") for name in code}
            imported |= {name: file for name in code if name.removesuffix(".py") in modules}
    return imported


def _modules(auto_map: Any) -> set[str]:
    """The modules in an `auto_map`: {class: "module.Class", or a list of such}."""
    values = auto_map.values() if isinstance(auto_map, dict) else ()
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    return {text.rpartition("--")[2].partition(".")[0] for text in texts if isinstance(text, str)}
