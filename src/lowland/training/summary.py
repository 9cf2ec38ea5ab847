"""The summary of a run: final metrics, verdicts on the claims, the environment."""

from collections.abc import Mapping

import torch

from lowland.training.claims import Claim, Verdict
from lowland.training.deciding_command import decided_by
from lowland.training.environment import environment
from lowland.training.experiment import Experiment
from lowland.training.outcome import Outcome
from lowland.training.registry import code, source
from lowland.training.settings import Settings, values_of
from lowland.values import Json, JsonObject

SMOKE = Verdict(None, None, "smoke runs judge no claims")


def configuration(
    experiment: Experiment, scale: str, arms: Mapping[str, Settings], device: torch.device, processes: int = 1
) -> dict[str, Json]:
    """What ``config.json`` holds: enough to tell whether two runs would be the same one."""
    settings = {name: values_of(arm) for name, arm in arms.items()}
    first = next(iter(settings.values()))
    return {
        "experiment": experiment.name,
        **code(experiment),
        "scale": scale,
        "seed": first["seed"],
        "device": device.type,
        "arms": settings,
        **({"processes": processes} if processes > 1 else {}),
    }


def summarize(
    experiment: Experiment, config: JsonObject, outcomes: Mapping[str, Outcome], device: torch.device
) -> dict[str, Json]:
    """What ``summary.json`` holds; ``config`` is the run directory's."""
    with experiment.calling("digest"):
        digest = experiment.digest(outcomes) if experiment.digest is not None else {}
    return {
        "experiment": experiment.name,
        "scale": config["scale"],
        "seed": config["seed"],
        "config": dict(config),
        "metrics": {name: final(outcome) for name, outcome in outcomes.items()} | dict(digest),
        "claims": [
            claim_entry(
                experiment, config, claim, SMOKE if config["scale"] == "smoke" else experiment.judge(claim, outcomes)
            )
            for claim in experiment.claims
        ],
        **worsened_entry(outcomes),
        **table_entry(experiment, outcomes),
        **source(experiment),
        "environment": environment(device) | {key: config[key] for key in ("processes",) if key in config},
    }


def final(outcome: Outcome) -> dict[str, Json]:
    """How an arm ended, its last record, and the seconds it took."""
    last = {key: value for key, value in outcome.records[-1].items() if key != "arm"} if outcome.records else {}
    ended: dict[str, Json] = {"status": outcome.status, "diverged_at": outcome.diverged_at}
    if outcome.stopped_at is not None:
        ended["stopped_at"] = outcome.stopped_at
    if outcome.error:
        ended["error"] = outcome.error
    return {**ended, **last, **ended, **outcome.seconds}  # a column may be called status, or error


def worsened_entry(outcomes: Mapping[str, Outcome]) -> dict[str, Json]:
    """Under ``worsened`` the runs that ended with a higher training loss than before the first step; else nothing."""
    found = {name: entry for name, outcome in outcomes.items() if (entry := outcome.worsened) is not None}
    return {"worsened": found} if found else {}


def table_entry(experiment: Experiment, outcomes: Mapping[str, Outcome]) -> dict[str, Json]:
    """The experiment's table, under ``table``; nothing where it has none."""
    if experiment.table is None:
        return {}
    with experiment.calling("table"):
        return {"table": [row.entry() for row in experiment.table(outcomes)]}


def claim_entry(experiment: Experiment, config: JsonObject, claim: Claim, verdict: Verdict) -> dict[str, Json]:
    """A claim with its verdict, for a summary: ``decided_by`` where it is undecided, and another command decides it.

    Args:
        experiment: whose claim.
        config: of the run or sweep.
        claim: that was judged.
        verdict: on it.
    """
    open_ = verdict.passed is None and claim.threshold is not None
    return {
        "id": claim.id,
        "text": claim.text,
        "source": claim.source,
        "measured": verdict.measured,
        "interval_95": None if verdict.interval is None else list(verdict.interval),
        "threshold": claim.threshold,
        "passed": verdict.passed,
        "reason": verdict.reason,
        "reference": None if claim.reference is None else claim.reference.entry(),
        "decided_by": decided_by(experiment, claim, config) if open_ else None,
    }
