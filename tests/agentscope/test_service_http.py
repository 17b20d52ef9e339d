"""The agent service on a local model, over HTTP."""

import asyncio
from contextlib import closing
from copy import deepcopy

import pytest
from agent_service import User, ending, pieces, serve
from agentscope.middleware import MiddlewareBase
from live_engines import close_all, make_adapter
from talkative import save_talkative_model

from agent_finetune import plugins
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import EngineConfig, Settings
from agent_finetune.recordings import Recordings
from agentscope_finetune import ConversationRecorder, TransformersChatModel, service_options


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    yield save_talkative_model(tmp_path_factory.mktemp("models") / "talkative")
    close_all()


@pytest.fixture
def loads(monkeypatch):
    """Configs of the models whose weights were loaded."""
    done = []
    load = plugins.load_model

    def counted(config, settings):
        done.append(config)
        return load(config, settings)

    monkeypatch.setattr(plugins, "load_model", counted)
    close_all()
    return done


class Listener(MiddlewareBase):
    """Keeps what a model was asked."""

    def __init__(self):
        self.asked = []

    async def on_model_call(self, agent, input_kwargs, next_handler):
        self.asked.append(deepcopy((input_kwargs["messages"], input_kwargs["tools"])))
        return await next_handler(**input_kwargs)

    async def factory(self, user, agent, session, workspace):
        return [self]


def run(folder, play, model, **options):
    """Serve, and let users play; the tiny model's context has no room for sixteen tools."""

    async def main():
        chosen = service_options(**{"model_roots": [model.parent], "tools": (), **options})
        async with serve(folder, chosen) as client:
            return await play(client)

    return asyncio.run(main())


def recent(model):
    """What was asked of the weights that all engines on this model share."""
    config = EngineConfig(model=ModelConfig(model=str(model)))
    with closing(plugins.open_engine(config, Settings())) as engine:
        engine.info()
        return engine.recent()


async def refused(answer):
    assert answer.status_code == 422, answer.text
    return answer.json()["detail"]


def test_the_credential_is_offered_and_made_like_those_of_the_host(tmp_path, model):
    async def play(client):
        ann = User(client, "ann")
        schemas = (await ann.ask("GET", "/credential/schemas")).json()["schemas"]
        await ann.credential(hf_token="hf_secret")
        return schemas, (await ann.ask("GET", "/credential/")).json()

    schemas, made = run(tmp_path, play, model)
    [ours] = [s for s in schemas if s["properties"]["type"]["const"] == "transformers_credential"]
    assert ours["title"] == "Local models (Transformers)"
    [credential] = made["credentials"]
    assert credential["data"]["type"] == "transformers_credential"


def test_models_are_listed_by_card_also_those_under_the_roots(tmp_path, model):
    async def play(client):
        answer = await User(client, "ann").ask(
            "GET", "/model/", params={"provider": "transformers_credential"}
        )
        return {card["name"]: card for card in answer.json()["models"]}

    cards = run(tmp_path, play, model)
    assert "smollm2-135m-instruct" in cards
    assert cards[str(model)]["context_size"] == 2048


def test_a_chat_answers_from_the_local_model_in_pieces(tmp_path, model):
    heard = Listener()

    async def play(client):
        chat = await User(client, "ann").session(str(model))
        events = await chat.say("hello")
        direct = TransformersChatModel(
            model=str(model),
            parameters=TransformersChatModel.Parameters(max_tokens=16),
            stream=False,
        )
        return events, await direct(*heard.asked[0])

    events, direct = run(tmp_path, play, model, middlewares=heard.factory)
    assert ending(events) == "completed"
    [words] = [block.text for block in direct.content]
    assert "".join(pieces(events)) == words
    assert len(words) > 8
    assert len(pieces(events)) > 1


