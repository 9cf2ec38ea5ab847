"""What a run or sweep came to, and its tables as Markdown and LaTeX."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lowland.wording import claim_columns, mark_of, seeds_of, short

_UNMEASURED = ("step", "epoch")
_MOST = 6  # measures in a table that nobody has chosen them for


@dataclass(frozen=True)
class TextTable:
    """A table: its heading, the columns' names, and rows of text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class Summary(dict[str, Any]):
    """The content of ``summary.json``, which the contract of the command line describes."""

    def tables(self, measures: Sequence[str] | None = None) -> list[TextTable]:
        """The results, and the claims if there are some.

        Args:
            measures: the columns of the results; by default those of the experiment's table, of a sweep those that it
                selects by and reports, else the first few.
        """
        claims = _claims(self["claims"])
        return [_results(self, measures), *([claims] if claims.rows else [])]

    def to_markdown(self, measures: Sequence[str] | None = None) -> str:
        """`tables` in Markdown."""
        return "\n\n".join(_markdown(table) for table in self.tables(measures))

    def to_latex(self, measures: Sequence[str] | None = None) -> str:
        r"""`tables` in LaTeX, each a ``tabular`` with the rules of the package booktabs."""
        return "\n\n".join(_latex(table) for table in self.tables(measures))


def _results(summary: Summary, measures: Sequence[str] | None) -> TextTable:
    if summary["config"].get("sweep"):
        return _of_sweep(summary, measures)
    rows = summary.get("table") or []
    if rows:
        found = measures or list(dict.fromkeys(name for row in rows for name in row["measures"]))
        lines = [
            [
                row["name"],
                _seeds(row["runs"], row["measures"], found),
                *(_estimate(row["measures"].get(name)) for name in found),
            ]
            for row in rows
        ]
        return TextTable("Results", ["", "seeds", *found], lines)
    arms = {name: summary["metrics"][name] for name in summary["config"]["arms"]}
    found = measures or _numbers(arms.values())
    lines = [[_ended(name, last), *(_number(last.get(one)) for one in found)] for name, last in arms.items()]
    return TextTable("Results", ["arm", *found], lines)


def _of_sweep(summary: Summary, measures: Sequence[str] | None) -> TextTable:
    entries, selection = summary["settings"], summary["selection"]
    test = (selection.get("test") or {}).get("metric")
    chosen = [name for name in (selection.get("metric"), test) if name]
    found = measures or chosen or list(dict.fromkeys(name for entry in entries for name in entry["metrics"]))[:_MOST]
    names = list(entries[0]["settings"]) if entries else []
    lines = [
        [
            *map(short, entry["settings"].values()),
            _seeds(entry["runs"], entry["metrics"], found),
            *(_estimate(entry["metrics"].get(name)) for name in found),
            mark_of(entry["settings"], selection),
        ]
        for entry in entries
    ]
    return TextTable("Results", [*names, "runs", *found, ""], lines)


def _claims(claims: Sequence[dict[str, Any]]) -> TextTable:
    shown = claim_columns(claims)
    shown.pop("reason", None)  # too long for a table on paper
    return TextTable("Claims", list(shown), list(zip(*shown.values(), strict=True)))


def _numbers(lasts: Iterable[dict[str, Any]]) -> list[str]:
    names = dict.fromkeys(
        name
        for last in lasts
        for name, value in last.items()
        if isinstance(value, float) and name not in _UNMEASURED and "seconds" not in name
    )
    return list(names)[:_MOST]


def _seeds(runs: Collection[str], means: Mapping[str, Any], found: Sequence[str]) -> str:
    return seeds_of(len(runs), [means.get(name) for name in found])


def _ended(name: str, last: Mapping[str, Any]) -> str:
    """An arm's name, and that its last record is not that of its end where it diverged."""
    return f"{name} (diverged at step {last['diverged_at']})" if last["status"] == "diverged" else name


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _estimate(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return ""
    error = entry["standard_error"]
    return _number(entry["mean"]) + ("" if error is None else f" ± {error:.2g}")


def _markdown(table: TextTable) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"

    return "\n".join([line(table.columns), line(["---"] * len(table.columns)), *map(line, table.rows)])


_ESCAPED = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "<": "$<$", ">": "$>$", "|": r"$|$", "±": r"$\pm$", "−": "$-$", "≤": r"$\leq$", "≥": r"$\geq$", "·": r"$\cdot$",
    "‖": r"$\Vert$", "²": "$^2$", "∇": r"$\nabla$", "√": r"$\surd$", "→": r"$\to$", "½": r"$\frac{1}{2}$",
    "ρ": r"$\rho$", "η": r"$\eta$", "ε": r"$\varepsilon$", "λ": r"$\lambda$", "β": r"$\beta$", "α": r"$\alpha$",
    "ℓ": r"$\ell$", "…": r"\ldots{}", "×": r"$\times$",
}  # fmt: skip


def _latex(table: TextTable) -> str:
    def line(cells: Iterable[str]) -> str:
        return "  " + " & ".join("".join(_ESCAPED.get(c, c) for c in cell) for cell in cells) + r" \\"

    return "\n".join(
        [
            rf"\begin{{tabular}}{{{'l' * len(table.columns)}}}",
            r"  \toprule",
            line(table.columns),
            r"  \midrule",
            *map(line, table.rows),
            r"  \bottomrule",
            r"\end{tabular}",
        ]
    )
