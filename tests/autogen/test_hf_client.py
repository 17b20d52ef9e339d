"""`HFModelClient` as AutoGen's wrapper calls it; no AutoGen is needed for that."""

import copy
import json
import pickle
import threading

import pytest
from live_engines import close_all, make_adapter
from pydantic import BaseModel
from scripted_engine import ScriptedEngine
from talkative import save_talkative_model
from updating_host import PAIRS, QUICK

from agent_finetune.config import ModelConfig
from agent_finetune.contracts import Result, Settings, Usage
from agent_finetune.errors import ConfigError, EngineError
from agent_finetune.records import Message
from autogen_finetune.hf_client import HFModelClient
from autogen_finetune.live import LiveModel
from autogen_finetune.responses import Asked, choice_of

ENTRY = {"model": "script", "model_client_cls": "HFModelClient"}
HELLO = [{"role": "user", "content": "Hello"}]
WEATHER = {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": WEATHER}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


class Sky(BaseModel):
    blue: bool


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    yield save_talkative_model(tmp_path_factory.mktemp("talkative"))
    close_all()


def client_of(*answers, entry=None, **options):
    live = LiveModel(ModelConfig(model="script"), engine=ScriptedEngine(*answers))
    return HFModelClient({**ENTRY, **(entry or {})}, live=live, **options)


def asked(client, **params):
    """The request that a call makes."""
    client.create({"messages": HELLO, **params})
    return client.live.engine.requests[-1]


def said(client, **params):
    return client.message_retrieval(client.create({"messages": HELLO, **params}))


def on(folder, tmp_path, entry=None, **options):
    written = {**ENTRY, "model": str(folder), "device": "cpu", "dtype": "float32", "max_tokens": 8}
    settings = Settings(cache_dir=tmp_path / "cache")
    store = str(tmp_path / "store")
    return HFModelClient({**written, **(entry or {})}, settings=settings, store=store, **options)


def test_every_role_of_a_conversation_reaches_the_model():
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Weather?", "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", **called("Paris")}]},
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
        {"role": "assistant", "content": "", "function_call": called("Rome")["function"]},
        {"role": "function", "name": "get_weather", "content": "rain"},
    ]
    seen = asked(client_of("Fine."), messages=messages).messages
    assert [(m.role, m.text) for m in seen] == [
        ("system", "Be kind."),
        ("user", "Weather?"),
        ("assistant", ""),
        ("tool", "sunny"),
        ("assistant", ""),
        ("tool", "rain"),
    ]
    assert [call.arguments for m in seen for call in m.tool_calls] == [
        {"city": "Paris"},
        {"city": "Rome"},
    ]


def called(city):
    arguments = json.dumps({"city": city})
    return {"type": "function", "function": {"name": "get_weather", "arguments": arguments}}


def test_a_response_has_what_autogen_reads():
    client = client_of("Good day.")
    response = client.create({"messages": HELLO, "stream": False})
    assert client.message_retrieval(response) == ["Good day."]
    assert response.choices[0].message.content == "Good day."
    assert response.choices[0].finish_reason == "stop"
    assert response.model == "script"
    assert (client.cost(response), response.cost) == (0.0, 0.0)
    usage = HFModelClient.get_usage(response)
    assert usage.keys() == {"prompt_tokens", "completion_tokens", "total_tokens", "cost", "model"}
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0


def test_the_id_of_a_response_is_the_engines(folder, tmp_path):
    client = on(folder, tmp_path)
    response = client.create({"messages": HELLO})
    assert [exchange.result.id for exchange in client.live.log()] == [response.id]


def test_a_tool_call_is_a_plain_message_that_a_host_may_change():
    client = client_of(f"Let me see.\n{CALL}")
    response = client.create({"messages": HELLO, "tools": [TOOL]})
    (message,) = client.message_retrieval(response)
    (call,) = message["tool_calls"]
    assert (message["role"], message["content"]) == ("assistant", "Let me see.")
    assert (call["type"], call["function"]["name"]) == ("function", "get_weather")
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}
    assert response.choices[0].finish_reason == "tool_calls"
    call.pop("id")
    assert client.message_retrieval(response)[0]["tool_calls"][0]["id"].isalnum()


