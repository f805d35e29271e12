from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend import names
from backend.formats.messages import Sampling
from backend.names import FeatureRef
from backend.services.steering import SteeredFeature
from backend.web import definitions
from backend.web.pages import steered, steering
from tests.pages import dom, samples, steering_samples

METHODS = [method.id for method in steering.METHODS]
sources = st.from_regex(r"[0-9]{1,2}-[a-z0-9._-]{1,10}", fullmatch=True)


def asked(url: str) -> steering.Asked:
    """As the server reads an address."""
    query = parse_qs(urlsplit(url).query)
    lists = ("feature", "through")
    return steering.Asked(**{key: value if key in lists else value[0] for key, value in query.items()})


def words(element: dom.Element) -> str:
    return " ".join(element.text.split())


# --- what is in the address ----------------------------------------------------------------------------------------


@given(
    sources,
    st.integers(0, 10**9 - 1),
    st.floats(-1e6, 1e6, allow_subnormal=False) | st.none(),
    st.sampled_from(METHODS),
)
def test_a_feature_comes_back_from_the_address(source, index, strength, method):
    text = names.steered(source, index, strength, "" if method == steering.ADD else method)
    (chosen,), problems = steering.read_features("m", [text])
    assert problems == []
    assert (chosen.ref, chosen.method) == (FeatureRef("m", source, index), method)
    if strength is not None:
        assert chosen.strength == pytest.approx(strength, rel=1e-9)


@pytest.mark.parametrize(
    "text",
    [
        "", "brigade", "6-res-jb", "6-res-jb/x", "6-res-jb/-1", "m/6-res-jb/1", "s/1:", "s/1:nan", "s/1:1e9x", "s/1:2:add",
        "s/" + "9" * 10, "s/1:9e999", "s/1:9e99999",
    ],
)  # fmt: skip
def test_what_names_no_feature_is_told(text):
    chosen, (problem,) = steering.read_features("m", [text, "6-res-jb/1"])
    assert [str(each.ref) for each in chosen] == ["m/6-res-jb/1"]
    assert f"'{text}'" in problem
    assert "SOURCE/INDEX:STRENGTH:METHOD" in problem


def test_a_feature_named_twice_is_taken_once_and_more_than_can_be_are_told():
    chosen, problems = steering.read_features("m", ["s/1:5", "s/1:7"])
    assert ([each.strength for each in chosen], problems) == ([5.0], [])
    chosen, (problem,) = steering.read_features("m", [f"s/{i}" for i in range(steering.MOST_FEATURES + 1)])
    assert len(chosen) == steering.MOST_FEATURES
    assert str(steering.MOST_FEATURES) in problem


def test_a_feature_s_page_leads_here_with_three_times_its_largest_activation(rendered):
    (link,) = [a for a in rendered("feature").all("a") if a.text == "steer with this"]
    assert link["href"] == f"/{samples.MODEL}/steer?feature={samples.SOURCE}/12345:42.6"
    (link,) = [a for a in rendered("dead").all("a") if a.text == "steer with this"]
    assert link["href"].endswith(f"/77:{steering.UNKNOWN_STRENGTH:g}")


def test_a_model_s_page_leads_here(rendered):
    assert [a["href"] for a in rendered("model").all("a") if a.text == "steer"] == [f"/{samples.MODEL}/steer"]


# --- choosing ------------------------------------------------------------------------------------------------------


def test_a_card_says_what_the_feature_is_and_how_it_is_pushed(rendered):
    first, clamped, ablated, vector = rendered("steer-chosen").all("li", "push")
    assert first["data-push"] == "6-res-jb/12345"
    assert first.one("a", "ref")["href"] == names.feature_url(samples.MODEL, samples.SOURCE, 12_345)
    assert "max 14.21" in words(first)
    assert "fires on ·brigade" in words(first)
    assert "promotes ·Brigade" in words(first)
    assert first.one("input", type="number")["value"] == "42.6"
    slider = first.one("input", type="range")
    assert (float(slider["min"]), float(slider["max"])) == (-43, 143)
    presets = {button.text: button for button in first.one("p", "presets").all("button")}
    assert {name: float(each["data-preset"]) for name, each in presets.items()} == {
        "−1×": -14.2, "0×": 0, "½×": 7.11, "1×": 14.2, "3×": 42.6, "10×": 142,
    }  # fmt: skip
    assert [name for name, each in presets.items() if each["aria-pressed"] == "true"] == ["3×"]
    assert clamped.one("input", type="number")["value"] == "3"
    assert (clamped.one("input", type="range")["min"], clamped.one("input", type="range")["max"]) == ("-3.0", "10.0")
    assert all("disabled" in each.attributes for each in ablated.all("input"))
    assert not ablated.all("p", "presets")
    assert [a.text for a in vector.all("a")] == []
    assert "talks about the military" in words(vector)
    assert vector.one("input", type="number")["value"] == "12.5"


