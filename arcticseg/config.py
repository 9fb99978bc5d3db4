"""YAML and dotted overrides to strict, typed dataclasses.

A file may say `base: other.yaml` (beside it, or shipped): its own keys then change those of the other file, so a
difference is a line. Overrides such as `optim.lr=1e-4` come last; their values are YAML. A key that the dataclass
does not have, or a value of another type, is an error that names the key, the value and the remedy.

A field whose type is a `Choice` is a config chosen by its key `name`, with the keys that apply to it alone. A dataclass
with a class method `completed` has keys filled in by it, as those that follow from others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Hashable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from arcticseg.choice import Choice
from arcticseg.documents import DocumentError, read_text
from arcticseg.errors import BadValueError, ConfigError
from arcticseg.shown import brief, hidden
from arcticseg.system import why_unread

T = TypeVar("T")

# A number that no float holds is no number here.
_LARGEST = 1e300
# Files that extend each other, bytes of one, levels and values in it, in any of which more cannot be meant.
_MAX_BASES, _MAX_BYTES, _MAX_DEPTH, _MAX_VALUES = 16, 1 << 20, 32, 100_000


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: 1e-4 is a number, `off` and `no` are texts, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise ConfigError(f"{node.start_mark.name}: {brief(key)} is no key; write a name before the colon")
            if key in seen:
                raise ConfigError(f"{node.start_mark.name}: key {brief(key)} stands twice; leave it out once")
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
    """Names of the configs that come with the package, such as `base.yaml` and `studies/NAME.yaml`."""
    top = Path(str(resources.files("configs")))
    return sorted(path.relative_to(top).as_posix() for path in top.rglob("*.yaml"))


def find(name: str | Path, beside: Path | None = None) -> Path:
    """The config file of a path or a shipped name (with or without `.yaml`).

    Raises:
        ConfigError: there is none.
    """
    places = [Path(name)] if beside is None else [beside / name, Path(name)]
    with contextlib.suppress(OSError):  # a name longer than any file's
        for place in places:
            if place.is_file():
                return place
    packaged = f"{str(name).removesuffix('.yaml')}.yaml"
    if packaged in shipped():
        return Path(str(resources.files("configs"))) / packaged
    raise ConfigError(
        f"config {brief(str(name))}: no such file; give a path, or one of the shipped {', '.join(shipped())}"
    )


def _parse(text: str, source: str) -> Any:
    loader = None
    try:
        loader = _Loader(text)
        loader.name = source
        value = loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: is not YAML ({' '.join(str(error).split())}); repair it") from error
    except RecursionError as error:
        raise ConfigError(f"{source}: is nested too deeply; repair it") from error
    except (ValueError, TypeError, OverflowError, AttributeError, LookupError) as error:
        # What looks like a date, a number or a tag, and is none.
        raise ConfigError(f"{source}: holds a value that cannot be ({error}); repair it") from error
    finally:
        if loader is not None:
            loader.dispose()
    _count(value, {}, source)
    return _hidden(value)


def _count(value: Any, known: dict[int, int], source: str, depth: int = 0) -> int:
    """How many values a value holds, each alias in full: a few lines of aliases can stand for billions.

    Raises:
        ConfigError: more than a config can need, or nested more deeply, as what holds itself.
    """
    if depth > _MAX_DEPTH:
        raise ConfigError(f"{source}: is nested more than {_MAX_DEPTH} deep, or holds itself; repair it")
    if not isinstance(value, (dict, list, tuple, set)):
        return 1
    if id(value) not in known:
        items = [*value.keys(), *value.values()] if isinstance(value, dict) else list(value)
        known[id(value)] = 1 + sum(_count(item, known, source, depth + 1) for item in items)
    if known[id(value)] > _MAX_VALUES:
        raise ConfigError(f"{source}: stands for more than {_MAX_VALUES:,} values; repair it")
    return known[id(value)]


def _hidden(value: Any) -> Any:
    """A value with the credentials of addresses in it hidden, and remembered: no config keeps them."""
    if isinstance(value, str):
        return hidden(value) if "://" in value else value
    if isinstance(value, dict):
        return {key: _hidden(item) for key, item in value.items()}
    return [_hidden(item) for item in value] if isinstance(value, list) else value


def read(name: str | Path) -> dict[str, Any]:
    """The keys of a config file, its bases merged in.

    Raises:
        ConfigError: a file is missing, is no mapping, or extends itself.
    """
    merged: dict[str, Any] = {}
    for keys in layers(name):
        merged = merge(merged, keys)
    return merged


def layers(name: str | Path) -> list[dict[str, Any]]:
    """The keys of a config file and of its bases, the deepest base first, without `base`.

    Raises:
        ConfigError: a file is missing, is not a mapping, or extends itself.
    """
    path = find(name)
    chain: list[dict[str, Any]] = []
    for _ in range(_MAX_BASES):
        try:
            text = read_text(path, _MAX_BYTES)
        except OSError as error:
            raise ConfigError(f"{path}: {why_unread(error, 'give a YAML file')}") from error
        except DocumentError as error:
            raise ConfigError(f"{path}: cannot be read ({error}); give a YAML file") from error
        keys = _parse(text, str(path))
        if not isinstance(keys, dict):
            raise ConfigError(f"{path}: holds {type(keys).__name__}, not keys and values; repair it")
        base = keys.pop("base", None)
        chain.append(keys)
        if base is None:
            break
        path = find(str(base), path.parent)
    else:
        raise ConfigError(f"{path}: more than {_MAX_BASES} files extend each other; repair 'base'")
    return chain[::-1]


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested keys of `over` laid over those of `under`; anything that is no mapping is replaced whole."""
    out = dict(under)
    for key, value in over.items():
        old = out.get(key)
        out[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


def combine(cls: type, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Lay nested keys of a dataclass over one another, later over earlier, as `merge` does.

    Where the later keys choose another kind of a `Choice`, those of the earlier kind are dropped.
    """
    out: dict[str, Any] = {}
    for keys in parts:
        out = _lay(cls, out, keys)
    return out


def _lay(cls: type, under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    out = dict(under)
    for key, value in over.items():
        default = _default_name(cls, key) if key in hints else None
        out[key] = _laid(hints.get(key), out.get(key), value, default)
    return out


def _laid(hint: Any, old: Any, value: Any, default: str | None) -> Any:
    """A value of a type laid over an old value; `default` names the choice that the old keys are of by default."""
    kind = _dataclass_in(hint)
    if kind is not None and issubclass(kind, Choice):
        old, value = _spelled(old), _spelled(value)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and "name" in value:
            name = old.get("name", default)
            # Keys of no name stay: they belong to whatever is chosen.
            if name is not None and kind.choose(name) is not kind.choose(value["name"]):
                old = None
    if not (isinstance(old, Mapping) and isinstance(value, Mapping)):
        return value
    if kind is not None and not issubclass(kind, Choice):
        return _lay(kind, old, value)
    if typing.get_origin(hint) is dict:
        item = typing.get_args(hint)[1]
        return {**old, **{key: _laid(item, old.get(key), part, None) for key, part in value.items()}}
    return merge(old, value)


def _dataclass_in(hint: Any) -> type | None:
    """The dataclass of a type hint that is a dataclass, with or without None."""
    for part in (hint, *typing.get_args(hint)) if typing.get_origin(hint) not in (tuple, dict) else ():
        if dataclasses.is_dataclass(part) and isinstance(part, type):
            return part
    return None


def _spelled(value: Any) -> Any:
    """`NAME` stands for `{name: NAME}` where a choice is meant."""
    return {"name": value} if isinstance(value, str) else value


def _default_name(cls: type, key: str) -> str | None:
    """The name of the choice that a field has by default."""
    field = next(field for field in dataclasses.fields(cls) if field.name == key)
    default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    return default.name if isinstance(default, Choice) else None


def override(keys: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Lay `a.b=value` strings over nested keys.

    Raises:
        ConfigError: an override without `=`.
    """
    out = dict(keys)
    for nested in override_layers(overrides):
        out = merge(out, nested)
    return out


def override_layer(overrides: Sequence[str]) -> dict[str, Any]:
    """`a.b=value` strings as nested keys, later over earlier.

    A name and keys of what it chooses stand together, in whatever order they are given.

    Raises:
        ConfigError: an override without `=`.
    """
    out: dict[str, Any] = {}
    for nested in override_layers(overrides):
        out = _together(out, nested)
    return out


def _together(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(under)
    for key, value in over.items():
        old = out.get(key)
        if isinstance(old, Mapping) != isinstance(value, Mapping):
            old, value = _spelled(old), _spelled(value)
        out[key] = _together(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


def override_layers(overrides: Sequence[str]) -> list[dict[str, Any]]:
    """`a.b=value` strings as nested keys.

    Raises:
        ConfigError: an override without `=`.
    """
    out = []
    for text in overrides:
        dotted, separator, value = text.partition("=")
        if not separator or not dotted:
            raise ConfigError(f"override '{text}': expected key=value, such as optim.lr=1e-4")
        nested: Any = _parse(value, f"override '{text}'")
        for part in reversed(dotted.split(".")):
            # A number is a number, as in data.weights.2=1.
            nested = {int(part) if part.isdecimal() else part: nested}
        out.append(nested)
    return out


def build(cls: type[T], keys: Mapping[str, Any], prefix: str = "") -> T:
    """A dataclass from nested keys; keys left out take their defaults.

    Raises:
        ConfigError: unknown key, missing key, or a value of another type.
    """
    hints = typing.get_type_hints(cls)
    keys = getattr(cls, "completed", dict)(keys)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in keys:
        if key not in fields:
            near = difflib.get_close_matches(str(key)[:100], fields, n=1)
            meant = f"did you mean '{prefix}{near[0]}'?" if near else f"known: {', '.join(fields)}"
            raise ConfigError(f"unknown key '{prefix}{str(key)[:100]}' (value {brief(keys[key])}); {meant}")
    values = {}
    for name, field in fields.items():
        if name in keys:
            values[name] = _convert(hints[name], keys[name], f"{prefix}{name}", _default_name(cls, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"key '{prefix}{name}' is missing; set it")
    try:
        return cls(**values)
    except BadValueError as error:
        raise BadValueError(f"{prefix}{error.key}", error.value, error.remedy) from error


def _build_choice(base: type[Choice], value: Any, key: str, default: str | None) -> Choice:
    keys = _spelled(value)
    if not isinstance(keys, Mapping):
        raise ConfigError(f"key '{key}' is {brief(value)}; set a name, or a mapping of keys with `name`")
    name = keys.get("name", default)
    kind = base.choose(name)
    if kind is None:
        known = f"set one of {', '.join(base.table)}, or " if base.table else ""
        raise BadValueError(f"{key}.name", name, f"{known}give its module by --import")
    return build(kind, {**keys, "name": name}, f"{key}.")


def _convert(hint: Any, value: Any, key: str, default: str | None = None) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if issubclass(hint, Choice):
            return _build_choice(hint, value, key, default)
        if not isinstance(value, Mapping):
            raise ConfigError(f"key '{key}' is {brief(value)}; set a mapping of keys")
        return build(hint, value, f"{key}.")
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        # Of a text or a list of texts, of a text or a number, the value says which is meant; other unions have one type
        # besides None.
        inner = [argument for argument in arguments if argument is not type(None)]
        is_list = isinstance(value, (list, tuple))
        like = [a for a in inner if a is type(value)]
        chosen = next((a for a in (*like, *inner) if (typing.get_origin(a) is tuple) == is_list), inner[0])
        return _convert(chosen, value, key, default)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool) != isinstance(arguments[0], bool):
            raise ConfigError(f"key '{key}' is {brief(value)}; set one of {', '.join(map(str, arguments))}")
        return arguments[arguments.index(value)]
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"key '{key}' is {brief(value)}; set a list, such as [a, b]")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_convert(arguments[0], item, f"{key}[{i}]") for i, item in enumerate(value))
        if len(value) != len(arguments):
            raise ConfigError(f"key '{key}' is {brief(value)}; set a list of {len(arguments)} values")
        return tuple(_convert(a, item, f"{key}[{i}]") for i, (a, item) in enumerate(zip(arguments, value, strict=True)))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"key '{key}' is {brief(value)}; set a mapping of keys")
        return {
            _convert(arguments[0], name, key): _convert(arguments[1], item, f"{key}.{name}")
            for name, item in value.items()
        }
    accepted = {float: (int, float), int: (int,), str: (str,), bool: (bool,)}[hint]
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        kind = {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}[hint]
        raise ConfigError(f"key '{key}' is {brief(value)}; set {kind}")
    if isinstance(value, (int, float)) and not abs(value) < _LARGEST:
        raise ConfigError(f"key '{key}' is {brief(value)}; set a finite number")
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