def test_functions_of_before_are_answered_by_a_function_call():
    client = client_of(CALL)
    response = client.create({"messages": HELLO, "functions": [WEATHER]})
    (message,) = client.message_retrieval(response)
    assert message["function_call"]["name"] == "get_weather"
    assert "tool_calls" not in message
    assert response.choices[0].finish_reason == "function_call"


def test_calls_that_do_not_parse_are_handed_on_as_they_were_said():
    broken = CALL.replace('"Paris"}', "Paris")
    (message,) = said(client_of(broken), tools=[TOOL])
    (call,) = message["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert '"city": Paris' in call["function"]["arguments"]


@pytest.mark.parametrize("raw", ['{"name": "get_weather", "arguments": [1]}', "get_weather(", "[]"])
def test_no_broken_call_has_arguments_that_a_host_could_use(raw):
    result = Result(
        id="1",
        message=Message(role="assistant"),
        finish="stop",
        revision="",
        usage=Usage(prompt_tokens=1, completion_tokens=1),
        broken_calls=(raw,),
    )
    (call,) = choice_of(result, Asked(messages=[], tools=(TOOL,)), 0).message.tool_calls
    assert call["function"]["name"] == ("unknown" if raw == "[]" else "get_weather")
    try:
        assert not isinstance(json.loads(call["function"]["arguments"]), dict)
    except ValueError:
        assert call["function"]["arguments"] == raw


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, "auto"),
        ({"tool_choice": "none"}, "none"),
        ({"tool_choice": "required"}, "required"),
        ({"tool_choice": {"type": "function", "function": {"name": "get_weather"}}}, "get_weather"),
        ({"tools": [], "tool_choice": "required"}, "auto"),
        ({"tools": [], "functions": [WEATHER], "function_call": {"name": "get_weather"}},
         "get_weather"),
    ],
)  # fmt: skip
def test_the_choice_of_a_tool_is_heeded(params, expected):
    assert asked(client_of(CALL), **{"tools": [TOOL], **params}).tool_choice == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "array"}}}, {"type": "array"}),
        (Sky, Sky.model_json_schema()),
    ],
)
def test_a_response_format_holds_the_answer_to_a_schema(wanted, expected):
    assert asked(client_of("{}"), response_format=wanted).schema == expected


def test_a_response_format_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="response_format is 'yaml'; legal are a class"):
        client_of("x").create({"messages": HELLO, "response_format": "yaml"})


def test_a_prompt_of_completions_is_what_a_user_says():
    client = client_of("x")
    client.create({"prompt": "Hello"})
    (message,) = client.live.engine.requests[0].messages
    assert (message.role, message.text) == ("user", "Hello")


def test_options_of_a_call_go_before_those_of_its_config():
    entry = {"max_tokens": 5, "extra_body": {"temperature": 0.5, "top_p": 0.9}}
    client = client_of("x", entry=entry, seed=7)
    request = asked(client, **{**entry, "temperature": 0.2})
    assert (request.max_new_tokens, request.temperature, request.top_p) == (5, 0.2, 0.9)
    assert request.seed == 7
    assert asked(client, max_tokens=9, max_new_tokens=None).max_new_tokens == 9


def test_keys_of_the_host_are_passed_over_and_others_refused():
    entry = {"api_type": "openai", "tags": [], "price": [0, 0], "api_key": "x", "stream": False}
    assert client_of("x", entry=entry).config.model == ModelConfig(model="script")
    with pytest.raises(ConfigError, match="llm_config: no key 'modle' is known"):
        client_of("x", modle="y")


def test_an_option_that_no_local_model_has_is_refused_and_not_passed_over():
    with pytest.raises(ConfigError, match="create: no option 'logit_bias' is known"):
        asked(client_of("x"), logit_bias={"1": 2})


@pytest.mark.parametrize("place", ["entry", "extra_body", "kwargs", "params"])
def test_n_answers_are_as_many_choices(place):
    entry = {"entry": {"n": 3}, "extra_body": {"extra_body": {"n": 3}}}.get(place)
    client = client_of(
        "one", "two", "three", entry=entry, **({"n": 3} if place == "kwargs" else {})
    )
    params = {"n": 3} if place == "params" else {}
    response = client.create({"messages": HELLO, **params})
    assert client.message_retrieval(response) == ["one", "two", "three"]
    assert [choice.index for choice in response.choices] == [0, 1, 2]


