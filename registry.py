"""Registries: tables of rows by name, to which a plugin adds rows and settings of its own.

    SCHEDULES = Registry("schedule", "optimizer.schedule")

    @SCHEDULES.register("staircase", settings=Staircase)
    def staircase(config, warmup, steps, settings): ...

A row may bring settings, a frozen dataclass with a default for each field. They become fields of
the group of settings in which the row is chosen, which is declared `open_to` the registry;
`current` is that group's class with the fields of all rows so far. This file imports
only files beside it, so that model/, data/ and train/ can all use it.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeGuard, TypeVar

from ranges import ConfigError
from suggestions import did_you_mean, nearest

Row = TypeVar("Row")
T = TypeVar("T", bound=Any)  # a dataclass
Fields = Mapping[str, tuple[Any, Any]]  # {name: (type, default)}


class Registry(Mapping[str, Row], Generic[Row]):
    """Rows by name, in the order in which they were registered.

    Attributes:
      kind: the noun for a row, for messages. key: the setting that chooses one.
    """

    def __init__(self, kind: str, key: str):
        self.kind, self.key = kind, key
        self._rows: dict[str, Row] = {}
        self._settings: dict[str, type] = {}

    def __getitem__(self, name: str) -> Row:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def register(self, name: str, row: Row | None = None, settings: type | None = None) -> Any:
        """Adds a row and returns it; without `row`, a decorator of the function or class that is
        the row.

        Raises:
          ConfigError: the name is taken, or a setting has no default.
        """
        if row is None:
            return lambda row: self.register(name, row, settings)
        if name in self._rows:
            raise ConfigError(f"there are two of the {self.kind} {name!r}; rename one")
        if settings is not None:
            _defaults(settings)
            self._settings[name] = settings
        self._rows[name] = row
        return row

    def find(self, name: str, key: str = "") -> Row:
        """The row of a name.

        Args:
          key: the setting that names it, for the message; by default the registry's.

        Raises:
          ConfigError: there is none.
        """
        if name not in self._rows:
            raise ConfigError(
                f"{key or self.key}={name!r:.80}; choose {', '.join(self)}"
                + did_you_mean(nearest(str(name), self))
            )
        return self._rows[name]

    def arguments(self, name: str, group: Any) -> dict[str, Any]:
        """The keyword arguments that a row's function takes for its settings: `settings`, read
        from the group that holds their fields, or nothing for a row without settings.

        Raises:
          ConfigError: by the settings' own `__post_init__`.
        """
        if name not in self._settings:
            return {}
        cls = self._settings[name]
        names = [field.name for field in dataclasses.fields(cls) if hasattr(group, field.name)]
        return {"settings": cls(**{name: getattr(group, name) for name in names})}

    def settings_of(self, name: str) -> type | None:
        """The dataclass of the settings of one row; None if it has none."""
        return self._settings.get(name)

    def fields_of(self, name: str) -> dict[str, tuple[Any, Any]]:
        """{field: (type, default)} of the settings of one row."""
        return _defaults(self._settings[name]) if name in self._settings else {}

    def fields(self) -> dict[str, tuple[Any, Any]]:
        """The fields of the settings of all rows.

        Raises:
          ConfigError: two rows have a field of the same name.
        """
        return merged(*map(self.fields_of, self._settings))


def merged(*groups: Fields) -> dict[str, tuple[Any, Any]]:
    """Fields of several rows or registries.

    Raises:
      ConfigError: two of them have a field of the same name.
    """
    fields: dict[str, tuple[Any, Any]] = {}
    for group in groups:
        if twice := sorted(group.keys() & fields.keys()):
            raise ConfigError(f"there are two settings {twice[0]!r} in one group; rename one")
        fields |= group
    return fields


def _defaults(settings: type) -> dict[str, tuple[Any, Any]]:
    """{field: (type, default)} of a dataclass all of whose fields have defaults."""
    hints = typing.get_type_hints(settings, include_extras=True)
    for field in dataclasses.fields(settings):
        if field.default is dataclasses.MISSING is field.default_factory:
            raise ConfigError(f"{settings.__name__}.{field.name} has no default; give it one")
    return {
        field.name: (hints[field.name], _default(field)) for field in dataclasses.fields(settings)
    }


def _default(field: dataclasses.Field) -> Any:
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


# {a group of settings: (the names of its own fields, those that registries add to it)}
_OPEN: dict[type, tuple[frozenset[str], Callable[[], Fields]]] = {}
# One class for the same fields, so that instances created at different times compare equal.
_GROWN: dict[tuple, type] = {}


def open_to(fields: Callable[[], Fields]) -> Callable[[type[T]], type[T]]:
    """Decorates a frozen dataclass, a group of settings, to which registries add `fields()`: those
    of the rows so far at once, and later ones in `current`."""

    def decorate(cls: type[T]) -> type[T]:
        own = frozenset(field.name for field in dataclasses.fields(cls))
        cls = with_fields(cls, fields())
        _OPEN[cls] = own, fields
        return cls

    return decorate


def current(group: type[T]) -> type[T]:
    """A group of settings with the fields that registries add to it and to the groups inside it;
    `group` itself if there are none.

    Raises:
      ConfigError: a field has the name of another.
    """
    own, fields = _OPEN.get(group, (frozenset(), dict))
    present = {field.name for field in dataclasses.fields(group)}
    added = dict(fields())
    if taken := sorted(own & added.keys()):
        raise ConfigError(f"{group.__name__} has a setting {taken[0]!r} already; rename the other")
    added = {name: field for name, field in added.items() if name not in present}
    hints = hints_of(group)
    for field in dataclasses.fields(group):
        kind = hints[field.name]
        if is_settings(kind) and (grown := current(kind)) is not kind:
            added[field.name] = grown, grow(_default(field))
    return with_fields(group, added) if added else group


# Kept, as evaluating them is most of the time of reading a recipe.
_hints: Callable[[type], Mapping[str, Any]] = functools.cache(typing.get_type_hints)


def hints_of(cls: type) -> Mapping[str, Any]:
    """{field: type} of a class."""
    return types.MappingProxyType(_hints(cls))


def is_settings(kind: Any) -> TypeGuard[type]:
    """Whether the type of a field is a group of settings."""
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def grow(settings: T) -> T:
    """A group of settings as an instance of its `current` class."""
    cls = type(settings)
    values = {f.name: getattr(settings, f.name) for f in dataclasses.fields(cls)}
    values = {k: grow(v) if is_settings(type(v)) else v for k, v in values.items()}
    return current(cls)(**values)


def _constant(value: Any) -> Callable[[], Any]:
    return lambda: value


def with_fields(cls: type[T], fields: Fields) -> type[T]:
    """A frozen dataclass with the fields of `cls` and others, which replace those of their name."""
    key = cls, *((name, kind) for name, (kind, _) in fields.items())
    if key not in _GROWN:
        added = [
            (name, kind, dataclasses.field(default_factory=_constant(default)))
            for name, (kind, default) in fields.items()
        ]
        namespace = {"__module__": cls.__module__, "__doc__": cls.__doc__}
        _GROWN[key] = dataclasses.make_dataclass(
            cls.__name__, added, bases=(cls,), frozen=True, namespace=namespace
        )
    return _GROWN[key]
