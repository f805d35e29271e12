"""Steering over REST: what the live worker is asked, what callers are answered, and the runs that are kept."""

import json
import socket
import threading
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy import func, select, update

from backend.db.tables import Feature, Model, Source, SteerRun, WorkerReport
from backend.formats import messages
from backend.formats.messages import Push, Turn
from backend.services import catalog, inference
from backend.services.rates import Rates
from backend.web import schemas, steer_schemas
from tests import hosted, stand_in
from tests.hosted import DEAD, MODEL, RICH, SOURCE
from tests.signing_in import ORIGIN, browser, person
from tests.stand_in import generated
from tests.stand_in import redis_url as redis_url
from tests.stand_in import worker as worker

BARE = "3-bare"
"""A source without dashboards."""
STEERED, DEFAULT = " a +1", " a\0é"
CHAT = [{"role": "user", "content": "Hello"}]


@pytest.fixture(autouse=True)
def made(session):
    made = hosted.host(session)
    hosted.add_source(session, source=BARE)
    session.commit()
    return made


def feature(**given: Any) -> dict[str, Any]:
    return {"modelId": MODEL, "layer": SOURCE, "index": RICH, "strength": 5} | given


def body(**given: Any) -> dict[str, Any]:
    """As Neuronpedia's clients send it."""
    whole = {
        "modelId": MODEL, "prompt": "The cat", "features": [feature()], "temperature": 0.5, "n_tokens": 8,
        "freq_penalty": 2, "seed": 42, "strength_multiplier": 4,
    }  # fmt: skip
    return {key: value for key, value in (whole | given).items() if value is not ...}


def chat(**given: Any) -> dict[str, Any]:
    whole = body(prompt=..., defaultChatMessages=CHAT, steeredChatMessages=CHAT, steer_special_tokens=False)
    return whole | given


def refused(response, status: int) -> str:
    told = schemas.Error.model_validate(response.json())
    assert response.status_code == status, told
    assert told.error == told.message
    return told.error


def events(text: str) -> list[dict[str, Any]]:
    """Of a stream that ended properly."""
    *found, rest = text.split("\n\n")
    assert rest == ""
    assert all(event.startswith("data: ") and "\n" not in event for event in found)
    return [json.loads(event.removeprefix("data: ")) for event in found]


def n_runs(session) -> int:
    return session.scalar(select(func.count()).select_from(SteerRun))


# --- what is asked and answered ------------------------------------------------------------------------------------


def test_a_completion_is_answered_in_neuronpedia_s_words(api, worker):
    response = api.post("steer", json=body())
    answer = response.json()
    steer_schemas.SteeredCompletion.model_validate(answer)
    assert list(answer) == ["STEERED", "DEFAULT", "steeredLogProbs", "defaultLogProbs", "id", "shareUrl", "limit"]
    assert (answer["STEERED"], answer["DEFAULT"]) == (STEERED, DEFAULT)
    assert answer["steeredLogProbs"][0] == {
        "token": " a",
        "logprob": -1,
        "topLogprobs": [{"token": " a", "logprob": -1}, {"token": "x", "logprob": -9}],
    }
    assert [token["token"] for token in answer["defaultLogProbs"]] == [" a", "\0é"]
    assert answer["shareUrl"] == f"http://localhost/steer/{answer['id']}"
    assert len(answer["id"]) == 22
    assert answer["limit"] is None
    (asked,) = worker.steered
    assert (asked.model, asked.prompt, asked.steered_chat, asked.is_streamed) == (MODEL, "The cat", (), False)
    assert asked.pushes == (Push(method="add", strength=20, source=SOURCE, index=RICH),)
    assert asked.sampling == messages.Sampling(
        n_tokens=8, temperature=0.5, frequency_penalty=2, seed=42, n_alternatives=5
    )
    assert asked.are_special_tokens_pushed
    assert asked.versions.keys() == {"", SOURCE}


