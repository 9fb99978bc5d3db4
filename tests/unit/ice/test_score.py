import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    jaccard_score,
    precision_recall_fscore_support,
    precision_score,
    r2_score,
    recall_score,
)

from arcticseg.ice.score import (
    class_scores,
    confusion,
    detailed_scores,
    empty_confusions,
    majority,
    r2,
    scores,
    weighted_f1,
)
from arcticseg.ice.sigrid import CHARTS, CLASS_NAMES, N_CLASSES

Labels = dict[str, np.ndarray]


def draw(seed: int, shape: tuple[int, ...] = (40, 50), absent: int = 1) -> tuple[Labels, Labels]:
    """Charts with masked pixels and a class that never occurs, and predictions of which half are right."""
    random = np.random.default_rng(seed)
    charts, predictions = {}, {}
    for chart in CHARTS:
        n = N_CLASSES[chart]
        truth = random.choice(np.delete(np.arange(n), absent), shape, p=random.dirichlet(np.ones(n - 1)))
        guess = np.where(random.random(shape) < 0.5, truth, random.integers(0, n, shape))
        truth[random.random(shape) < 0.3] = 255
        charts[chart], predictions[chart] = truth.astype(np.uint8), guess.astype(np.uint8)
    return charts, predictions


def count(charts: Labels, predictions: Labels) -> dict[str, np.ndarray]:
    return {chart: confusion(charts[chart], predictions[chart], N_CLASSES[chart]) for chart in CHARTS}


def by_scikit_learn(charts: Labels, predictions: Labels) -> dict[str, float]:
    expected = {}
    for chart in CHARTS:
        kept = charts[chart] != 255
        truth, guess = charts[chart][kept].astype(float), predictions[chart][kept].astype(float)
        value = r2_score(truth, guess) if chart == "SIC" else f1_score(truth, guess, average="weighted")
        expected[chart] = round(100 * float(value), 3)
    expected["combined"] = round((2 * expected["SIC"] + 2 * expected["SOD"] + expected["FLOE"]) / 5, 3)
    return expected


@pytest.mark.parametrize("seed", range(20))
def test_scores_equal_scikit_learns(seed: int) -> None:
    charts, predictions = draw(seed, absent=seed % 6)
    assert scores(count(charts, predictions)) == pytest.approx(by_scikit_learn(charts, predictions), abs=1e-9)


@pytest.mark.parametrize("size", [0, 1, 2, 31, 1 << 18, (1 << 18) + 1, 600_001])
@pytest.mark.parametrize("n", [1, 2, 6, 11, 15])
def test_counts_equal_scikit_learns(n: int, size: int) -> None:
    """Whatever is predicted where the chart is masked; in any number of blocks, and an odd pixel left over."""
    random = np.random.default_rng(size + n)
    truth, guess = random.integers(0, n, (2, size)).astype(np.uint8)
    masked = random.random(size) < 0.3
    truth[masked], guess[masked] = 255, random.integers(0, 256, masked.sum())
    expected = np.zeros((n, n), int)
    if not masked.all():
        expected = confusion_matrix(truth[~masked], guess[~masked], labels=range(n))
    counts = confusion(truth, guess, n)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, expected)


def test_counts_of_planes_and_of_parts_of_them() -> None:
    charts, predictions = draw(7, (3, 33, 35))
    truth, guess = charts["SOD"][:, ::2, 1:], predictions["SOD"][:, ::2, 1:]
    np.testing.assert_array_equal(confusion(truth, guess, 6), confusion(truth.copy(), guess.copy(), 6))


@pytest.mark.parametrize("where", [0, 3, (1 << 18) + 1])
@pytest.mark.parametrize(("n", "chart", "predicted"), [(6, 6, 0), (6, 254, 0), (6, 0, 6), (6, 0, 255), (11, 23, 3)])
def test_a_class_out_of_range_is_an_error_wherever_it_is(n: int, chart: int, predicted: int, where: int) -> None:
    truth, guess = np.zeros((2, (1 << 18) + 3), np.uint8)
    truth[where], guess[where] = chart, predicted
    with pytest.raises(ValueError, match=f"class {max(chart, predicted)} is not below {n}"):
        confusion(truth, guess, n)


def test_unrounded_scores_equal_scikit_learns() -> None:
    charts, predictions = draw(99)
    counts = count(charts, predictions)
    kept = charts["SIC"] != 255
    assert r2(counts["SIC"]) == pytest.approx(r2_score(charts["SIC"][kept], predictions["SIC"][kept]), rel=1e-12)
    kept = charts["FLOE"] != 255
    expected = f1_score(charts["FLOE"][kept], predictions["FLOE"][kept], average="weighted")
    assert weighted_f1(counts["FLOE"]) == pytest.approx(expected, rel=1e-12)


def test_each_chart_has_its_own_mask() -> None:
    charts, predictions = draw(3)
    before = scores(count(charts, predictions))
    charts["SOD"][:20] = 255
    after = scores(count(charts, predictions))
    assert (after["SIC"], after["FLOE"]) == (before["SIC"], before["FLOE"])
    assert after["SOD"] != before["SOD"]


def test_pooled_scores_are_those_of_the_sum_of_counts() -> None:
    drawn = [draw(seed, (10 + seed, 30)) for seed in range(4)]
    total = empty_confusions()
    for charts, predictions in drawn:
        for chart, matrix in count(charts, predictions).items():
            total[chart] += matrix
    together = [{chart: np.concatenate([pair[i][chart] for pair in drawn]) for chart in CHARTS} for i in (0, 1)]
    assert scores(total) == pytest.approx(by_scikit_learn(together[0], together[1]), abs=1e-9)