def test_a_second_turn_sees_the_first(tmp_path, model):
    heard = Listener()

    async def play(client):
        chat = await User(client, "ann").session(str(model))
        first = await chat.say("my name is Bo")
        await chat.say("what is it?")
        return "".join(pieces(first))

    answer = run(tmp_path, play, model, middlewares=heard.factory)
    texts = [message.get_text_content() for message in heard.asked[1][0]]
    assert texts[0].startswith("You are Ann.")
    assert "my name is Bo" in texts
    assert answer in texts
    assert "what is it?" in texts


def test_turns_agents_and_users_load_the_weights_once(tmp_path, model, loads):
    async def play(client):
        chats = [await User(client, name).session(str(model)) for name in ("ann", "bob")]
        events = [await chat.say("hello") for chat in (chats[0], chats[0], chats[1])]
        events += await asyncio.gather(*(chat.say("hello again") for chat in chats))
        return [ending(each) for each in events]

    assert run(tmp_path, play, model) == ["completed"] * 5
    assert len(loads) == 1


def test_an_adapter_under_the_roots_speaks_for_one_agent_on_the_same_weights(
    tmp_path, model, loads
):
    adapter = make_adapter(model, model.parent / "adapter", seed=3)
    loads.clear()

    async def play(client):
        ann = User(client, "ann")
        plain, tuned = await ann.session(str(model)), await ann.session(str(adapter))
        for chat in (plain, tuned, plain):
            assert ending(await chat.say("hello")) == "completed"
        return [exchange.result.revision for exchange in recent(model)[-3:]]

    first, other, second = run(tmp_path, play, model)
    assert first == second != other
    assert len(loads) == 1


def test_a_path_outside_the_roots_is_refused_in_clear_words_and_nothing_is_loaded(
    tmp_path, model, loads
):
    outside = save_talkative_model(tmp_path / "outside")

    async def play(client):
        ann = User(client, "ann")
        chat = await ann.session("smollm2-135m-instruct")
        config = {
            "type": "transformers_credential",
            "credential_id": await ann.credential(),
            "model": str(outside),
            "parameters": {},
        }
        body = {"agent_id": chat.agent, "chat_model_config": config}
        made = await ann.ask("POST", "/sessions/", json=body)
        changed = await ann.ask(
            "PATCH", f"/sessions/{chat.id}", params={"agent_id": chat.agent}, json=body
        )
        return await refused(made), await refused(changed)

    for words in run(tmp_path, play, model):
        assert f"model is {str(outside)!r}" in words
        assert "allow_models" in words
    assert loads == []


def test_who_hides_the_model_s_type_gets_no_further(tmp_path, model, loads):
    outside = save_talkative_model(tmp_path / "outside")

    async def play(client):
        chat = await User(client, "ann").session(str(outside), type="openai_credential")
        return await chat.say("hello")

    events = run(tmp_path, play, model)
    assert ending(events) == "error"
    assert events[-1]["error"]["type"] == "setup"
    assert loads == []


def test_a_credential_may_run_no_code_unless_the_operator_allows_it(tmp_path, model, loads):
    data = {"type": "transformers_credential", "trust_remote_code": True}

    async def play(client):
        return await User(client, "ann").ask("POST", "/credential/", json={"data": data})

    answer = run(tmp_path, play, model)
    assert answer.status_code == 422
    assert "trust_remote_code is True" in answer.json()["detail"]
    (tmp_path / "allowed").mkdir()
    answer = run(tmp_path / "allowed", play, model, trust_remote_code=True)
    assert answer.status_code == 201
    assert loads == []


def test_a_reply_that_fails_says_why(tmp_path, model):
    empty = model.parent / "empty"
    empty.mkdir()

    async def play(client):
        chat = await User(client, "ann").session(str(empty))
        events = await chat.say("hello")
        params = {"agent_id": chat.agent}
        stored = await chat.user.ask("GET", f"/sessions/{chat.id}/messages", params=params)
        return events, stored.json()["messages"][-1]

    events, stored = run(tmp_path, play, model)
    assert ending(events) == "error"
    assert str(empty) in "".join(pieces(events))
    assert str(empty) in stored["content"][-1]["text"]


