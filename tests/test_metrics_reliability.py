import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from s3lora.errors import ParameterError
from s3lora.lab.metrics.reliability import auarc, auroc, ece


def test_auroc_by_hand():
    figure = auroc([True, False, True, False], [0.9, 0.1, 0.4, 0.6])
    assert figure.value == 0.75
    assert (figure.n, figure.better) == (4, "higher")


def test_auroc_ties_count_half():
    assert auroc([1, 0], [2, 2]).value == 0.5


def test_auroc_is_sklearns():
    random = np.random.default_rng(0)
    wrong, uncertainty = random.random(60) < 0.4, random.integers(0, 8, 60).astype(float)
    figure = auroc(wrong.tolist(), uncertainty.tolist())
    assert figure.value == pytest.approx(roc_auc_score(wrong, uncertainty))
    assert figure.low < figure.value < figure.high


def test_auarc_by_hand():
    # from the most certain: 1, 1, 2/3, 3/4
    figure = auarc([False, True, True, True], [3.0, 1.0, 2.0, 4.0])
    assert figure.value == pytest.approx((1 + 1 + 2 / 3 + 3 / 4) / 4)


def test_auarc_of_ties_is_the_mean_over_orders():
    # orders of the tied pair: (1, 1/2, 2/3) and (0, 1/2, 2/3)
    for correct in ([1, 0, 1], [0, 1, 1]):
        assert auarc(correct, [5, 5, 6]).value == pytest.approx((0.5 + 0.5 + 2 / 3) / 3)


@pytest.mark.parametrize("metric", [auroc, auarc])
@pytest.mark.parametrize("flag", [True, False])
def test_one_class_has_no_ranking(metric, flag):
    figure = metric([flag, flag, None], [0.1, 0.2, 0.3])
    assert (figure.value, figure.n) == (None, 2)
    assert "all" in figure.note
    assert "1 unscored" in figure.note


def test_ece_by_hand():
    correct, confidence = [1, 0, 1, 1], [0.9, 0.8, 0.6, 0.95]
    assert ece(correct, confidence, bins=2).value == pytest.approx(0.8125 - 0.75)
    assert ece(correct, confidence).value == pytest.approx(0.5 * 0.075 + 0.25 * 0.8 + 0.25 * 0.4)
    assert ece([1, 0], [1.0, 0.0]).value == 0


@pytest.mark.parametrize("metric", [auroc, auarc, ece])
def test_edges(metric):
    assert metric([], []).value is None
    unscored = metric([None, True], [0.5, float("nan")])
    assert (unscored.value, unscored.n, unscored.note) == (None, 0, "2 unscored")
    for flags, values in (([True], [0.1, 0.2]), ([0.5, 1], [0.1, 0.2])):
        with pytest.raises(ParameterError):
            metric(flags, values)


def test_confidence_is_a_probability():
    for wrong in (-0.1, 1.1):
        with pytest.raises(ParameterError):
            ece([True], [wrong])


def test_ece_needs_a_bin():
    with pytest.raises(ParameterError):
        ece([True], [0.5], bins=0)
