import math
import re

import pytest

from s3lora.errors import ParameterError
from s3lora.lab.metrics import text
from s3lora.lab.metrics.text import bleu, chrf, meteor, rouge

CAT, WAS = "the cat sat on the mat", "the cat was on the mat"


def by_name(figures):
    return {figure.name: figure.value for figure in figures}


def test_rouge_by_hand():
    # 5 of 6 words, 3 of 5 pairs, longest common subsequence of 5
    assert by_name(rouge([CAT], [WAS])) == pytest.approx(
        {"ROUGE-1": 5 / 6, "ROUGE-2": 3 / 5, "ROUGE-L": 5 / 6, "ROUGE-Lsum": 5 / 6}
    )


def test_lsum_takes_lines_for_sentences():
    found = by_name(rouge(["the dog ran\nthe cat sat"], ["the cat sat\nthe dog ran"]))
    assert (found["ROUGE-L"], found["ROUGE-Lsum"]) == pytest.approx((0.5, 1.0))


def test_rouge_stems_and_averages():
    found = rouge(["walking", "nothing"], ["walked", "else"])
    assert found[0].value == 0.5
    assert found[0].n == 2
    assert (found[0].low, found[0].high) == (0.0, 1.0)


def test_bleu_by_hand():
    # every n-gram is right, 4 words of 6: the brevity penalty alone
    figure = bleu(["the cat sat on"], [CAT])
    assert figure.value == pytest.approx(100 * math.exp(1 - 6 / 4))
    assert (figure.low, figure.n) == (None, 1)


def test_chrf_by_hand():
    # precision 1, recall (3/4 + 2/3 + 1/2)/3, F2
    recall = (3 / 4 + 2 / 3 + 1 / 2) / 3
    assert chrf(["abc"], ["abcd"]).value == pytest.approx(100 * 5 * recall / (4 + recall))


@pytest.mark.parametrize("metric", [bleu, chrf])
def test_corpus_figures_have_an_interval(metric):
    replies = [CAT, "a dog ran over the green hill", "the bird sang in the old tree"]
    references = [WAS, "a dog ran over the green hill", "a bird sings in an old tree"]
    figure = metric(replies, references)
    assert 0 <= figure.low < figure.value < figure.high <= 100
    assert metric(replies, references) == figure
    assert metric(references, references).value == pytest.approx(100)


def test_meteor_without_wordnet_says_so(monkeypatch):
    monkeypatch.setattr(text, "_wordnet", lambda: None)
    figure = meteor([CAT], [WAS])
    assert figure.value is None
    assert "nltk.downloader wordnet" in figure.note


def test_wordnet_is_looked_for_here_only(monkeypatch):
    nltk = pytest.importorskip("nltk")
    monkeypatch.setattr(nltk, "download", lambda *_: pytest.fail("went online"))

    class Missing:
        def ensure_loaded(self):
            raise LookupError

    monkeypatch.setattr(nltk.corpus, "wordnet", Missing())
    assert text._wordnet() is None


def test_meteor_by_hand(monkeypatch):
    class NoSynonyms:
        def synsets(self, word):
            return []

    monkeypatch.setattr(text, "_wordnet", NoSynonyms)
    # all match in one chunk of 4: 1 − 0.5·(1/4)³; then nothing matches
    figure = meteor(["one two three four", "x"], ["One two three four", "y"])
    assert figure.value == pytest.approx((1 - 0.5 / 64) / 2)


@pytest.mark.parametrize("metric", [bleu, chrf, lambda a, b: rouge(a, b)[0]])
def test_empty_and_unpaired(metric):
    figure = metric([], [])
    assert (figure.value, figure.n, figure.note) == (None, 0, "no samples")
    with pytest.raises(ParameterError, match=re.escape("1 replies and 2 references")):
        metric(["a"], ["a", "b"])
    with pytest.raises(ParameterError):
        metric(["a"], "a")


@pytest.mark.parametrize("metric", [bleu, chrf, lambda a, b: rouge(a, b)[0]])
def test_a_reply_without_text_scores_0(metric):
    assert metric(["", ""], [CAT, CAT]).value == 0
