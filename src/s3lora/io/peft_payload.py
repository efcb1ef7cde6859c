"""Tensors of a file that are not LoRA: what loading them replaces, and how ordinary that is.

PEFT loads such a tensor over the base model's own weights without a warning. Most are what an
honest training leaves: the head of a classifier, embeddings of a larger vocabulary. Those that the
config announces, of a kind that is to be expected there, are low findings; what the config
announces elsewhere is medium, and what nothing announces is high. The table is in docs/findings.md.

Only names and shapes are looked at: the numbers of these tensors are not read, so that NaN and Inf
among them bring up no finding.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping

from s3lora.adapter import Slot
from s3lora.findings import Finding
from s3lora.io.peft_config import TASK_HEADS, PeftConfig
from s3lora.io.peft_keys import EMBEDDINGS, OUTPUTS, PREFIX
from s3lora.io.peft_refusals import token_rows
from s3lora.io.safetensors import TensorInfo

HEADS: dict[str, frozenset[str]] = {
    "SEQ_CLS": frozenset(("classifier", "score", "pre_classifier", "classification_head")),
    "TOKEN_CLS": frozenset(("classifier", "score")),
    "QUESTION_ANS": frozenset(("qa_outputs",)),
}
"""What the heads of a type of task are called."""
ANY_HEAD = frozenset().union(*HEADS.values())
EITHER_HEAD = frozenset().union(*TASK_HEADS.values())
"""What PEFT calls heads whatever the model has: of those that it names, a model has one."""

WRAPPER = frozenset(("modules_to_save", "original_module"))
"""What a saved module's wrapper in PEFT calls its two copies; neither is in the keys of a save."""

IGNORED = ("lora_", "hada_", "lokr_", "oft_", "boft_", "vera_", "ia3_", "ada_", "inv_freq")
"""How the last part of a name begins that no parameter of a base model has: what other methods of
PEFT save, and a buffer that older models of transformers saved."""

REPLACES = "PEFT loads it over the base model's own weights"
UNANNOUNCED = f"{REPLACES}, and nothing announces it"
ITS_NAME = "PEFT loads it over the base model's parameter of that name, and nothing announces it"
UNKNOWN = "no known layout explains it"
SAVED = "replaces weights of the base model; modules_to_save announces it"
HEAD = "replaces weights of the base model; the head that this task needs, as the config announces"
EMBEDDING = "replaces weights of the base model; a saved embedding or output layer, as announced"
RESIZED = "replaces an embedding of the base model, as PEFT saves it after a resize"
ADAPTED = "replaces weights of the base model; PEFT saves them beside an embedding it adapts"
ROWS = "replaces rows of the base model's embedding; trainable_token_indices announces it"
BIAS = "replaces a bias of the base model; the config's bias announces it"