def test_what_is_left_out_has_a_default(api, worker):
    whole = {
        "modelId": MODEL,
        "prompt": "The cat",
        "features": [feature(modelId=None, strength=5)],
        "freq_penalty": None,
    }
    assert api.post("steer", json=whole).status_code == 200
    (asked,) = worker.steered
    assert asked.sampling == messages.Sampling(n_tokens=48, temperature=0.5, seed=16, n_alternatives=5)
    assert asked.pushes == (Push(method="add", strength=5, source=SOURCE, index=RICH),)


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("steer/", feature()),
        ("steer", {"source": SOURCE, "index": str(RICH), "strength": "5"}),
        ("steer", feature(modelId=None, explanation="x", hasVector=False)),
        ("steer", feature(method="simple_additive")),
    ],
)
def test_other_spellings_ask_the_same(api, worker, path, given):
    assert api.post(path, json=body(features=[given], version=2, seed="42")).status_code == 200
    assert worker.steered[0].pushes == (Push(method="add", strength=20, source=SOURCE, index=RICH),)
    assert worker.steered[0].sampling.seed == 42


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("SIMPLE_ADDITIVE", Push(method="add", strength=20, source=SOURCE, index=RICH)),
        ("ORTHOGONAL_DECOMP", Push(method="orthogonal", strength=20, source=SOURCE, index=RICH)),
        ("PROJECTION_CAP", Push(method="cap", strength=20, source=SOURCE, index=RICH)),
        ("CLAMP", Push(method="clamp", strength=200, source=SOURCE, index=RICH)),
        ("ABLATE", Push(method="ablate", source=SOURCE, index=RICH)),
        ("RECONSTRUCT", Push(method="reconstruct", source=SOURCE, index=RICH)),
    ],
)
def test_each_method_is_the_worker_s(api, worker, method, expected):
    """A clamp counts in multiples of the feature's largest activation, 10."""
    assert api.post("steer", json=body(steer_method=method)).status_code == 200
    assert worker.steered[0].pushes == (expected,)


def test_a_feature_s_own_method_wins(api, worker):
    features = [feature(), feature(index=5, method="CLAMP", strength=0.5), {"layer": BARE, "method": "RECONSTRUCT"}]
    assert api.post("steer", json=body(features=features, steer_method="ABLATE")).status_code == 200
    assert worker.steered[0].pushes == (
        Push(method="ablate", source=SOURCE, index=RICH),
        Push(method="clamp", strength=20, source=SOURCE, index=5),
        Push(method="reconstruct", source=BARE),
    )
    assert worker.steered[0].versions.keys() == {"", SOURCE, BARE}


def test_a_clamp_needs_a_largest_activation(api, worker):
    text = refused(api.post("steer", json=body(features=[feature(layer=BARE, method="CLAMP")])), 422)
    assert f"{MODEL}/{BARE}/{RICH}" in text
    assert "no dashboard" in text
    text = refused(api.post("steer", json=body(features=[feature(index=DEAD, method="CLAMP")])), 422)
    assert "never fired" in text
    assert not worker.asked


def test_without_features_both_texts_are_the_model_s(api, worker):
    assert api.post("steer", json=body(features=...)).status_code == 200
    assert worker.steered[0].pushes == ()
    assert worker.steered[0].versions.keys() == {""}


def test_log_probabilities_are_left_out_on_request(api, worker):
    answer = api.post("steer", json=body(n_logprobs=0)).json()
    steer_schemas.SteeredCompletion.model_validate(answer)
    assert (answer["steeredLogProbs"], answer["defaultLogProbs"]) == (None, None)
    assert worker.steered[0].sampling.n_alternatives == 0


