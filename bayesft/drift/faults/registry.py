"""Fault models by name. A fault model registers itself where it is defined."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, cast, dataclass_transform

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from bayesft.drift.faults.interface import FaultModel, Traits

FAULT_MODELS: dict[str, type[FaultModel]] = {}
Class = TypeVar("Class", bound=type)
_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)


@dataclass_transform(frozen_default=True)
def register(name: str, models: dict[str, type] = FAULT_MODELS) -> Callable[[Class], Class]:
    """A decorator that makes a class a frozen dataclass with checked settings, and enters it into `models` as `name`.

    Its level and default grid are added to its docstring. A class that is a dataclass already is only entered.

    Raises:
        ValueError: another class has the name.
    """

    def enter(cls: Class) -> Class:
        other = models.get(name)
        if other and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"fault model {name!r}: {other.__module__}.{other.__qualname__} has this name already")
        cls = cls if is_dataclass(cls) else cast(Class, dataclass(frozen=True, config=_CONFIG)(cls))
        traits = getattr(cls, "traits", None)
        if isinstance(traits, Traits):
            cls.__doc__ = f"{inspect.cleandoc(cls.__doc__ or '')}\n\nLevel: {level_line(traits)}."
        models[name] = cls
        return cls

    return enter


def level_line(traits: Traits) -> str:
    """The level in words, its symbol and unit, and the default grid."""
    unit = f" ({traits.unit})" if traits.unit else ""
    return f"{traits.symbol}, {traits.name}{unit}; by default {', '.join(f'{level:g}' for level in traits.grid)}"


def fault_model(
    name: str, settings: Mapping[str, Any] | None = None, models: Mapping[str, type] = FAULT_MODELS
) -> FaultModel:
    """The fault model `name` of `models` with `settings`, which are checked; what they leave out has its default.

    Raises:
        ValueError: the name or a setting is unknown, or a value is not allowed. The message says what is.
    """
    if name not in models:
        raise ValueError(f"fault model {name!r}: must be one of {', '.join(sorted(models))}")
    cls = models[name]
    try:
        return cls(**(settings or {}))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        if where and problem["type"] != "missing":
            where += f" = {problem['input']!r}"
        said = ": ".join(filter(None, [where, problem["msg"].removeprefix("Value error, ")]))
    except TypeError as error:  # a plain dataclass
        said = str(error)
    known = ", ".join(field.name for field in fields(cls)) if is_dataclass(cls) else ""
    raise ValueError(f"fault model {name!r}: {said}; its settings: {known or 'none'}")
