"""Print what notes say of a record's last values, beyond its claims: by kind of arm or settings of a sweep, over seeds.

    python results/last.py RECORD COLUMN [COLUMN ...]
    python results/last.py andriushchenko2022-late-desk test_error train_error

RECORD is a folder beside this file, or a summary in one; a COLUMN is an entry of its metrics, or the difference of two,
``gini_phantom-gini_real``. Of each kind of arm it prints the mean with a 95 % t-interval, the standard deviation, the
smallest, the largest and how many are zero; then the mean difference from the first kind, paired by seed.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import stdev
from typing import Any

from lowland.training.statistics import Estimate, estimate, paired_difference

HERE = Path(__file__).resolve().parent


def by_kind(summary: Mapping[str, Any], column: str) -> dict[str, dict[int, float]]:
    """Kind of arm, or settings of a sweep → seed → its last value, of the runs that didn't diverge."""
    found: dict[str, dict[int, float]] = {}
    first, _, second = column.partition("-")
    swept = summary["config"].get("sweep")
    for label in summary["metrics"] if swept else summary["config"]["arms"]:
        ended = summary["metrics"][label]
        if ended["status"] == "done" and first in ended:
            if swept:
                seed, _, kind = label.removeprefix("seed=").partition(",")
            else:
                kind, _, seed = label.rpartition("-")
            found.setdefault(kind, {})[int(seed)] = ended[first] - (ended[second] if second else 0)
    return found


def shown(mean: Estimate | None) -> str:
    """The mean, and its interval where there are several seeds."""
    if mean is None:
        return ""
    interval = mean.interval
    return f"{mean.mean:.4g}" + ("" if interval is None else f" ({interval[0]:.4g} to {interval[1]:.4g})")


def main() -> None:
    """A line for each kind of arm, by column."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record")
    parser.add_argument("columns", nargs="+")
    given = parser.parse_args()
    record = HERE / given.record
    if record.is_dir():
        record /= "summary.json"
    summary = json.loads(record.read_text(encoding="utf-8"))
    for column in given.columns:
        kinds = by_kind(summary, column)
        if not kinds:
            parser.error(f"no run of {given.record} has {column}")
        base = next(iter(kinds.values()))
        for kind, seeds in kinds.items():
            values = list(seeds.values())
            spread = f", sd {stdev(values):.2g}, {min(values):.4g} to {max(values):.4g}" if len(values) > 1 else ""
            apart = "" if seeds is base else f"; less the first {shown(paired_difference(seeds, base))}"
            print(f"{column} {kind}: {shown(estimate(values))}{spread}, {values.count(0)} of {len(values)} zero{apart}")


if __name__ == "__main__":
    main()