def test_only_what_has_activations_can_be_clamped(rendered):
    cards = rendered("steer-chosen").all("li", "push")
    assert ["disabled" in card.one("option", value="CLAMP").attributes for card in cards] == [False, False, True, True]


@given(st.floats(1e-4, 1e4), st.floats(-1e5, 1e5), st.sampled_from([steering.ADD, steering.CLAMP]))
def test_a_slider_reaches_the_strength_and_ten_times_the_largest_activation(greatest, strength, method):
    card = steering.Card(FeatureRef("m", "s", 1), "", (), (), greatest, strength, method)
    slider = card.slider
    assert slider.low <= strength <= slider.high
    assert slider.high >= 9.99 * card.unit
    assert slider.step > 0
    assert slider.low / slider.step == pytest.approx(round(slider.low / slider.step), rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("greatest", [0.0, 1e-30, 14.2134, 1e30])
def test_every_feature_has_a_default_strength_and_a_slider(greatest):
    strength = steering.default_strength(greatest)
    assert strength > 0
    card = steering.Card(FeatureRef("m", "s", 1), "", (), (), greatest, strength, steering.ADD)
    assert card.slider.low < strength < card.slider.high
    assert bool(card.presets) == (greatest > 0)


def test_a_feature_without_a_strength_starts_at_the_default_of_its_method():
    first, clamped, vector = steering_samples.context(
        feature=[
            "6-res-jb/12345",
            "7-res-jb/1:3:CLAMP",
            f"{steering_samples.VECTOR.source}/{steering_samples.VECTOR.index}",
        ]
    ).cards
    assert (first.strength, clamped.strength, vector.strength) == (42.6, 3.0, 12.5)


def test_what_the_address_asks_for_and_is_not_there_is_told_on_a_page_that_works(rendered):
    page = rendered("steer-without-worker")
    told = [p.text for p in page.one("div", "problem").all("p")]
    assert [next(word for word in ("brigade", "NONE", "99999", "6-none") if word in text) for text in told] == [
        "brigade", "NONE", "99999", "6-none", "6-none",
    ]  # fmt: skip
    assert "No live worker runs" in page.one("p", "partial", role="status").text
    assert not page.all("li", "push")


def test_everything_in_the_address_is_in_the_form(rendered):
    page = rendered("steer-chat")
    assert [e["value"] for e in page.all("input", type="radio") if "checked" in e.attributes] == ["chat"]
    assert page.one("input", id="system")["value"] == "Be brief."
    assert page.one("textarea").text == "\nWho are you?"  # browsers leave the first line break out
    chosen = rendered("steer-chosen")
    assert [e["value"] for e in chosen.all("input", name="through") if "checked" in e.attributes] == ["6-mlp-topk"]
    assert (chosen.one("input", id="seed")["value"], chosen.one("input", id="seed")["data-default"]) == ("7", "0")
    assert page.one("nav", "trail").text == f"/{samples.MODEL}/steer"


def test_other_models_are_a_step_away(rendered):
    links = [a["href"] for a in rendered("steer").one("nav", "steps").all("a")]
    assert links == ["/model-0/steer", "/model-1/steer"]


def test_vectors_of_one_s_own_and_suggestions_can_be_chosen(rendered):
    vector, *presets = [b for b in rendered("steer").all("button") if b.get("data-add")]
    assert (vector["data-add"], vector.text) == ("6-neuronpedia-resid-post/123456789", "talks about the military")
    assert [(b["data-add"], b.text) for b in presets] == [
        ("6-res-jb/12345:43", "Brigade, brigade, Brig"), ("6-res-jb/77:1.3", "garden, path, <b>"),
    ]  # fmt: skip
    assert len([b for b in rendered("steer-chosen").all("button") if b.get("data-add")]) == 1


# --- a saved run ---------------------------------------------------------------------------------------------------


def test_a_saved_run_shows_both_texts_whole_and_marks_what_differs(rendered):
    page = rendered("steered")
    default, steered_ = page.one("div", id="default"), page.one("div", id="steered")
    assert default.text == "The general sent for\n" + steering_samples.DEFAULT
    assert steered_.text == "The general sent for\n" + steering_samples.STEERED
    own = [span.text for span in steered_.all("span", "is-own")]
    assert own[:3] == [" of", " the", " regiment"]
    assert " second" not in own
    assert {" before", " dawn"} <= {span.text for span in default.all("span", "is-own")}
    assert "they differ from token 4 on" in words(page.one("p", "said"))


def test_a_saved_chat_shows_what_was_said_before(rendered):
    page = rendered("steered-chat")
    told = [p.text for p in page.one("div", id="steered").all("p")]
    assert told == ["Be brief.", "Who <b>are</b> you?", "A general.", "And then?", steering_samples.STEERED]


def test_a_run_without_features_says_that_nothing_differs(rendered):
    page = rendered("steered-nothing")
    assert "not one differs" in words(page.one("p", "said"))
    assert "both texts are the model's own" in words(page.one("ul", "cards"))
    assert not page.all("span", "is-own")


def test_texts_that_answer_to_different_chats_are_not_compared():
    first, second = steering_samples.run(is_chat=True).asked.steered_chat[:2], ()
    run = steering_samples.run(is_chat=True, default_chat=first, steered_chat=second)
    assert not steering_samples.run_context(run).is_comparable
    assert steering_samples.run_context(steering_samples.run(is_chat=True)).is_comparable


def test_a_saved_run_says_how_each_feature_was_pushed(rendered):
    cards = [words(card) for card in rendered("steered").all("li", "push")]
    starts = [
        "6-res-jb/12345 add 42.6 fires on ·brigade", "6-res-jb/77 clamp −3 × its max", "7-res-jb/5 ablate What",
        "6-neuronpedia-resid-post/123456789 talks about the military cap 12.5", "7-res-jb reconstruction Every",
    ]  # fmt: skip
    assert [card[: len(start)] for card, start in zip(cards, starts, strict=True)] == starts


def test_trying_a_run_oneself_starts_with_all_its_settings():
    again = asked(steered.try_url(steering_samples.run().asked))
    assert again.feature == [
        "6-res-jb/12345:42.6", "6-res-jb/77:-3:CLAMP", "7-res-jb/5:0:ABLATE",
        "6-neuronpedia-resid-post/123456789:12.5:PROJECTION_CAP",
    ]  # fmt: skip
    assert again.through == ["7-res-jb"]
    assert (again.prompt, again.mode, again.n_tokens, again.top_p, again.seed) == (
        "The general sent for\n",
        "text",
        24,
        0.9,
        7,
    )
    assert (again.temperature, again.freq_penalty) == (0.5, 0)
    chat = asked(steered.try_url(steering_samples.run(is_chat=True, are_special_tokens_pushed=False).asked))
    assert (chat.mode, chat.system, chat.prompt, chat.special) == ("chat", "Be brief.", "Who <b>are</b> you?", False)


def test_a_multiplier_and_a_method_of_the_whole_request_are_in_the_strengths_to_try():
    features = (SteeredFeature(source="s", index=1, strength=2.0), SteeredFeature(source="s", index=2))
    run = steering_samples.run(features=features, strength_multiplier=2.5, method="PROJECTION_CAP")
    assert asked(steered.try_url(run.asked)).feature == ["s/1:5:PROJECTION_CAP", "s/2:0:PROJECTION_CAP"]
    assert [pushed.strength for pushed in steering_samples.run_context(run).pushed] == [5.0, None]


def test_the_page_s_own_sampling_is_left_out_of_an_address():
    d = steering.DEFAULTS
    usual = Sampling(n_tokens=d.n_tokens, temperature=d.temperature, top_p=d.top_p, seed=d.seed, n_alternatives=5)
    run = steering_samples.run(features=(), sampling=usual, prompt="x")
    assert parse_qsl(urlsplit(steered.try_url(run.asked)).query) == [("prompt", "x")]


@pytest.mark.parametrize("term", ["steering", "steering-strength"])
def test_words_of_steering_are_defined(term, rendered):
    assert definitions.get(term).short
    assert any(f"#{term}" in (a.get("href") or "") for a in rendered("steer-chosen").all("a", "term"))
