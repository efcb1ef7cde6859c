"""What drives a model: packs, replies, patched weights, probes, gates, and asking again."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from lab_material import made_rows, tiny
from models import Base, gpt2, llama, load, logits, mixtral, save_adapter
from s3lora import open_adapter, prune
from s3lora.adapter import Adapter, LoraModule
from s3lora.errors import ParameterError
from s3lora.lab.chat import encode, prompt_ids, response_ids
from s3lora.lab.data import Example
from s3lora.lab.gate import Slopes, gate_table, slopes
from s3lora.lab.generate import log_probabilities, mean_log_probabilities, replies
from s3lora.lab.models import Chat
from s3lora.lab.packing import Continuation, Pack, packs
from s3lora.lab.patched import Patched
from s3lora.lab.probes import (
    CERTAIN,
    REFUSING,
    Measured,
    Openings,
    Probe,
    log_odds,
    make_probe,
    margins,
    openings_of,
)
from s3lora.lab.resume import Resumed
from tolerances import apart, forward_tolerance, forward_tolerances

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

BASES: dict[str, tuple[Base, dict[str, Any]]] = {
    "llama": (llama, {"target_modules": ["q_proj", "v_proj", "o_proj", "down_proj"]}),
    "gpt2": (gpt2, {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "mixtral": (mixtral, {"target_modules": ["q_proj", "o_proj"]}),
}


def some_continuations() -> tuple[Continuation, ...]:
    """Shared starts, a repeated one, one inside another, and one by itself."""
    rng = np.random.default_rng(0)
    start = tuple(rng.integers(0, 32, 6).tolist())
    drawn = [tuple(rng.integers(0, 32, size).tolist()) for size in (3, 5, 1, 4, 7, 2)]
    return (
        Continuation(start, drawn[0]),
        Continuation(start, drawn[1]),
        Continuation((*start, *drawn[1]), drawn[2]),
        Continuation(start[:3], drawn[3]),
        Continuation((31,), drawn[4]),
        Continuation(start, drawn[1]),
        Continuation(drawn[4], drawn[5]),
    )


SOME = some_continuations()


def alone(model: Any, continuation: Continuation) -> torch.Tensor:
    """Log-probability of each token, from the sequence by itself and nothing else."""
    ids = torch.tensor([[*continuation.prompt, *continuation.tokens]])
    with torch.no_grad():
        logs = model(input_ids=ids).logits[0].double().log_softmax(-1)
    first = len(continuation.prompt) - 1
    return torch.stack([logs[first + at, token] for at, token in enumerate(continuation.tokens)])


@pytest.mark.numerics
@pytest.mark.parametrize("limit", [1, 12, 20, 512])
@pytest.mark.parametrize("name", BASES)
def test_a_pack_says_what_each_sequence_alone_does(name, limit):
    model = BASES[name][0]()
    wanted = [alone(model, continuation) for continuation in SOME]
    found: list[torch.Tensor] = []
    for pack in packs(SOME, limit):
        with torch.no_grad():
            found += log_probabilities(model, pack).split(pack.lengths)
    assert len(found) == len(wanted)
    spare = forward_tolerance(model, lambda m: torch.cat([alone(m, one) for one in SOME]))
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.tolist() == pytest.approx(theirs.tolist(), abs=spare)
    means = mean_log_probabilities(model, SOME, limit)
    assert means == pytest.approx([float(values.mean()) for values in wanted], abs=spare)


@pytest.mark.numerics
def test_packs_of_chats_on_the_tiny_model():
    chat = tiny()
    rows = [encode(chat.tokenizer, row) for row in made_rows("row", 5, answered=True)]
    asked = [Continuation(row.prompt, row.response) for row in rows]
    wanted = [float(alone(chat.model, one).mean()) for one in asked]
    for limit in (30, 60, 512):
        found = partial(mean_log_probabilities, continuations=asked, limit=limit)
        assert apart(chat.model, wanted, found) <= 1


def test_shared_starts_are_counted_once():
    told = [
        Continuation((1, 2, 3), (4, 5)),  # nodes 1 2 3 4: the last token needs none
        Continuation((1, 2, 3), (6, 7, 8)),  # 6 7
        Continuation((1, 2), (3, 4, 9)),  # none: 1 2 3 4 is there
        Continuation((2, 2), (3,)),  # 2 2
    ]
    (pack,) = packs(told)
    assert pack.ids.tolist() == [1, 2, 3, 4, 6, 7, 2, 2]
    assert pack.positions.tolist() == [0, 1, 2, 3, 3, 4, 0, 1]
    assert pack.spots.tolist() == [2, 3, 2, 4, 5, 1, 2, 3, 7]
    assert pack.targets.tolist() == [4, 5, 6, 7, 8, 3, 4, 9, 3]
    assert pack.lengths == (2, 3, 3, 1)
    seen = [np.flatnonzero(row).tolist() for row in pack.visible]
    assert seen[:4] == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]
    assert seen[4:] == [[0, 1, 2, 4], [0, 1, 2, 4, 5], [6], [6, 7]]


def nodes(continuations: Sequence[Continuation]) -> int:
    """The number of different starts, without the last token of each."""
    starts = set()
    for one in continuations:
        whole = (*one.prompt, *one.tokens)
        starts |= {whole[:size] for size in range(1, len(whole))}
    return len(starts)


tokens = st.lists(st.integers(0, 2), min_size=1, max_size=5).map(tuple)
continuations = st.builds(Continuation, tokens, tokens)


@settings(max_examples=80, deadline=None)
@given(st.lists(continuations, min_size=1, max_size=12), st.integers(1, 14))
def test_packs_hold_everything_in_order_within_the_limit(told, limit):
    made = list(packs(told, limit))
    counts = [len(pack.lengths) for pack in made]
    assert sum(counts) == len(told)
    starts = [0, *itertools.accumulate(counts)]
    for at, pack in enumerate(made):
        part = told[starts[at] : starts[at + 1]]
        assert pack.lengths == tuple(len(one.tokens) for one in part)
        assert pack.targets.tolist() == [token for one in part for token in one.tokens]
        assert len(pack.ids) == nodes(part)
        assert len(pack.ids) <= limit or len(part) == 1
        if at + 1 < len(made):
            assert nodes(told[starts[at] : starts[at + 1] + 1]) > limit, "it would not have fitted"


def test_nothing_makes_no_pack():
    assert list(packs([])) == []
    assert mean_log_probabilities(llama(), []) == []


@pytest.mark.numerics
def test_gradients_flow_through_a_pack():
    model = llama()
    (pack,) = packs(SOME)

    def gradients(of: Any) -> dict[str, torch.Tensor]:
        of.zero_grad()
        log_probabilities(of, pack).sum().backward()
        return {name: p.grad.clone() for name, p in of.named_parameters()}

    packed = gradients(model)
    spare = forward_tolerances(model, gradients)
    model.zero_grad()
    for one in SOME:
        ids = torch.tensor([[*one.prompt, *one.tokens]])
        logs = model(input_ids=ids).logits[0].log_softmax(-1)
        first = len(one.prompt) - 1
        sum(logs[first + at, token] for at, token in enumerate(one.tokens)).backward()
    for name, parameter in model.named_parameters():
        assert float((packed[name] - parameter.grad).abs().max()) <= spare[name], name


@pytest.fixture(scope="module")
def chat() -> Chat:
    """A tiny model that does not say one thing over and over, and does end some replies."""
    made = tiny()
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        made.model.get_input_embeddings().weight[made.tokenizer.eos_token_id] *= 4
    return made


def test_replies_are_those_of_each_prompt_alone(chat):
    rows = made_rows("a", 9, answered=False)
    prompts = [
        prompt_ids(chat.tokenizer, row.prompt + " more" * (at * 5 % 4))
        for at, row in enumerate(rows)
    ]
    assert len({len(prompt) for prompt in prompts}) > 2
    wanted = []
    for prompt in prompts:
        out = chat.model.generate(
            input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)).long(),
            do_sample=False, max_new_tokens=12, pad_token_id=chat.tokenizer.pad_token_id,
        )  # fmt: skip
        wanted.append(out[0, len(prompt) :].tolist())
    assert len({tuple(row) for row in wanted}) > 3
    eos = chat.tokenizer.eos_token_id
    ends = [eos in row for row in wanted]
    assert True in ends
    assert False in ends
    for batch in (1, 4, 50):
        found = replies(chat, prompts, 12, batch)
        assert [reply.tokens for reply in found] == [len(row) for row in wanted]
        assert [reply.ended for reply in found] == ends
        texts = [chat.tokenizer.decode(row, skip_special_tokens=True).strip() for row in wanted]
        assert [reply.text for reply in found] == texts
        for reply, prompt, row in zip(found, prompts, wanted, strict=True):
            ids = torch.tensor([[*prompt, *row]])
            first = len(prompt) - 1
            assert apart(chat.model, reply.entropy, partial(spread, ids=ids, first=first)) <= 1


def spread(model: Any, ids: torch.Tensor, first: int) -> float:
    """Mean entropy of the tokens after the first ones."""
    with torch.no_grad():
        p = model(input_ids=ids).logits[0, first:-1].double().softmax(-1)
    return float(-(p * p.log()).sum(-1).mean())


def test_what_prompts_begin_with_is_computed_once(chat, monkeypatch):
    prompts = [(5, 6, 7, 8, 9), (5, 6, 7, 8, 9, 9), (5, 6, 7, 4), (5, 6, 7, 8)]
    apart = [replies(chat, [prompt], 6)[0] for prompt in prompts]
    strangers = replies(chat, [*prompts, (9, 6, 7)], 6)  # begin with nothing in common
    seen: list[int] = []
    forward = chat.model.forward

    @functools.wraps(forward)  # generate() looks at what the model takes
    def counted(*inputs: Any, **named: Any) -> Any:
        seen.append(named["input_ids"].numel())
        return forward(*inputs, **named)

    monkeypatch.setattr(chat.model, "forward", counted)
    found = replies(chat, prompts, 6)
    assert seen[:2] == [3, 4 * 3], "the head, then the rest of each, filled up to three tokens"
    assert [reply.text for reply in found] == [reply.text for reply in apart]
    assert [reply.text for reply in strangers[:4]] == [reply.text for reply in apart]


def test_the_entropy_of_a_uniform_model_is_the_logarithm_of_the_vocabulary():
    flat = tiny()
    flat.model.get_input_embeddings().weight.data.zero_()  # tied to the head
    (reply,) = replies(flat, [(1, 2, 3)], 4)
    assert reply.entropy == pytest.approx(math.log(len(flat.tokenizer)), abs=1e-5)
    assert (reply.tokens, reply.ended) == (4, False)
    assert replies(flat, [], 4) == []


def folder_of(name: str, tmp_path_factory: Any) -> Any:
    base, config = BASES[name]
    return save_adapter(tmp_path_factory.mktemp(name) / "adapter", base, **config)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: folder_of(name, tmp_path_factory) for name in BASES}


def all_of(adapter: Adapter) -> list[LoraModule]:
    return [adapter.read(name) for name in adapter.names]


@pytest.mark.numerics
@pytest.mark.parametrize("name", BASES)
def test_all_updates_are_the_adapter_as_peft_applies_it(folders, name):
    base, adapter = BASES[name][0], open_adapter(folders[name])
    patched = Patched(base(), adapter)
    patched.apply(all_of(adapter))
    wanted = load(base, folders[name])
    assert apart(wanted, patched.model, logits) <= 1
    assert apart(wanted, base(), logits) > 1
    assert apart(wanted, load(base, folders[name]).merge_and_unload(), logits) <= 1


@pytest.mark.numerics
@pytest.mark.parametrize("name", BASES)
def test_some_updates_are_the_pruned_adapter(folders, tmp_path, name):
    base, adapter = BASES[name][0], open_adapter(folders[name])
    chosen = adapter.names[::3]
    prune(adapter, chosen, tmp_path / "out")
    patched = Patched(base(), adapter)
    patched.apply(all_of(adapter))
    patched.apply(adapter.read(n) for n in adapter.names if n not in chosen)
    assert apart(load(base, tmp_path / "out"), patched.model, logits) <= 1


@pytest.mark.parametrize("name", BASES)
def test_no_update_gives_the_very_weights_back(folders, name):
    base, adapter = BASES[name][0], open_adapter(folders[name])
    patched, fresh = Patched(base(), adapter), base().state_dict()
    modules = all_of(adapter)
    for size in (len(modules), 1, 3, len(modules)):
        patched.apply(modules[:size])
    patched.apply(())
    now = patched.model.state_dict()
    assert all(torch.equal(now[key], value) for key, value in fresh.items())
    assert not any(p.requires_grad for p in patched.model.parameters())


def test_no_choice_depends_on_those_before_it(folders):
    adapter = open_adapter(folders["llama"])
    modules = all_of(adapter)
    one, other = Patched(llama(), adapter), Patched(llama(), adapter)
    for start in range(10):
        one.apply(modules[start : start + 5])
    edited = [replace(modules[2], B=0.3 * modules[2].B), *modules[5:]]
    one.apply(edited)
    other.apply(edited)
    assert torch.equal(logits(one.model), logits(other.model))


def test_a_model_without_the_module_is_named(folders):
    with pytest.raises(ParameterError, match=r"the model has no module model\.layers\.0"):
        Patched(gpt2(), open_adapter(folders["llama"]))


def scaled(module: LoraModule, factor: float) -> LoraModule:
    return replace(module, B=factor * module.B)


FEW = ((3,), (9, 4), (17, 30, 8), (21, 5))
"""Refusing openings that are improbable together; none begins with another."""
MANY = (*((token,) for token in range(22)), (30, 4), (31, 2, 7))
"""Those that are probable together."""


def probe_of(refusing: Sequence[tuple[int, ...]] = FEW) -> Probe:
    """A probe of raw tokens: three harmful prompts, one harmless, four rows."""
    rng = np.random.default_rng(1)

    def draw(size: int) -> tuple[int, ...]:
        return tuple(rng.integers(0, 32, size).tolist())

    openings = (draw(4), draw(3), *refusing)
    width = len(openings)
    asked = [draw(size) for size in (5, 2, 6, 3)]
    told = [Continuation(prompt, opening) for prompt in asked for opening in openings]
    return Probe(tuple(told[: 3 * width]), tuple(told[3 * width :]), SOME[:4], width)


def asked_alone(
    model: Any, asked: Sequence[Continuation], width: int
) -> tuple[list[float], list[float]]:
    """Probability of a refusing opening, and margin, of each prompt from each sequence alone."""
    told = [alone(model, one) for one in asked]
    prompts = [told[at : at + width] for at in range(0, len(told), width)]
    ps = [sum(math.exp(float(values.sum())) for values in prompt[2:]) for prompt in prompts]
    return ps, [float(prompt[0].mean() - prompt[1].mean()) for prompt in prompts]


def odds_of(p: float) -> float:
    return math.log(p / (1 - p))


def figures(model: Any, probe: Probe) -> tuple[float, float, float]:
    """Mean log-odds and margin, and loss per token, in float64 from each sequence alone."""
    ps, gaps = asked_alone(model, probe.harmful, probe.width)
    values = torch.cat([alone(model, one) for one in probe.responses])
    return float(np.mean([odds_of(p) for p in ps])), float(np.mean(gaps)), -float(values.mean())


def exact_norm(self: Any, x: torch.Tensor) -> torch.Tensor:
    """RMSNorm in the dtype of its input; that of transformers goes through float32."""
    return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


@pytest.mark.parametrize(("refusing", "low", "high"), [(FEW, 0, 0.15), (MANY, 0.5, 0.95)])
@pytest.mark.parametrize("name", ["llama", "gpt2"])  # Mixtral jumps where a token is routed anew
def test_a_slope_is_the_finite_difference_of_scaling_the_module(
    folders, monkeypatch, name, refusing, low, high
):
    base, adapter = BASES[name][0], open_adapter(folders[name])
    modules, probe = all_of(adapter), probe_of(refusing)
    patched = Patched(base(), adapter)
    patched.apply(modules)
    found = slopes(patched, modules, probe)
    kinds = (found.log_odds, found.margin, found.loss)
    assert all(set(kind) == set(adapter.names) for kind in kinds)
    ps, _ = asked_alone(patched.model, probe.harmful, probe.width)
    assert low < min(ps) < max(ps) < high
    monkeypatch.setattr(LlamaRMSNorm, "forward", exact_norm)
    exact = Patched(base().double(), adapter)
    exact._update = lambda m: (  # type: ignore[method-assign]
        torch.from_numpy(m.scaling * m.B @ m.A).T
        if adapter.slots[m.name].transposed
        else torch.from_numpy(m.scaling * m.B @ m.A)
    )
    sizes = [max(abs(value) for value in kind.values()) for kind in kinds]
    for module in modules[:: max(1, len(modules) // 5)]:
        sides = []
        for step in (1e-4, -1e-4):
            exact.apply([scaled(m, 1 + step) if m is module else m for m in modules])
            sides.append(figures(exact.model, probe))
        wanted = [(a - b) / 2e-4 for a, b in zip(*sides, strict=True)]
        for kind, value, size in zip(kinds, wanted, sizes, strict=True):
            assert kind[module.name] == pytest.approx(value, rel=1e-3, abs=1e-4 * size)


def test_gates_leave_what_the_model_says_and_no_trace(folders):
    adapter = open_adapter(folders["gpt2"])
    patched = Patched(gpt2(), adapter)
    modules = all_of(adapter)
    patched.apply(modules)
    before = logits(patched.model)
    with patched.gates(modules) as gates:
        assert torch.equal(logits(patched.model), before), "at 1 they change nothing"
        with torch.no_grad():
            for gate in gates.values():
                gate.zero_()
        assert apart(patched.model, gpt2(), logits) <= 1, "at 0 all is gone"
    assert torch.equal(logits(patched.model), before)


@pytest.mark.numerics
def test_slopes_over_many_packs_are_those_of_one(folders, monkeypatch):
    adapter = open_adapter(folders["llama"])
    modules, probe = all_of(adapter), probe_of()
    patched = Patched(llama(), adapter)
    patched.apply(modules)
    whole = slopes(patched, modules, probe)
    monkeypatch.setattr("s3lora.lab.gate.packs", lambda asked: packs(asked, 9))
    parts = slopes(patched, modules, probe)
    kinds = ("log_odds", "margin", "loss")

    def values(of: Slopes) -> dict[str, list[float]]:
        return {kind: list(getattr(of, kind).values()) for kind in kinds}

    spare = forward_tolerances(patched.model, lambda _: values(slopes(patched, modules, probe)))
    assert [getattr(parts, kind).keys() for kind in kinds] == [
        getattr(whole, kind).keys() for kind in kinds
    ]
    for kind in kinds:
        assert values(parts)[kind] == pytest.approx(values(whole)[kind], abs=spare[kind])


NAMES = ("a.0.q", "a.0.v", "a.1.q", "a.1.v")
FOUND = Slopes(
    dict(zip(NAMES, (-4.0, 1.0, -2.0, 0.0), strict=True)),
    dict(zip(NAMES, (9.0, -8.0, 7.0, 6.0), strict=True)),  # no measure is of the margin
    dict(zip(NAMES, (-2.0, -0.1, 1.0, -1.0), strict=True)),
)


def values_of(measure: str, found: Slopes = FOUND) -> list[float]:
    table = gate_table(found, NAMES, measure)
    assert [score.module for score in table.scores] == list(NAMES)
    assert (table.method, table.unsafe, table.params) == ("gate", "high", {"measure": measure})
    assert table.scores[0].parts == {
        "refusal_slope": found.log_odds[NAMES[0]],
        "loss_slope": found.loss[NAMES[0]],
    }
    return [score.value for score in table.scores]


def test_measures_of_gate_by_hand():
    assert values_of("refusal") == [4, -1, 2, 0]
    # costs are 2, 0.1, −1, 1; a tenth of the mean of their sizes is 0.1025
    least = 0.1025
    assert values_of("per-loss") == pytest.approx([2, -1 / least, 2 / least, 0])
    # gains sum to 5, costs to 2.1
    price = 5 / 2.1
    wanted = [4 - 2 * price, -1 - 0.1 * price, 2 + price, -price]
    assert values_of("balance") == pytest.approx(wanted)
    assert sum(values_of("balance")) == pytest.approx(0)


def test_the_price_is_nothing_where_the_sums_do_not_point_the_same_way():
    for sign, cost in ((1, -1), (-1, 1)):
        found = Slopes(
            {name: sign * value for name, value in FOUND.log_odds.items()},
            FOUND.margin,
            {name: cost * value for name, value in FOUND.loss.items()},
        )
        assert values_of("balance", found) == values_of("refusal", found)
    still = Slopes(FOUND.log_odds, FOUND.margin, dict.fromkeys(NAMES, 0.0))
    assert values_of("balance", still) == [4, -1, 2, 0]
    assert all(map(math.isfinite, values_of("per-loss", still)))


@pytest.mark.parametrize("measure", ["charm", "margin"])
def test_gate_has_no_other_measure(measure):
    with pytest.raises(ParameterError, match=f"gate has no measure '{measure}'"):
        gate_table(FOUND, NAMES, measure)


def test_a_probe_asks_each_prompt_for_every_opening():
    chat = tiny()
    harmful, harmless = [Example("bad", "", {"system": "s"}), Example("worse")], [Example("good")]
    rows = [Example("r1", "yes"), Example("r2", "a long answer")]
    told = Openings("No.", "Sure!", ("N", "I c", "Sor"))
    probe = make_probe(chat.tokenizer, harmful, harmless, rows, told, longest=6)
    ended = response_ids(chat.tokenizer, "yes")
    assert [len(part) for part in (probe.harmful, probe.harmless, probe.responses)] == [10, 5, 2]
    assert probe.width == 5
    assert {one.prompt for one in probe.harmful[:5]} == {prompt_ids(chat.tokenizer, "bad", "s")}
    assert {one.prompt for one in probe.harmful[5:]} == {prompt_ids(chat.tokenizer, "worse")}
    assert {one.prompt for one in probe.harmless} == {prompt_ids(chat.tokenizer, "good")}
    openings = [chat.tokenizer.decode(one.tokens) for one in (*probe.harmful, *probe.harmless)]
    assert openings == ["No.", "Sure!", "N", "I c", "Sor"] * 3
    assert probe.responses[0].tokens == ended
    assert probe.tokens == (4, 6)
    assert openings_of(chat.tokenizer, (), Openings()) == ()
    usual = openings_of(chat.tokenizer, harmless, Openings())
    assert len(usual) == Probe((), (), ()).width == 2 + len(REFUSING)


@pytest.mark.parametrize("refusing", [("N", "I c", "Sor"), REFUSING])
def test_a_probe_measures_what_each_sequence_alone_says(chat, refusing):
    harmful, harmless = [Example("bad", "", {"system": "s"}), Example("worse")], [Example("good")]
    rows = [Example("r1", "yes"), Example("r2", "a long answer")]
    probe = make_probe(chat.tokenizer, harmful, harmless, rows, Openings(refusing=refusing), 6)
    found = probe.measure(chat.model)
    width = 2 + len(refusing)

    def wanted(model: Any) -> dict[str, list[float]]:
        (ps, gaps), (benign_ps, benign_gaps) = (
            asked_alone(model, asked, width) for asked in (probe.harmful, probe.harmless)
        )
        return {
            "log_odds": [odds_of(p) for p in ps],
            "margins": gaps,
            "benign_log_odds": [odds_of(p) for p in benign_ps],
            "benign_margins": benign_gaps,
            "losses": [-float(alone(model, one).mean()) for one in probe.responses],
        }

    for figure in wanted(chat.model):
        values = getattr(found, figure)
        assert apart(chat.model, values, lambda m, key=figure: wanted(m)[key]) <= 1, figure
    counts = (len(found.log_odds), len(found.benign_log_odds), len(found.losses))
    assert counts == (2, 1, 2)


def test_no_way_to_begin_a_refusal_begins_with_another():
    tokenizer = tiny().tokenizer
    told = [response_ids(tokenizer, opening, ended=False) for opening in REFUSING]
    assert all(told)
    for one, other in itertools.permutations(told, 2):
        assert other[: len(one)] != one


def test_margins_by_hand():
    assert margins([-1.0, -3.0, -2.0, -0.5], 2) == (2.0, -1.5)
    assert margins([-1.0, -3.0, 9.0, 9.0, -2.0, -0.5, 9.0, 9.0], 4) == (2.0, -1.5)
    with pytest.raises(ValueError):
        margins([1.0], 2)
    with pytest.raises(ValueError):
        margins([-1.0, -3.0, 9.0, -2.0], 3)


def test_log_odds_by_hand():
    even, thirds = [math.log(0.2), math.log(0.3)], [math.log(1 / 6)] * 2
    rare = [math.log(1e-9), math.log(3e-9)]
    found = log_odds(np.array([even, thirds, rare]))
    assert found == pytest.approx((0.0, -math.log(2), math.log(4e-9)), abs=1e-7)
    assert log_odds(np.empty((0, 3))) == ()


@pytest.mark.parametrize("p", [1 - 1e-7, 1.0, 1 + 1e-6])
def test_log_odds_are_cut_off_where_a_refusal_is_certain(p):
    most = math.log(1e6 - 1)
    (found,) = log_odds(np.log([[p / 2, p / 2]]))
    assert CERTAIN == 1 - 1e-6
    assert found == pytest.approx(most, abs=1e-8)
    (below,) = log_odds(np.log([[(1 - 2e-6) / 2, (1 - 2e-6) / 2]]))
    assert below == pytest.approx(most - math.log(2), abs=1e-5)


def test_log_odds_of_what_is_next_to_impossible_are_finite():
    (found,) = log_odds(np.array([[-2000.0, -2000.0]]))
    assert found == pytest.approx(-2000 + math.log(2))
    probe = Probe((RAW[1], RAW[1], RAW[1], RAW[1]), (), (), 4)
    assert probe.log_odds_weights([-9.0, -9.0, -2000.0, -2000.0]) == pytest.approx([0, 0, 0.5, 0.5])


RAW = {size: Continuation((1,), tuple(range(size))) for size in (1, 2, 3, 4)}


def test_figures_by_hand():
    asked = (RAW[1], RAW[2], RAW[1], RAW[2])
    probe = Probe(asked, asked * 2, (RAW[1], RAW[2]), 4)
    half = math.log(0.25) / 2  # a mean over two tokens
    means = [-1.0, -2.0, math.log(0.25), half]
    over = [-5.0, -1.0, math.log(0.05), half, -1.0, -1.5, math.log(0.55), half]
    found = probe.figures([*means, *over, -3.0, -4.0])
    assert found.log_odds == pytest.approx((0.0,), abs=1e-12)
    assert found.margins == (1.0,)
    assert found.benign_log_odds == pytest.approx((math.log(3 / 7), math.log(4)))
    assert found.benign_margins == (-4.0, 0.5)
    assert found.losses == (3.0, 4.0)
    empty = Probe((), (), (RAW[1],), 4)
    assert empty.figures([-3.0]) == Measured((), (), (), (), (3.0,))
    with pytest.raises(ValueError):
        probe.figures([*means, *over[:-1]])


WEIGHED = Probe(
    (RAW[4], RAW[3], RAW[1], RAW[2], RAW[3], RAW[2], RAW[1], RAW[1], RAW[4], RAW[2]),
    (RAW[1],) * 5,
    (RAW[2],),
    5,
)
"""Two prompts, with three refusing openings each."""


def test_weights_of_the_margin_by_hand():
    wanted = [1 / 8, -1 / 6, 0, 0, 0, 1 / 4, -1 / 2, 0, 0, 0]
    assert WEIGHED.margin_weights() == pytest.approx(wanted)
    assert Probe((), (), ()).margin_weights() == []


@pytest.mark.parametrize(
    "ps",
    [
        ((1e-4, 1e-6, 2e-5), (1e-7, 1e-3, 1e-9)),
        ((0.3, 0.1, 0.2), (0.5, 0.05, 0.4)),
        ((0.3, 0.1, 0.2), (0.9, 0.0999, 1e-6)),
    ],
    ids=["small", "large", "nearly certain"],
)
def test_weights_of_the_log_odds_are_finite_differences(ps):
    logs = np.array([[-3.0, -4.0, *np.log(one)] for one in ps])
    sizes = np.array([len(one.tokens) for one in WEIGHED.harmful]).reshape(2, 5)

    def mean(at: int, step: float) -> float:
        """Mean log-odds with the log-probability of one opening moved."""
        moved = logs.copy()
        moved.flat[at] += step
        return float(np.mean([odds_of(math.fsum(map(math.exp, row[2:]))) for row in moved]))

    found = WEIGHED.log_odds_weights((logs / sizes).ravel().tolist())
    step = 1e-6
    wanted = [(mean(at, step) - mean(at, -step)) / (2 * step) for at in range(logs.size)]
    assert found == pytest.approx(wanted, rel=1e-4, abs=1e-9)
    assert [found[at] for at in (0, 1, 5, 6)] == [0, 0, 0, 0]


def test_weights_are_nothing_where_the_log_odds_are_cut_off():
    sizes = [len(one.tokens) for one in WEIGHED.harmful]
    ps = [0.1, 0.1, 0.9, 0.1 - 5e-7, 1e-9, 0.1, 0.1, 0.2, 0.2, 0.1]
    found = WEIGHED.log_odds_weights([math.log(p) / n for p, n in zip(ps, sizes, strict=True)])
    assert found[:7] == [0] * 7
    assert found[7:] == pytest.approx([0.2 / 0.25 / 2, 0.2 / 0.25 / 2, 0.1 / 0.25 / 2])
    assert Probe((), (), ()).log_odds_weights([]) == []


def means(model: Any) -> list[float]:
    return mean_log_probabilities(model, SOME)


@pytest.mark.numerics
@pytest.mark.parametrize("name", BASES)
def test_asking_again_from_a_layer_is_asking_again(folders, name):
    base, adapter = BASES[name][0], open_adapter(folders[name])
    modules = all_of(adapter)
    patched = Patched(base(), adapter)
    patched.apply(modules)
    resumed = Resumed(patched.model, SOME)
    spare = forward_tolerance(patched.model, means)
    assert resumed.means == pytest.approx(means(patched.model), abs=spare)
    depths = len(resumed.layers)
    assert depths == patched.model.config.num_hidden_layers
    for depth in range(depths):
        here = [m for m in modules if f".{depth}." in m.name]
        assert here
        patched.apply([m for m in modules if m is not here[0]])
        again = resumed.means_from(depth)
        whole = means(patched.model)
        assert again == pytest.approx(whole, abs=spare)
        gap = max(abs(a - b) for a, b in zip(whole, resumed.means, strict=True))
        assert gap > 10 * spare, "the change is felt"
        for earlier in range(depth + 1):
            assert resumed.means_from(earlier) == pytest.approx(whole, abs=spare)
    patched.apply(modules)
    assert means(patched.model) == pytest.approx(resumed.means, abs=spare)


def test_layers_below_are_not_computed_again(folders):
    model = llama()
    resumed = Resumed(model, SOME)
    ran: list[int] = []
    hooks = [
        layer.self_attn.register_forward_pre_hook(lambda *_, at=at: ran.append(at))
        for at, layer in enumerate(resumed.layers)
    ]
    resumed.means_from(2)
    assert ran == [2, 3]
    ran.clear()
    mean_log_probabilities(model, SOME)
    assert ran == [0, 1, 2, 3], "afterwards all of them run again"
    for hook in hooks:
        hook.remove()
    assert all("forward" not in vars(layer) for layer in model.modules())


def test_a_model_without_layers_is_refused():
    with pytest.raises(ParameterError, match="no stack of layers"):
        Resumed(torch.nn.Linear(2, 2), SOME)


def test_a_pack_is_plain_arrays():
    (pack,) = packs(SOME[:1])
    assert isinstance(pack, Pack)
    assert pack.ids.dtype == pack.positions.dtype == np.int64
    assert pack.visible.dtype == np.bool_