@pytest.mark.parametrize("path", ["steer", "steer-chat"])
def test_what_is_not_hosted_is_not_found(api, worker, path):
    whole = body() if path == "steer" else chat()
    for features in (
        [feature(layer="9-none")],
        [feature(), feature(index=6)],
        [feature(layer="2-neuronpedia-resid-post")],
    ):
        refused(api.post(path, json=whole | {"features": features}), 404)
    assert "0 to 5" in refused(api.post(path, json=whole | {"features": [feature(index=6)]}), 404)
    refused(api.post(path, json=whole | {"modelId": "none", "features": []}), 404)
    assert not worker.asked


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"prompt": ...}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"modelId": ...}, "modelId"),
        ({"modelId": "a b"}, "modelId"),
        ({"n_tokens": 0}, "n_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"freq_penalty": -3}, "freq_penalty"),
        ({"seed": 2**60}, "seed"),
        ({"n_logprobs": 11}, "n_logprobs"),
        ({"strength_multiplier": "inf"}, "strength_multiplier"),
        ({"strength_multiplier": 1e7}, "strength_multiplier"),
        ({"features": [feature(strength=-1e7)]}, "features.0.strength"),
        ({"steer_method": "HARDER"}, "steer_method"),
        ({"features": [feature(strength=...)]}, "strength"),
        ({"features": [feature(strength=None)]}, "no strength"),
        ({"features": [feature(index=None)]}, "no index"),
        ({"features": [feature(index=-1)]}, "features.0.index"),
        ({"features": [feature(modelId="another")]}, "another"),
        ({"features": [{"index": 1, "strength": 1}]}, "features.0.layer"),
        ({"features": [feature()] * 101}, "features"),
        ({"features": "all"}, "features"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(api, worker, wrong, told):
    given = body(**wrong)
    for each in given["features"] if isinstance(given.get("features"), list) else []:
        for key in [key for key, value in each.items() if value is ...]:
            del each[key]
    assert told in refused(api.post("steer", json=given), 400)
    assert not worker.asked


def test_half_a_character_and_what_is_no_object_are_refused(api, worker):
    headers = {"Content-Type": "application/json"}
    packed = json.dumps(body(prompt="x")).replace('"x"', '"\\ud800"')
    for content in (packed, "[]", "5", "{", '"x"'):
        refused(api.post("steer", content=content, headers=headers), 400)
        refused(api.post("steer-chat", content=content, headers=headers), 400)
    assert not worker.asked


def test_what_the_worker_refuses_is_told_with_its_status(api, worker, session):
    text = "Text too long: 40 tokens, max is 32"
    worker.script = lambda request: [messages.ErrorReply(id="", code="invalid_input", error=text)]
    assert refused(api.post("steer", json=body()), 400) == text
    assert refused(api.post("steer", json=body(stream=True)), 400) == text
    assert refused(api.post("steer-chat", json=chat(stream=True)), 400) == text
    assert n_runs(session) == 0


def test_without_a_live_worker_the_answer_says_what_starts_one(api):
    for given in ({}, {"stream": True}):
        assert "eyepiece up" in refused(api.post("steer", json=body(**given)), 503)
        refused(api.post("steer-chat", json=chat(**given)), 503)


def test_a_full_list_is_refused_with_when_to_come_back(api, worker):
    worker.stop()
    worker.queue.rpush(inference.REQUESTS, *[b"{}"] * 8)
    for stream in (False, True):
        response = api.post("steer", json=body(stream=stream))
        refused(response, 429)
        assert int(response.headers["Retry-After"]) >= 1


def test_the_requests_left_are_told_where_they_are_counted(api, app, worker, redis_url):
    app.state.settings = app.state.settings.model_copy(update={"requests_per_minute": 100})
    app.state.rates = Rates(redis_url)
    for given in ({}, {"stream": True, "seed": 1}):
        response = api.post("steer", json=body(**given))
        answer = events(response.text)[-1] if given else response.json()
        assert answer["limit"] == response.headers["x-limit-remaining"]
        assert 0 < int(answer["limit"]) < 100


# --- chats ---------------------------------------------------------------------------------------------------------


def test_a_chat_is_answered_in_neuronpedia_s_words(api, worker):
    answer = api.post("steer-chat", json=chat(steer_method="CLAMP", top_p=0.9)).json()
    steer_schemas.SteeredChat.model_validate(answer)
    assert answer["STEERED"]["raw"] == f"<user>Hello{STEERED}"
    assert answer["DEFAULT"]["raw"] == f"<user>Hello{DEFAULT}"
    assert answer["STEERED"]["chatTemplate"] == [*CHAT, {"role": "assistant", "content": STEERED}]
    assert answer["STEERED"]["chat_template"] == answer["STEERED"]["chatTemplate"]
    assert [token["token"] for token in answer["STEERED"]["logprobs"]] == [" a", " +1"]
    assert answer["settings"] == {
        "temperature": 0.5, "n_tokens": 8, "freq_penalty": 2, "seed": 42, "strength_multiplier": 4,
        "steer_special_tokens": False, "steer_method": "CLAMP", "top_p": 0.9, "n_logprobs": 5,
    }  # fmt: skip
    (asked,) = worker.steered
    turns = (Turn(role="user", content="Hello"),)
    assert (asked.prompt, asked.steered_chat, asked.default_chat) == ("", turns, turns)
    assert not asked.are_special_tokens_pushed


def test_one_conversation_stands_for_both_and_the_model_s_role_is_kept(api, worker):
    longer = [*CHAT, {"role": "model", "content": "Hi"}, {"role": "user", "content": "Bye"}]
    answer = api.post("steer-chat", json=chat(steeredChatMessages=longer, defaultChatMessages=None)).json()
    (asked,) = worker.steered
    assert [turn.role for turn in asked.steered_chat] == ["user", "assistant", "user"]
    assert asked.default_chat == asked.steered_chat
    assert answer["DEFAULT"]["chatTemplate"] == [*longer, {"role": "model", "content": DEFAULT}]


def test_conversations_may_differ(api, worker):
    other = [{"role": "system", "content": "Be brief"}, *CHAT]
    answer = api.post("steer-chat", json=chat(defaultChatMessages=other)).json()
    assert [turn.role for turn in worker.steered[0].default_chat] == ["system", "user"]
    assert len(answer["STEERED"]["chatTemplate"]) == 2
    assert len(answer["DEFAULT"]["chatTemplate"]) == 3


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"defaultChatMessages": [], "steeredChatMessages": None}, "must have a message"),
        ({"defaultChatMessages": [{"content": "x"}]}, "defaultChatMessages.0.role"),
        ({"steeredChatMessages": "Hello"}, "steeredChatMessages"),
        ({"isAssistantAxis": True}, "assistant axis"),
    ],
)
def test_what_is_no_chat_is_refused(api, worker, wrong, told):
    assert told in refused(api.post("steer-chat", json=chat(**wrong)), 400)
    assert not worker.asked


