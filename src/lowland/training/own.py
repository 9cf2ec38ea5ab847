"""What an experiment of one's own has that doesn't say otherwise: settings by name, arms, grid, table, figure."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache

from lowland.training.drawing import Curve, Line, Panel, Plot, over_seeds
from lowland.training.outcome import Outcome
from lowland.training.selection import Selection
from lowland.training.settings import Settings, SettingValue, Value, checked, derived, setting
from lowland.training.table_row import TableRow
from lowland.values import Args, Field, Foreign, Function

ARMS: Mapping[str, Mapping[str, SettingValue]] = {"sam": {}, "sgd": {"rho": 0.0}}
# Columns of the check of `lowland.training.supervised`.
SELECTION = Selection("validation_error", "validation", ties="validation_loss", test="test_error")
OUTCOMES = (
    Curve("validation_error", "validation error"),
    Curve("test_error", "test error"),
    Curve("train_loss", "training loss"),
)
_RHOS = (0.0, 0.02, 0.05, 0.1, 0.2)  # docs/rho.md says why
_CHECKS = 20  # of a run that doesn't say how many
_SMOKE_STEPS = 20
_SMOKE_BATCHES = 10
_LENGTHS = ("steps", "epochs", "examples")  # what a smoke run has less of

_REQUIRED = ("lr", "rho")
_USUAL: Mapping[str, SettingValue] = {"seed": 0, "seeds": 1}
_ALIKE = 0.8  # difflib's ratio of two names that are taken for the same
_FLOATS = ("lr", "rho", "momentum", "weight_decay")


def _known() -> dict[str, Field]:
    """The fields that are known by name, beside those of every experiment."""
    return {
        "seeds": setting("runs of each arm, with seed, seed + 1, ...", low=1, high=1000),
        "epochs": setting("passes over the training examples", low=1, high=10**6),
        "batch_size": setting("examples in a batch", low=1, high=10**9),
        "examples": setting("training examples, the first ones", low=1, high=10**12),
        "momentum": setting("of SGD", low=0, high=0.9999),
        "weight_decay": setting("of SGD", low=0, high=1e6),
        "m": setting("examples that share a perturbation", low=1, high=10**9),
    }


def defaults(**values: Value | SettingValue) -> type[Settings]:
    """A class of settings with these names and values, for an experiment that needs no ranges and texts of its own.

    ``lr`` and ``rho`` must be among them, and either ``steps``, or ``epochs`` with ``batch_size`` and ``examples``,
    from which the steps follow: an epoch is ⌈examples/batch_size⌉ steps. Without ``check_every`` there are about 20
    checks, with epochs each at the end of one. ``seed`` is 0 and ``seeds`` 1 unless they are given. Any other name is a
    setting of the experiment's own, of the type of its value.

    Args:
        values: name → number, word, true or false; or one of them with its origin, as `paper` and `ours` give it.

    Raises:
        TypeError: for a value of another type.
        ValueError: if one of those is missing that must be there, or a name is almost that of a setting that
            `lowland.training.supervised` reads (``momentun``).
    """
    usual = {name: Value(value, "default") for name, value in _USUAL.items() if name not in values}
    wrapped = {name: _wrapped(name, value) for name, value in {**values, **usual}.items()}
    missing = [name for name in _REQUIRED if name not in wrapped]
    if "epochs" in wrapped:
        missing += [name for name in ("batch_size", "examples") if name not in wrapped]
        if "steps" in wrapped:
            raise ValueError("settings have steps or epochs, not both: with epochs the steps follow from them")
    elif "steps" not in wrapped:
        missing.append("steps (or epochs, batch_size and examples)")
    if missing:
        why = ": with epochs the steps follow from batch_size and examples" if "epochs" in wrapped else ""
        raise ValueError(f"settings need {', '.join(missing)}{why}")
    _refuse_misspelt(values)
    return _made(tuple((name, type(value.value).__name__, value) for name, value in wrapped.items()))


def _refuse_misspelt(given: Mapping[str, object]) -> None:
    """Names almost like one that means something here: as settings of one's own nothing would read them."""
    known = {*_known(), *(field.name for field in dataclasses.fields(Settings))}
    for name in set(given) - known:
        if near := get_close_matches(name, known - set(given), n=1, cutoff=_ALIKE):
            raise ValueError(f"did you mean {near[0]}, not {name}? A setting of your own needs a name less like it")


