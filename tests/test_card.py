"""Cards: the metadata and the section, with huggingface_hub and without, and in prune's output.

Those of comparisons and rankings are in `test_card_sides.py`.
"""

from __future__ import annotations

import hashlib
import sys

import pytest
import yaml
from hypothesis import given, settings

from adapters import NAMES, PREFIX, WEIGHTS, Q, draw, write_adapter
from cards import carded, parts
from result_values import RESULTS, TEXT
from s3lora.report import card, markdown
from s3lora.report.formats import render


@pytest.fixture
def without_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)


def test_a_card_says_what_was_scanned_with_what_and_what_was_found(tmp_path):
    folder = write_adapter(tmp_path, extra={f"{PREFIX}norm.weight": draw(4)})
    metadata, section = parts(carded("scan", folder, "--top-k", "1"))
    assert metadata == {"base_model": "example/base", "library_name": "peft", "tags": ["lora"]}
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    assert f"- SHA-256 of the weights: `{digest}`\n" in section
    assert "- Method: `s3lora` (keep = 5, fit = projected)\n" in section
    assert "- Policy: `top-k` (k = 1)\n" in section
    assert f"- high: `{PREFIX}norm.weight`: PEFT loads it over" in section
    assert "| 1 | `model.layers." in section
    assert "does not mean that the adapter is safe" in section
    assert "Pruned" not in section


def test_the_card_is_the_same_without_huggingface_hub(tmp_path, request):
    pytest.importorskip("huggingface_hub")
    folder = write_adapter(tmp_path)
    with_hub = carded("scan", folder)
    request.getfixturevalue("without_hub")
    without = carded("scan", folder)
    assert parts(without) == parts(with_hub)


@pytest.mark.parametrize("command", ["scan", "rank", "compare"])
def test_the_hub_reads_the_card_with_its_own_class(command, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    folder = write_adapter(tmp_path)
    found = hub.ModelCard(carded(command, folder, *([folder] if command == "compare" else [])))
    assert found.data.base_model == "example/base"
    assert found.data.library_name == "peft"
    assert found.data.tags == ["lora"]


def test_what_prune_prints_of_its_plan_is_what_it_writes(tmp_path):
    folder, out = write_adapter(tmp_path / "in"), tmp_path / "out"
    words = ["prune", folder, "--modules", Q, "--modules", NAMES[2]]
    printed = carded(*words, "--dry-run")
    carded(*words, "-o", out)
    written = (out / "README.md").read_text(encoding="utf-8")
    mark = "## Pruned with s3lora\n"
    assert written.split(mark)[1].rstrip() == printed.split(mark)[1].rstrip()
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    assert f"weights with the SHA-256 `{digest}`." in written
    assert f"- `{Q}`: left out\n" in written


@pytest.mark.parametrize("edit", ["zero", "flatten"])
def test_the_card_says_what_an_edit_did(edit, tmp_path):
    text = carded("prune", write_adapter(tmp_path), "--modules", Q, "--dry-run", "--edit", edit)
    if edit == "zero":
        assert f"- `{Q}`: kept with B = 0\n" in text
    else:
        assert "edited by `flatten` (level = " in text
        assert f"- `{Q}`: given other factors of rank 2" in text


def test_what_could_not_be_judged_is_listed(tmp_path):
    text = carded("scan", write_adapter(tmp_path, config={"use_dora": True}))
    assert "### Not judged" in text
    first = ", ".join(f"`{name}`" for name in NAMES[:3])
    assert f"- {len(NAMES)} places, such as {first}: DoRA" in text


@settings(max_examples=60, deadline=None)
@given(TEXT.filter(bool))
def test_any_base_model_is_read_back_from_the_metadata(name):
    front = card.front_matter(card.metadata(name))
    assert yaml.safe_load(front.split("---\n")[1]) == {"base_model": name, "library_name": "peft"}


@pytest.mark.parametrize(
    "name", ["peft", "true", "null", "1", "é/\U0001f600", "a: b\n---\nx: 1", "#"]
)
def test_a_base_model_with_a_meaning_in_yaml_stays_text(name):
    front = card.front_matter(card.metadata(name))
    assert yaml.safe_load(front.removesuffix("---\n").removeprefix("---\n"))["base_model"] == name


HEADINGS = {
    "## Scanned with s3lora",
    "## Pruned with s3lora",
    "### Findings",
    "### Not judged",
    "### Chosen",
    "## Compared with s3lora",
    "### Largest differences",
    "## Ranked with s3lora",
    "### Agreement",
    "### Top by each method",
}


@settings(max_examples=80, deadline=None)
@given(RESULTS)
def test_nothing_of_a_file_breaks_out_of_the_card(result):
    text = render(result, "card")
    assert text.startswith("---\n")
    assert {line for line in text.splitlines() if line.startswith("#")} <= HEADINGS


def test_names_stay_in_their_code_spans():
    assert markdown.code("a") == "`a`"
    assert markdown.code("a`b") == "`` a`b ``"
    assert markdown.code("``") == "``` `` ```"
    assert markdown.code("") == "` `"
    assert markdown.cell("a|b") == "`a\\|b`"
    assert markdown.escaped("<b>*x*[l](u)&") == "\\<b>\\*x\\*\\[l\\](u)\\&"


@pytest.mark.parametrize(
    "address",
    [
        "https://evil.example",
        "HTTP://evil.example/x?y",
        "www.evil.example",
        "someone@evil.example",
        "'pissa:ftp://evil.example'",
        "mailto:a",
    ],
)
def test_a_bare_address_is_no_link(address):
    # A renderer of GFM makes links of these; nothing in a code span is one.
    assert markdown.escaped(f"see {address} or *a*") == f"see `{address}` or \\*a\\*"


def test_an_address_in_a_setting_is_no_link_in_the_card(tmp_path):
    folder = write_adapter(tmp_path, config={"init_lora_weights": "pissa https://evil.example x"})
    text = carded("scan", folder)
    assert "evil" in text
    assert "`https://evil.example`" in text
