"""A training program as data: its lines can be dropped one by one, and it prints as plain Python."""

import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from .parts import FUNCTIONS, MODULES, shapes

#: Batches are drawn example by example, so that one example can be changed and the others kept.
DATA = """
def data(ids, step):
    rows = [torch.Generator().manual_seed(1000 + i) for i in ids]
    draw = lambda *shape: torch.stack([torch.randn(shape, generator=g) for g in rows])
    pick = lambda high, *shape: torch.stack([torch.randint(high, shape, generator=g) for g in rows])
    D = {{"x": draw({C}), "s": draw({T}, {C}), "img": draw({C}, 4, 4), "z": draw({C})}}
    D |= {{"tokens": pick(8, {T}), "label": pick({C}), "weight": draw().abs() + 0.5, "keep": draw() > -0.5}}
    D |= {{"difficulty": draw(), "where": pick({T}, {T}, {C}), "holes": draw({T}, {C}) > 0, "target": draw({C})}}
    D |= {{"k": draw(2, {C}).flatten(0, 1), "pairs": draw(2, 3, {C}).flatten(0, 1)}}
    D |= {{"tb": draw({T}, {C}).transpose(0, 1).contiguous(), "tflat": draw({T}, {C}).transpose(0, 1).flatten(0, 1)}}
    D |= {{"cols": draw({C}).t().contiguous(), "mid": draw(2, {C}).transpose(0, 1).contiguous()}}
    D |= {{"strided": draw(2 * {C})[:, ::2], "wide": draw(1).expand(-1, {C}), "turned": draw({C}, {T}).transpose(1, 2)}}
    D |= {{"heads": draw(2, {T}, {C}).flatten(0, 1), "every": torch.ones(len(ids), dtype=torch.bool)}}
    D["order"] = torch.arange(len(ids)) if step < 2 else torch.arange(len(ids)).roll(1)
    if step >= 2:
        D["every"] = D["keep"]
    return D
"""


@dataclass(frozen=True)
class Program:
    """Closures of several steps.

    Attributes:
        lines: of the function ``losses(net, D, step)``, each a statement; those that assign begin with the name.
        result: the expression that it returns.
        between: lines that are run before each step.
        sizes: of the batches.
        dims: what C and T stand for.
        m: of m-SAM.
        options: of SAM, as text.
    """

    lines: tuple[str, ...]
    result: str
    between: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (4, 4, 4)
    dims: tuple[int, int] = (4, 4)
    m: int = 1
    options: tuple[str, ...] = ()

    @property
    def modules(self) -> list[str]:
        """The names of those that it uses."""
        text = " ".join((*self.lines, *self.between, self.result))
        return [name for name in MODULES if re.search(rf"\bnet\.{name}\b", text)]

    @cached_property
    def source(self) -> str:
        """As plain Python: functions, ``Net``, ``data``, ``losses``, ``between``."""
        modules = self.modules
        used = " ".join((*self.lines, self.result, *(MODULES[name] for name in modules)))
        c, t = self.dims
        text = ["import torch", "from torch import nn", "from torch.nn import functional as F", "import copy"]
        text += [code.strip("\n") for name, code in FUNCTIONS.items() if re.search(rf"\b{name}\b", used)]
        text += ["class Net(nn.Module):", "    def __init__(net):", "        super().__init__()"]
        text += ["        " + line for name in modules for line in shapes(MODULES[name], c, t).splitlines()]
        text += ["", DATA.strip("\n").format(C=c, T=t)]
        text += ["def losses(net, D, step):", "    n = len(D['x'])"]
        text += ["    " + line for line in self.lines]
        text += [f"    return {self.result}", "", "def between(net, step):"]
        text += ["    " + line for line in self.between] + ["    pass", ""]
        return "\n".join(text)

    def compiled(self) -> dict[str, Any]:
        """What the source defines."""
        space: dict[str, Any] = {}
        exec(compile(self.source, "program.py", "exec"), space)
        return space

    def script(self) -> str:
        """The source, and a step of SAM over it: what a person needs to see it go wrong."""
        arguments = ", ".join(("rho=0.1", "model=net", f"m={self.m}", *self.options))
        return "\n".join(
            [
                self.source,
                f"# lowland.SAM(torch.optim.SGD(net.parameters(), lr=0.05), {arguments})",
                f"# batches of {self.sizes} examples; dimensions C, T = {self.dims}",
            ]
        )

    def smaller(self) -> "list[Program]":
        """Programs with one thing less."""
        found = []
        for i, line in enumerate(self.lines):
            rest = self.lines[:i] + self.lines[i + 1 :]
            found.append(replace(self, lines=rest))
            if match := re.match(r"(\w+) = (.*)", line):  # or with one of its arguments in the place of the result
                name, expression = match.groups()
                for other in dict.fromkeys(re.findall(r"\bt\d+\b|D\['\w+'\]|net\.[wvucs]\b", expression)):
                    if other != name:
                        later = tuple(
                            re.sub(rf"\b{name}\b", lambda _, other=other: other, text) for text in self.lines[i + 1 :]
                        )
                        result = re.sub(rf"\b{name}\b", lambda _, other=other: other, self.result)
                        found.append(replace(self, lines=self.lines[:i] + later, result=result))
        terms = self.result.split(" + ")
        if len(terms) > 1:
            found += [replace(self, result=" + ".join(terms[:i] + terms[i + 1 :])) for i in range(len(terms))]
        found += [replace(self, between=self.between[:i] + self.between[i + 1 :]) for i in range(len(self.between))]
        found += [replace(self, options=self.options[:i] + self.options[i + 1 :]) for i in range(len(self.options))]
        if len(self.sizes) > 1:
            found.append(replace(self, sizes=self.sizes[:-1]))
        if len(set(self.sizes)) > 1:
            found.append(replace(self, sizes=(self.sizes[0],) * len(self.sizes)))
        return found


def seeded(net: torch.nn.Module) -> torch.nn.Module:
    """Weights that hang on a parameter's name alone, so that a smaller program keeps those it has."""
    with torch.no_grad():
        for name, p in sorted(net.named_parameters()):
            generator = torch.Generator().manual_seed(sum(ord(c) * 31**i for i, c in enumerate(name)) % 2**31)
            p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return net