def _wrapped(name: str, value: Value | SettingValue) -> Value:
    whole = value if isinstance(value, Value) else Value(value, "yours")
    if not isinstance(whole.value, bool | int | float | str):
        raise TypeError(f"settings are numbers, words, true or false: {name} is a {type(whole.value).__name__}")
    if name in _FLOATS and type(whole.value) is int:
        return dataclasses.replace(whole, value=float(whole.value))
    return whole


@cache  # the same class for the same values: settings compare by it
def _made(entries: tuple[tuple[str, str, Value], ...]) -> type[Settings]:
    values = {name: value for name, _, value in entries}
    known, base = _known(), {field.name for field in dataclasses.fields(Settings)}
    fields: list[tuple[str, type, Field]] = [
        (name, type(value.value), known.get(name, setting("as the experiment's build takes it")))
        for name, value in values.items()
        if name not in base
    ]
    computed = [name for name in ("steps", "check_every") if name not in values]
    fields += [(name, int, derived()) for name in computed]

    def follow(self: Foreign) -> None:
        per_epoch = -(-self.examples // self.batch_size) if "epochs" in values else 1
        if "steps" in computed:
            object.__setattr__(self, "steps", self.epochs * per_epoch)
        if "check_every" in computed:
            turns = self.epochs if "epochs" in values else self.steps
            object.__setattr__(self, "check_every", math.ceil(turns / _CHECKS) * per_epoch)

    def reduce(self: Settings) -> tuple[Function, Args]:
        return _remade, (entries, {field.name: getattr(self, field.name) for field in dataclasses.fields(self)
                                   if field.init})  # fmt: skip

    namespace = {"__post_init__": follow, "__reduce__": reduce, "defaults": values, "__doc__": "Settings by name."}
    made = dataclasses.make_dataclass(
        "OwnSettings", fields, bases=(Settings,), namespace=namespace, frozen=True, kw_only=True
    )
    made.__module__ = __name__
    return made


def _remade(entries: tuple[tuple[str, str, Value], ...], values: Mapping[str, SettingValue]) -> Settings:
    return checked(_made(entries), values)


def scales(values: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    """The scales of an experiment with these values: all the same, but for a smoke run of a few steps."""
    smoke: dict[str, SettingValue] = {"seeds": 1} if "seeds" in values else {}
    if "epochs" in values and "examples" in values:
        few = min(values["examples"].value, _SMOKE_BATCHES * values["batch_size"].value)
        smoke |= {"epochs": 1, "examples": few}
    elif "steps" in values:
        smoke["steps"] = min(values["steps"].value, _SMOKE_STEPS)
    short = {
        name: Value(value, "default", "a smoke run is short")
        for name, value in smoke.items()
        if value != values[name].value
    }
    return {"paper": dict(values), "desk": {}, "laptop": {}, "smoke": short}


def shortened_arms(
    arms: Mapping[str, Mapping[str, SettingValue]], whole: Mapping[str, Value], short: Mapping[str, Value]
) -> dict[str, dict[str, SettingValue]]:
    """``arms`` of a smoke run: what an arm says itself of its length is as much shorter as the settings are.

    Args:
        arms: arm → the settings that make it.
        whole: the values of the settings.
        short: those of the smoke run.
    """

    def of(name: str, value: SettingValue) -> SettingValue:
        if name not in _LENGTHS or name not in whole:
            return value
        return max(1, round(float(value) * float(short[name].value) / float(whole[name].value)))

    return {arm: {name: of(name, value) for name, value in fixed.items()} for arm, fixed in arms.items()}


def grid(values: Mapping[str, Value]) -> dict[str, tuple[SettingValue, ...]]:
    """η and ρ around these values, with the seeds that a run has, too: several, or none."""
    lr, rho = float(values["lr"].value), float(values["rho"].value)
    found: dict[str, tuple[SettingValue, ...]] = {
        "lr": tuple(sorted({_digits(lr / 3), lr, _digits(lr * 3)})),
        "rho": tuple(sorted({*_RHOS, rho})),
    }
    seeds = int(values["seeds"].value) if "seeds" in values else 1
    if seeds > 1:
        found["seed"] = tuple(int(values["seed"].value) + k for k in range(seeds))
    return found


def _digits(value: float) -> float:
    return float(f"{value:.1g}")


def rows(outcomes: Mapping[str, Outcome]) -> list[TableRow]:
    """Of each arm of a run the last values of `OUTCOMES`, over seeds; none of a sweep, which has a table of its own."""
    columns = [curve.column for curve in OUTCOMES]
    found = []
    for kind, runs in _kinds(outcomes).items():
        measures = {name: _last(runs, name) for name in columns}
        measures = {name: values for name, values in measures.items() if values}
        if measures:
            labels = {outcome.settings.seed: label for label, outcome in runs.items()}
            found.append(TableRow(kind, labels, measures))
    return found


def _kinds(outcomes: Mapping[str, Outcome]) -> dict[str, dict[str, Outcome]]:
    """The runs of each arm by label: NAME-0, NAME-1, ... are of one."""
    kinds: dict[str, dict[str, Outcome]] = {}
    for label, outcome in outcomes.items():
        if "=" not in label:  # which is a point of a grid
            kind = re.sub(r"-\d+$", "", label) if getattr(outcome.settings, "seeds", 1) > 1 else label
            kinds.setdefault(kind, {})[label] = outcome
    return kinds


def _last(runs: Mapping[str, Outcome], column: str) -> dict[int, float]:
    """Seed → the last value of the runs that were trained to their end."""
    ended = [outcome for outcome in runs.values() if outcome.status == "done" and outcome.records]
    return {one.settings.seed: one.records[-1][column] for one in ended if _is_number(one.records[-1].get(column))}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _panels(outcomes: Mapping[str, Outcome]) -> Sequence[Panel]:
    """A panel for each column of numbers, with a line over the seeds for each arm."""
    kinds = _kinds(outcomes)
    records = [record for outcome in outcomes.values() for record in outcome.records]
    columns = dict.fromkeys(
        name
        for record in records
        for name, value in record.items()
        if name not in ("arm", "step", "epoch") and _is_number(value)
    )
    panels = []
    for column in sorted(columns, key=lambda name: "loss" not in name):
        lines = [line for kind, runs in kinds.items() if (line := _line(kind, runs, column)) is not None]
        title = column.replace("_", " ")
        positive = all(record[column] > 0 for record in records if _is_number(record.get(column)))
        # train_error, test_error, ...: what is to be compared has one label, and so the same axes.
        what = next((end for end in ("loss", "error") if column.endswith(f"_{end}")), title)
        panels.append(
            Panel(title, "step", what, lines, logy="loss" in column and positive, against=[_reference(kinds)])
        )
    return panels


def _reference(kinds: Mapping[str, Mapping[str, Outcome]]) -> str:
    """The arm that the others are compared with: the first with ρ = 0, or else the first."""
    without = [kind for kind, runs in kinds.items() if all(one.settings.rho == 0 for one in runs.values())]
    return next(iter([*without, *kinds]), "")


def _line(kind: str, runs: Mapping[str, Outcome], column: str) -> Line | None:
    curves = {
        one.settings.seed: {record["step"]: record[column] for record in one.records if _is_number(record.get(column))}
        for one in runs.values()
    }
    curves = {seed: curve for seed, curve in curves.items() if curve}
    return over_seeds(curves, kind) if curves else None


CURVES = Plot("curves", "What was measured", _panels)
