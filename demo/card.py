"""The numbers in `demo/README.md`, rendered from `model_card.json` and `sae_card.json`.

Owns the lines between the two markers and nothing else; a unit test fails when they differ from the cards.

Run: `python -m demo.card` after either training.
"""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
BEGIN, END = "<!-- card: begin (python -m demo.card) -->", "<!-- card: end -->"
SAE_COLUMNS = {
    "source": "Source",
    "explained_variance": "Explained variance",
    "l0": "L0",
    "dead_fraction": "Dead fraction",
    "loss_sae": "Loss with SAE",
    "loss_clean": "Loss without",
    "loss_recovered_zero": "Loss recovered from zero",
    "loss_recovered_mean": "Loss recovered from mean",
}


def render(model: dict[str, Any], saes: dict[str, dict[str, Any]]) -> str:
    """The Markdown between the markers."""
    lines = [
        f"Language model `stdlib-4l`: validation loss **{model['validation_loss']}** nats per token "
        f"(perplexity {model['perplexity']}) after {model['tokens']:,} tokens in "
        f"{' + '.join(str(run['steps']) for run in model['runs'])} steps.",
        "",
        "| " + " | ".join(SAE_COLUMNS.values()) + " |",
        "|" + "---|" * len(SAE_COLUMNS),
    ]
    for source, card in saes.items():
        cells = {"source": f"`{source}`"} | card
        lines.append("| " + " | ".join(str(cells[column]) for column in SAE_COLUMNS) + " |")
    return "\n".join([*lines, "", *_conditions(saes)])


def with_card(readme: str, card: str) -> str:
    """The README with `card` between its markers.

    Raises:
        ValueError: a marker is missing or doubled.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise ValueError(f"demo/README.md must have one line {BEGIN!r} and, below it, one line {END!r}")
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{card}\n{END}{rest.split(END)[1]}"


def read_cards(weights: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Both cards as they are on disk."""
    model, saes = (json.loads((weights / name).read_text()) for name in ("model_card.json", "sae_card.json"))
    return model, saes


def main() -> None:
    """Rewrite the README."""
    path = FOLDER / "README.md"
    path.write_text(with_card(path.read_text(), render(*read_cards(FOLDER / "weights"))))


def _conditions(saes: dict[str, dict[str, Any]]) -> list[str]:
    """One line per distinct set of training and measuring conditions, so that unlike runs are not read as one."""
    groups: dict[str, list[str]] = {}
    for source, card in saes.items():
        line = (
            f"d_sae {card['d_sae']}, k {card['k']}, {card['tokens']:,} training tokens, seed {card['seed']}, "
            f"{card['threads']} thread. Measured on {card['n_tokens_validation']:,} validation tokens; "
            f"dead = never active on {card['n_tokens_dead_fraction']:,} validation and training tokens. "
            f"Language model file sha256 `{card['model_sha256'][:16]}…`."
        )
        groups.setdefault(line, []).append(f"`{source}`")
    return [f"{', '.join(sources)}: {line}" for line, sources in groups.items()]


if __name__ == "__main__":
    main()
