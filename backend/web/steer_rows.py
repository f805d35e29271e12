"""Steered texts, presets and vectors in Neuronpedia's words: the bodies that `steer_schemas` describes.

Made as plain rows, for a stream sends many of them; the tests hold every one against its schema.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from backend import names
from backend.formats import messages, neuronpedia
from backend.formats.neuronpedia import Row
from backend.services.steer_presets import Preset, PresetFeature, Presets
from backend.services.steering import MODEL_ROLE, Asked, Run
from backend.services.vectors import VectorView


@dataclass(frozen=True, slots=True)
class Sent:
    """What stands around the texts."""

    site: str
    """Address of the site, which links begin with."""
    limit: str | None
    """Requests that could be made at once; None where they are not counted."""
    run_id: str | None = None
    """Of the saved run, once there is one."""
    is_done: bool = True
    """Nothing follows: alternatives are told. Sent with every event they would be most of a stream's bytes."""


def steered(asked: Asked, answer: messages.SteerReply, sent: Sent) -> Row:
    """The answer to a request, so far."""
    return _completion(asked, answer, sent) if asked.kind == "completion" else _chat(asked, answer, sent)


def saved(run: Run, sent: Sent, *, can_delete: bool) -> Row:
    """A saved run, a completion as a chat is shown."""
    asked, answer = run.asked, run.answer
    return {
        **_chat(asked, answer, sent),
        "inputText": asked.prompt if asked.kind == "completion" else answer.steered.prompt,
        "outputTextIncludesPrompt": asked.kind == "chat",
        "features": [
            {
                "modelId": asked.model, "layer": each.source, "index": str(each.index), "strength": each.strength or 0.0,
                "method": each.method or asked.method, "steerOutputId": run.id,
            }
            for each in asked.features
        ],
        "kind": asked.kind,
        "modelId": asked.model,
        "defaultChatMessages": _turns(asked.default_chat),
        "steeredChatMessages": _turns(asked.steered_chat),
        "createdAt": run.created_at,
        "canDelete": can_delete,
    }  # fmt: skip


def presets(found: Presets) -> Row:
    """What a steering page offers to begin with."""
    shown = [_preset(found.model.id, preset) for preset in found.presets]
    return {
        "model": neuronpedia.model_row(found.model),
        "defaultPrompt": found.prompts[0].text,
        "promptPresets": [{"name": prompt.name, "prompt": prompt.text} for prompt in found.prompts],
        "featurePresets": shown,
        "defaultSelectedFeatures": shown[0]["features"] if shown else [],
    }


def vector(view: VectorView) -> Row:
    """A vector of somebody's own."""
    return {
        "modelId": view.model, "layer": view.source, "index": str(view.index), "vectorLabel": view.label,
        "createdAt": view.created_at, "creatorId": "", "vectorDefaultSteerStrength": view.default_strength,
        "hookName": view.hook_point, "vector": list(view.values),
    }  # fmt: skip


def added_vector(view: VectorView) -> Row:
    """The same, under the names that adding one answers with."""
    return {
        "modelId": view.model, "source": view.source, "index": str(view.index), "label": view.label,
        "createdAt": view.created_at, "defaultSteerStrength": view.default_strength, "hookName": view.hook_point,
        "values": list(view.values),
    }  # fmt: skip


def decoder_row(model: str, source: str, index: int, found: messages.DirectionReply, *, strength: float) -> Row:
    """What a feature writes, as a vector is shown."""
    return {
        "modelId": model, "layer": source, "index": str(index), "vectorLabel": None, "createdAt": None, "creatorId": "",
        "vectorDefaultSteerStrength": strength, "hookName": found.hook_point, "vector": list(found.vector),
    }  # fmt: skip


def _completion(asked: Asked, answer: messages.SteerReply, sent: Sent) -> Row:
    return {
        "STEERED": answer.steered.text,
        "DEFAULT": answer.default.text,
        "steeredLogProbs": _logprobs(asked, answer.steered, sent),
        "defaultLogProbs": _logprobs(asked, answer.default, sent),
        **_address(sent),
    }


def _chat(asked: Asked, answer: messages.SteerReply, sent: Sent) -> Row:
    return {
        "STEERED": _text(asked, asked.steered_chat, answer.steered, sent),
        "DEFAULT": _text(asked, asked.default_chat, answer.default, sent),
        **_address(sent),
        "settings": {
            "temperature": asked.sampling.temperature,
            "n_tokens": asked.sampling.n_tokens,
            "freq_penalty": asked.sampling.frequency_penalty,
            "seed": asked.sampling.seed,
            "strength_multiplier": asked.strength_multiplier,
            "steer_special_tokens": asked.are_special_tokens_pushed,
            "steer_method": asked.method,
            "top_p": asked.sampling.top_p,
            "n_logprobs": asked.sampling.n_alternatives,
        },
    }


def _address(sent: Sent) -> Row:
    url = None if sent.run_id is None else sent.site + names.steer_run_url(sent.run_id)
    return {"id": sent.run_id, "shareUrl": url, "limit": sent.limit}


def _text(asked: Asked, chat: Sequence[messages.Turn], generated: messages.Generated, sent: Sent) -> Row:
    whole = None
    if asked.kind == "chat":
        role = MODEL_ROLE if any(turn.role == MODEL_ROLE for turn in chat) else "assistant"
        whole = [*_turns(chat), {"role": role, "content": generated.text}]
    raw = generated.text if whole is None else generated.prompt + generated.text
    return {"raw": raw, "chatTemplate": whole, "chat_template": whole, "logprobs": _logprobs(asked, generated, sent)}


def _turns(chat: Sequence[messages.Turn]) -> list[Row]:
    return [{"role": turn.role, "content": turn.content} for turn in chat]


def _logprobs(asked: Asked, generated: messages.Generated, sent: Sent) -> list[Row] | None:
    if asked.sampling.n_alternatives == 0:
        return None
    return [
        {"token": each.token, "logprob": each.logprob, "topLogprobs": _alternatives(each) if sent.is_done else []}
        for each in generated.tokens
    ]


def _alternatives(token: messages.GeneratedToken) -> list[Row]:
    return [{"token": each.token, "logprob": each.logprob} for each in token.alternatives]


def _preset(model: str, preset: Preset) -> Row:
    features = [_preset_feature(model, each) for each in preset.features]
    return {"name": preset.name, "features": features, "isUserVector": preset.is_own_vector}


def _preset_feature(model: str, feature: PresetFeature) -> Row:
    return {
        "modelId": model, "layer": feature.source, "index": feature.index, "strength": feature.strength,
        "explanation": feature.explanation,
    }  # fmt: skip