# --- streams -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "schema"), [("steer", "SteeredCompletion"), ("steer-chat", "SteeredChat")])
def test_a_stream_grows_into_the_answer(api, worker, path, schema):
    whole = body() if path == "steer" else chat()
    response = api.post(path, json=whole | {"stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert (response.headers["cache-control"], response.headers["x-accel-buffering"]) == ("no-store", "no")
    first, last = events(response.text)
    for event in (first, last):
        getattr(steer_schemas, schema).model_validate(event)
    assert worker.steered[0].is_streamed
    texts = [
        event["STEERED"] if path == "steer" else event["STEERED"]["chatTemplate"][-1]["content"]
        for event in (first, last)
    ]
    assert texts == [" a", STEERED]
    assert (first["id"], first["shareUrl"]) == (None, None)
    logprobs = [
        event["steeredLogProbs"] if path == "steer" else event["STEERED"]["logprobs"] for event in (first, last)
    ]
    assert logprobs[0] == [{"token": " a", "logprob": -1, "topLogprobs": []}]
    assert [token["token"] for token in logprobs[1]] == [" a", " +1"]
    assert all(token["topLogprobs"] for token in logprobs[1])
    assert api.post(path, json=whole).json() == last, "answered from the saved run"


def test_a_long_stream_is_sent_in_fewer_events_than_tokens(api, worker):
    """All its bytes are in proportion to the text: 200 tokens of two texts each at a time, then fewer and fewer events."""
    n = 600

    def long(request):
        for i in range(n):
            before, is_done = "t" * i, i == n - 1
            part = generated("t", before=before, is_done=is_done)
            yield stand_in.reply(part, part)

    worker.script = long
    found = events(api.post("steer", json=body(stream=True)).text)
    sizes = [len(event["STEERED"]) for event in found]
    assert sizes[:128] == list(range(1, 129))
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == n == len(found[-1]["steeredLogProbs"])
    assert 128 + 150 < len(found) < 128 + 300


def test_an_error_in_the_middle_of_a_stream_is_its_last_event(api, worker, session):
    def broken(request):
        yield next(iter(stand_in.two_texts(request)))
        yield messages.ErrorReply(id="", code="timed_out", error="It took too long.", hint="Ask for less.")

    worker.script = broken
    first, last = events(api.post("steer", json=body(stream=True)).text)
    assert first["STEERED"] == " a"
    assert last == {"error": "It took too long. Ask for less.", "message": "It took too long. Ask for less."}
    assert n_runs(session) == 0


def test_a_saved_answer_is_a_stream_of_one_event(api, worker):
    saved = api.post("steer", json=body()).json()
    (event,) = events(api.post("steer", json=body(stream=True)).text)
    assert event == saved
    assert len(worker.asked) == 1


@contextmanager
def serving(app):
    """The application behind a real server; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        finally:
            server.should_exit = True
            thread.join()


def test_tokens_are_sent_as_they_come_and_who_leaves_is_computed_for_no_more(app, worker, session):
    was_read = threading.Event()

    def patient(request):
        first, _ = stand_in.two_texts(request)
        yield first
        assert was_read.wait(stand_in.PATIENCE_S), "the first event was held back"
        worker.until_gone(request)

    worker.script = patient
    with serving(app) as url, httpx.Client(timeout=stand_in.PATIENCE_S) as client:
        with client.stream("POST", f"{url}/steer", json=body(stream=True)) as response:
            line = next(response.iter_lines())
            was_read.set()
        assert json.loads(line.removeprefix("data: "))["STEERED"] == " a"
    assert n_runs(session) == 0


def test_who_leaves_before_an_answer_is_computed_for_no_more(app, worker):
    was_asked = threading.Event()

    def patient(request):
        was_asked.set()
        worker.until_gone(request)
        return []

    worker.script = patient
    content = json.dumps(body()).encode()
    with serving(app) as url:
        host, port = url.removeprefix("http://").removesuffix("/api").split(":")
        with socket.create_connection((host, int(port))) as leaving:
            lines = ("POST /api/steer HTTP/1.1", "Host: localhost", "Content-Type: application/json")
            head = "\r\n".join((*lines, f"Content-Length: {len(content)}", "", ""))
            leaving.sendall(head.encode() + content)
            assert was_asked.wait(stand_in.PATIENCE_S)


# --- runs that are kept --------------------------------------------------------------------------------------------


def test_the_same_question_is_answered_from_the_saved_run(api, worker, session):
    saved = api.post("steer", json=body()).json()
    assert api.post("steer", json=body(stream=False, temperature="0.5")).json() == saved
    assert len(worker.asked) == n_runs(session) == 1
    session.execute(update(WorkerReport).values(seen_at="2020-01-01T00:00:00Z"))
    session.commit()
    assert api.post("steer", json=body()).json() == saved


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"prompt": "The dog"},
        {"n_logprobs": 1},
        {"features": [feature(strength=6)]},
        {"strength_multiplier": 3},
    ],
)
def test_another_question_is_asked(api, worker, session, changed):
    ids = {api.post("steer", json=body(**given)).json()["id"] for given in ({}, changed)}
    assert len(ids) == len(worker.asked) == n_runs(session) == 2


def test_changed_weights_or_dashboards_are_asked_again(api, worker, session, made):
    for change in (
        update(Source).where(Source.id == made.source_id).values(weights="/saes/other"),
        update(Model).where(Model.id == MODEL).values(weights="/models/other"),
    ):
        api.post("steer", json=body())
        n_before = len(worker.asked)
        session.execute(change)
        session.commit()
        api.post("steer", json=body())
        assert len(worker.asked) == n_before + 1


def test_a_clamp_is_asked_again_when_the_largest_activation_is_another(api, worker, session, made):
    api.post("steer", json=body(steer_method="CLAMP"))
    session.execute(update(Feature).where(Feature.index == RICH).values(max_activation=20.0))
    session.commit()
    api.post("steer", json=body(steer_method="CLAMP"))
    assert [asked.pushes[0].strength for asked in worker.steered] == [200, 400]


def test_a_completion_is_loaded_by_its_address(api, worker):
    saved = api.post(
        "steer", json=body(features=[feature(method="CLAMP"), {"layer": BARE, "method": "RECONSTRUCT"}])
    ).json()
    loaded = api.post("steer-load", json={"steerOutputId": saved["id"]}).json()
    steer_schemas.SavedSteer.model_validate(loaded)
    assert loaded["STEERED"] == {
        "raw": " a +2", "chatTemplate": None, "chat_template": None, "logprobs": saved["steeredLogProbs"],
    }  # fmt: skip
    assert loaded["DEFAULT"]["raw"] == DEFAULT
    assert {key: loaded[key] for key in ("id", "shareUrl", "limit")} == {
        key: saved[key] for key in ("id", "shareUrl", "limit")
    }
    assert (loaded["inputText"], loaded["outputTextIncludesPrompt"]) == ("The cat", False)
    assert (loaded["kind"], loaded["modelId"], loaded["canDelete"]) == ("completion", MODEL, True)
    assert loaded["features"] == [
        {"modelId": MODEL, "layer": SOURCE, "index": str(RICH), "strength": 5, "method": "CLAMP", "steerOutputId": saved["id"]},
        {"modelId": MODEL, "layer": BARE, "index": "0", "strength": 0, "method": "RECONSTRUCT", "steerOutputId": saved["id"]},
    ]  # fmt: skip
    assert loaded["settings"]["steer_method"] == "SIMPLE_ADDITIVE"


def test_a_chat_is_loaded_by_its_address(api, worker):
    saved = api.post("steer-chat", json=chat(prompt="")).json()
    loaded = api.post("steer-load", json={"steerOutputId": saved["id"]}).json()
    steer_schemas.SavedSteer.model_validate(loaded)
    assert {key: loaded[key] for key in saved} == saved
    assert loaded["inputText"] == "<user>Hello"
    assert loaded["outputTextIncludesPrompt"] is True
    assert loaded["steeredChatMessages"] == loaded["defaultChatMessages"] == CHAT


def test_a_prompt_may_hold_what_postgres_cannot(api, worker):
    saved = api.post("steer", json=body(prompt="a\0b 🐈")).json()
    assert api.post("steer-load", json={"steerOutputId": saved["id"]}).json()["inputText"] == "a\0b 🐈"


def test_a_deleted_run_is_gone(api, worker):
    saved = api.post("steer", json=body()).json()
    assert api.delete(f"steer/{saved['id']}").json() == {"id": saved["id"]}
    refused(api.post("steer-load", json={"steerOutputId": saved["id"]}), 404)
    refused(api.delete(f"steer/{saved['id']}"), 404)
    assert api.post("steer", json=body()).json()["id"] != saved["id"]


def test_only_so_many_runs_are_kept(api, app, worker, session):
    app.state.settings = app.state.settings.model_copy(update={"steer_runs": 3})
    ids = [api.post("steer", json=body(seed=seed)).json()["id"] for seed in range(5)]
    assert set(session.scalars(select(SteerRun.id))) == set(ids[2:])


def test_the_links_to_shared_runs_name_the_site(site, worker_of_site, session):
    somebody = person(session, site.state.settings, "somebody")
    client = browser(site, somebody)
    answer = client.post("/api/steer", json=body()).json()
    assert answer["shareUrl"] == f"{ORIGIN}/steer/{answer['id']}"


@pytest.fixture
def worker_of_site(site, session, redis_url, monkeypatch):
    monkeypatch.setattr(inference, "READ_S", stand_in.POLL_S)
    with stand_in.answering(site, session, redis_url) as made:
        yield made


def test_a_run_is_its_owner_s_and_others_read_it(site, worker_of_site, session):
    owner, other = (browser(site, person(session, site.state.settings, name)) for name in ("owner", "other"))
    nobody = browser(site)
    run = {"steerOutputId": owner.post("/api/steer", json=body()).json()["id"]}
    assert [client.post("/api/steer-load", json=run).json()["canDelete"] for client in (owner, other, nobody)] == [
        True, False, False,
    ]  # fmt: skip
    ids = {client.post("/api/steer", json=body()).json()["id"] for client in (owner, other, nobody, nobody)}
    assert len(ids) == len(worker_of_site.asked) == 3, "each has a run of their own, and nobody is one too"
    address = f"/api/steer/{run['steerOutputId']}"
    refused(nobody.delete(address), 401)
    refused(other.delete(address), 403)
    assert owner.delete(address).status_code == 200
    refused(other.post("/api/steer-load", json=run), 404)


def test_a_run_hides_with_its_source_and_its_owner_may_still_delete_it(site, worker_of_site, session, made):
    host, owner, other = (person(session, site.state.settings, name) for name in ("host", "owner", "other"))
    run = {"steerOutputId": browser(site, owner).post("/api/steer", json=body()).json()["id"]}
    own = session.scalar(select(SteerRun.owner_id))
    assert own == owner.id
    session.execute(update(Source).where(Source.id == made.source_id).values(visibility="private", owner_id=host.id))
    session.commit()
    for who in (owner, other, None):
        client = browser(site, who)
        refused(client.post("/api/steer-load", json=run), 404)
        refused(client.post("/api/steer", json=body()), 404)
    refused(browser(site, other).delete(f"/api/steer/{run['steerOutputId']}"), 404)
    assert browser(site, host).post("/api/steer-load", json=run).status_code == 200
    assert browser(site, owner).delete(f"/api/steer/{run['steerOutputId']}").status_code == 200


# --- presets -------------------------------------------------------------------------------------------------------


def test_presets_begin_with_clear_features_and_own_vectors(api, session, made):
    session.execute(
        update(Feature)
        .where(Feature.revision_id == made.revision_id, Feature.index == RICH)
        .values(density=0.005, promotes=[" cat", " cats", "x"])
    )
    session.commit()
    vector = {
        "modelId": MODEL,
        "layerNumber": 1,
        "hookType": "hook_resid_pre",
        "vector": [1.0] * 16,
        "vectorLabel": "mine",
    }
    added = api.post("vector/new", json=vector).json()["vector"]
    found = api.post("steer/presets", json={"modelId": MODEL}).json()
    steer_schemas.SteerPresets.model_validate(found)
    assert found["model"]["id"] == MODEL
    assert found["defaultPrompt"] == found["promptPresets"][0]["prompt"]
    preset, own = found["featurePresets"]
    assert preset == {
        "name": "cat, cats, x",
        "features": [
            {"modelId": MODEL, "layer": SOURCE, "index": RICH, "strength": 30, "explanation": "the, cat"},
        ],
        "isUserVector": False,
    }
    assert found["defaultSelectedFeatures"] == preset["features"]
    assert (own["name"], own["isUserVector"]) == ("mine", True)
    assert own["features"][0] == {
        "modelId": MODEL, "layer": added["source"], "index": int(added["index"]), "strength": 10, "explanation": "mine",
    }  # fmt: skip


def test_presets_of_a_model_without_dashboards_are_prompts(api, session):
    catalog.add_model(session, "bare", "/models/bare")
    session.commit()
    found = api.post("steer/presets", json={"modelId": "bare"}).json()
    steer_schemas.SteerPresets.model_validate(found)
    assert (found["featurePresets"], found["defaultSelectedFeatures"]) == ([], [])
    assert len(found["promptPresets"]) >= 3
    refused(api.post("steer/presets", json={"modelId": "none"}), 404)