def test_each_of_n_answers_draws_for_itself_and_the_same_seed_draws_the_same(folder, tmp_path):
    client = on(folder, tmp_path, temperature=1.0, seed=3, n=3)
    first, second = said(client), said(client)
    assert len(set(first)) == 3
    assert first == second


@pytest.mark.parametrize("n", [0, "2"])
def test_a_wrong_n_is_refused(n):
    with pytest.raises(ConfigError, match="n is"):
        client_of("x").create({"messages": HELLO, "n": n or -1})


def test_if_one_of_n_answers_fails_none_is_given():
    client = client_of("one", EngineError("away"), "three")
    with pytest.raises(EngineError, match="away"):
        client.create({"messages": HELLO, "n": 3})


def test_a_response_is_pickled_without_the_model(folder, tmp_path):
    client = on(folder, tmp_path)
    response = client.create({"messages": HELLO})
    response.message_retrieval_function = client.message_retrieval
    again = pickle.loads(pickle.dumps(response))
    assert client.message_retrieval(again) == client.message_retrieval(response)
    assert again.message_retrieval_function is None
    assert b"LiveModel" not in pickle.dumps(response)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(client)


def test_a_copied_client_has_the_same_model(folder, tmp_path):
    client = on(folder, tmp_path)
    assert copy.deepcopy(client).live is client.live


def out_of_cache(client, response):
    """What AutoGen does with a response that it finds in its cache."""
    kept = pickle.loads(pickle.dumps(response))
    kept.message_retrieval_function = client.message_retrieval
    return kept


def test_a_cached_response_is_kept_while_the_client_would_answer_the_same():
    client = client_of("first", "second")
    response = client.create({"messages": HELLO})
    assert client.message_retrieval(out_of_cache(client, response)) == ["first"]


def test_a_cached_response_of_an_older_model_is_answered_anew(folder, tmp_path):
    old = on(folder, tmp_path).create({"messages": HELLO})
    client = on(folder, tmp_path, adapter=str(make_adapter(folder, tmp_path / "a", seed=2)))
    kept = out_of_cache(client, old)
    fresh = client.create({"messages": HELLO})
    assert client.message_retrieval(kept) == client.message_retrieval(fresh)
    assert client.message_retrieval(kept) != client.message_retrieval(old)
    assert (kept.revision, kept.usage) == (fresh.revision, fresh.usage)
    assert not hasattr(kept, "cost")  # AutoGen then asks for it, and caches the response again


def test_a_cached_response_to_other_options_is_answered_anew():
    response = client_of("short", max_tokens=1).create({"messages": HELLO})
    client = client_of("long", max_tokens=9)
    assert client.message_retrieval(out_of_cache(client, response)) == ["long"]


def test_a_response_that_somebody_holds_stays_what_it_was(folder, tmp_path):
    client = on(folder, tmp_path)
    held = client.create({"messages": HELLO})
    held.message_retrieval_function = client.message_retrieval
    words = client.message_retrieval(held)
    client.live.model = ModelConfig(model=str(folder), device="cpu", revision="other")
    assert held.message_retrieval_function(held) == words


def test_update_model_learns_and_the_next_answer_is_of_the_new_weights(folder, tmp_path):
    client, other = on(folder, tmp_path), on(folder, tmp_path)
    before = client.create({"messages": HELLO})
    others = said(other)
    stats = client.update_model(PAIRS, [], speaker="helper", config=QUICK)
    after = client.create({"messages": HELLO})
    assert stats["accepted"]
    assert json.dumps(stats)
    assert after.revision != before.revision
    assert client.live.log()[-1].result.revision == stats["revision"]
    assert said(other) == others


def test_threads_are_answered_beside_an_update(folder, tmp_path):
    client = on(folder, tmp_path)
    done, answers = threading.Event(), []

    def chat():
        while not done.is_set():
            answers.append(said(client))

    threads = [threading.Thread(target=chat) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        assert client.update_model(PAIRS, [], config=QUICK)["accepted"]
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert len(answers) > 4
    assert all(words and isinstance(words[0], str) for words in answers)
