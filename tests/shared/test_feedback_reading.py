"""Every shape of feedback is read as what it is, and what could be two things is refused."""

import json

import pytest

from agent_finetune.contracts import Settings
from agent_finetune.errors import DataError
from agent_finetune.feedback import (
    Demonstration,
    Pair,
    Reward,
    Thumb,
    read_feedback,
    read_feedback_file,
)
from agent_finetune.records import BadRow, Example, Message, Preference, ToolCall, Verdict

USER = {"role": "user", "content": "Hi"}
GOOD = {"role": "assistant", "content": "Hello!"}
BAD = {"role": "assistant", "content": "What?"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
RESULT = {"role": "tool", "content": "42"}


def user(text="Hi"):
    return Message(role="user", text=text)


def said(text):
    return Message(role="assistant", text=text)


def only(item):
    (shape,) = read_feedback([item])
    return shape


def reason(item):
    with pytest.raises(DataError) as caught:
        read_feedback([("a", "b"), item])
    where, _, why = str(caught.value).partition(": ")
    assert where == "feedback[1]"
    return why


GIVEN_PAIRS = {
    "both conversations": ([USER, GOOD], [USER, BAD]),
    "trl": {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?", "tools": [TOOL]},
    "trl messages": {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    "trl single messages": {"prompt": USER, "chosen": GOOD, "rejected": BAD},
    "trl implicit prompt": {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    "prompt said twice": {"prompt": "Hi", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
    "ultrafeedback": {
        "prompt": "Hi",
        "messages": [USER, GOOD],
        "chosen": [USER, GOOD],
        "rejected": [USER, BAD],
    },
    "messages as the prompt": {"messages": [USER], "chosen": "Hello!", "rejected": "What?"},
    "openai": {
        "input": {"messages": [USER], "tools": [TOOL]},
        "preferred_output": [GOOD],
        "non_preferred_output": [BAD],
    },
    "rejected response": {"messages": [USER, GOOD], "rejected_response": "What?"},
    "correction": {"prompt": "Hi", "completion": "What?", "correction": "Hello!"},
    "correction of messages": {"messages": [USER, BAD], "correction": "Hello!"},
    "record": Preference(prompt=(user(),), chosen=said("Hello!"), rejected=said("What?")),
    "unused keys": {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?", "messages": None},
}


@pytest.mark.parametrize("item", GIVEN_PAIRS.values(), ids=GIVEN_PAIRS)
def test_every_way_to_write_a_pair_and_its_prompt_is_read_alike(item):
    pair = only(item)
    assert isinstance(pair, Pair)
    assert pair.about.prompt == (user(),)
    assert (pair.chosen, pair.rejected) == ((said("Hello!"),), (said("What?"),))


@pytest.mark.parametrize(
    "item",
    [
        ("Hello!", "What?"),
        ["Hello!", "What?"],
        ([GOOD], [BAD]),
        [[GOOD], [BAD]],
        (said("Hello!"), said("What?")),
        ([said("Hello!")], "What?"),
        {"chosen": "Hello!", "rejected": said("What?")},
    ],
)
def test_a_pair_needs_no_prompt(item):
    pair = only(item)
    assert pair.about.prompt is None
    assert (pair.chosen, pair.rejected) == ((said("Hello!"),), (said("What?"),))


def test_tools_are_kept_as_they_are():
    assert only(GIVEN_PAIRS["trl"]).about.tools == (TOOL,)
    assert only(GIVEN_PAIRS["openai"]).about.tools == (TOOL,)


@pytest.mark.parametrize(
    ("word", "good"),
    [
        *((up, True) for up in (True, 1, 1.0, "up", "+1", "thumbs_up", "Thumbs up", "true")),
        *((down, False) for down in (False, -1, "down", "-1", "thumbsdown", "thumb-down", "False")),
        ("\N{THUMBS UP SIGN}", True),
        ("\N{THUMBS DOWN SIGN}", False),
    ],
)
@pytest.mark.parametrize("key", ["label", "feedback"])
def test_thumbs_are_read_however_they_are_written(key, word, good):
    thumb = only({"id": "g1", key: word})
    assert isinstance(thumb, Thumb)
    assert (thumb.good, thumb.answer, thumb.about.id) == (good, None, "g1")


@pytest.mark.parametrize(
    "item",
    [
        {"prompt": "Hi", "completion": "Hello!", "label": True},
        {"prompt": [USER], "completion": [GOOD], "label": "up"},
        {"messages": [USER, GOOD], "label": 1},
        Verdict(prompt=(user(),), completion=said("Hello!"), good=True),
    ],
)
def test_a_judged_answer_brings_its_prompt(item):
    thumb = only(item)
    assert thumb.about.prompt == (user(),)
    assert (thumb.good, thumb.answer) == (True, (said("Hello!"),))


def test_a_correction_has_what_was_said_as_its_rejected_side():
    pair = only({"turn": 3, "correction": "Hello!"})
    assert (pair.about.turn, pair.chosen, pair.rejected) == (3, (said("Hello!"),), None)


@pytest.mark.parametrize("reward", [0.5, "0.5"])
def test_a_reward_is_a_number(reward):
    shape = only({"turn": "-1", "reward": reward})
    assert isinstance(shape, Reward)
    assert (shape.about.turn, shape.value, shape.answer) == (-1, 0.5, None)


@pytest.mark.parametrize(
    "item",
    [{"messages": [USER, GOOD]}, Example(messages=(user(), said("Hello!")))],
)
def test_a_conversation_is_a_demonstration(item):
    shape = only(item)
    assert isinstance(shape, Demonstration)
    assert (shape.about.prompt, shape.answer) == ((), (user(), said("Hello!")))


def test_a_text_alone_is_a_demonstration_of_an_answer_yet_to_be_found():
    shape = only("Hello!")
    assert (shape.about.prompt, shape.answer) == (None, (said("Hello!"),))


def test_prompt_and_completion_alone_are_a_demonstration():
    shape = only({"prompt": "Hi", "completion": "Hello!"})
    assert (shape.about.prompt, shape.answer) == ((user(),), (said("Hello!"),))


AMBIGUOUS = {
    "two kinds": (
        {"id": "g", "correction": "x", "feedback": "up"},
        "could be a correction ('correction') or a thumb ('feedback'); keep the keys of one",
    ),
    "two messages": (
        [USER, GOOD],
        "could be a pair of two answers or a conversation of two turns",
    ),
    "zero": ({"id": "g", "label": 0}, "label is 0; it could be bad or neutral"),
    "two prompts": (
        {"prompt": "Hi", "messages": [USER], "completion": "x", "label": True},
        "what was asked could be 'prompt' or 'messages'",
    ),
    "two answers": (
        {"messages": [USER, GOOD], "completion": "x", "label": True},
        "the answer could be 'completion' or the end of 'messages'",
    ),
    "two chosen": (
        {"messages": [USER, CALL], "chosen": "a", "rejected": "b"},
        "has an answer ('messages' or 'completion') beside chosen and rejected",
    ),
    "a text against a trace": (
        ("Hello!", [CALL, RESULT, BAD]),
        "'Hello!' could stand for the first or the last of 2 answers",
    ),
}


@pytest.mark.parametrize(("item", "why"), AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_what_could_be_two_things_is_refused_with_its_index(item, why):
    assert reason(item).startswith(why)


UNREADABLE = {
    "same": (("Hello! ", "Hello!"), "chosen and rejected are the same"),
    "same calls": (([CALL], [CALL]), "chosen and rejected are the same"),
    "number": (7, "is 7; expected a pair"),
    "three": (("a", "b", "c"), "is a list of 3 items"),
    "half a pair": ({"chosen": "a"}, "no key 'rejected'; keys are 'chosen'"),
    "no shape": ({"id": "g", "completion": "a"}, "is of no known shape; keys are 'id'"),
    "empty chosen": ((" ", "b"), "the better answer says nothing"),
    "nothing shown": ({"messages": [USER]}, "no assistant turn says anything"),
    "no prompt": ({"prompt": [], "chosen": "a", "rejected": "b"}, "prompt is []"),
    "two conversations": (
        ([USER, GOOD], [{"role": "user", "content": "Ho"}, BAD]),
        "the answers begin with different turns",
    ),
    "result first": (([RESULT, GOOD], [RESULT, BAD]), "begins with a tool's result"),
    "no assistant": (([USER], [USER, BAD]), "an answer holds no assistant turn"),
    "an answer to nothing": ({"messages": [GOOD], "label": True}, "'messages' holds an answer"),
    "no chosen": ({"messages": [USER], "rejected_response": "b"}, "has no chosen answer"),
    "nothing corrected": ({"prompt": "Hi", "correction": "a"}, "corrects nothing"),
    "nothing judged": ({"prompt": "Hi", "label": True}, "judges nothing"),
    "word": ({"id": "g", "feedback": "meh"}, "feedback is 'meh'; legal are up, down"),
    "nan": ({"id": "g", "reward": "nan"}, "reward is 'nan'; expected a finite number"),
    "no number": ({"id": "g", "reward": [1]}, "reward is [1]"),
    "bool": ({"id": "g", "reward": True}, "reward is True"),
    "turn": ({"turn": "last", "label": True}, "turn is 'last'; expected the index"),
    "input": (
        {"input": "Hi", "preferred_output": [GOOD], "non_preferred_output": [BAD]},
        "input is 'Hi'; expected an object with 'messages'",
    ),
    "content": (([7], "b"), "chosen[0] is 7; expected a message"),
    "role": (([{"role": "x"}], "b"), "chosen[0]: role is 'x'"),
}


@pytest.mark.parametrize(("item", "why"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_used_is_refused_with_its_index_and_the_reason(item, why):
    assert reason(item).startswith(why)


def test_two_bare_texts_could_be_one_pair():
    with pytest.raises(DataError, match=r"could be one pair, .* or two demonstrations"):
        read_feedback(("Hello!", "What?"))


@pytest.mark.parametrize("items", ["Hello!", {"chosen": "a", "rejected": "b"}, 7])
def test_feedback_is_a_list(items):
    with pytest.raises(DataError, match="expected a list of items"):
        read_feedback(items)


def test_bad_items_may_be_kept_as_bad_rows_in_their_place():
    shapes = read_feedback([("a", "a"), ("a", "b")], source="thumbs", on_bad="skip")
    assert isinstance(shapes[0], BadRow)
    assert shapes[0].source == "thumbs[0]"
    assert shapes[1].about.index == 1


def test_a_file_of_mixed_shapes_is_read_with_its_lines(tmp_path):
    path = tmp_path / "feedback.jsonl"
    items = [GIVEN_PAIRS["trl"], GIVEN_PAIRS["openai"], {"id": "g", "label": False}]
    path.write_text("\n".join(map(json.dumps, items)) + "\n{\n")
    shapes = read_feedback_file(str(path), settings=Settings(), on_bad="skip")
    assert [type(shape) for shape in shapes] == [Pair, Pair, Thumb, BadRow]
    assert shapes[2].about.source == f"{path}:3"
    with pytest.raises(DataError, match=f"{path}:4: not JSON"):
        read_feedback_file(str(path), settings=Settings())


def test_a_csv_cell_may_hold_messages(tmp_path):
    path = tmp_path / "feedback.csv"
    cell = json.dumps([USER]).replace('"', '""')
    path.write_text(f'prompt,chosen,rejected\n"{cell}",Hello!,What?\n')
    (pair,) = read_feedback_file(str(path), settings=Settings())
    assert (pair.about.prompt, pair.chosen) == ((user(),), (said("Hello!"),))


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(DataError, match=r"a\.json: holds no rows"):
        read_feedback_file(str(tmp_path / "a.json"), settings=Settings())


def test_calls_that_differ_in_their_order_of_arguments_are_the_same():
    one = Message(role="assistant", tool_calls=(ToolCall(name="f", arguments={"a": 1, "b": 2}),))
    other = Message(
        role="assistant", tool_calls=(ToolCall(name="f", arguments={"b": 2, "a": 1}, id="c"),)
    )
    assert reason(([one], [other])).startswith("chosen and rejected are the same")
