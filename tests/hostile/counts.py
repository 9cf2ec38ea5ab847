"""The campaign counts itself: the cases of each file, and the table of them in README.md."""

import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

PAGE = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- counts -->\n", "<!-- end of counts -->\n"
HEAD = "| file | cases tried | passed | tests skipped | seed | commit |\n|---|---|---|---|---|---|\n"


@dataclass
class Counted:
    """What the tests of one file came to."""

    tried: int = 0
    passed: int = 0
    skipped: int = 0
    kinds: Counter = field(default_factory=Counter)


def counted(stats):
    """File → what it came to, of pytest's reports by outcome. A test that doesn't count its cases is one."""
    files = {}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in stats.get(outcome, ()):
            if outcome == "passed" and report.when != "call":
                continue
            entry = files.setdefault(Path(report.nodeid.partition("::")[0]).name, Counted())
            if outcome == "skipped":
                entry.skipped += 1
                continue
            cases = Counter()
            for name, value in report.user_properties:
                if name == "cases":
                    cases[value[0]] += value[1]
            number = sum(cases.values()) if any(name == "cases" for name, _ in report.user_properties) else 1
            entry.kinds += cases
            entry.tried += number
            entry.passed += number if outcome == "passed" else 0
    return files


def rows(files, seed, commit):
    """File → its line of the table."""
    return {
        name: f"| `{name}` | {one.tried:,} | {one.passed:,} | {one.skipped} | {seed} | {commit} |"
        for name, one in files.items()
    }


def record(files, seed):
    """Bring the table in README.md up to date: the lines of files that weren't run stay."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    table, _, after = rest.partition(END)
    known = {line.split("`")[1]: line for line in table.splitlines() if line.startswith("| `")}
    known |= rows(files, seed, commit())
    numbers = [[int(cell.replace(",", "")) for cell in line.split("|")[2:5]] for line in known.values()]
    tried, passed, skipped = (sum(column) for column in zip(*numbers, strict=True))
    lines = "".join(f"{known[name]}\n" for name in sorted(known))
    total = f"| in all | {tried:,} | {passed:,} | {skipped} | | |\n"
    PAGE.write_text(f"{before}{BEGIN}{HEAD}{lines}{total}{END}{after}", encoding="utf-8")


def commit():
    """Of the code that was tried; marked where files differ from it."""

    def git(*arguments):
        done = subprocess.run(["git", *arguments], cwd=PAGE.parent, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    changed = git("status", "--porcelain", "--", ":/src", ":/tests", f":!{PAGE}")
    return f"{git('rev-parse', '--short', 'HEAD') or 'unknown'}{', changed' if changed else ''}"
