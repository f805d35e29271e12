"""The README's numbers are those of the committed cards."""

from typing import Any

import pytest

from demo import card

MODEL = {"validation_loss": 2.5, "perplexity": 12.18, "tokens": 16_384_000, "runs": [{"steps": 2000}]}
SAE: dict[str, Any] = {
    "explained_variance": 0.9, "l0": 31.9, "dead_fraction": 0.01, "loss_sae": 2.7, "loss_clean": 2.5,
    "loss_recovered_zero": 0.98, "loss_recovered_mean": 0.96, "d_sae": 2048, "k": 32, "tokens": 8_000_000, "seed": 0,
    "threads": 1, "n_tokens_validation": 65_024, "n_tokens_dead_fraction": 585_216, "model_sha256": "ab" * 32,
}  # fmt: skip


def test_readme_shows_the_committed_cards() -> None:
    """Run `python -m demo.card` when this fails."""
    weights = card.FOLDER / "weights"
    missing = [name for name in ("model_card.json", "sae_card.json") if not (weights / name).exists()]
    if missing:
        pytest.skip(f"not trained yet: {', '.join(missing)} absent from demo/weights")
    readme = (card.FOLDER / "README.md").read_text()
    assert readme == card.with_card(readme, card.render(*card.read_cards(weights)))


def test_every_number_of_a_source_is_in_its_row() -> None:
    rendered = card.render(MODEL, {"1-res-2k": SAE})
    assert "| `1-res-2k` | 0.9 | 31.9 | 0.01 | 2.7 | 2.5 | 0.98 | 0.96 |" in rendered
    assert "validation loss **2.5** nats per token (perplexity 12.18) after 16,384,000 tokens in 2000 steps" in rendered


def test_sources_of_one_run_share_their_conditions_and_others_do_not() -> None:
    rendered = card.render(MODEL, {"1-res-2k": SAE, "2-res-2k": SAE, "3-res-2k": SAE | {"seed": 1}})
    assert "`1-res-2k`, `2-res-2k`: d_sae 2048" in rendered
    assert "`3-res-2k`: d_sae 2048, k 32, 8,000,000 training tokens, seed 1" in rendered


def test_only_the_lines_between_the_markers_change() -> None:
    readme = f"before\n{card.BEGIN}\nold\n{card.END}\nafter\n"
    assert card.with_card(readme, "new") == f"before\n{card.BEGIN}\nnew\n{card.END}\nafter\n"


@pytest.mark.parametrize("readme", ["no markers", card.BEGIN + card.BEGIN + card.END])
def test_missing_or_doubled_markers_are_refused(readme: str) -> None:
    with pytest.raises(ValueError, match=r"must have one line"):
        card.with_card(readme, "new")
