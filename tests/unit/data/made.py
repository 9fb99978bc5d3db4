"""A folder of shards written sample by sample, without scenes, for the tests of `arcticseg.data`."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
import xxhash

from arcticseg.data import manifest as manifests
from arcticseg.data.manifest import Manifest, SampleEntry, ShardEntry
from arcticseg.data.sample import encode
from arcticseg.data.tile import Tile, tile_key
from arcticseg.ice.channels import COARSE
from tests.archive import BUILDER, SCENE_FACTS

SIZE = 16


def tile(
    number: int, scene: str = "scene", factor: int = 4, size: int = SIZE, labelled: bool = True, cells: int = 3
) -> Tile:
    """A tile of random codes, a tenth of them without data."""
    random = np.random.default_rng(number)
    hh, hv = (random.integers(1, 2002, (size, size)).astype(np.uint16) for _ in range(2))
    aux = random.integers(1, 65536, (len(COARSE), cells, cells + 1)).astype(np.uint16)
    dist = random.integers(0, 42, (size, size)).astype(np.uint8)
    lab = np.stack([random.integers(0, n, (size, size)) for n in (11, 6, 7)]).astype(np.uint8)
    for codes, nothing in ((hh, 0), (hv, 0), (aux, 0), (dist, 255), (lab, 255)):
        codes[random.random(codes.shape) < 0.1] = nothing
    latitude, longitude = np.meshgrid(75 + np.arange(2) / 10, 179.9 + np.arange(3) / 5, indexing="ij")
    return Tile(
        key=tile_key(scene, factor, number, 0),
        scene=scene,
        factor=factor,
        row=number,
        col=0,
        pixel_spacing=40.0 * factor,
        time="2020-02-03T04:05:06+00:00",
        ice_service="cis",
        simulated=False,
        hh=hh,
        hv=hv,
        dist=dist,
        aux=aux if cells else aux[:, :0, :0],
        aux_rows=np.linspace(-3, size + 2, cells),
        aux_cols=np.linspace(-2, size - 6, cells + 1 if cells else 0),
        geo=np.stack([latitude, longitude, 30 + longitude - 180]).astype(np.float32),
        geo_rows=np.array([-1.5, size + 7]),
        geo_cols=np.array([-0.5, 6.0, size + 3]),
        lab=lab if labelled else None,
    )


def write(folder: Path, tiles: list[Tile], split: str = "train", per_shard: int = 5) -> Manifest:
    """Shards, indices and manifest of one split."""
    folder.mkdir(parents=True, exist_ok=True)
    shards, all_entries = [], []
    for number, first in enumerate(range(0, len(tiles), per_shard)):
        path = folder / f"{split}-{number:06d}.tar"
        items = {item.key: item for item in tiles[first : first + per_shard]}
        with open(path, "wb") as file, webdataset.TarWriter(file, encoder=False, mtime=0) as writer:
            for key, item in items.items():
                writer.write({"__key__": key, **encode(item)})
        data = path.read_bytes()
        with tarfile.open(path) as tar:
            members = tar.getmembers()
        starts = [next(member.offset for member in members if member.name.startswith(key)) for key in items]
        ends = [*starts[1:], members[-1].offset_data + -(-members[-1].size // 512) * 512]
        entries = [
            SampleEntry(
                key=key,
                scene=item.scene,
                factor=item.factor,
                offset=start,
                size=end - start,
                xxh3=xxhash.xxh3_64_hexdigest(data[start:end]),
                core=(core := next(m.offset for m in members if m.name == f"{key}.hh.b2")) - start,
                core_xxh3=xxhash.xxh3_64_hexdigest(data[core:end]),
                labelled=item.lab is not None,
                counts=item.class_counts(),
            )
            for (key, item), start, end in zip(items.items(), starts, ends, strict=True)
        ]
        index = manifests.write_index(path, entries)
        shards.append(ShardEntry(path.name, len(data), manifests.hash_file(path), len(entries), index))
        all_entries += entries
    manifest = Manifest(
        tile=tiles[0].hh.shape[0],
        factors=tuple(sorted({item.factor for item in tiles})),
        splits={split: tuple(shards)},
        scenes={item.scene: SCENE_FACTS | {"split": split} for item in tiles},
        statistics={},
        builder=BUILDER,
        simulated=False,
        fingerprint=manifests.fingerprint(all_entries),
    )
    manifests.write_manifest(folder, manifest)
    return manifest


def hashes(batch: Any) -> dict[int, str]:
    """Place -> hash of all values of the batch for it, draws included."""
    columns = [value.numpy() for _, value in sorted(vars(batch).items()) if hasattr(value, "numpy")]
    drawn = {} if batch.draws is None else vars(batch.draws)
    columns += [value.numpy() for _, value in sorted(drawn.items()) if value is not None]
    return {
        place: xxhash.xxh3_64_hexdigest(b"".join(column[row].tobytes() for column in columns))
        for row, place in enumerate(batch.place.tolist())
    }
