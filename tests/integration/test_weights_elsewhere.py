"""A pretraining is exported for timm, and a fine-tuning with other channels starts from that file on two ranks."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from arcticseg.run.folder import last_weights
from tests.forked import run
from tests.training import NETWORKS, VIT, empty_config, overrides, train


def test_an_exported_encoder_starts_another_run(tiny_shards: Path, tmp_path: Path) -> None:
    config, public = empty_config(tmp_path), tmp_path / "public" / "encoder.safetensors"
    mae = NETWORKS["mae"] | {"steps": 2, "data.channels": "[hh, hv, amsr2]", "pretrain.targets": "[hh]"}
    train(config, overrides(tiny_shards, tmp_path / "mae", mae))
    done = run("export", tmp_path / "mae", "--layout", "timm", "--out", public)
    assert done.returncode == 0, done.stderr
    card = public.with_suffix(".md").read_text()
    assert card.startswith("# mae: encoder vit_")
    assert "SIMULATED" in card
    assert "masked autoencoder" in card

    # So small a rate that the weights stay as they were, but for rounding.
    settings = VIT | {"steps": 1, "optim.lr": 1e-12, "data.channels": "[incidence, hv, hh]", "model.init_from": public}
    out = tmp_path / "vit"
    printed = train(config, overrides(tiny_shards, out, settings | {"model.init_adapt": "mean"}), ranks=2)
    assert printed.count("tensors of the encoder are taken as they are, 1 adapted") == 1
    assert (
        "new, from the mean over its channels (from zero where they say what is valid): sar_incidenceangle" in printed
    )
    before, now = load_file(public), load_file(last_weights(out))
    name = "patch_embed.proj.weight"
    kernel = before.pop(name)
    for other, value in before.items():
        torch.testing.assert_close(now[f"encoder.{other}"], value, rtol=0, atol=1e-9)
    # hh, hv, 14 of AMSR2, valid before; incidence, hv, hh, valid now.
    wanted = torch.stack([kernel[:, :16].mean(dim=1), kernel[:, 1], kernel[:, 0], kernel[:, 16]], dim=1)
    torch.testing.assert_close(now[f"encoder.{name}"], wanted, rtol=1e-6, atol=1e-8)
