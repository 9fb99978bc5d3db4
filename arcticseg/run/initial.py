"""The weights that a network begins with: of another run, or of another project's network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from arcticseg import config
from arcticseg.data.config import DataConfig
from arcticseg.errors import BadValueError
from arcticseg.ice.channels import expand
from arcticseg.models.config import ModelConfig
from arcticseg.models.exchange.adapt import Planes, adapted, decoder_for, input_weights
from arcticseg.models.exchange.layouts import Parts, parts_of
from arcticseg.models.exchange.tensors import read_tensors
from arcticseg.models.weights import facts_of, load_encoder, public_facts, verify
from arcticseg.run import inherit
from arcticseg.run.config import RunConfig
from arcticseg.run.folder import weights_file
from arcticseg.run.migrate import stored


@dataclass(frozen=True)
class Surroundings:
    """What a run has around its network.

    Attributes:
        tile: edge of its tiles in pixels.
        factors: downsampling factors of its samples.
        statistics: channel -> mean and standard deviation; empty: the published ones.
    """

    tile: int
    factors: Sequence[int]
    statistics: inherit.Statistics


def initialise(
    cfg: RunConfig,
    model: nn.Module,
    around: Surroundings,
    warn: Callable[[str], None],
    note: Callable[[str], None],
) -> None:
    """Start the encoder from the weights that `model.init_from` names, if it names any.

    Weights of another project bring the decoder of a masked autoencoder, too, where the run is a pretraining.

    Args:
        warn: is told what differs from what the weights have learnt from, and may be meant.
        note: is told what is taken, adapted and left.

    Raises:
        ConfigError: they do not fit, or the encoder would compute something else with them.
    """
    if cfg.model.init_from is None:
        return
    path = weights_file(Path(cfg.model.init_from))
    tensors, metadata = read_tensors(path)
    start = _Start(cfg, model, around, path, metadata, warn, note)
    if "config" in metadata:
        start.from_run(tensors)
    else:
        start.from_elsewhere(tensors)


@dataclass(frozen=True)
class _Start:
    """A network, and the file of weights that it begins with.

    Attributes:
        metadata: of the file.
        warn, note: as in `initialise`.
    """

    cfg: RunConfig
    model: nn.Module
    around: Surroundings
    path: Path
    metadata: Mapping[str, str]
    warn: Callable[[str], None]
    note: Callable[[str], None]

    @property
    def encoder(self) -> nn.Module:
        """The network's encoder."""
        return cast(nn.Module, self.model.encoder)

    def from_run(self, tensors: Mapping[str, Tensor]) -> None:
        """Take weights that a run of this project wrote."""
        cfg, path, around = self.cfg, self.path, self.around
        verify(path, tensors, self.metadata)
        facts = facts_of(path, self.metadata)
        # Hooks and losses of its own need not be known here.
        theirs = stored(facts["config"])
        model_before = config.build(ModelConfig, theirs["model"], "model.")
        data_before = config.build(DataConfig, theirs["data"], "data.")
        if cfg.model.init_channels:
            remedy = f"leave it out: {path} says its planes itself"
            raise BadValueError("model.init_channels", list(cfg.model.init_channels), remedy)
        prefix = "encoder."
        encoder = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        rule = cfg.model.init_adapt
        planes = None if rule is None else Planes(data_before.planes, cfg.data.planes, rule)
        # Tensors first: a name or shape that differs says more than a key.
        if encoder:
            encoder, told = self._adapted(Parts("ArcticSeg", encoder), planes)
            load_encoder(self.model, encoder, path)
            self._note(told)
        else:
            load_encoder(self.model, tensors, path)
        inherit.check_encoder(model_before, data_before, cfg, str(path))
        both = bool(data_before.factors and cfg.data.factors)
        self._warn(inherit.odd_inputs(data_before, cfg.data, str(path)))
        factors = () if both else around.factors
        self._warn(inherit.odd_facts(facts, around.statistics, around.tile, str(path), factors))

    def from_elsewhere(self, tensors: Mapping[str, Tensor]) -> None:
        """Take weights in a layout of another project; of ours where `export` wrote them."""
        cfg, path = self.cfg, self.path
        parts = parts_of(path, tensors, self.encoder.state_dict())
        facts = public_facts(path, self.metadata)
        theirs = cfg.model.init_planes or (tuple(facts["planes"]) if facts else parts.planes)
        given, told = self._adapted(parts, Planes(theirs, cfg.data.planes, cfg.model.init_adapt))
        load_encoder(self.model, given, path)
        if cfg.task == "pretrain":
            decoder, more = decoder_for(path, parts, self.model, theirs, expand(cfg.pretrain.targets))
            self.model.load_state_dict(decoder, strict=False)
            told += more
        self._note([f"layout of {parts.layout}", *told])
        self._warn(self._unknown(parts, facts))

    def _note(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.note(f"{self.path}: {text}")

    def _warn(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.warn(text)

    def _adapted(self, parts: Parts, planes: Planes | None) -> tuple[dict[str, Tensor], list[str]]:
        """The encoder's tensors by the names of the network, and what was done with them."""
        model, data = self.cfg.model, self.cfg.data
        inputs = set() if planes is None else input_weights(model, data.in_chans, self.around.tile)
        given, told = adapted(self.path, parts, self.encoder, planes, inputs)
        return {f"encoder.{name}": value for name, value in given.items()}, told

    def _unknown(self, parts: Parts, facts: Mapping[str, Any] | None) -> Iterator[str]:
        """Sentences about what shapes do not tell of weights from elsewhere."""
        path, around = self.path, self.around
        if not self.cfg.model.init_channels and facts is None:
            yield from (f"{path}: {text}" for text in parts.said)
        blocks = getattr(self.encoder, "blocks", None)
        attention = getattr(blocks[0], "attn", None) if isinstance(blocks, (nn.Sequential, nn.ModuleList)) else None
        heads = getattr(attention, "num_heads", None)
        norm = getattr(self.encoder, "norm", None)
        yield from inherit.odd_layout(
            inherit.Unseen(parts.heads.get(getattr(self.encoder, "embed_dim", 0)), parts.eps),
            inherit.Unseen(heads, getattr(norm, "eps", None)),
            str(path),
        )
        if facts is None:
            known = "" if heads is None else f", and that it has {heads} attention heads"
            yield (
                f"{path} says nothing of the statistics, pixel spacing and tiles that it has learnt from: see that "
                f"inputs are normalised alike{known}"
            )
        else:
            if bool(facts["statistics"]) != bool(around.statistics):
                yield f"inputs are normalised by other statistics than those of {path}; set 'data.statistics' as there"
            yield from inherit.odd_facts(facts, around.statistics, around.tile, str(path), around.factors)
