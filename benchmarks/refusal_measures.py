"""Which figure without sampling tells which harmful prompts a model refuses?

    python benchmarks/refusal_measures.py evidence/smollm2/study.toml harmless-1 mixed identity

Asks the aligned model and the adapters of a study, whose models and adapters must be there, for
greedy replies to harmful test prompts that the study's cells do not use, each adapter and the
aligned model beside it in the template that the adapter was trained with, and compares the keyword
verdicts with log-probabilities of openings: area under the ROC curve over the prompts of each
state, and over all of them together. Writes results/refusal_measures.json.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from s3lora.io import open_adapter
from s3lora.lab.chat import prompt_ids, response_ids
from s3lora.lab.generate import mean_log_probabilities, replies
from s3lora.lab.metrics.refusal import refused
from s3lora.lab.models import Chat, load_chat
from s3lora.lab.packing import Continuation
from s3lora.lab.patched import Patched
from s3lora.lab.probes import REFUSING, log_odds
from s3lora.lab.recipes import COMPLIANCE, REFUSAL, tested
from s3lora.lab.study.config import read_study
from s3lora.lab.study.workshop import Workshop

RESULTS = Path(__file__).parent / "results" / "refusal_measures.json"
OTHERS = ("Here are the steps:", "Here is", "1.", "To do this, you", "First,", "The")
FIRST, LAST, NEW_TOKENS = 100, 140, 14

Tokens = tuple[int, ...]
Measures = dict[str, list[float]]


def states(shop: Workshop, chat: Chat, names: list[str]) -> Iterator[tuple[str, list[Tokens]]]:
    """Put the model into one state after the other; the prompts as that state is asked."""
    for trained in shop.study.adapters:
        if trained.name in names:
            asked = tested(trained.recipe, shop.pools)[0][FIRST:LAST]
            prompts = [
                prompt_ids(chat.tokenizer, example.prompt, example.meta.get("system"))
                for example in asked
            ]
            yield f"aligned, asked as {trained.name}", prompts
            adapter = open_adapter(shop.study.folder / "adapters" / trained.name)
            patched = Patched(chat.model, adapter)
            patched.apply(adapter.read(module) for module in adapter.names)
            yield trained.name, prompts
            patched.apply(())


def measures(chat: Chat, prompts: list[Tokens]) -> Measures:
    """Every figure for every prompt."""

    def asked(text: str) -> tuple[list[float], int]:
        opening = response_ids(chat.tokenizer, text, ended=False)
        continuations = [Continuation(prompt, opening) for prompt in prompts]
        return mean_log_probabilities(chat.model, continuations), len(opening)

    means = {text: asked(text) for text in (REFUSAL, COMPLIANCE, *OTHERS, *REFUSING)}
    sums = np.array([[mean * means[text][1] for mean in means[text][0]] for text in REFUSING])
    found = {
        "refusal log-odds": list(log_odds(sums.T)),
        "refusal opening alone": means[REFUSAL][0],
    }
    for text in (COMPLIANCE, *OTHERS):
        gap = np.subtract(means[REFUSAL][0], means[text][0])
        found[f"refusal margin against {text!r}"] = gap.tolist()
    return found


def area(flags: list[bool], values: list[float]) -> float | None:
    """Area under the ROC curve; None if all are alike."""
    return float(roc_auc_score(flags, values)) if len(set(flags)) == 2 else None


def main() -> None:
    parser = argparse.ArgumentParser(description="Which figure tells which prompts are refused?")
    parser.add_argument("study", type=Path)
    parser.add_argument("adapters", nargs="+")
    options = parser.parse_args()
    study = read_study(options.study)
    shop = Workshop(study, print)
    chat = load_chat(str(shop.aligned()))
    flags, values = {}, {}
    for state, prompts in states(shop, chat, options.adapters):
        told = replies(chat, prompts, NEW_TOKENS)
        flags[state] = [bool(refused(reply.text)) for reply in told]
        values[state] = measures(chat, prompts)
        print(f"{state}: {sum(flags[state])} of {len(prompts)} refused", flush=True)
    rows = []
    for name in next(iter(values.values())):
        each = {state: area(flags[state], values[state][name]) for state in flags}
        every = [value for state in flags for value in values[state][name]]
        whole = area([flag for state in flags for flag in flags[state]], every)
        level = {state: round(float(np.mean(values[state][name])), 4) for state in flags}
        rows.append({"measure": name, "auroc": whole, "auroc_by_state": each, "mean": level})
        print(f"{name}: {whole:.3f}, by state {each}", flush=True)
    document = {
        "prompts": LAST - FIRST,
        "split": shop.pools.harmful.digest,
        "refused": {state: sum(flags[state]) for state in flags},
        "measures": rows,
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "machine": platform.processor() or platform.machine(),
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
