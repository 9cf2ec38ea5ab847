"""Real architectures through exact m-SAM: which way each goes, and how far it is from the definition.

    make models                                  installs timm beside the environment, then runs this
    python benchmarks/real_models.py [--only NAME ...] [--batch 5] [--m 1 2 4] [--write | --cost]

Two batches in turn through m = 1, 2 and one less than the batch, in float64 and training mode, all dropout 0. The
definition is a loop over groups that knows nothing of Lowland (architectures/textbook.py). Exit code 1 if an error is
above 1e-9, if a model raises, or if a loss that couples examples goes by the one pass
without a word, in place of being refused or going by the loop. ``--write`` puts the table into
docs/exact-m-sam.md. ``--cost`` prints instead what a step with m = 1 costs, over plain SAM's on the same batch.
"""

import argparse
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"  # every network here is made from its configuration

import torch
import transformers

from architectures import page, timm_beside
from architectures.cost import cost
from architectures.measure import Found, measure

LIMIT = 1e-9


def as_it_should_be(found: Found, refused: bool) -> bool:
    return found.way in ("refused", "loop") if refused else found.error is not None and found.error <= LIMIT


def run(cases, ms, size):
    """Measure and print; the rows, and how many of them are wrong."""
    rows, wrong = [], 0
    for case in cases:
        found = [measure(case, m, size) for m in ms]
        rows.append((case, found))
        good = [as_it_should_be(each, case.refused is not None) for each in found]
        wrong += not all(good)
        for m, each, fine in zip(ms, found, good, strict=True):
            error = "" if each.error is None else f"{each.error:.1e}"
            mark = " " if fine else "!"
            said = page.shortened(each.why, 150)
            print(f"{mark} {case.name:24} m={m}  {each.way:21} {error:8} {each.seconds:5.1f} s  {said}", flush=True)
    return rows, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="NAME", help="architectures with this in their names"
    )
    parser.add_argument("--batch", type=int, default=5, help="examples in a batch")
    parser.add_argument("--m", nargs="+", type=int, help="sizes of groups, in place of 1, 2 and batch - 1")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true", help="put the table into docs/exact-m-sam.md")
    what.add_argument(
        "--cost", action="store_true", help="CPU time of m = 1 over that of plain SAM, in place of errors"
    )
    asked = parser.parse_args()

    timm_beside.make_importable()
    import timm

    from architectures import CASES, REFUSED

    torch.set_default_dtype(torch.float64)
    transformers.logging.set_verbosity_error()
    ms = tuple(dict.fromkeys(asked.m or (1, 2, asked.batch - 1)))
    chosen = [
        [case for case in cases if any(name.lower() in case.name.lower() for name in asked.only)]
        for cases in (CASES, REFUSED)
    ]
    if asked.cost:
        torch.set_num_threads(1)
        for case in chosen[0]:
            print(f"{case.name:30} batch={asked.batch}  {cost(case, asked.batch):5.1f}", flush=True)
        return 0
    rows, wrong = run(chosen[0], ms, asked.batch)
    refused, unrefused = run(chosen[1], ms[:1], asked.batch)
    ways = [each.way for _, found in rows for each in found]
    print(
        f"{len(rows)} architectures at {len(ms)} sizes of groups: "
        + ", ".join(f"{ways.count(way)} {way}" for way in dict.fromkeys(ways))
        + f"; {wrong} wrong or raised. {len(refused)} couple examples: {unrefused} of them passed without a word."
    )
    if asked.write:
        versions = f"timm {timm.__version__}, transformers {transformers.__version__}, torch {torch.__version__}"
        sizes = ", ".join(map(str, ms))
        page.write(
            f"Batches of {asked.batch}, m = {sizes}; {versions.replace('+cpu', '')}.\n\n"
            + page.table(rows, ms, f"way | relative error at m = {sizes}")
            + "\n\nLosses that couple examples are refused, or go by the loop, which says so:\n\n"
            + page.table(refused, ms[:1], "words | error")
            + "\n"
        )
    return 1 if wrong or unrefused else 0


if __name__ == "__main__":
    sys.exit(main())
