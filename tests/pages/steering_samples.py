"""The page where a model is steered, as `preview` renders it: with nothing chosen, with features, and with what is not there."""

from dataclasses import replace
from typing import Any

from backend.names import FeatureRef
from backend.services.features import FeatureRow
from backend.web.pages import steering
from tests.pages import samples

ROWS = {
    FeatureRef(samples.MODEL, samples.SOURCE, 12_345): FeatureRow(
        12_345, 0.0019, 14.2134, 5.1, (" brigade", " Brigade", " battalion", " regiment", "\n", "if", "<b>"),
        (" Brigade", " brigade", " Brig", " brig", " battalion", "alions", "\n\n"),
    ),
    FeatureRef(samples.MODEL, samples.SOURCE, 77): FeatureRow(
        77, 0.00031, 0.4273, 9.1, (" the", "\t", " Zoë"), (" garden", " path", "walking")
    ),
}  # fmt: skip


def context(*, is_live: bool = True, others: int = 0, **asked: Any) -> steering.SteerContext:
    """Of what an address asks for."""
    model = samples.model()
    models = (model, *(replace(model, id=f"model-{n}", display_name=f"Model {n}") for n in range(others)))
    return steering.context(model, models, (), ROWS, steering.Asked(**asked), is_live=is_live)


def pages() -> dict[str, tuple[str, Any]]:
    """Template and context by name."""
    chosen = [f"{samples.SOURCE}/12345:42.6", f"{samples.SOURCE}/77:3:CLAMP", "7-res-jb/5:-20:ABLATE"]
    wrong = ["6-res-jb/99999", "6-none/1", "brigade", "6-res-jb/1:2:NONE"]
    return {
        "steer": ("pages/steer.html", context(others=2)),
        "steer-chosen": (
            "pages/steer.html", context(feature=chosen, prompt="The general sent for <b>", through=["6-mlp-topk"], seed=7)
        ),
        "steer-chat": (
            "pages/steer.html", context(feature=chosen[:1], mode="chat", system="Be brief.", prompt="Who are you?")
        ),
        "steer-without-worker": ("pages/steer.html", context(feature=wrong, through=["6-none"], is_live=False)),
    }  # fmt: skip
