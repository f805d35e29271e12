"""What the limits of the quick look were chosen by: real SAEs, right and with one mistake each.

1. Each of `tests/mistakes.py`'s SAEs is looked at as it was trained, then with every mistake that can be made with it.
2. A line a look: what it explains as declared, the best other way, what that leaves of what is left unexplained, and
   whether the look said the right thing.

Run: `python -m tests.bench.quick_look --write` (rewrites `results/quick_look.json` and the table in `docs/checks.md`).
"""

import argparse
import json
from pathlib import Path
from typing import Any

from backend.formats.look import Candidate, Look
from backend.settings import REPOSITORY
from tests import mistakes, tiny
from workers.compute import diagnosis
from workers.compute import diagnosis_findings as findings

RESULTS = Path(__file__).parent / "results" / "quick_look.json"
PAGE = REPOSITORY / "docs" / "checks.md"
BEGIN, END = "<!-- quick look: begin (python -m tests.bench.quick_look --write) -->", "<!-- quick look: end -->"


def measure() -> list[dict[str, Any]]:
    """A row a look."""
    rows = []
    for name in (*mistakes.DEMO, *(mistakes.SHARED if tiny.SHARED.is_dir() else ())):
        right = mistakes.good(name)
        look = diagnosis.look(right.subject, right.corpus, bos=right.bos)
        rows.append(_row(name, "", look, is_right=not look.warnings + look.fatal))
        for mistake in mistakes.of(right):
            look = diagnosis.look(mistake.subject, mistake.corpus, bos=right.bos)
            best = findings.best(look)
            is_right = best is not None and best.kind == mistake.kind and mistake.named in best.what
            rows.append(_row(name, mistake.name, look, is_right=is_right))
        print(f"{name}: {len(rows)} looks so far", flush=True)
    return rows


def _row(name: str, mistake: str, look: Look, *, is_right: bool) -> dict[str, Any]:
    best = findings.best(look) or _runner_up(look)
    return {
        "sae": name, "mistake": mistake, "explained_variance": look.fit.explained_variance, "l0": look.fit.l0,
        "best": best.what, "best_explained_variance": best.fit.explained_variance, "best_l0": best.fit.l0,
        "is_named": best.is_better, "is_right": is_right,
    }  # fmt: skip


def _runner_up(look: Look) -> Candidate:
    return max(look.candidates, key=lambda each: each.fit.explained_variance or float("-inf"))


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| SAE | Mistake | As declared | Best other way | Its figures | Left | The look |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        base, best = row["explained_variance"], row["best_explained_variance"]
        said = "names it" if row["is_named"] else "says nothing"
        lines.append(
            f"| `{row['sae']}` | {row['mistake'] or '–'} | {base:.1%}, L0 {row['l0']:.1f} | {row['best']} | "
            f"{best:.1%}, L0 {row['best_l0']:.1f} | {(1 - best) / (1 - base):.2f} | "
            f"{said if row['is_right'] else f'**{said}**'} |"
        )
    n_good = sum(not row["mistake"] for row in rows)
    n_silent = sum(row["is_right"] for row in rows if not row["mistake"])
    n_named = sum(row["is_right"] for row in rows if row["mistake"])
    summary = (
        f"Of {n_good} SAEs in their place it is silent about {n_silent}; "
        f"of {len(rows) - n_good} mistakes it names {n_named}."
    )
    columns = "*Left* is what the best other way leaves of what the declared one leaves unexplained."
    return "\n".join([summary, columns, "", *lines])


def with_table(page: str, rows: list[dict[str, Any]]) -> str:
    """The page with the table between its markers."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table(rows)}\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Print the table; write it on request."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    is_written = parser.parse_args().write
    rows = measure()
    print(table(rows))
    if is_written:
        RESULTS.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
        PAGE.write_text(with_table(PAGE.read_text(), rows))


if __name__ == "__main__":
    main()