class SavedModules:
    """The modules that `modules_to_save` names, by PEFT's rule: a module's name ends in one.

    Not only after a dot: `classifier` names `pre_classifier` too. Names are looked up from their
    ends, so that a thousand of them and a hundred thousand tensors take seconds together.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._reversed: list[str] = []
        for name in sorted(name[::-1] for name in names):
            if not self._reversed or not name.startswith(self._reversed[-1]):
                self._reversed.append(name)  # what ends in one that is there adds nothing

    def holding(self, owner: str) -> str:
        """The outermost module at or above `owner` that is saved whole; empty if none is."""
        backwards = owner[::-1]
        starts = [at for at, character in enumerate(backwards) if character == "."]
        for start in (*(at + 1 for at in reversed(starts)), 0) if self._reversed else ():
            module = backwards[start:]
            at = bisect_right(self._reversed, module) - 1
            if at >= 0 and module.startswith(self._reversed[at]):
                return module[::-1]
        return ""


class Payload:
    """What the tensors of a file that are not LoRA are, and what the config says of them.

    Args:
        keys: The tensors that are not LoRA.
        infos: Every tensor of the file.
        config: The validated config.
    """

    def __init__(
        self, keys: Collection[str], infos: Mapping[str, TensorInfo], config: PeftConfig
    ) -> None:
        self._keys, self._infos, self._config = keys, infos, config
        self._slots: Mapping[str, Slot] = {}
        saved = SavedModules(config.saved)
        self._saved = {key: module for key in keys if (module := saved.holding(_owner(key)))}
        self._resized = self._vocabulary_resized()
        self._rows = token_rows(config.raw.get("trainable_token_indices")) or {}

    @property
    def saved_modules(self) -> frozenset[str]:
        """The modules of the base model that are in the file because `modules_to_save` says so."""
        return frozenset(map(_owner, self._saved))

    def findings(self, slots: Mapping[str, Slot]) -> Iterator[Finding]:
        """One for each tensor, and one for each thing that the config announces in vain.

        Args:
            slots: What has factors, by the name that it has in keys.
        """
        self._slots = slots
        for key in self._keys:
            yield self._finding(key)
        yield from self._other_rows()
        yield from self._missing()

    def _finding(self, key: str) -> Finding:
        rule, pieces = "base-weight-payload", key.removeprefix(PREFIX).split(".")
        leaf, wrapped = pieces[-1], "base_layer" in pieces
        if "original_module" in pieces:
            every = leaf == "bias" and self._config.raw.get("bias") == "all"
            if every:  # PEFT saves each bias in the model then
                return Finding(rule, "medium", key, BIAS)
            return Finding(rule, "high", key, UNANNOUNCED)
        if leaf == "trainable_tokens_delta":
            return self._token_rows(key)
        if self._beside_adapted(key):
            return Finding(rule, "low", key, ADAPTED)
        if key in self._saved and not wrapped:
            return self._announced(key)
        if key in self._resized:
            return Finding(rule, "low", key, RESIZED)
        bias = self._config.raw.get("bias")
        if leaf == "bias" and (bias == "all" or (bias == "lora_only" and self._adapted(key))):
            usual = self._adapted(key) and wrapped and len(self._infos[key].shape) == 1
            return Finding(rule, "low" if usual else "medium", key, BIAS)
        return self._unannounced(key, pieces)

    def _unannounced(self, key: str, pieces: list[str]) -> Finding:
        """A tensor that nothing explains, or only half."""
        rule, leaf = "base-weight-payload", pieces[-1]
        if key in self._saved:
            return Finding(rule, "medium", key, SAVED)
        dimensions = {"weight": 2, "bias": 1}.get(leaf)
        if len(self._infos[key].shape) == dimensions and self._embedding(pieces):
            return Finding(rule, "medium", key, RESIZED)
        if leaf in ("weight", "bias") or "base_layer" in pieces:
            return Finding(rule, "high", key, UNANNOUNCED)
        if leaf.startswith(IGNORED) or not key.startswith(PREFIX):
            return Finding("unknown-tensor", "medium", key, UNKNOWN)
        return Finding(rule, "high", key, ITS_NAME)

    def _announced(self, key: str) -> Finding:
        """A tensor of a module that `modules_to_save` or the task names."""
        module = self._saved[key].split(".")
        below = _owner(key).removeprefix(self._saved[key])
        leaf, dimensions = key.rpartition(".")[2], len(self._infos[key].shape)
        task = self._config.raw.get("task_type")
        heads = ANY_HEAD if task is None else HEADS.get(str(task), frozenset())
        ordinary = key.startswith(PREFIX) and _shallow(module) and "modules_to_save" not in below
        if ordinary and module[-1] in heads and len(module) <= 2 and dimensions in (1, 2):
            return Finding("base-weight-payload", "low", key, HEAD)
        plain = not below and dimensions == {"weight": 2, "bias": 1}.get(leaf)
        if ordinary and plain and module[-1] in EMBEDDINGS | OUTPUTS:
            return Finding("base-weight-payload", "low", key, EMBEDDING)
        return Finding("base-weight-payload", "medium", key, SAVED)

    def _token_rows(self, key: str) -> Finding:
        """Rows of an embedding that were trained alone."""
        owner = _owner(key).removesuffix(".token_adapter")
        if not owner.endswith(tuple(self._rows)):
            return Finding("unknown-tensor", "medium", key, UNKNOWN)
        pieces = owner.split(".")
        usual = pieces[-1] in EMBEDDINGS | OUTPUTS and _shallow(pieces)
        usual = usual and len(self._infos[key].shape) == 2
        return Finding("base-weight-payload", "low" if usual else "medium", key, ROWS)

    def _other_rows(self) -> Iterator[Finding]:
        """Rows of embeddings that are not as many as the config announces: PEFT refuses them."""
        for key in self._keys:
            owner = _owner(key).removesuffix(".token_adapter")
            counts = {count for name, count in self._rows.items() if owner.endswith(name)}
            shape = self._infos[key].shape
            fits = len(shape) == 2 and shape[0] in counts
            if counts and not fits and key.endswith(".trainable_tokens_delta"):
                text = f"its shape is {list(shape)}, trainable_token_indices names"
                yield Finding("shape-mismatch", "high", key, f"{text} {min(counts)} rows")

    def _beside_adapted(self, key: str) -> bool:
        """Whether it is the whole weight of an embedding or output layer that is adapted."""
        owner, mark, leaf = key.removeprefix(PREFIX).rpartition(".base_layer.")
        slot = self._slots.get(owner)
        if not mark or leaf != "weight" or slot is None or not key.startswith(PREFIX):
            return False
        pieces = owner.split(".")
        named = pieces[-1] in EMBEDDINGS | OUTPUTS and _shallow(pieces)
        return named and self._infos[key].shape == slot.shape

    def _adapted(self, key: str) -> bool:
        owner = _owner(key).removesuffix(".base_layer")
        return key.startswith(PREFIX) and owner in self._slots

    def _embedding(self, pieces: list[str]) -> bool:
        """Whether a tensor's path is that of an embedding or output layer, wrapped or not."""
        return not (EMBEDDINGS | OUTPUTS).isdisjoint(pieces[-3:-1]) and _shallow(pieces)

    def _vocabulary_resized(self) -> frozenset[str]:
        """Input embedding and output layer, if the file has one of each, of one shape."""
        layers: dict[bool, list[str]] = {True: [], False: []}
        for key in self._keys:
            pieces = key.removeprefix(PREFIX).split(".")
            matrix = len(self._infos[key].shape) == 2
            named = matrix and pieces[-2:-1] and pieces[-2] in EMBEDDINGS | OUTPUTS
            if named and pieces[-1] == "weight" and key.startswith(PREFIX) and _shallow(pieces):
                layers[pieces[-2] in EMBEDDINGS].append(key)
        if len(layers[True]) != 1 or len(layers[False]) != 1:
            return frozenset()
        shapes = {self._infos[key].shape for key in (*layers[True], *layers[False])}
        return frozenset((*layers[True], *layers[False])) if len(shapes) == 1 else frozenset()

    def _missing(self) -> Iterator[Finding]:
        """What the config announces and the file does not carry: PEFT refuses to load that."""
        ends = "but the file carries no such tensor: PEFT refuses to load it"
        whole = [key for key in self._saved if WRAPPER.isdisjoint(key.split("."))]
        carried = sorted({self._saved[key][::-1] for key in whole})
        ends_in = {module[::-1].rpartition(".")[2] for module in carried}
        heads = self._config.saved & EITHER_HEAD
        headless = heads.isdisjoint(ends_in)
        if self._config.heads and headless:
            text = f"the task needs one ({', '.join(self._config.heads)}), {ends}"
            yield Finding("missing-module", "medium", "task_type", text)
        for name in sorted(self._config.saved):
            if not _ends_any(carried, name) and (
                name not in heads or (headless and not self._config.heads)
            ):
                text = f"modules_to_save names it, {ends} if the base model has it"
                yield Finding("missing-module", "medium", name, text)
        for key in whole:
            owner, _, leaf = key.rpartition(".")
            if leaf == "bias" and f"{owner}.weight" not in self._infos:
                text = f"modules_to_save names it, {ends.replace('such tensor', 'weight of it')}"
                yield Finding("missing-module", "medium", owner.removeprefix(PREFIX), text)
        delta = ".trainable_tokens_delta"
        if self._rows and not any(key.endswith(delta) for key in self._keys):
            text = f"it announces rows of an embedding, {ends}"
            yield Finding("missing-module", "medium", "trainable_token_indices", text)


def _owner(key: str) -> str:
    """The module that a tensor is a part of, as the base model names it."""
    return key.removeprefix(PREFIX).rpartition(".")[0]


def _shallow(pieces: Iterable[str]) -> bool:
    """Whether a module stands outside of the numbered layers of a model."""
    return not any(piece.isdecimal() for piece in pieces)


def _ends_any(backwards: list[str], name: str) -> bool:
    """Whether one of the names, given sorted and written backwards, ends in `name`."""
    at = bisect_left(backwards, name[::-1])
    return at < len(backwards) and backwards[at].startswith(name[::-1])
