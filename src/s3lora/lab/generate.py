"""The only file that drives a model: log-probabilities of given tokens, and replies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, StoppingCriteria, StoppingCriteriaList

from s3lora.lab.chat import padded
from s3lora.lab.models import Chat
from s3lora.lab.packing import Continuation, Pack, packs

Advance = Callable[[float], None]
"""Takes how many prompts, or continuations, are done; parts of one count."""


def unheard(count: float) -> None:
    """Nobody wants to know how far it is."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model wrote."""

    text: str
    tokens: int
    """How many were written, the one that ends the reply among them."""
    entropy: float
    """Mean entropy of the distributions the tokens were taken from, in nats."""
    ended: bool
    """Whether the model ended it; otherwise it was cut off."""


def log_probabilities(model: Any, pack: Pack) -> torch.Tensor:
    """Log-probability of each target of a pack, shape (T,), in nats; it carries gradients.

    One forward pass. The model must take a mask of four dimensions and position ids, as those of
    transformers with full attention do.
    """
    device = model.device
    visible = torch.from_numpy(pack.visible).to(device)
    hidden = torch.zeros(visible.shape, dtype=model.dtype, device=device)
    hidden.masked_fill_(~visible, torch.finfo(model.dtype).min)
    spots, back = torch.from_numpy(pack.spots).to(device).unique(return_inverse=True)
    logits = model(
        input_ids=torch.from_numpy(pack.ids).to(device)[None],
        position_ids=torch.from_numpy(pack.positions).to(device)[None],
        attention_mask=hidden[None, None],
        logits_to_keep=spots,
        use_cache=False,
    ).logits[0]  # (unique spots, vocabulary)
    targets = torch.from_numpy(pack.targets).to(device)
    return logits.float().log_softmax(-1)[back, targets]


def mean_log_probabilities(
    model: Any,
    continuations: Sequence[Continuation],
    limit: int = 512,
    advance: Advance = unheard,
) -> list[float]:
    """Mean log-probability per token of each continuation, in nats."""
    means: list[float] = []
    with torch.inference_mode():
        for pack in packs(continuations, limit):
            values = log_probabilities(model, pack)
            means += [part.mean().item() for part in values.split(pack.lengths)]
            advance(len(means))
    return means


def replies(
    chat: Chat,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    batch: int = 50,
    advance: Advance = unheard,
) -> list[Reply]:
    """Greedy replies to prompts of tokens, in the order of the prompts.

    Prompts of like length share a batch, filled up on the left. What all of them begin with, the
    head of the template and its system message, is computed once.
    """
    head = _head(prompts)
    order = sorted(range(len(prompts)), key=lambda at: len(prompts[at]))
    found: dict[int, Reply] = {}
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        progress = _Steps(advance, start, len(part), new_tokens)
        written = _written(chat, [prompts[at] for at in part], head, new_tokens, progress)
        found.update(zip(part, written, strict=True))
        advance(len(found))
    return [found[at] for at in range(len(prompts))]


def _head(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with; each has at least one more."""
    if not prompts:
        return 0
    ordered = [tuple(prompt) for prompt in prompts]
    first, last = min(ordered), max(ordered)
    longest = min(map(len, prompts)) - 1
    return next((at for at in range(longest) if first[at] != last[at]), longest)


def _written(
    chat: Chat, prompts: list[Sequence[int]], head: int, new_tokens: int, progress: _Steps
) -> Iterator[Reply]:
    """The replies to one batch, whose prompts have `head` tokens in common."""
    tokenizer, model = chat.tokenizer, chat.model
    shared = torch.tensor([prompts[0][:head]], dtype=torch.int64, device=model.device)  # (1, head)
    rests = [prompt[head:] for prompt in prompts]
    own = torch.tensor(padded(rests, tokenizer.pad_token_id, left=True), device=model.device)
    seen = torch.tensor(padded([[1] * len(r) for r in rests], 0, left=True), device=model.device)
    ids = torch.cat([shared.expand(len(prompts), -1), own], dim=1)
    mask = torch.cat([torch.ones_like(ids[:, :head]), seen], dim=1)
    with torch.inference_mode():
        cache = DynamicCache(config=model.config)
        if head:
            model(input_ids=shared, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache.batch_repeat_interleave(len(prompts))
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            max_new_tokens=new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            return_dict_in_generate=True,
            output_logits=True,
            stopping_criteria=StoppingCriteriaList([progress]),
        )
    ends = _ends(chat)
    entropies = torch.stack([_entropy(step) for step in out.logits], dim=1)  # (batch, steps)
    for row, spread in zip(out.sequences[:, ids.shape[1] :].tolist(), entropies, strict=True):
        end = next((at for at, token in enumerate(row) if token in ends), None)
        ended, count = end is not None, len(row) if end is None else end + 1
        text = tokenizer.decode(row[:count], skip_special_tokens=True).strip()
        yield Reply(text, count, spread[:count].mean().item(), ended)


class _Steps(StoppingCriteria):
    """Sees every step of a batch, which it never stops, and says how far the prompts are."""

    def __init__(self, advance: Advance, before: int, prompts: int, new_tokens: int) -> None:
        self.advance = advance
        self.before = before
        self.prompts = prompts
        self.new_tokens = new_tokens
        self.steps = 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Whether to stop, shape (batch,): never."""
        self.steps += 1
        self.advance(self.before + self.prompts * min(1.0, self.steps / self.new_tokens))
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _ends(chat: Chat) -> set[int]:
    """The tokens that end a reply."""
    told = chat.model.generation_config.eos_token_id
    more = told if isinstance(told, list) else [told]
    return {chat.tokenizer.eos_token_id, *(token for token in more if token is not None)}


def _entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of each row's distribution, in nats."""
    logs = logits.float().log_softmax(-1)
    return -(logs.exp() * logs).sum(-1)