def test_confusion_is_indexed_by_chart_then_prediction() -> None:
    chart, prediction = np.array([0, 2, 2, 255], np.uint8), np.array([1, 2, 0, 7], np.uint8)
    assert confusion(chart, prediction, 3).tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 1]]


def test_a_class_out_of_range_is_a_fault_of_the_program() -> None:
    with pytest.raises(ValueError, match=r"class 6 .* 6"):
        confusion(np.array([6], np.uint8), np.array([0], np.uint8), 6)
    with pytest.raises(ValueError, match=r"class 255 .* 6"):
        confusion(np.array([0], np.uint8), np.array([255], np.uint8), 6)


def test_scores_without_meaning_are_none() -> None:
    counts = empty_confusions()
    assert scores(counts) == {"SIC": None, "SOD": None, "FLOE": None, "combined": None}
    # With a single chart class there is no spread of which R2 could be a share; F1 is defined.
    counts["SIC"][3, 2] = 10
    counts["SOD"][1, 1] = counts["FLOE"][2, 2] = 10
    assert scores(counts) == {"SIC": None, "SOD": 100.0, "FLOE": 100.0, "combined": None}
    assert r2(np.eye(11, dtype=np.int64)[:1].repeat(11, 0) * 0) is None


def test_a_class_never_hit_has_f1_zero() -> None:
    counts = np.zeros((3, 3), np.int64)
    counts[0, 1] = counts[1, 0] = 5
    assert weighted_f1(counts) == 0.0


def test_majority_is_the_most_frequent_class_everywhere() -> None:
    charts, predictions = draw(5)
    constant = {}
    for chart in CHARTS:
        values, pixels = np.unique(charts[chart][charts[chart] != 255], return_counts=True)
        constant[chart] = np.full_like(charts[chart], values[pixels.argmax()])
    assert scores(majority(count(charts, predictions))) == pytest.approx(by_scikit_learn(charts, constant), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("chart", CHARTS)
def test_scores_of_classes_equal_scikit_learns(chart: str, seed: int) -> None:
    charts, predictions = draw(seed)
    # One class is in neither, so it is not in the means.
    predictions[chart] = np.where(predictions[chart] == 1, 0, predictions[chart])
    told = class_scores(count(charts, predictions)[chart], CLASS_NAMES[chart])
    kept = charts[chart] != 255
    truth, guess = charts[chart][kept], predictions[chart][kept]
    labels = np.arange(N_CLASSES[chart])
    theirs = precision_recall_fscore_support(truth, guess, labels=labels, zero_division=np.nan)
    iou = jaccard_score(truth, guess, labels=labels, average=None, zero_division=0)
    for i, row in enumerate(told["classes"]):
        assert (row["name"], row["pixels"]) == (CLASS_NAMES[chart][i], theirs[3][i])
        for key, values in zip(("precision", "recall", "F1"), theirs, strict=False):
            expected = None if np.isnan(values[i]) else pytest.approx(values[i])
            assert row[key] == expected
        assert row["IoU"] == (None if i == 1 else pytest.approx(iou[i]))
    assert told["accuracy"] == pytest.approx(accuracy_score(truth, guess))
    assert told["macro_F1"] == pytest.approx(f1_score(truth, guess, average="macro"))
    assert told["macro_precision"] == pytest.approx(precision_score(truth, guess, average="macro", zero_division=0))
    assert told["macro_recall"] == pytest.approx(recall_score(truth, guess, average="macro", zero_division=0))
    assert told["mIoU"] == pytest.approx(jaccard_score(truth, guess, average="macro"))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("chart", CHARTS)
def test_detailed_scores_equal_those_of_torchmetrics_on_masked_labels(chart: str, seed: int) -> None:
    torch = pytest.importorskip("torch")
    from arcticseg.models.torchvision_compat import ensure_torchvision

    # A torchvision that does not fit the torch ends the import of torchmetrics.
    ensure_torchvision()
    classification = pytest.importorskip("torchmetrics.classification")
    charts, predictions = draw(seed)
    predictions[chart] = np.where(predictions[chart] == 1, 0, predictions[chart])
    charts[chart] = np.where(charts[chart] == 2, 255, charts[chart])
    told = detailed_scores(chart, count(charts, predictions)[chart])
    guess, truth = (torch.from_numpy(part[chart].astype(np.int64)) for part in (predictions, charts))

    def theirs(metric: str, average: str) -> np.ndarray:
        measure = getattr(classification, f"Multiclass{metric}")
        return 100 * measure(N_CLASSES[chart], average=average, ignore_index=255)(guess, truth).double().numpy()

    for key, metric in (("precision", "Precision"), ("recall", "Recall"), ("F1", "F1Score"), ("IoU", "JaccardIndex")):
        mean = f"{chart}/mIoU" if key == "IoU" else f"{chart}/macro_{key}"
        assert told[mean] == pytest.approx(theirs(metric, "macro"), abs=2e-3)
        slugs = [name.removesuffix(" %").replace(" ", "_").replace("-", "_") for name in CLASS_NAMES[chart]]
        own = [told[f"{chart}/{key}/{slug}"] for slug in slugs]
        # What is undefined is 0 there.
        np.testing.assert_allclose([value or 0 for value in own], theirs(metric, "none"), atol=2e-3)
    assert told[f"{chart}/accuracy"] == pytest.approx(theirs("Accuracy", "micro"), abs=2e-3)
    assert told[f"{chart}/recall/{slugs[2]}"] is None
    assert detailed_scores(chart, empty_confusions()[chart]) == {}


def test_without_pixels_there_are_no_scores_of_classes() -> None:
    assert class_scores(empty_confusions()["SOD"], CLASS_NAMES["SOD"]) is None
