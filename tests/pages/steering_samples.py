"""The page where a model is steered, as `preview` renders it: with nothing chosen, with features, and with what is not there."""

import re
from dataclasses import replace
from typing import Any

from backend.formats.messages import Alternative, Generated, GeneratedToken, Sampling, SteerReply, Turn
from backend.names import FeatureRef
from backend.services.features import FeatureRow
from backend.services.steer_presets import Preset, PresetFeature
from backend.services.steering import Asked, Run, SteeredFeature
from backend.services.vectors import VectorView
from backend.web.pages import steered, steering
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


VECTOR = VectorView(
    samples.MODEL, "6-neuronpedia-resid-post", 123_456_789, None, "talks about the military", "blocks.6.hook_resid_post",
    (0.5, -0.25), 12.5, samples.AT,
)  # fmt: skip
PRESETS = (
    Preset(
        "Brigade, brigade, Brig",
        (PresetFeature(samples.SOURCE, 12_345, 43.0, "brigade, Brigade"),),
        is_own_vector=False,
    ),
    Preset("garden, path, <b>", (PresetFeature(samples.SOURCE, 77, 1.3, "the, Zoë"),), is_own_vector=False),
    Preset(VECTOR.label, (PresetFeature(VECTOR.source, VECTOR.index, 12.5, VECTOR.label),), is_own_vector=True),
)
DEFAULT = " the second brigade before dawn, and half of them were asleep.\nNobody had told him so: é."
STEERED = " the second brigade of the regiment, and the battalion, half of it asleep.\nThe <b>brigade</b>: é."


def context(*, is_live: bool = True, others: int = 0, **asked: Any) -> steering.SteerContext:
    """Of what an address asks for."""
    model = samples.model()
    models = (model, *(replace(model, id=f"model-{n}", display_name=f"Model {n}") for n in range(others)))
    known = steering.Known(
        models=models, sources=(), rows=ROWS, vectors={(VECTOR.source, VECTOR.index): VECTOR}, own=(VECTOR,),
        presets=() if asked.get("feature") else PRESETS, is_live=is_live,
    )  # fmt: skip
    return steering.context(model, known, steering.Asked(**asked))


def tokens(text: str) -> tuple[GeneratedToken, ...]:
    """Words with the space before them; `é` is two tokens that each are a part of it."""
    found = []
    for at, word in enumerate(re.findall(r" ?\w+|\s|[^\w\s]", text)):
        parts = [word[:-1], "\ufffd", "\ufffd"] if word.endswith("é") else [word]
        for part in filter(None, parts):
            logprob = -0.05 - 0.31 * (at % 7)
            others = (Alternative(" <b>", logprob - 0.4), Alternative("\n", logprob - 1.5), Alternative(" of", -7.5))
            found.append(GeneratedToken(part, logprob, (Alternative(part, logprob), *others)))
    return tuple(found)


def generated(text: str, prompt: str = "") -> Generated:
    """A text as a live worker tells it."""
    return Generated(prompt, text, tokens(text), True)


def run(*, is_chat: bool = False, default: str = DEFAULT, pushed: str = STEERED, **asked: Any) -> Run:
    """A saved run; keyword arguments replace what was asked."""
    said = (Turn(role="user", content="Who <b>are</b> you?"), Turn(role="assistant", content="A general."))
    before = (Turn(role="system", content="Be brief."), *said, Turn(role="user", content="And then?"))
    given = {"steered_chat": before, "default_chat": before} if is_chat else {"prompt": "The general sent for\n"}
    features = (
        SteeredFeature(source=samples.SOURCE, index=12_345, strength=42.6),
        SteeredFeature(source=samples.SOURCE, index=77, strength=-3.0, method="CLAMP"),
        SteeredFeature(source="7-res-jb", index=5, method="ABLATE"),
        SteeredFeature(source=VECTOR.source, index=VECTOR.index, strength=12.5, method="PROJECTION_CAP"),
        SteeredFeature(source="7-res-jb", method="RECONSTRUCT"),
    )
    sampling = Sampling(n_tokens=24, temperature=0.5, top_p=0.9, seed=7, n_alternatives=4)
    full = {"features": features, "sampling": sampling, **given, **asked}
    answer = SteerReply(id="x", steered=generated(pushed), default=generated(default), is_done=True)
    return Run(
        "Zm9vYmFy",
        None,
        Asked(kind="chat" if is_chat else "completion", model=samples.MODEL, **full),
        answer,
        samples.AT,
    )


def run_context(saved: Run) -> steered.SteeredContext:
    """The page of a saved run."""
    return steered.context(saved, samples.model(), ROWS, {VECTOR.ref: VECTOR.label})


def pages() -> dict[str, tuple[str, Any]]:
    """Template and context by name."""
    chosen = [f"{samples.SOURCE}/12345:42.6", f"{samples.SOURCE}/77:3:CLAMP", "7-res-jb/5:-20:ABLATE"]
    wrong = ["6-res-jb/99999", "6-none/1", "brigade", "6-res-jb/1:2:NONE"]
    vector = f"{VECTOR.source}/{VECTOR.index}"
    return {
        "steer": ("pages/steer.html", context(others=2)),
        "steer-chosen": (
            "pages/steer.html",
            context(feature=[*chosen, vector], prompt="The general sent for <b>", through=["6-mlp-topk"], seed=7),
        ),
        "steer-chat": (
            "pages/steer.html", context(feature=chosen[:1], mode="chat", system="Be brief.", prompt="Who are you?")
        ),
        "steer-without-worker": ("pages/steer.html", context(feature=wrong, through=["6-none"], is_live=False)),
        "steered": ("pages/steer_run.html", run_context(run())),
        "steered-chat": ("pages/steer_run.html", run_context(run(is_chat=True))),
        "steered-nothing": ("pages/steer_run.html", run_context(run(features=(), pushed=DEFAULT))),
    }  # fmt: skip
