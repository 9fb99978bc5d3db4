"""What is drawn for each sample from (seed, place): see `batch.Draws`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from arcticseg.data.batch import Batch, Draws
from arcticseg.data.config import AugmentConfig
from arcticseg.data.order import generator, generators
from arcticseg.ice.channels import GROUPS


@dataclass(frozen=True)
class Augment:
    """Draws the augmentation of samples.

    Attributes:
        seed: of all draws.
        drop_groups: (channel group, probability that a sample loses it).
        flips, quarter_turns, crop, cutmix, rotate, zoom_out, speckle, incidence_trend: see
            `data.config.AugmentConfig`.
    """

    seed: int = 0
    flips: bool = False
    quarter_turns: bool = False
    drop_groups: tuple[tuple[str, float], ...] = ()
    crop: float = 1.0
    cutmix: float = 0.0
    rotate: float = 0.0
    zoom_out: float = 1.0
    speckle: float = 0.0
    incidence_trend: float = 0.0

    @staticmethod
    def of(wanted: AugmentConfig, seed: int) -> Augment:
        """What a config asks for."""
        keys = {key: getattr(wanted, key) for key in vars(wanted) if key != "drop_groups"}
        return Augment(seed, drop_groups=tuple(sorted(wanted.drop_groups.items())), **keys)

    def draw(self, place: int, size: int) -> dict[str, Any]:
        """Values of `Draws` for the sample at a place, whose tile has size x size pixels."""
        return self._draw(generator("augment", self.seed, place), place, size)

    def _draw(self, random: np.random.Generator, place: int, size: int) -> dict[str, Any]:
        flip_rows, flip_cols = (bool(random.integers(2)) and self.flips for _ in range(2))
        turns = int(random.integers(4)) if self.quarter_turns else 0
        # A turn by 90 degrees is a transposition and a flip of the rows, by 180 both flips, by 270 the other flip.
        flip_rows ^= turns in (1, 2)
        flip_cols ^= turns in (2, 3)
        drop = np.zeros(len(GROUPS), bool)
        for group, share in self.drop_groups:
            drop[GROUPS.index(group)] = random.random() < share
        draws = {"transpose": turns % 2 == 1, "flip_rows": flip_rows, "flip_cols": flip_cols, "drop": drop}
        if self.crop < 1:
            edge = round(size * random.uniform(self.crop, 1))
            draws["crop"] = np.array([*random.integers(0, size - edge + 1, 2), edge])
        if self.cutmix > 0:
            draws["mix"] = self._box(place, size)
        if self.rotate > 0:
            draws["angle"] = random.uniform(-self.rotate, self.rotate)
        if self.zoom_out > 1:
            draws["zoom"] = random.uniform(1, self.zoom_out)
        if self.speckle > 0:
            draws |= {"speckle": np.float32(random.uniform(0, self.speckle)), "noise": random.integers(1 << 32)}
        if self.incidence_trend > 0:
            draws["trend"] = random.uniform(-self.incidence_trend, self.incidence_trend, 2).astype(np.float32)
        return draws

    def _box(self, place: int, size: int) -> NDArray[np.int64]:
        """The box of CutMix, int64 [4], the same for both partners: share of the tile uniform in [0, 1), any centre.

        Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV 2019.
        """
        random = generator("cutmix", self.seed, place // 2)
        half = size * np.sqrt(random.random()) / 2
        centre = size * random.random(2)
        if random.random() >= self.cutmix:
            return np.zeros(4, np.int64)
        first, last = np.rint(np.clip([centre - half, centre + half], 0, size)).astype(np.int64)
        return np.stack([first, last], axis=1).ravel()

    def __call__(self, batch: Batch) -> Batch:
        """The batch with what is drawn for its places; unchanged where there is nothing to draw.

        Raises:
            ValueError: CutMix is on, and the batch parts a pair of places (2 i, 2 i + 1).
        """
        if self == Augment(self.seed):
            return batch
        places = batch.place.tolist()
        if self.cutmix > 0 and (
            places[::2] != [place - 1 for place in places[1::2]] or any(p % 2 for p in places[::2])
        ):
            raise ValueError(f"CutMix needs whole pairs of places, not {places}; use micro batches of an even size")
        randoms = generators("augment", self.seed, ends=places)
        draws = [self._draw(random, place, batch.size) for random, place in zip(randoms, places, strict=True)]
        none: dict[str, Any] = {"crop": None}
        arrays = {name: torch.from_numpy(np.array([draw[name] for draw in draws])) for name in draws[0]}
        return replace(batch, draws=Draws(**none | arrays))
