"""Eight corrections of a real model's own answers are spoken by the very next call, on each API.

Before that, one step of the same is refused by the gate, and the answers stay word for word.
"""

import asyncio
import json
from pathlib import Path

import pytest
from autogen_hosts import QUIET, host

from agent_finetune.config import TrainConfig
from agent_finetune.update.options import UpdateConfig

MODEL = "smollm2-135m-instruct"
CORRECTIONS = Path(__file__).parents[2] / "benchmarks/updates/corrections.jsonl"
ITEMS = [json.loads(line) for line in CORRECTIONS.read_text().splitlines()][:8]
QUESTIONS = [item["prompt"] for item in ITEMS]
BETTER = [item["correction"] for item in ITEMS]

ONE_STEP = UpdateConfig(train=TrainConfig(max_steps=1, batch_size=4, learning_rate=1e-3))


def against(said):
    """What the gate must refuse to forget: that the model's own answers are the better ones."""
    return [
        {"prompt": question, "chosen": old, "rejected": better}
        for question, old, better in zip(QUESTIONS, said, BETTER, strict=True)
    ]


pytestmark = [pytest.mark.real, pytest.mark.slow, *QUIET]


def test_classic_with_the_cache_on_and_in_a_group_chat(tmp_path, monkeypatch):
    autogen = host("autogen")
    from autogen_finetune import attach, llm_config, update_model

    monkeypatch.chdir(tmp_path)  # AutoGen's cache lies where the program runs
    config = {**llm_config(MODEL, max_tokens=48), "cache_seed": 41}
    taught = attach(autogen.AssistantAgent("taught", "Be brief.", llm_config=config))
    other = attach(autogen.AssistantAgent("other", "Be brief.", llm_config=config))
    options = {"human_input_mode": "NEVER", "code_execution_config": False}
    user = autogen.UserProxyAgent("user", max_consecutive_auto_reply=0, **options)

    def ask(agent, question):
        return user.initiate_chat(agent, message=question, clear_history=False).summary

    def said(agent):
        return [agent.generate_reply([{"role": "user", "content": q}]) for q in QUESTIONS]

    before = [ask(taught, question) for question in QUESTIONS]
    alone, others = said(taught), said(other)
    pairs = list(zip(BETTER, before, strict=True))
    refused = update_model(taught, pairs, user, config=ONE_STEP, trusted=against(before))
    assert not refused["update_stats"]["accepted"], refused["update_stats"]["summary"]
    assert said(taught) == alone
    result = update_model(taught, pairs, user)
    assert result["update_stats"]["accepted"], result["update_stats"]["summary"]
    after = said(taught)
    assert sum(new != old for new, old in zip(after, alone, strict=True)) >= 5
    assert said(other) == others

    group = autogen.GroupChat(
        [user, taught], messages=[], max_round=2, speaker_selection_method="round_robin"
    )
    manager = autogen.GroupChatManager(group, llm_config=False)
    user.initiate_chat(manager, message=QUESTIONS[0])
    live = taught.client._clients[0].live
    assert live.log()[-1].result.revision == result["update_stats"]["revision"]
    assert group.messages[-1]["content"] == live.log()[-1].result.message.text


def test_agentchat(tmp_path, monkeypatch):
    host("autogen_agentchat")
    from autogen_agentchat.agents import AssistantAgent

    from autogen_finetune.agentchat import HFChatCompletionClient, update_model

    monkeypatch.chdir(tmp_path)

    async def run():
        client = HFChatCompletionClient(MODEL, max_tokens=48)
        agent = AssistantAgent("taught", client, system_message="Be brief.")

        async def ask(question):
            await agent.model_context.clear()
            return await agent.run(task=question)

        runs = [await ask(question) for question in QUESTIONS]
        before = [run.messages[-1].content for run in runs]
        messages = [message for run in runs for message in run.messages]
        pairs = list(zip(BETTER, before, strict=True))
        alone = [(await ask(question)).messages[-1].content for question in QUESTIONS]
        refused = await update_model(
            agent, pairs, messages, config=ONE_STEP, trusted=against(before)
        )
        assert not refused["update_stats"]["accepted"], refused["update_stats"]["summary"]
        again = [(await ask(question)).messages[-1].content for question in QUESTIONS]
        assert again == alone
        result = await update_model(agent, pairs, messages)
        stats = result["update_stats"]
        assert stats["accepted"], stats["summary"]
        after = [(await ask(question)).messages[-1].content for question in QUESTIONS]
        assert sum(new != old for new, old in zip(after, before, strict=True)) >= 5
        assert client.live.log()[-1].result.revision == stats["revision"]

    asyncio.run(run())


def test_ag2(tmp_path, monkeypatch):
    host("ag2")
    from ag2 import Agent

    from autogen_finetune.ag2 import HFConfig, update_model

    monkeypatch.chdir(tmp_path)

    async def run():
        agent = Agent("taught", "Be brief.", config=HFConfig(MODEL, max_tokens=48))
        before = [await agent.ask(question) for question in QUESTIONS]
        pairs = [(good, reply.body) for good, reply in zip(BETTER, before, strict=True)]
        events = [event for reply in before for event in await reply.history.get_events()]
        alone = [(await agent.ask(question)).body for question in QUESTIONS]
        said = [reply.body for reply in before]
        refused = await update_model(agent, pairs, events, config=ONE_STEP, trusted=against(said))
        assert not refused["update_stats"]["accepted"], refused["update_stats"]["summary"]
        assert [(await agent.ask(question)).body for question in QUESTIONS] == alone
        result = await update_model(agent, pairs, events)
        stats = result["update_stats"]
        assert stats["accepted"], stats["summary"]
        after = [(await agent.ask(question)).body for question in QUESTIONS]
        changed = [new != old.body for new, old in zip(after, before, strict=True)]
        assert sum(changed) >= 5

    asyncio.run(run())
