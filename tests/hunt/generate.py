"""A random program for each number: grown line by line, each tried on two batches before it stays."""

import random
import re
import warnings
from typing import Any

import torch
from torch import Tensor

from .grammar import BETWEEN, IN_PLACE, KINDS, OF_CLASSES, OF_NUMBERS, STARTS, WEIGHTED
from .parts import FUNCTIONS, MODULES, shapes
from .program import DATA, Program, seeded

LINES = {kind: tuple(text.strip().splitlines()) for kind, text in KINDS.items()}
WRITES = tuple(IN_PLACE.strip().splitlines())
#: Of lines after which the losses of examples hang together.
MIXING = 0.06


def program(seed: int, case: int) -> Program | None:
    """The program of that number; None if none was found that runs."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _Walk(random.Random(f"{seed} {case}")).program()
    finally:
        torch.set_default_dtype(before)


class _Parts:
    """The modules of ``Net``, each made when it is asked for."""

    def __init__(self, c: int, t: int):
        self._sizes = c, t

    def __getattr__(self, name: str) -> Any:
        if name not in MODULES:
            raise AttributeError(name)
        net = torch.nn.Module()
        exec(shapes(MODULES[name], *self._sizes), {"net": net, "nn": torch.nn, "torch": torch, **_SPACE})
        seeded(net)
        for key, part in [*net._modules.items(), *net._parameters.items(), *net._buffers.items()]:
            if key not in self.__dict__:
                self.__dict__[key] = part
        return self.__dict__[name]

    def train(self, mode: bool) -> None:
        """As modules have it."""


_SPACE: dict[str, Any] = {"torch": torch, "nn": torch.nn, "F": torch.nn.functional}
exec("import copy\n" + "\n".join(FUNCTIONS.values()), _SPACE)


class _Walk:
    def __init__(self, rng: random.Random):
        self.rng = rng
        self.size = rng.choice((4, 4, 4, 3, 6, 5))
        self.other = rng.choice([n for n in (2, 3, 4, 6) if n != self.size])
        self.dims = rng.choice((self.size, self.size, 4, 3, 2 * self.size)), rng.choice((self.size, 2, 3, 4))
        self.lines: list[str] = []
        self.made: list[str] = []
        self.changes = rng.random() < 0.3  # whether batches of another size come
        space: dict[str, Any] = dict(_SPACE)
        exec(DATA.format(C=self.dims[0], T=self.dims[1]), space)
        ids = list(range(self.size))
        batches = [ids, [99, *ids[1:]]] + ([list(range(self.other))] if self.changes else [])
        self.batches = [space["data"](batch, 0) for batch in batches]
        self.net = _Parts(*self.dims)
        self.states = [self.fresh(i) for i in range(len(self.batches))]

    def fresh(self, i: int) -> dict[str, Any]:
        """Names as a program finds them."""
        batch = {name: tensor.clone() for name, tensor in self.batches[i].items()}
        return {**_SPACE, "net": self.net, "D": batch, "step": 0, "n": len(batch["x"])}

    def run(self, line: str, state: dict[str, Any]) -> None:
        torch.manual_seed(0)
        exec(line, state)

    def program(self) -> Program | None:
        rng = self.rng
        for _ in range(rng.choice((1, 1, 2, 3))):
            self.extend(rng.choice(STARTS))
        length = rng.choice((2, 3, 4, 5, 6, 8, 10))
        for _ in range(12 * length):
            if len(self.lines) >= length + 2:
                break
            if self.made and rng.random() < 0.2:
                self.write(self.filled(rng.choice(WRITES)))
            else:
                self.extend(self.filled(rng.choice(LINES[rng.choice(tuple(LINES))])))
        result = self.result()
        if result is None:
            return None
        text = " ".join((*self.lines, result))
        between = [line for line in BETWEEN if re.search(rf"{re.escape(line.split('.req')[0])}\b", text)]
        between += [line for line in BETWEEN if ".train" in line and rng.random() < 0.1]
        between = [line for line in between if "train" in line or rng.random() < 0.4]
        sizes = [self.size] * rng.choice((1, 2, 3, 4))
        if self.changes and len(sizes) > 1:
            sizes[rng.randrange(1, len(sizes))] = self.other
        m = rng.choice((1, 1, 2, 3, self.size - 1, self.size))
        options = [o for o, share in OPTIONS if rng.random() < share]
        return Program(tuple(self.lines), result, tuple(between), tuple(sizes), self.dims, m, tuple(options))

    def filled(self, template: str) -> str:
        """With names and dimensions; those of examples are drawn less often."""
        rng = self.rng
        a = self.name()
        value = self.states[0].get(a)
        ndim = value.ndim if isinstance(value, Tensor) else 2
        dims = list(range(ndim)) or [0]
        if rng.random() < 0.85 and (along := self.along(a)) is not None and ndim > 1:
            dims.remove(along)
        d = rng.choice(dims)
        e = rng.choice([i for i in range(max(ndim, 2)) if i != d])
        if isinstance(value, Tensor) and rng.random() < 0.3:
            d -= ndim
        alike = [name for name in self.made if self.states[0][name].shape == getattr(value, "shape", None)]
        b = rng.choice(alike) if alike and rng.random() < 0.7 else self.name()
        return (
            template.replace("{a}", a).replace("{b}", b).replace("{d}", str(d)).replace("{e}", str(e))
            .replace("{i}", str(rng.choice((0, 0, 1, -1))))
        )  # fmt: skip

    def name(self) -> str:
        rng = self.rng
        if self.made and rng.random() < 0.85:
            return rng.choice(self.made[-3:] if rng.random() < 0.8 else self.made)
        return rng.choice(("D['x']", "D['z']", "D['s']"))

    def along(self, name: str) -> int | None:
        """The dimension in which ``name`` changes with the first example, if there is one."""
        a, b = (state.get(name) for state in self.states[:2])
        return dimension(a, b, self.size) if isinstance(a, Tensor) and isinstance(b, Tensor) else None

    def extend(self, expression: str) -> bool:
        """By a line that gives a new tensor."""
        name = f"t{len(self.lines)}"
        line = f"{name} = {expression}"
        values = []
        try:
            for state in self.states:
                self.run(line, state)
                value = state[name]
                if not isinstance(value, Tensor) or not value.is_floating_point() or not 0 < value.numel() <= 1500:
                    raise ValueError
                if not value.isfinite().all() or value.ndim > 5:
                    raise ValueError
                values.append(value)
        except Exception:
            for state in self.states:
                state.pop(name, None)
            return False
        if values[0].detach().abs().max() > 8:
            line = f"{name} = ({expression}).tanh()"
            for state in self.states:
                self.run(line, state)
        if (values[0].shape == values[1].shape and self.mixes(name)) and self.rng.random() > MIXING:
            for state in self.states:
                state.pop(name, None)
            return False
        self.lines.append(line)
        self.made.append(name)
        return True

    def mixes(self, name: str) -> bool:
        a, b = (state[name].detach() for state in self.states[:2])
        return not torch.equal(a, b) and dimension(a, b, self.size) is None

    def write(self, line: str) -> bool:
        """By a line that writes in place: all is run anew, for it may fail half way."""
        states = []
        try:
            for i in range(len(self.batches)):
                state = self.fresh(i)
                net = self.net = _Parts(*self.dims)
                state["net"] = net
                for each in (*self.lines, line):
                    self.run(each, state)
                if not all(v.isfinite().all() for k, v in state.items() if k in self.made):
                    return False
                if not all(torch.equal(t, state["D"][name]) for name, t in self.batches[i].items()):
                    return False  # another function in each evaluation
                states.append(state)
            before, self.states = self.states, states
            if any(self.mixes(name) for name in self.made) and self.rng.random() > MIXING:
                self.states = before
                return False
        except Exception:
            return False
        self.lines.append(line)
        return True

    def result(self) -> str | None:
        """A loss of each example, of the last tensors that hang on parameters."""
        rng, terms = self.rng, []
        for name in reversed(self.made):
            value = self.states[0][name]
            if not value.requires_grad:
                continue
            dim = self.along(name)
            if dim is None:
                candidates = [i for i, size in enumerate(value.shape) if size == self.size]
                if not candidates or rng.random() < 0.7:
                    continue
                dim = rng.choice(candidates)
            if value.shape[dim] % self.size:
                continue
            inner = value.shape[dim] // self.size
            first = name if dim == 0 else f"{name}.movedim({dim}, 0)"
            if inner > 1:
                a, b = (state[name].detach().movedim(dim, 0) for state in self.states[:2])
                major = not bool((a != b)[inner:].any())
                first = f"{first}.unflatten(0, (n, -1))" if major else f"{first}.unflatten(0, (-1, n)).transpose(0, 1)"
            if value.ndim == 1 and inner == 1:
                loss = rng.choice((f"{first}.square()", f"({first} - D['difficulty']).square()", f"{first}.sin()"))
            elif value.ndim == 2 and inner == 1 and value.shape[1 - dim] > 1 and rng.random() < 0.5:
                loss = rng.choice(OF_CLASSES).replace("{t}", first)
            else:
                loss = f"{first}.flatten(1).{rng.choice(OF_NUMBERS)}"
            terms.append(rng.choice(WEIGHTED).replace("{l}", loss))
            if rng.random() < 0.7 or len(terms) > 1:
                break
        return " + ".join(terms) or None


#: Of SAM, and how often.
OPTIONS = (("l2=0.01", 0.08), ("memory_limit=3000", 0.06), ("perturbed_norms=True", 0.06))


def dimension(a: Tensor, b: Tensor, size: int) -> int | None:
    """Where ``a`` and ``b`` differ in one example's entries alone: along which dimension of a multiple of ``size``."""
    if a.shape != b.shape:
        return None
    changed = a.detach() != b.detach()
    for dim in range(a.ndim):
        if a.shape[dim] % size == 0:
            rows = changed.movedim(dim, 0).reshape(a.shape[dim], -1).any(1)
            inner = a.shape[dim] // size
            major, minor = rows.view(size, inner), rows.view(inner, size)
            if rows.any() and (not major[1:].any() or not minor[:, 1:].any()):
                return dim
    return None
