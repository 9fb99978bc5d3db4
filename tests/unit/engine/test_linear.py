"""Ridge and discriminants from sums, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from arcticseg.engine import linear
from arcticseg.engine.linear import Moments

CLASSES, FEATURES = 6, 12


def points(seed: int, count: int = 300, absent: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features of very different scales, with classes that they tell in part; a fifth is masked."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    if absent is not None:
        labels[labels == absent] = 0
    centres = np.random.default_rng(9).normal(size=(CLASSES, FEATURES))
    mixing = np.random.default_rng(8).normal(size=(FEATURES, FEATURES)) * np.logspace(-2, 2, FEATURES)
    features = (centres[labels] + random.normal(size=(count, FEATURES))) @ mixing + 5
    masked = np.where(random.random(count) < 0.2, 255, labels)
    return features.astype(np.float32), masked.astype(np.uint8)


def moments(features: np.ndarray, labels: np.ndarray) -> Moments:
    return Moments.of(torch.from_numpy(features), torch.from_numpy(labels), CLASSES)


@pytest.mark.parametrize("shrinkage", [1e-3, 0.1])
def test_ridge_is_that_of_scikit_learn(shrinkage: float) -> None:
    fitted, scored = points(0), points(1)
    weights, intercept = linear.ridge(moments(*fitted), shrinkage)
    there = fitted[1] != 255
    x, y = fitted[0][there].astype(np.float64), fitted[1][there].astype(np.float64)
    penalty = shrinkage * len(x) * x.var(axis=0).mean()
    theirs = Ridge(alpha=penalty, solver="svd").fit(x, y)
    np.testing.assert_allclose(weights.numpy(), theirs.coef_, rtol=1e-6, atol=1e-9)
    assert float(intercept) == pytest.approx(theirs.intercept_)

    there = scored[1] != 255
    x, y = scored[0][there].astype(np.float64), scored[1][there].astype(np.float64)
    error = linear.squared_error(moments(*scored), weights, intercept)
    assert error == pytest.approx(np.square(y - theirs.predict(x)).sum(), rel=1e-6)
    assert 1 - error / linear.spread(moments(*scored)) == pytest.approx(r2_score(y, theirs.predict(x)), abs=1e-6)


@pytest.mark.parametrize("shrinkage", [1e-3, 0.1])
@pytest.mark.parametrize("absent", [None, 3, CLASSES - 1])
def test_discriminants_are_those_of_scikit_learn(shrinkage: float, absent: int | None) -> None:
    features, labels = points(0, absent=absent)
    weights, intercepts = linear.discriminants(moments(features, labels), shrinkage)
    there = labels != 255
    x, y = features[there].astype(np.float64), labels[there]
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(x, y)
    np.testing.assert_allclose(weights.numpy()[theirs.classes_], theirs.coef_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(intercepts.numpy()[theirs.classes_], theirs.intercept_, rtol=1e-6)
    other = points(2)[0].astype(np.float64)
    own = (torch.from_numpy(other) @ weights.T + intercepts).argmax(1)
    np.testing.assert_array_equal(own.numpy(), theirs.predict(other))
    # They tell the classes, so that equality means something.
    assert np.mean(theirs.predict(x) == y) > 0.4


def test_sums_add_up() -> None:
    features, labels = points(0)
    total = Moments.zero(CLASSES, FEATURES, torch.device("cpu"))
    for rows in np.array_split(np.arange(len(features)), 7):
        total.add(moments(features[rows], labels[rows]))
    for added, whole in zip(total.tensors, moments(features, labels).tensors, strict=True):
        torch.testing.assert_close(added, whole, rtol=1e-12, atol=1e-9)
    assert total.present == CLASSES


def test_features_that_say_nothing_have_a_solution() -> None:
    labels = np.arange(20, dtype=np.uint8) % CLASSES
    same = moments(np.full((20, FEATURES), 3, np.float32), labels)
    weights, intercept = linear.ridge(same, 0.01)
    assert float(intercept) == pytest.approx(labels.mean(), abs=1e-3)
    assert float(weights.abs().max()) < 1e-4
    assert all(torch.isfinite(value).all() for value in linear.discriminants(same, 0.01))
