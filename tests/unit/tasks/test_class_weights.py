"""Weights of classes, against scikit-learn and numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from arcticseg import config
from arcticseg.errors import BadValueError
from arcticseg.tasks.config import ClassWeightsConfig, SegmentConfig

TILE = 4


def weights_of(name: str, counts: list[int], **keys: object) -> list[float]:
    chosen = config.build(ClassWeightsConfig.table[name], {"name": name, **keys})
    return list(chosen.make(np.array(counts), TILE))


def test_inverse_is_what_scikit_learn_calls_balanced() -> None:
    counts = [400, 30, 7, 0, 90, 200]
    labels = np.repeat(np.arange(6), counts)
    present = np.unique(labels)
    expected = np.zeros(6)
    expected[present] = compute_class_weight("balanced", classes=present, y=labels)
    assert weights_of("inverse", counts, cap=1e6) == pytest.approx(expected.tolist())


def test_effective_is_the_formula_of_the_paper_with_a_mean_of_1() -> None:
    counts, beta = [1600, 160, 16, 0], 0.9
    raw = [(1 - beta) / (1 - beta**n) for n in (100, 10, 1)]
    mean = (1600 * raw[0] + 160 * raw[1] + 16 * raw[2]) / 1776
    expected = [*(weight / mean for weight in raw), 0]
    assert weights_of("effective", counts, beta=beta, cap=1e6) == pytest.approx(expected)


def test_effective_goes_from_all_alike_to_inverse() -> None:
    counts = [1600, 160, 16, 0]
    assert weights_of("effective", counts, beta=0.0) == pytest.approx([1, 1, 1, 0])
    near = weights_of("effective", counts, beta=1 - 1e-9, cap=1e6)
    assert near == pytest.approx(weights_of("inverse", counts, cap=1e6), rel=1e-4)


@pytest.mark.parametrize("name", ["inverse", "effective"])
def test_no_weight_is_above_the_cap_and_the_mean_stays_1(name: str) -> None:
    counts = [10**9, 10**8, 1]
    weights, free = weights_of(name, counts, cap=8.0), weights_of(name, counts, cap=1e12)
    assert np.dot(counts, weights) / sum(counts) == pytest.approx(1)
    assert free[2] > 1000
    assert weights[2] == 8.0
    # The others stand to each other as before.
    assert weights[1] / weights[0] == pytest.approx(free[1] / free[0])


def test_capping_a_class_may_bring_another_to_the_cap() -> None:
    # Balanced they are 0.44, 2.33 and 3.11; with the last at 2.5 the second would be 2.56.
    assert weights_of("inverse", [84, 16, 12], cap=2.5) == pytest.approx([(112 - 70) / 84, 2.5, 2.5])
    assert weights_of("inverse", [84, 16, 12], cap=1.0) == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("name", ["inverse", "effective"])
def test_without_labels_all_classes_are_alike(name: str) -> None:
    assert weights_of(name, [0, 0, 0]) == [1, 1, 1]


def test_given_and_none() -> None:
    assert weights_of("given", [5, 0, 1], values=[1, 2.5, 0]) == [1, 2.5, 0]
    assert weights_of("none", [5, 0, 1]) == [1, 1, 1]
    for values in ([], [0, 0], [1, -1]):
        with pytest.raises(BadValueError, match="values"):
            config.build(ClassWeightsConfig.table["given"], {"name": "given", "values": values})


def test_a_list_of_weights_has_one_for_each_class_of_the_chart() -> None:
    weights = {"name": "given", "values": [1, 2, 3, 4, 5, 6]}
    config.build(SegmentConfig, {"class_weights": {"SOD": weights}})
    with pytest.raises(BadValueError, match=r"class_weights\.FLOE\.values.*set 7 numbers"):
        config.build(SegmentConfig, {"class_weights": {"FLOE": weights}})