def test_an_interrupt_frees_the_worker(tmp_path, model):
    async def play(client):
        chat = await User(client, "ann").session(str(model), parameters={"max_tokens": 1500})
        assert (await chat.send("hello")).status_code == 200
        events = []
        async for event in chat.events():
            if event["type"] == "TEXT_BLOCK_DELTA" and not pieces(events):
                assert (await chat.interrupt()).status_code == 202
            events.append(event)
        await chat.idle()
        return events

    events = run(tmp_path, play, model)
    assert ending(events) == "interrupted"
    last = recent(model)[-1].result
    assert last.finish == "cancelled"
    assert last.usage.completion_tokens < 1500


def test_recordings_are_kept_by_agent_and_session_when_asked_for(tmp_path, model):
    path = tmp_path / "kept.sqlite"

    async def play(client):
        chat = await User(client, "ann").session(str(model))
        events = [await chat.say("hello"), await chat.say("and now?")]
        await ConversationRecorder(path).flush()
        return chat, ["".join(pieces(each)) for each in events]

    chat, said = run(tmp_path, play, model, record_to=path)
    found = list(Recordings(path).read())
    assert [each.session for each in found] == [chat.id] * 2
    assert {each.agent for each in found} == {chat.agent}
    assert [each.exchange.result.message.text for each in found] == said


def test_nothing_is_recorded_unasked(tmp_path, model):
    async def play(client):
        await (await User(client, "ann").session(str(model))).say("hello")

    run(tmp_path, play, model)
    assert not list(tmp_path.rglob("*.sqlite"))


def test_another_user_reaches_neither_the_chat_nor_the_credential(tmp_path, model):
    async def play(client):
        ann, bob = User(client, "ann"), User(client, "bob")
        chat = await ann.session(str(model))
        await chat.say("hello")
        params = {"agent_id": chat.agent}
        there = [
            await bob.ask("GET", f"/sessions/{chat.id}/messages", params=params),
            await bob.ask("GET", f"/sessions/{chat.id}/stream", params=params),
            await bob.ask("POST", f"/sessions/{chat.id}/interrupt", params=params),
        ]
        [credential] = (await ann.ask("GET", "/credential/")).json()["credentials"]
        config = {
            "type": "transformers_credential",
            "credential_id": credential["id"],
            "model": str(model),
            "parameters": {},
        }
        own = await bob.made("/agent/", {"name": "Bob's"}, "agent_id")
        body = {"agent_id": own, "chat_model_config": config}
        there.append(await bob.ask("POST", "/sessions/", json=body))
        seen = (await bob.ask("GET", "/credential/")).json()["total"]
        return [answer.status_code for answer in there], seen

    codes, seen = run(tmp_path, play, model)
    assert codes == [404] * 4
    assert seen == 0


def test_agents_keep_the_tools_that_the_operator_names(tmp_path, model):
    heard = Listener()

    async def play(client):
        return await (await User(client, "ann").session(str(model))).say("hello")

    run(tmp_path, play, model, middlewares=heard.factory, tools=("Read",))
    [(_, tools)] = heard.asked
    assert [tool["function"]["name"] for tool in tools] == ["Read"]


def test_the_question_is_the_last_word_where_no_runtime_state_is_told(tmp_path, model):
    heard = Listener()

    async def play(client):
        return await (await User(client, "ann").session(str(model))).say("hello")

    run(tmp_path, play, model, middlewares=heard.factory, runtime_state=False)
    [(messages, _)] = heard.asked
    assert messages[-1].get_text_content() == "hello"


def test_an_agent_without_its_workspace_s_tools_is_not_told_how_to_work_there(tmp_path, model):
    heard = Listener()

    async def play(client):
        return await (await User(client, "ann").session(str(model))).say("hello")

    run(tmp_path, play, model, middlewares=heard.factory)
    [(messages, _)] = heard.asked
    assert "<workspace>" not in messages[0].get_text_content()
    assert "within a session" in messages[0].get_text_content()
