"""`lowland show`: prints an experiment's settings and claims."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from lowland.commands.layout import Column
from lowland.commands.options import Json, Name
from lowland.commands.printing import costs, flows, print_json, say, short, table
from lowland.wording import paper_of


def _by(experiment: Any, claim: Any) -> str:
    """The scales that decide a claim, and the sweep's grid if that takes one."""
    from lowland.training.deciding_command import deciding

    scales = " or ".join(deciding(experiment, claim))
    return f"{scales}, --grid {claim.grid}" if claim.grid else scales


def _described(experiment: Any, values: Mapping[str, Any], texts: Mapping[str, str]) -> dict[str, Any]:
    """The content of `show` as a dict for JSON."""
    return {
        "name": experiment.name,
        "title": experiment.title,
        "paper": experiment.paper,
        "datasets": list(experiment.datasets),
        "cost": {scale: experiment.cost.get(scale) for scale in values},
        "settings": {
            key: {"text": text, "at": {scale: asdict(found[key]) for scale, found in values.items()}}
            for key, text in texts.items()
        },
        "arms": experiment.arms,
        "arm_notes": experiment.arm_notes,
        "grids": experiment.grids,
        "claims": [
            {
                "id": claim.id, "text": claim.text, "source": claim.source, "threshold": claim.threshold,
                "reference": None if claim.reference is None else claim.reference.entry(),
                "decided_by": claim.decided_by, "grid": claim.grid, "why": claim.why, "figure": claim.figure,
            }
            for claim in experiment.claims
        ],
    }  # fmt: skip


def show(
    name: Name,
    scale: Annotated[str | None, typer.Option(help="Only this scale: smoke, laptop, desk or paper.")] = None,
    json_: Json = False,
) -> None:
    """An experiment's settings, where each comes from, and the claims it checks.

    Example: lowland show long2024/mnist --scale laptop
    """
    from lowland import experiments, papers
    from lowland.training.settings import describe

    experiment = experiments.find(name)
    scales = [scale] if scale else experiment.scales_in_order
    values = {s: experiment.values(s) for s in scales}
    if json_:
        print_json(_described(experiment, values, describe(experiment.settings)))
        return
    say(f"{experiment.name}: {experiment.title}")
    if experiment.paper:
        say(experiment.paper)
    say(f"datasets: {' '.join(experiment.datasets) or 'none to download'}")
    if experiment.cost:
        say(f"a run takes: {costs(scales, experiment.cost)}")
    if name in papers.experiments():
        say(papers.COSTS_ARE_OF)
    typer.echo()
    rows = []
    for key, text in describe(experiment.settings).items():
        cells = [f"{short(values[s][key].value)} ({values[s][key].origin})" for s in scales]
        notes = dict.fromkeys(values[s][key].note for s in scales if values[s][key].note)
        rows.append([key, text, *cells, "; ".join(notes)])
    table(["setting", flows("what it is"), *map(flows, scales), flows("note")], rows)
    made = {
        arm: ", ".join(f"{key} = {short(value)}" for key, value in fixed.items()) or "the settings above"
        for arm, fixed in experiment.arms.items()
    }
    arm_notes = experiment.arm_notes
    table(
        ["arm", flows("what makes it"), *([flows("note")] if arm_notes else [])],
        [[arm, text, *([arm_notes.get(arm, "")] if arm_notes else [])] for arm, text in made.items()],
    )
    for grid, parts in experiment.grids.items():
        for number, part in enumerate(parts, 1):
            title = f"--grid {grid}" + (f", part {number} of {len(parts)}" if len(parts) > 1 else "")
            if part:
                table([title, flows("values")], [[k, " ".join(map(short, v))] for k, v in part.items()])
    if not experiment.claims:
        return
    rows = [
        [
            c.id,
            c.text,
            c.threshold or "(reported only)",
            c.why,
            paper_of({"reference": c.reference and c.reference.entry()}),
            _by(experiment, c),
            c.source,
        ]
        for c in experiment.claims
    ]
    columns: list[Column | str] = [
        "claim",
        *map(flows, ("what it says", "holds if", "why that", "in the paper", "decided by", "source")),
    ]
    kept = [index for index in range(len(columns)) if any(row[index] for row in rows)]
    table([columns[index] for index in kept], [[row[index] for index in kept] for row in rows])
