"""The contract of AutoGen's model clients: on ours, and as a control on AutoGen's own replay."""

import pytest
from agentchat_clients import CALL, open_client, scripted
from autogen_core import FunctionCall
from autogen_core.models import CreateResult, ModelInfo, RequestUsage
from autogen_hosts import host
from chat_completion_contract import ChatCompletionClientContract
from talkative import save_talkative_model

WORDS = "I am an assistant , and glad to help ."


@pytest.fixture(scope="module")
def talkative(tmp_path_factory):
    return save_talkative_model(tmp_path_factory.mktemp("model"))


class TestScripted(ChatCompletionClientContract):
    """Ours, on an engine that says what is written here."""

    def talker(self):
        return scripted(WORDS)

    def caller(self):
        return scripted(CALL)


class TestLocalModel(ChatCompletionClientContract):
    """Ours, on a tiny model."""

    @pytest.fixture(autouse=True)
    def _clients(self, talkative):
        self.folder = talkative

    def talker(self):
        return open_client(self.folder)

    def caller(self):
        return scripted(CALL)  # a tiny model calls no tool of itself


class TestReplay(ChatCompletionClientContract):
    """AutoGen's own, which shows that the contract is AutoGen's and not ours."""

    def talker(self):
        return self._replay([WORDS] * 4)

    def caller(self):
        call = FunctionCall(id="1", name="get_weather", arguments='{"city": "Paris"}')
        usage = RequestUsage(prompt_tokens=1, completion_tokens=1)
        called = CreateResult(
            finish_reason="function_calls", content=[call], usage=usage, cached=False
        )
        return self._replay([called])

    def _replay(self, completions):
        replay = host("autogen_ext.models.replay")
        info = ModelInfo(
            vision=False,
            function_calling=True,
            json_output=False,
            family="unknown",
            structured_output=False,
        )
        return replay.ReplayChatCompletionClient(completions, model_info=info)
