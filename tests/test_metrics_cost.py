import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from models import TOKENS, llama
from s3lora.errors import ParameterError
from s3lora.lab.metrics import cost
from s3lora.lab.metrics.cost import Latency, LoraSize, latency, lora_size, memory_peak


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux keeps it there")
def test_memory_peak_is_in_mebibytes():
    told = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    mebibytes = int(told.group(1)) / 1024
    assert 0.9 * mebibytes < memory_peak() < 100 * mebibytes  # at least; the starter's may be more


def test_latency_of_a_tiny_model():
    found = latency(llama(), TOKENS, new_tokens=3, repeats=2)
    assert 0 < found.prefill < 60
    assert 0 < found.decode < 60


def test_latency_is_the_median_after_a_run_that_does_not_count(monkeypatch):
    runs = iter([Latency(99, 99), Latency(1, 30), Latency(5, 10), Latency(2, 20)])
    monkeypatch.setattr(cost, "_timed", lambda *_: next(runs))
    assert latency(llama(), TOKENS, repeats=3) == Latency(2, 20)


def test_time_is_split_and_shared_among_tokens(monkeypatch):
    clock = iter([10.0, 13.0, 21.0])
    monkeypatch.setattr(cost, "perf_counter", lambda: next(clock))
    assert cost._timed(llama(), TOKENS, 4) == Latency(3.0, 2.0)


def test_decoding_is_greedy_and_uses_the_cache():
    model, seen = llama(), []

    def keep(module, args, kwargs):
        seen.append(kwargs["input_ids"].clone())

    model.register_forward_pre_hook(keep, with_kwargs=True)
    cost._timed(model, TOKENS, 4)
    assert [tuple(ids.shape) for ids in seen] == [(2, 12)] + [(2, 1)] * 4
    wanted = llama().generate(
        TOKENS, max_new_tokens=4, min_new_tokens=4, do_sample=False, eos_token_id=None
    )
    assert torch.equal(torch.cat(seen[1:], dim=1), wanted[:, TOKENS.shape[1] :])


@pytest.mark.parametrize("wrong", [{"new_tokens": 0}, {"repeats": 0}])
def test_nothing_to_time_is_refused(wrong):
    with pytest.raises(ParameterError):
        latency(llama(), TOKENS, **wrong)


def test_lora_size_by_hand():
    # hidden 16, key and value heads 8: q (16 + 16)·4, v (16 + 8)·4, in 4 layers
    model = get_peft_model(llama(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    assert lora_size(model) == LoraSize(8, 4 * (32 + 24) * 4)


def test_lora_size_of_an_embedding():
    model = get_peft_model(llama(), LoraConfig(r=2, target_modules=["embed_tokens"]))
    assert lora_size(model) == LoraSize(1, (32 + 16) * 2)


def test_lora_size_without_lora():
    assert lora_size(llama()) == LoraSize(0, 0)


def test_lora_size_of_another_library():
    layer = torch.nn.Module()
    layer.lora_A, layer.lora_B = torch.nn.Linear(5, 2, False), torch.nn.Linear(2, 3, False)
    assert lora_size(torch.nn.Sequential(layer, torch.nn.Linear(2, 2))) == LoraSize(1, 16)
