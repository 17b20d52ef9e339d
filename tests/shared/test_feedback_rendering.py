"""Feedback on a live engine's answer becomes exactly the ids that the engine served."""

import pytest
from live_engines import close_all, open_engine

from agent_finetune.contracts import Request
from agent_finetune.feedback import align, read_feedback
from agent_finetune.records import Message
from agent_finetune.render import Renderer
from agent_finetune.testing import save_tiny_model, tiny_tokenizer

ASKED = (
    Message(role="system", text="Be kind."),
    Message(role="user", text="What is the weather in Paris?"),
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    engine = open_engine(save_tiny_model(tmp_path_factory.mktemp("model")))
    yield engine
    engine.close()
    close_all()


@pytest.mark.parametrize("how", ["id", "words", "turn", "thumb", "prompt"])
def test_what_the_engine_served_is_what_feedback_trains(engine, how):
    result = engine.generate(Request(messages=ASKED, max_new_tokens=8, temperature=1.0, seed=3))
    served, said = result.message.generation, result.message.text
    items = {
        "id": {"id": result.id, "correction": "It is sunny."},
        "words": ("It is sunny.", said),
        "turn": {"turn": 1, "correction": "It is sunny."},
        "thumb": {"id": result.id, "feedback": "down"},
        "prompt": {"prompt": list(ASKED), "chosen": "It is sunny.", "rejected": said},
    }
    thread = (ASKED[1], Message(role="assistant", text=said))
    learning = align(read_feedback([items[how]]), engine.recent(), thread)
    renderer = Renderer(tiny_tokenizer())
    if how == "thumb":
        verdict = renderer.verdict(learning.verdicts[0])
        assert (verdict.prompt, verdict.completion) == (served.prompt_ids, served.ids)
        return
    pair = renderer.pair(learning.preferences[0])
    assert (pair.prompt, pair.rejected) == (served.prompt_ids, served.ids)
    assert tiny_tokenizer().decode(pair.chosen).startswith("It is sunny.")
