"""Every shipped recipe trains, saves, goes on and predicts, at a size of seconds; that it builds at full size, the dry
runs of `test_bad_configs` show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

pytest.importorskip("deepspeed")

from arcticseg import config
from arcticseg.run import config as run_config
from arcticseg.run.folder import METRICS
from tests.forked import Forked

RECIPES = [name.removesuffix(".yaml") for name in config.shipped() if name.startswith("recipes/")]
# Family -> its smallest member; what is not here is made small by keys.
SMALL = {
    "resnet50d": "resnet14t",
    "convnext_base": "convnext_atto",
    "swin_base_patch4_window7_224": "swin_tiny_patch4_window7_224",
    "mit_b2": "mit_b0",
}
SIZES = {
    "vit": ["patch_size=8", "embed_dim=32", "depth=4", "num_heads=2"],
    "unet": ["filters=[4, 8, 8]"],
}


def stand_in(name: str) -> list[str]:
    """Overrides that make a recipe small."""
    cfg = run_config.load(name)
    encoder, decoder = cfg.model.encoder.name, cfg.model.decoding
    small = SMALL.get(encoder, encoder)
    family = encoder.partition("_")[0]
    overrides = [f"model.encoder={small}"] if small != encoder else []
    overrides += [f"model.encoder.{size}" for size in SIZES.get(family, ())]
    if hasattr(decoder, "channels"):
        overrides.append("model.decoder.channels=16")
    if cfg.task == "pretrain":
        overrides += ["pretrain.decoder_dim=16", "pretrain.decoder_depth=1", "pretrain.decoder_heads=2"]
    return [
        *overrides,
        *(
            "steps=2",
            "epochs=null",
            "validate_every=2",
            "checkpoint_every=0",
            "model.init_from=null",
            "data.factors=[]",
            # The archive of the tests has one validation scene; a probe needs two satellite passes.
            *(["hooks=[]"] if cfg.task == "pretrain" else []),
        ),
        *("engine.precision=fp32", "engine.global_batch_size=4", "engine.micro_batch_size=4", "engine.threads=1"),
        *("data.workers=0", "tracking.wandb=off", "tracking.every=1"),
    ]


def ran(*arguments: str) -> str:
    """What a command printed, which must end well."""
    process = Forked("launchers.cli", list(arguments), merged=True)
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 0, printed
    return printed


def test_there_are_recipes_of_all_that_is_replaced() -> None:
    networks = {(cfg.model.encoder.name, cfg.model.decoding.name) for cfg in map(run_config.load, RECIPES)}
    assert networks >= {
        ("vit_base_patch16_224", "upernet"),
        ("vit_base_patch16_224", "light3"),
        ("unet", "unet"),
        ("resnet50d", "deeplabv3plus"),
        ("resnet50d", "fcn"),
        ("convnext_base", "upernet"),
        ("swin_tiny_patch4_window7_224", "upernet"),
        ("mit_b2", "segformer"),
    }


def test_published_numbers_are_those_of_the_studies() -> None:
    study, mae, winner = (
        run_config.load(f"recipes/{name}") for name in ("published_vit", "published_pretrain", "winner")
    )
    assert (study.steps, study.validate_every) == (30_000, 1_000)
    assert study.segment.weights == winner.segment.weights == {"SIC": 1, "SOD": 3, "FLOE": 3}
    optim = study.optim
    assert (optim.name, optim.lr, optim.weight_decay, optim.warmup) == ("adamw", 1e-4, 0.01, 0.05)
    assert optim.warmup_from == pytest.approx(1 / 3, abs=1e-6)
    assert (mae.optim.lr, mae.pretrain.mask_ratio, mae.pretrain.normalise_targets) == (2e-4, 0.75, True)
    assert (mae.pretrain.decoder_dim, mae.pretrain.decoder_depth) == (512, 8)
    assert config.to_dict(mae.model.encoder)["drop_path"] == 0.1
    assert config.to_dict(winner.model.encoder)["filters"] == [32, 32, 64, 64]
    assert (winner.data.in_chans, winner.data.factors) == (16, (20,))
    # 300 epochs of 500 batches, with a restart after every 20.
    assert (winner.steps, winner.optim.cycles) == (300 * 500, 300 // 20)
    assert (winner.optim.name, winner.optim.lr, winner.engine.global_batch_size) == ("sgd", 1e-3, 16)


def test_baselines_differ_in_where_they_write_and_in_their_network() -> None:
    for name in RECIPES:
        own = yaml.safe_load(config.find(name).read_text())
        if own["base"] == "recipes/published_vit.yaml":
            assert len(own) == 3, name


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_goes_on_and_predicts(name: str, tiny_shards: Path, tiny_archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    given = ["--config", name, f"data.shards={tiny_shards}", f"out={out}", *stand_in(name)]
    ran("train", *given)
    ran("train", "--resume", "--change", "steps=3", *given)
    records = [json.loads(line) for line in (out / METRICS).read_text().splitlines()]
    assert [record["step"] for record in records if record["kind"] == "train"] == [1, 2, 3]
    scene = next(tiny_archive.glob("*.nc"))
    drawn = tmp_path / "drawn"
    verb = "reconstruct" if run_config.load(name).task == "pretrain" else "predict"
    ran(verb, str(out), str(scene), "--out", str(drawn))
    assert any(drawn.iterdir())
