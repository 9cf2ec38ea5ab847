"""Where in training the phantom importance weights are the more even ones.

Late in training all losses are almost 0, and a few examples have nearly all weight, at w and at w + e. So the claim is
judged while there still is something to balance: at the first check at which a run's training error is below
`THRESHOLD`. By then the network has its features, and the losses have not yet vanished. The rule was fixed before any
Gini coefficient over training had been seen.
"""

from collections.abc import Callable, Mapping

from lowland.papers.claims import Unfit, below_zero, judged
from lowland.papers.springer2024.methods import selected
from lowland.training import Outcome, Record, Verdict
from lowland.training.statistics import estimate

THRESHOLD = 0.01
LEAST_SEEDS = 5


def at_the_threshold(method: str) -> Callable[[Mapping[str, Outcome]], Verdict]:
    """Judges the mean of Gini(phantom) − Gini(real) over the seeds, each at its first check below `THRESHOLD`."""

    @judged
    def judge(outcomes: Mapping[str, Outcome]) -> Verdict:
        runs = _runs(outcomes, method)
        found = {}
        for seed, records in runs.items():
            first = next((record for record in records if record["train_error"] < THRESHOLD), None)
            if first is not None:
                found[seed] = _difference(first)
        if len(found) < len(runs):
            raise Unfit(
                f"the training error of {len(runs) - len(found)} of {len(runs)} runs of {method} never is below "
                f"{THRESHOLD:g}"
            )
        mean = estimate(list(found.values()))
        assert mean is not None
        return below_zero(mean, LEAST_SEEDS)

    return judge


def over_time(method: str) -> Callable[[Mapping[str, Outcome]], Verdict]:
    """Reports at which epochs the claim holds, fails and is undecided; measured is the share at which it holds."""

    @judged
    def judge(outcomes: Mapping[str, Outcome]) -> Verdict:
        runs = _runs(outcomes, method)
        by_epoch = [{round(record["epoch"], 6): _difference(record) for record in records} for records in runs.values()]
        shared = [epoch for epoch in by_epoch[0] if all(epoch in each for each in by_epoch)]
        words: dict[str, list[str]] = {"holds": [], "fails": [], "undecided": []}
        for epoch in shared:
            mean = estimate([each[epoch] for each in by_epoch])
            assert mean is not None
            verdict = below_zero(mean, LEAST_SEEDS).passed
            words["undecided" if verdict is None else "holds" if verdict else "fails"].append(f"{epoch:g}")
        told = "; ".join(f"{word} at epochs {', '.join(epochs)}" for word, epochs in words.items() if epochs)
        return Verdict(len(words["holds"]) / len(shared) if shared else None, None, told)

    return judge


def _runs(outcomes: Mapping[str, Outcome], method: str) -> dict[int, list[Record]]:
    """Seed → the records of its selected run that have Gini coefficients."""
    labels = selected(outcomes).get(method, {})
    if not labels:
        raise Unfit(f"no run of {method} was trained to its end")
    return {
        seed: [record for record in outcomes[label].records if record.get("gini_phantom") is not None]
        for seed, label in labels.items()
    }


def _difference(record: Record) -> float:
    return float(record["gini_phantom"] - record["gini_real"])
