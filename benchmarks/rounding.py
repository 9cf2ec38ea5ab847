"""How far rounding carries in the two experiments of andriushchenko2022 that are one program: inputs changed by 1e-15.

    python benchmarks/rounding.py diagonal
    python benchmarks/rounding.py relu

Prints how much the last losses differ, relatively, between runs as they are and the same runs begun from inputs that
are multiplied by 1 + 1e-15 z, z standard normal: the data X of the diagonal networks (ten seconds), the initial weights
of the ReLUs (some ten minutes). Of the ReLUs also the kinks.
"""

import argparse
from dataclasses import replace

import torch
from torch import Tensor

from lowland.papers import find
from lowland.papers.andriushchenko2022.diagonal.task import DiagonalRuns
from lowland.papers.andriushchenko2022.relu import ReluRuns
from lowland.training import Record

CHANGE = 1e-15
SMALL = 1e-12  # differences above it are printed by name
CPU = torch.device("cpu")
Ends = dict[str, Record]


def changed(values: Tensor) -> Tensor:
    """The values with a relative change of about `CHANGE`, the same in each call."""
    return values * (1 + CHANGE * torch.randn(values.shape, generator=torch.Generator().manual_seed(0)).double())


def difference(ends: tuple[Ends, Ends], name: str, column: str) -> float:
    """The relative difference of a run's last losses."""
    before, after = (float(each[name][column]) for each in ends)
    return abs(after - before) / abs(before)


def measured(program: DiagonalRuns | ReluRuns) -> Ends:
    """The last records of the runs that haven't diverged."""
    return {name: found for name, found in program.measure().items() if isinstance(found, dict)}


def diagonal() -> None:
    """The runs of the four settings and the switching ones; those of figure 6 go on for a million steps."""
    configured = find("andriushchenko2022/diagonal").configure("paper", {})
    arms = {name: arm for name, arm in configured.items() if not arm.long}

    def trained(change: bool) -> Ends:
        program = DiagonalRuns(arms, CPU)
        if change:
            program.data = {seed: replace(data, x=changed(data.x)) for seed, data in program.data.items()}
        done, ends = 0, Ends()
        for steps in sorted({arm.steps for arm in arms.values()}):  # a run has a record at its own last step
            program.train(steps - done)
            done = steps
            ends |= {name: record for name, record in measured(program).items() if arms[name].steps == steps}
        return ends

    ends = trained(False), trained(True)
    found = {name: difference(ends, name, "test_loss") for name in ends[0]}
    large = ", ".join(f"{name} {value:.1e}" for name, value in found.items() if value >= SMALL)
    print(f"test losses of {len(found)} runs: all differ by less than {SMALL:g}, but for {large}")


def relu() -> None:
    """SAM with the falling step size and gradient descent with the constant one, five seeds each."""
    configured = find("andriushchenko2022/relu").configure("paper", {})
    for kind in ("gd", "sam"):
        arms = {name: arm for name, arm in configured.items() if name.rpartition("-")[0] == kind}
        program = ReluRuns({**arms, **{f"{name}, changed": arm for name, arm in arms.items()}}, CPU)
        half = len(arms)
        program.state.weights[half:] = changed(program.state.weights[half:])
        steps = next(iter(arms.values())).steps
        while program.step < steps and not program.ended():
            program.train(min(5000, steps - program.step))
        records = measured(program)
        ends = {name: records[name] for name in arms}, {name: records[f"{name}, changed"] for name in arms}
        for name in arms:
            before, after = (each[name] for each in ends)
            print(
                f"{name}: loss {before['loss']:.6g} and {after['loss']:.6g}, relative difference "
                f"{difference(ends, name, 'loss'):.1e}; kinks {before['kinks']} and {after['kinks']}"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=("diagonal", "relu"))
    {"diagonal": diagonal, "relu": relu}[parser.parse_args().experiment]()
