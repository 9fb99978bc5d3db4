"""YAML and dotted overrides to strict, typed dataclasses.

A file may say `base: other.yaml` (beside it, or shipped): its own keys then change those of the other file, so a
difference is one line. Overrides such as `optim.lr=1e-4` come last; their values are YAML. A key that the dataclass
does not have, or a value of another type, is an error that names the key, the value and what would do.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import math
import re
import sys
import types
import typing
from collections.abc import Hashable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from arcticseg.errors import ConfigError

T = TypeVar("T")

_MAX_BASES = 16


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: 1e-4 is a number, `off` and `no` are texts, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise ConfigError(f"{node.start_mark.name}: {key!r} is no key; write a name before the colon")
            if key in seen:
                raise ConfigError(f"{node.start_mark.name}: key '{key}' stands twice; leave one out")
            seen.add(key)
        return super().construct_mapping(node, deep)


_BOOL, _FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))
_Loader.add_implicit_resolver(_FLOAT, re.compile(r"^[-+]?\d[\d_]*(?:\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))


def shipped() -> list[str]:
    """Names of the configs that come with the package."""
    return sorted(item.name for item in resources.files("configs").iterdir() if item.name.endswith(".yaml"))


def find(name: str | Path, beside: Path | None = None) -> Path:
    """The config file of a path or a shipped name (with or without `.yaml`).

    Raises:
        ConfigError: there is none.
    """
    places = [Path(name)] if beside is None else [beside / name, Path(name)]
    for place in places:
        if place.is_file():
            return place
    packaged = Path(str(resources.files("configs"))) / f"{str(name).removesuffix('.yaml')}.yaml"
    if packaged.is_file() and Path(name).name == str(name):
        return packaged
    raise ConfigError(f"config '{name}': no such file; give a path, or one of the shipped {', '.join(shipped())}")


def _parse(text: str, source: str) -> Any:
    loader = _Loader(text)
    loader.name = source
    try:
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: is no YAML ({' '.join(str(error).split())}); mend it") from error
    finally:
        loader.dispose()


def read(name: str | Path) -> dict[str, Any]:
    """The keys of a config file, its bases merged in.

    Raises:
        ConfigError: a file is missing, is no mapping, or extends itself.
    """
    path = find(name)
    chain: list[dict[str, Any]] = []
    for _ in range(_MAX_BASES):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read ({error}); give a YAML file") from error
        found = _parse(text, str(path))
        if not isinstance(found, dict):
            raise ConfigError(f"{path}: holds {type(found).__name__}, not keys and values; mend it")
        base = found.pop("base", None)
        chain.append(found)
        if base is None:
            break
        path = find(str(base), path.parent)
    else:
        raise ConfigError(f"{path}: more than {_MAX_BASES} files extend each other; mend 'base'")
    merged: dict[str, Any] = {}
    for keys in reversed(chain):
        merged = merge(merged, keys)
    return merged


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested keys of `over` laid over those of `under`; anything that is no mapping is replaced whole."""
    out = dict(under)
    for key, value in over.items():
        old = out.get(key)
        out[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


def override(keys: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Lay `a.b=value` strings over nested keys.

    Raises:
        ConfigError: an override without `=`.
    """
    out = dict(keys)
    for text in overrides:
        dotted, separator, value = text.partition("=")
        if not separator or not dotted:
            raise ConfigError(f"override '{text}': expected key=value, such as optim.lr=1e-4")
        nested: Any = _parse(value, f"override '{text}'")
        for part in reversed(dotted.split(".")):
            # A number is one, as in data.weights.2=1.
            nested = {int(part) if part.isdecimal() else part: nested}
        out = merge(out, nested)
    return out


def build(cls: type[T], keys: Mapping[str, Any], prefix: str = "") -> T:
    """A dataclass from nested keys; keys left out take their defaults.

    Raises:
        ConfigError: unknown key, missing key, or a value of another type.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in keys:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            meant = f"did you mean '{prefix}{near[0]}'?" if near else f"known: {', '.join(fields)}"
            raise ConfigError(f"unknown key '{prefix}{key}' (value {keys[key]!r}); {meant}")
    values = {}
    for name, field in fields.items():
        if name in keys:
            values[name] = _convert(hints[name], keys[name], f"{prefix}{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"key '{prefix}{name}' is missing; set it")
    return cls(**values)


def _convert(hint: Any, value: Any, key: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"key '{key}' is {value!r}; set a mapping of keys")
        return build(hint, value, f"{key}.")  # type: ignore[arg-type]
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        # Of a text or a list of texts, the value says which is meant; other unions have one type besides None.
        inner = [argument for argument in arguments if argument is not type(None)]
        is_list = isinstance(value, (list, tuple))
        return _convert(next((a for a in inner if (typing.get_origin(a) is tuple) == is_list), inner[0]), value, key)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool) != isinstance(arguments[0], bool):
            raise ConfigError(f"key '{key}' is {value!r}; set one of {', '.join(map(str, arguments))}")
        return arguments[arguments.index(value)]
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"key '{key}' is {value!r}; set a list, such as [a, b]")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_convert(arguments[0], item, f"{key}[{i}]") for i, item in enumerate(value))
        if len(value) != len(arguments):
            raise ConfigError(f"key '{key}' is {value!r}; set a list of {len(arguments)} values")
        return tuple(_convert(a, item, f"{key}[{i}]") for i, (a, item) in enumerate(zip(arguments, value, strict=True)))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"key '{key}' is {value!r}; set a mapping of keys")
        return {
            _convert(arguments[0], name, key): _convert(arguments[1], item, f"{key}.{name}")
            for name, item in value.items()
        }
    accepted = {float: (int, float), int: (int,), str: (str,), bool: (bool,)}[hint]
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        kind = {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}[hint]
        raise ConfigError(f"key '{key}' is {value!r}; set {kind}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"key '{key}' is {value!r}; set a finite number")
    return hint(value)


def to_dict(config: Any) -> Any:
    """Nested dicts and lists of a dataclass, as YAML and JSON hold them."""
    if dataclasses.is_dataclass(config):
        return {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {key: to_dict(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_dict(item) for item in config]
    return config


def dump(config: Any) -> str:
    """A config as YAML that `read` gives back."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, default_flow_style=None, width=120)


def import_modules(names: Sequence[str]) -> None:
    """Import modules that add to the tables: dotted names, or paths of `.py` files.

    Names are looked up in the working folder first, as by `python -m`.

    Raises:
        ConfigError: there is no such module, or it fails.
    """
    for name in names:
        path = Path(name)
        try:
            if path.suffix != ".py":
                if "" not in sys.path and str(Path.cwd()) not in sys.path:
                    sys.path.insert(0, str(Path.cwd()))
                importlib.import_module(name)
            elif path.stem not in sys.modules:
                spec = importlib.util.spec_from_file_location(path.stem, path)
                assert spec is not None
                assert spec.loader is not None
                module = importlib.util.module_from_spec(spec)
                sys.modules[path.stem] = module
                spec.loader.exec_module(module)
        except Exception as error:
            sys.modules.pop(path.stem, None)
            raise ConfigError(
                f"--import {name}: cannot be imported ({type(error).__name__}: {error}); give the dotted name of a "
                "module, or the path of a .py file"
            ) from error
