"""What users do with pending calls becomes feedback, and feedback an adapter."""

import asyncio
import json
from typing import Literal

import pytest
from agentscope.agent import Agent, InjectionConfig
from agentscope.event import ConfirmResult, RequireUserConfirmEvent, UserConfirmResultEvent
from agentscope.message import UserMsg
from agentscope.middleware import MiddlewareBase
from agentscope.permission import PermissionBehavior, PermissionDecision
from agentscope.state import AgentState
from agentscope.tool import FunctionTool, ToolChoice, Toolkit
from agentscope_models import chat_model
from live_engines import close_all
from openai_server import teacher
from talkative import save_talkative_model

from agent_finetune.cli import main
from agent_finetune.recordings import Recordings
from agent_finetune.records import ToolCall
from agent_finetune.versions import Versions
from agentscope_finetune import ConversationRecorder

ALLOWED = PermissionDecision(behavior=PermissionBehavior.ALLOW, message="fine")
WANTED = UserMsg(name="user", content="Get some apples.")
Item = Literal["apples", "pears", "nuts", "figs"]
BOUGHT = []


def buy(item: Item, count: Literal[1, 2] = 1) -> str:
    """Buy something.

    Args:
        item: What.
        count: How many.
    """
    BOUGHT.append((item, count))
    return f"bought {count} {item}"


def fail(item: str) -> str:
    """Fail, or not.

    Args:
        item: What with.
    """
    if item == "bad":
        raise ValueError("no such item")
    return "fine"


@pytest.fixture
def path(tmp_path):
    BOUGHT.clear()
    return tmp_path / "sessions.sqlite"


def shopper(model, *middlewares, state=None):
    """An agent whose `buy` asks before it buys."""
    return Agent(
        name="Shopper",
        system_prompt="You buy.",
        model=model,
        state=state,
        toolkit=Toolkit(tools=[FunctionTool(buy), FunctionTool(fail, permission=ALLOWED)]),
        middlewares=list(middlewares),
        injection_config=InjectionConfig(inject_runtime_state=False),
    )


async def ask(agent, inputs):
    """Let it reply; answers the event by which it asks for a confirmation, if it does."""
    events = [event async for event in agent.reply_stream(inputs)]
    return next((e for e in events if isinstance(e, RequireUserConfirmEvent)), None)


async def decide(agent, asked, *decisions):
    """Answer requests to confirm, one call after the other.

    Each decision is True, False, or what to change in the call.
    """
    for decision in decisions:
        call = asked.tool_calls[0]
        edited = call.model_copy(update=decision if isinstance(decision, dict) else {})
        result = ConfirmResult(confirmed=decision is not False, tool_call=edited)
        event = UserConfirmResultEvent(reply_id=asked.reply_id, confirm_results=[result])
        asked = await ask(agent, event)
    assert asked is None


def one_call(item="pears", id="call_1"):
    return (id, "buy", json.dumps({"item": item, "count": 2}))


def run(path, answers, *decisions):
    """One reply of a hosted model whose calls are decided about; answers its recordings."""
    with teacher(*answers) as server:
        recorder = ConversationRecorder(path)
        agent = shopper(server.model(stream=True), recorder)

        async def talk():
            await decide(agent, await ask(agent, WANTED), *decisions)
            await recorder.flush()

        asyncio.run(talk())
    return list(Recordings(path).read())


def test_an_edited_call_corrects_the_answer_that_made_it(path):
    edit = {"input": '{"item": "apples", "count": 2}'}
    called, spoke = run(path, [[one_call()], "Done."], edit)
    assert BOUGHT == [("apples", 2)]
    judged = called.judgement
    assert judged.correction.tool_calls == (
        ToolCall(name="buy", arguments={"item": "apples", "count": 2}),
    )
    assert (judged.value, judged.comment) == (None, "a call was edited")
    assert spoke.judgement is None
    (item,) = Recordings(path).judgements()
    assert item == {"id": called.id, "correction": judged.correction}


def test_a_call_that_was_only_written_anew_is_not_edited(path):
    same = {"input": '{"count":2,   "item":"pears"}'}
    called, _ = run(path, [[one_call()], "Done."], same)
    assert called.judgement is None


def test_a_denied_call_is_a_thumb_down(path):
    called, spoke = run(path, [[one_call()], "Then not."], False)
    assert BOUGHT == []
    assert (called.judgement.value, called.judgement.correction) == (False, None)
    assert spoke.judgement is None
    assert [example.id for example in Recordings(path).examples()] == [spoke.id]


def test_a_confirmed_call_is_not_judged(path):
    called, spoke = run(path, [[one_call()], "Done."], True)
    assert BOUGHT == [("pears", 2)]
    assert called.judgement is spoke.judgement is None


