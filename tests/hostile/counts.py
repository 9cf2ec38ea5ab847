"""The campaign counts itself: the cases of each file, the table of them in README.md, and their sum in SECURITY.md."""

import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

PAGE = Path(__file__).with_name("README.md")
SUMMARY = Path(__file__).parents[2] / "SECURITY.md"
BEGIN, END = "<!-- counts -->\n", "<!-- end of counts -->\n"
HEAD = "| file | cases tried | passed | tests skipped | seconds | seed | commit |\n|---|---|---|---|---|---|---|\n"


@dataclass
class Counted:
    """What the tests of one file came to."""

    tried: int = 0
    passed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    kinds: Counter = field(default_factory=Counter)


def counted(stats):
    """File → what it came to, of pytest's reports by outcome. A test that doesn't count its cases is one."""
    files = {}
    for outcome in ("passed", "failed", "error", "skipped", ""):
        for report in stats.get(outcome, ()):
            path = Path(report.nodeid.partition("::")[0])
            if path.parent.name != PAGE.parent.name:
                continue
            entry = files.setdefault(path.name, Counted())
            entry.seconds += report.duration
            if outcome == "" or (outcome == "passed" and report.when != "call"):
                continue
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
        name: f"| `{name}` | {one.tried:,} | {one.passed:,} | {one.skipped} | {one.seconds:,.0f} | {seed} | {commit} |"
        for name, one in files.items()
    }


def record(files, seed):
    """Bring both pages up to date: the lines of files that weren't run stay."""
    known = {line.split("`")[1]: line for line in _between(PAGE).splitlines() if line.startswith("| `")}
    known |= rows(files, seed, commit())
    cells = [[cell.strip() for cell in line.split("|")[2:8]] for line in known.values()]
    tried, passed, skipped = (sum(int(row[column].replace(",", "")) for row in cells) for column in range(3))
    lines = "".join(f"{known[name]}\n" for name in sorted(known))
    _put(PAGE, f"{HEAD}{lines}| in all | {tried:,} | {passed:,} | {skipped} | | | |\n")
    commits = " and ".join(sorted({row[5] for row in cells}))
    missing = sorted({path.name for path in PAGE.parent.glob("test_*.py")} - set(known))
    _put(
        SUMMARY,
        f"Of {tried:,} cases in {len(known)} files {passed:,} passed, as the campaign itself counted them at commit "
        f"{commits}; {skipped} tests were skipped.\n"
        + (f"Not counted yet: {', '.join(f'`{name}`' for name in missing)}.\n" if missing else ""),
    )


def _between(page):
    return page.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


def _put(page, text):
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    page.write_text(f"{before}{BEGIN}{text}{END}{rest.partition(END)[2]}", encoding="utf-8")


def commit():
    """Of the code that was tried; marked where files differ from it."""

    def git(*arguments):
        done = subprocess.run(["git", *arguments], cwd=PAGE.parent, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    changed = git("status", "--porcelain", "--", ":/src", ":/tests", ":(top,exclude)tests/hostile/README.md")
    return f"{git('rev-parse', '--short', 'HEAD') or 'unknown'}{', changed' if changed else ''}"
