"""Settings: a flat dataclass, whose values each know where they come from and what range they may have."""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, get_type_hints

from lowland.errors import SettingError, suggestion
from lowland.values import Field, Read

#: What a setting may be.
SettingValue = bool | int | float | str


@dataclass(frozen=True)
class Value:
    """A setting's value with its origin.

    Attributes:
        value: of the setting.
        origin: ``"paper"`` if a paper states it, ``"ours"`` if we chose it for an experiment of a paper; in an
            experiment of one's own ``"yours"`` if its file says it, ``"default"`` if nobody has.
        note: the reason, or where the paper states it.
    """

    value: SettingValue
    origin: str
    note: str = ""


def paper(value: SettingValue, note: str = "") -> Value:
    """A value that the paper states."""
    return Value(value, "paper", note)


def ours(value: SettingValue, note: str = "") -> Value:
    """A value of our choosing, because the paper leaves it open or the scale asks for another."""
    return Value(value, "ours", note)


def derived() -> Field:
    """A field that follows from others: nobody sets it, and ``__post_init__`` computes it."""
    return field(init=False, metadata={})


def setting(
    text: str, *, low: float | None = None, above: float | None = None, high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Field:  # fmt: skip
    """A field of a settings dataclass: what it is, and its range (≥ low, > above, ≤ high, one of ``choices``)."""
    return field(metadata={"text": text, "low": low, "above": above, "high": high, "choices": choices})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every experiment has; experiments add their own in a subclass.

    Attributes:
        defaults: values for an experiment that gives none for the scale ``paper``; `lowland.training.defaults` makes a
            class that has some.
    """

    lr: float = setting("step size η", low=1e-30, high=1e30)
    rho: float = setting("radius ρ of the ascent step; 0 is plain gradient descent", low=0, high=1e30)
    steps: int = setting("training steps", low=1, high=10**9)
    check_every: int = setting("steps between two checks", low=1)
    seed: int = setting("seed of initialization and batches", low=0, high=2**31 - 1)
    defaults: ClassVar[Mapping[str, Value]] = {}

    @property
    def gradients_a_step(self) -> float:
        """How many gradients of a batch a step takes, mean over a run: SAM's two, at w and at w + ε, or one with ρ = 0.

        Settings whose optimizer takes others say so.
        """
        return 2.0 if self.rho > 0 else 1.0


def check(cls: type[Settings], name: str, value: Read) -> SettingValue:
    """``value`` as setting ``name`` of ``cls``: text is read as the field's type, then type and range are checked.

    Raises:
        SettingError: for an unknown name, another type, or a value out of range.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    if name not in fields:
        raise SettingError(f"unknown setting {name}.{suggestion(name, fields)}")
    kind, limits = get_type_hints(cls)[name], fields[name].metadata
    try:
        value = _read(kind, value)
    except (ValueError, TypeError, OverflowError):
        raise SettingError(f"{name} ({limits['text']}) must be {_KINDS[kind]}, not {value!r}") from None
    if kind is float and not math.isfinite(value):
        raise SettingError(f"{name} ({limits['text']}) must be a finite number, not {value}")
    if limits["low"] is not None and not value >= limits["low"]:
        raise SettingError(f"{name} ({limits['text']}) must be at least {limits['low']}, not {value}")
    if limits["above"] is not None and not value > limits["above"]:
        raise SettingError(f"{name} ({limits['text']}) must be above {limits['above']}, not {value}")
    if limits["high"] is not None and not value <= limits["high"]:
        raise SettingError(f"{name} ({limits['text']}) must be at most {limits['high']}, not {value}")
    if limits["choices"] and value not in limits["choices"]:
        raise SettingError(f"{name} can't be {value!r}.{suggestion(str(value), limits['choices'])}")
    return value


def checked(cls: type[Settings], values: Mapping[str, Read]) -> Settings:
    """The settings of these ``values``, each of them checked.

    Raises:
        SettingError: as `check` does, or if one is missing.
    """
    chosen = {name: check(cls, name, value) for name, value in values.items()}
    missing = [f.name for f in dataclasses.fields(cls) if f.init and f.name not in chosen]
    if missing:
        raise SettingError(f"there is no value for {', '.join(missing)}")
    return cls(**chosen)  # type: ignore[arg-type]  # each is of its field's type


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _read(kind: type, value: Read) -> SettingValue:
    if kind is bool:
        named = {"true": True, "false": False}.get(str(value).lower())
        if named is None:
            raise ValueError
        return named
    if isinstance(value, bool):
        raise ValueError
    if kind is int:
        number = float(value)  # 1e5 is a whole number too
        if not number.is_integer():
            raise ValueError
        return int(value) if isinstance(value, str) and value.lstrip("+-").isdigit() else int(number)
    return kind(value) + 0.0 if kind is float else kind(value)  # no -0.0, which is 0.0 and prints otherwise


def parse_assignments(texts: list[str]) -> dict[str, str]:
    """``["lr=0.1", "gd-edge.lr=8"]`` as a dictionary.

    Raises:
        SettingError: where there is no ``=``, or a name stands twice.
    """
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise SettingError(f"--set takes key=value, as in --set lr=0.1, not {text!r}")
        if name.strip() in pairs:
            raise SettingError(f"--set {name.strip()} is given twice")
        pairs[name.strip()] = value.strip()
    return pairs


def resolve_arms(
    cls: type[Settings],
    values: Mapping[str, SettingValue],
    arms: Mapping[str, Mapping[str, SettingValue]],
    changes: Mapping[str, Read],
) -> dict[str, Settings]:
    """The settings of each arm.

    Args:
        cls: the experiment's settings.
        values: those of the scale.
        arms: what makes each arm the arm it is; such a setting keeps its value there.
        changes: the user's, by ``name`` for every arm that leaves it open, or by ``arm.name`` for that arm.

    Raises:
        SettingError: for an unknown arm or name, a bad value, or a change that no arm leaves open.
    """
    resolved = {arm: {**values, **fixed} for arm, fixed in arms.items()}
    for key, text in sorted(changes.items(), key=lambda pair: "." in pair[0]):
        arm, dot, name = key.rpartition(".")
        value = check(cls, name, text)
        if dot and arm not in arms:
            raise SettingError(f"unknown arm {arm}.{suggestion(arm, arms)}")
        open_arms = [arm] if dot else [arm for arm, fixed in arms.items() if name not in fixed]
        if not open_arms:
            raise SettingError(f"{name} is what makes each arm: set it for one arm, as in {next(iter(arms))}.{key}=…")
        for arm in open_arms:
            resolved[arm][name] = value
    return {arm: checked(cls, chosen) for arm, chosen in resolved.items()}


def describe(cls: type[Settings]) -> dict[str, str]:
    """What each setting is, in the order of the fields."""
    return {f.name: f.metadata["text"] for f in dataclasses.fields(cls) if f.init}


def values_of(settings: Settings) -> dict[str, SettingValue]:
    """The settings that somebody sets, by name."""
    return {name: getattr(settings, name) for name in describe(type(settings))}


def repeated(arms: Mapping[str, Settings]) -> dict[str, Settings]:
    """``arms``, each that has a setting ``seeds`` above 1 so many times: NAME-0, NAME-1, ... with seed, seed + 1, ...

    Raises:
        SettingError: if a seed becomes too large.
    """
    chosen: dict[str, Settings] = {}
    for name, settings in arms.items():
        seeds = getattr(settings, "seeds", 1)
        for k in range(seeds):
            seed = settings.seed + k
            check(type(settings), "seed", seed)
            chosen[f"{name}-{k}" if seeds > 1 else name] = dataclasses.replace(settings, seed=seed)
    return chosen


def repeats(label: str, name: str) -> bool:
    """Whether `repeated` made the arm ``label`` of the arm ``name``."""
    return label == name or re.fullmatch(re.escape(name) + r"-\d+", label) is not None
