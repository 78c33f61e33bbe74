"""Tables of a TOML file → frozen dataclasses, without mercy: an unknown name or a wrong type is an error that helps.

Knows the types that recipes use: bool, int, float, str, literals, tuples, dictionaries by name, dataclasses, and unions
of these.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar, Union

from florence2.errors import ConfigError, Florence2Error

T = TypeVar("T")


def build(cls: type[T], table: Any, where: str = "", root: type | None = None) -> T:
    """``table`` as a ``cls``. ``where`` is the table's name in messages, ``root`` the whole recipe, for suggestions.

    Raises ConfigError for unknown and missing names, wrong types and whatever the dataclass itself refuses.
    """
    root = root or cls
    values = _mapping(table, where)
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls))}
    for name in values:
        if name not in fields:
            raise ConfigError(f"{_path(where, name)}: {_unknown(name, fields, where, root)}")
    built = {name: _convert(hints[name], value, _path(where, name), root) for name, value in values.items()}
    for name, field in fields.items():
        if name not in built and field.default is field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{_path(where, name)} is missing; it has no default")
    try:
        return cls(**built)
    except Florence2Error as error:
        raise ConfigError(f"[{where}]: {error}" if where else str(error)) from error


def assign(table: dict[str, Any], path: str, value: Any) -> None:
    """Sets ``a.b.c`` in nested tables, making those that are missing."""
    *parents, name = path.split(".")
    for parent in parents:
        inner = table.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{path}: {parent} is {inner!r} and not a table")
        table = inner
    table[name] = value


def differences(old: Mapping[str, Any], new: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(path, old, new) of all that differs between two nested dictionaries; None where one has nothing."""
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from differences(before, after, _path(where, name))
        elif before != after:
            yield _path(where, name), before, after


def _convert(hint: Any, value: Any, where: str, root: type) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _one_of(arguments, value, where, root)
    if origin is Literal:
        if value not in arguments:
            near = difflib.get_close_matches(str(value), [str(a) for a in arguments], 1)
            hinted = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{where} is {value!r}, expected {_listed(arguments)}{hinted}")
        return value
    if origin is tuple:
        return _tuple(arguments, value, where, root)
    if origin is dict:
        return {
            _convert(arguments[0], key, f"a name in {where}", root): _convert(
                arguments[1], inner, _path(where, key), root
            )
            for key, inner in _mapping(value, where).items()
        }
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where, root)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is type(None):
        raise ConfigError(f"{where} is {value!r}")
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where} is {value!r}, expected {_NAMES.get(hint, hint.__name__)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} is {value}, expected a finite number")
    return value


def _one_of(hints: tuple[Any, ...], value: Any, where: str, root: type) -> Any:
    """As the one type of a union that is of the value's kind: a table, a list or a plain value."""
    if value is None and type(None) in hints:
        return None
    given = [hint for hint in hints if hint is not type(None)]
    fitting = [hint for hint in given if _kind(hint) is _kind_of(value)]
    if not fitting:
        expected = " or ".join(_NAMES[hint] if hint in _NAMES else _KINDS[_kind(hint)] for hint in given)
        raise ConfigError(f"{where} is {value!r}, expected {expected}")
    return _convert(fitting[0], value, where, root)


def _kind(hint: Any) -> type:
    """dict for tables, tuple for lists, object for plain values."""
    if dataclasses.is_dataclass(hint):
        return dict
    origin = typing.get_origin(hint)
    return origin if origin in (dict, tuple) else object


def _kind_of(value: Any) -> type:
    return dict if isinstance(value, Mapping) else tuple if isinstance(value, (list, tuple)) else object


def _tuple(hints: tuple[Any, ...], value: Any, where: str, root: type) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where} is {value!r}, expected a list")
    if len(hints) == 2 and hints[1] is Ellipsis:
        return tuple(_convert(hints[0], item, f"{where}[{i}]", root) for i, item in enumerate(value))
    if len(value) != len(hints):
        raise ConfigError(f"{where} has {len(value)} entries, expected {len(hints)}")
    return tuple(_convert(h, item, f"{where}[{i}]", root) for i, (h, item) in enumerate(zip(hints, value, strict=True)))


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where or 'the recipe'} is {value!r}, expected a table of names")
    return value


def _unknown(name: str, fields: Mapping[str, Any], where: str, root: type) -> str:
    """What to write instead: the nearest name here, or the table where this name belongs."""
    place = f"[{where}]" if where else "the recipe"
    near = difflib.get_close_matches(name, fields, 1)
    elsewhere = [path for path in _paths(root) if path.rsplit(".", 1)[-1] == name]
    if elsewhere:
        return f"{place} knows no such name; it belongs to {' or '.join(elsewhere)}"
    far = difflib.get_close_matches(name, [path.rsplit(".", 1)[-1] for path in _paths(root)], 1)
    if near or not far:
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"{place} knows no such name; {hint}Known: {', '.join(fields)}"
    return f"{place} knows no such name; did you mean " + " or ".join(
        path for path in _paths(root) if path.rsplit(".", 1)[-1] == far[0]
    )


def _paths(cls: Any, where: str = "") -> Iterator[str]:
    """Every name of a recipe, with its table."""
    for name, hint in typing.get_type_hints(cls).items():
        yield _path(where, name)
        for inner in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(inner):
                middle = f"{name}.NAME" if typing.get_origin(hint) is dict else name
                yield from _paths(inner, _path(where, middle))


def _path(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _listed(values: tuple[Any, ...]) -> str:
    return " or ".join(repr(value) for value in values)


_KINDS: dict[type, str] = {dict: "a table of names", tuple: "a list"}
_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
