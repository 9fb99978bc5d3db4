"""Counting of a validation on one core of a CPU: megapixels a second of each chart, and scores beside scikit-learn's.

    python benchmarks/counting.py

Labels and classes are drawn; a fifth of the labels is masked. The last line says whether the slowest chart reaches 300
megapixels a second, and whether F1 and R2 are scikit-learn's.
"""

from __future__ import annotations

import sys
import time

import torch
from sklearn.metrics import f1_score, r2_score

from arcticseg.ice.score import r2, weighted_f1
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX, N_CLASSES
from arcticseg.tasks.segment import confusion_counts

LEAST = 300.0
_ROUNDS = 30


def main() -> int:
    """Measure and compare."""
    torch.set_num_threads(1)
    drawn = torch.Generator().manual_seed(0)
    slowest, same = float("inf"), True
    for chart in CHARTS:
        classes = N_CLASSES[chart]
        labels, predicted = (
            torch.randint(0, classes, (16, 384, 384), generator=drawn, dtype=torch.uint8) for _ in range(2)
        )
        masked = torch.rand(labels.shape, generator=drawn) < 0.2
        labels[masked] = IGNORE_INDEX
        times = []
        for _ in range(_ROUNDS):
            began = time.process_time()
            counts = confusion_counts(labels, predicted, classes)
            times.append(time.process_time() - began)
        rate = labels.numel() / sorted(times)[_ROUNDS // 2] / 1e6
        matrix = counts.reshape(classes, classes).numpy()
        truth, guess = (values[~masked].long().numpy() for values in (labels, predicted))
        theirs = r2_score(truth, guess), f1_score(truth, guess, average="weighted")
        ours = r2(matrix), weighted_f1(matrix)
        close = all(abs(a - b) < 1e-9 for a, b in zip(theirs, ours, strict=True))
        print(f"{chart}: {rate:.0f} Mpx/s a core (median of {_ROUNDS}), R2 and F1 {'equal' if close else ours}")
        slowest, same = min(slowest, rate), same and close
    print("PASS" if slowest >= LEAST and same else "FAIL")
    return 0 if slowest >= LEAST and same else 1


if __name__ == "__main__":
    sys.exit(main())
