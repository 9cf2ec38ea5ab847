"""Diagonal linear networks: 1-SAM finds the sparse solution, n-SAM doesn't (Andriushchenko & Flammarion 2022)."""

from lowland.papers.andriushchenko2022 import PAPER
from lowland.papers.andriushchenko2022.diagonal.claims import CLAIMS, digest
from lowland.papers.andriushchenko2022.diagonal.figures import FIGURES
from lowland.papers.andriushchenko2022.diagonal.settings import DIMENSIONS, EXAMPLES, LONG, Settings, made_arms
from lowland.papers.andriushchenko2022.diagonal.task import DiagonalRuns
from lowland.training import Experiment, ours, paper

EXPERIMENT = Experiment(
    name="andriushchenko2022/diagonal",
    title="1-SAM, n-SAM and gradient descent on a diagonal linear network",
    paper=PAPER,
    datasets=(),
    settings=Settings,
    scales={
        "paper": {
            "lr": paper(5 / DIMENSIONS, "γ; each arm has its own; ours in the arms figure-6-…"),
            "rho": paper(0.0, "each arm has its own; ours in the arms figure-6-…"),
            "alpha": paper(0.1, "or 0.02: each arm has its own; ours in the arms figure-6-…"),
            "m": paper(EXAMPLES, "each arm has its own"),
            "phases": paper(1, "2 in the arms switch-…"),
            "phase_steps": paper(10_001),
            "then_rho": paper(0.0, "each arm that switches has its own"),
            "long": paper(False, "true in the arms figure-6-…"),
            "long_steps": paper(1_000_000),
            "check_every": ours(50),
            "seed": paper(0),
        },
        "desk": {},
        "laptop": {"long_steps": ours(50_000)},
        "smoke": {"phase_steps": ours(10), "long_steps": ours(20), "check_every": ours(10)},
    },
    arms=made_arms(),
    arm_notes=dict.fromkeys(("switch-gd", "switch-1-sam"), "ours: what the two that switch are compared with")
    | {arm: "lr, alpha and rho are ours" for arm in made_arms() if arm.startswith(LONG)},
    grid={},
    claims=CLAIMS,
    figures=FIGURES,
    cost=dict.fromkeys(("paper", "desk"), "10 minutes, 1 core (measured)")
    | {"laptop": "half a minute, 1 core (measured)", "smoke": "seconds"},
    together=DiagonalRuns,
    digest=digest,
)
