"""The hunt for programs that exact m-SAM gets wrong: random training programs, each step against the definition.

    make hunt                                      ten minutes
    python benchmarks/hunt.py [--minutes 10] [--cases N] [--seed 0] [--start 0] [--no-audit] [--record FILE]
    python benchmarks/hunt.py --seed 0 --case 17   that program again: its text, and what became of it

A case is a program that its seed and its number determine (tests/hunt/generate.py), trained for some steps in float64
beside a loop by definition (tests/hunt/judge.py). It is exact, exact with a warning, by the loop with a warning, or
refused; or WRONG (a gradient further than 1e-9 from the definition, or buffers in another state), or it raised what the
closure by itself doesn't raise. Programs that don't train by themselves are "unfit", and count for nothing. What is
wrong is made smaller and printed; the exit code is 1 then. A line begins with the number to go on from by --start.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from tests.hunt.generate import program  # noqa: E402
from tests.hunt.judge import judge, reason  # noqa: E402
from tests.hunt.shrink import smallest  # noqa: E402


def summary(ways, seconds):
    judged = sum(count for way, count in ways.items() if way not in ("unfit", "ill-conditioned", "none"))
    exact = ways["exact"] + ways["exact, with a warning"]
    share = f"{exact / judged:.0%} exact" if judged else "nothing judged"
    counts = ", ".join(f"{count} {way}" for way, count in ways.most_common())
    return f"{judged} cases judged in {seconds / 60:.1f} min, {share}: {counts}"


def show(seed, case, small, verdict, audit):
    print(f"\n===== seed {seed}, case {case}, m = {small.m}, {'audit' if audit else 'no audit'}: {verdict.way}")
    print(f"at step {verdict.step}, error {verdict.error:.1e}; {verdict.said}\n{small.script()}\n=====", flush=True)


def hunt(asked):
    ways, reasons, exact_steps = Counter(), Counter(), 0
    started = said = time.monotonic()
    case = asked.start
    found = []
    while (
        (time.monotonic() - started < 60 * asked.minutes) if asked.cases is None else case < asked.start + asked.cases
    ):
        tried = program(asked.seed, case)
        if tried is None:
            ways["none"] += 1
        else:
            verdict = judge(tried, asked.audit)
            ways[verdict.way] += 1
            exact_steps += verdict.exact
            if verdict.way in ("loop", "refused"):
                reasons[reason(verdict)] += 1
            if verdict.bad:
                same = lambda other, like=verdict: alike(judge(other, asked.audit), like)  # noqa: E731
                small = smallest(tried, same) if asked.shrink else tried
                show(asked.seed, case, small, judge(small, asked.audit), asked.audit)
                found.append(case)
        case += 1
        if time.monotonic() - said > 30:
            said = time.monotonic()
            print(f"{case} {summary(ways, said - started)}", flush=True)
    seconds = time.monotonic() - started
    print(f"{case} {summary(ways, seconds)}; {exact_steps} steps exact")
    if asked.reasons:
        for text, count in reasons.most_common(40):
            print(f"{count:6} {text}")
    if asked.record:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
        record = {"commit": commit, "torch": torch.__version__, "seed": asked.seed, "audit": asked.audit}
        record |= {"first": asked.start, "end": case, "minutes": round(seconds / 60, 1), "ways": dict(ways)}
        record |= {"exact_steps": exact_steps, "wrong": found}
        with open(asked.record, "a") as file:
            file.write(json.dumps(record) + "\n")
    return 1 if found else 0


def alike(verdict, like):
    """Whether it is as bad in the same way: with an error that isn't rounding, or with the same exception."""
    if verdict.way != like.way:
        return False
    return verdict.error > 1e-7 or like.error <= 1e-7 if verdict.way == "WRONG" else verdict.said[:30] == like.said[:30]


def replay(asked):
    tried = program(asked.seed, asked.case)
    if tried is None:
        print("no program has this number")
        return 0
    print(tried.script())
    verdict = judge(tried, asked.audit)
    print(verdict)
    return 1 if verdict.bad else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="how long")
    parser.add_argument("--cases", type=int, help="how many, in place of --minutes")
    parser.add_argument("--seed", type=int, default=0, help="of all cases")
    parser.add_argument("--start", type=int, default=0, help="the first case: an interrupted hunt goes on")
    parser.add_argument("--case", type=int, help="this one alone, with its text")
    parser.add_argument("--audit", action=argparse.BooleanOptionalAction, default=True, help="of the optimizer")
    parser.add_argument("--shrink", action=argparse.BooleanOptionalAction, default=True, help="what is wrong")
    parser.add_argument("--reasons", action="store_true", help="why the loop was taken, counted")
    parser.add_argument("--record", help="append the counts to this file, a line of JSON")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    return hunt(asked) if asked.case is None else replay(asked)


if __name__ == "__main__":
    sys.exit(main())