def test_of_several_calls_what_was_edited_and_denied_makes_one_correction(path):
    calls = [one_call("pears", "c1"), one_call("nuts", "c2"), one_call("figs", "c3")]
    edit = {"input": '{"item": "apples"}'}
    called, _ = run(path, [calls, "Done."], edit, False, True)
    assert [call.arguments for call in called.judgement.correction.tool_calls] == [
        {"item": "apples"},
        {"item": "figs", "count": 2},
    ]


def test_an_edit_that_is_no_call_teaches_nothing(path):
    called, _ = run(path, [[one_call()], "Hm."], {"input": '["apples"]'})
    assert called.judgement is None


def test_a_decision_that_the_agent_refuses_is_not_recorded(path):
    with teacher([one_call()]) as server:
        recorder = ConversationRecorder(path)
        agent = shopper(server.model(stream=False), recorder)

        async def talk():
            asked = await ask(agent, WANTED)
            stranger = asked.tool_calls[0].model_copy(update={"id": "another"})
            denied = [
                ConfirmResult(confirmed=False, tool_call=call)
                for call in (asked.tool_calls[0], stranger)
            ]
            event = UserConfirmResultEvent(reply_id=asked.reply_id, confirm_results=denied)
            with pytest.raises(ValueError, match="not waiting for confirmation"):
                await agent.reply(event)
            await recorder.flush()

        asyncio.run(talk())
    (called,) = Recordings(path).read()
    assert called.judgement is None


def test_a_reply_that_another_process_resumes_is_judged_all_the_same(path):
    with teacher([one_call()], "Done.") as server:
        recorder = ConversationRecorder(path)
        first = shopper(server.model(stream=True), recorder)
        asked = asyncio.run(ask(first, WANTED))
        stored = json.dumps(first.state.model_dump(mode="json"))
        again = ConversationRecorder(path)
        state = AgentState.model_validate(json.loads(stored))
        second = shopper(server.model(stream=True), again, state=state)

        async def resume():
            await decide(second, asked, {"input": '{"item": "apples"}'})
            await again.flush()

        asyncio.run(resume())
    called, spoke = Recordings(path).read()
    assert called.judgement.correction.tool_calls[0].arguments == {"item": "apples"}
    assert called.reply == spoke.reply == asked.reply_id


def test_a_tool_that_fails_and_then_succeeds_is_not_labelled(path):
    answers = [
        [("c1", "fail", '{"item": "bad"}')],
        [("c2", "fail", '{"item": "good"}')],
        "Done.",
    ]
    with teacher(*answers) as server:
        recorder = ConversationRecorder(path)
        agent = shopper(server.model(stream=True), recorder)

        async def talk():
            assert await ask(agent, WANTED) is None
            await recorder.flush()

        asyncio.run(talk())
    assert [recorded.judgement for recorded in Recordings(path).read()] == [None] * 3


class Buys(MiddlewareBase):
    """Makes the model buy first, and speak once something was bought."""

    async def on_model_call(self, agent, input_kwargs, next_handler):
        bought = any(m.has_content_blocks("tool_result") for m in input_kwargs["messages"])
        choice = ToolChoice(mode="none" if bought else "buy")
        return await next_handler(**{**input_kwargs, "tool_choice": choice})


def test_from_a_users_edits_to_a_gated_adapter_in_one_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AGENT_FINETUNE_CACHE", str(tmp_path / "cache"))
    folder = save_talkative_model(tmp_path / "model")
    database = tmp_path / "sessions.sqlite"
    model = chat_model(folder, max_tokens=120, temperature=1.0, seed=3)
    recorder = ConversationRecorder(database)

    async def talk():
        for item in ("apples", "pears"):
            agent = shopper(model, Buys(), recorder)
            asked = await ask(agent, UserMsg(name="user", content=f"Get {item}."))
            await decide(agent, asked, {"input": json.dumps({"item": item, "count": 1})})
        await recorder.flush()

    asyncio.run(talk())
    close_all()
    recorded = [r for r in Recordings(database).read() if r.judgement]
    assert [r.judgement.correction.tool_calls[0].arguments["item"] for r in recorded] == [
        "apples",
        "pears",
    ]
    assert all(r.exchange.result.message.generation for r in recorded)
    where = ["--model", str(folder), "--device", "cpu", "--dtype", "float32"]
    quick = ["--epochs", "3", "--batch-size", "2", "--learning-rate", "3e-3", "--rank", "4"]
    loose = ["--max-forgetting", "1", "--max-drift", "1"]
    store = ["--store", str(tmp_path / "adapters"), "--name", "helper"]
    code = main(["learn", str(database), *where, *store, *quick, *loose])
    told = capsys.readouterr()
    assert code == 0, told.err
    assert "feedback: 2 pairs, 0 verdicts, 0 demonstrations, 0 dropped" in told.err
    assert "update of 'helper': accepted" in told.out
    assert "dropped:" not in told.err
    assert Versions(tmp_path / "adapters", "helper").current() == 1
