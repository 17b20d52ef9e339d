"""The 2023 text: what is trained is what the 2023 script trained, and its faults are gone."""

import json

import pytest
import script2023
from hypothesis import given
from legacy_rows import ANSWER, NEXT, TWO_TURNS, conversation, executed, read, row, think
from legacy_rows import well_formed_rows as well_formed

from agent_finetune.contracts import Settings, Source
from agent_finetune.errors import DataError
from agent_finetune.readers import read as read_data
from agent_finetune.records import Row
from modelscope_agent_train import legacy


def flagged(pieces):
    """Every character with its flag."""
    return [(character, bool(trained)) for text, trained in pieces for character in text]


@given(well_formed)
def test_trained_and_untrained_text_are_those_of_the_2023_script(data):
    expected = script2023.segments(data)
    if expected is None:
        with pytest.raises(legacy.LeftOut):
            read(data)
    else:
        assert flagged(legacy.text_pieces(read(data))) == flagged(expected)


@given(well_formed)
def test_a_conversation_survives_as_an_example_with_raw_text(data):
    if script2023.segments(data) is not None:
        found = read(data)
        assert legacy.conversation(legacy.example(found)) == found


def test_what_is_trained_is_the_assistants_text_with_its_header_and_end_but_no_exec_block():
    trained = [t for t, on in legacy.text_pieces(conversation(("Weather?", ANSWER))) if on]
    assert trained == [
        f"\n\n<|assistant|>:{think(city='Rome')}\n\n",
        "\n9 degrees.\n\n</s>",
    ]


def test_conversations_may_be_a_string_of_a_list_in_python_or_json():
    said = row(("a", "b"))["conversations"]
    found = read({"conversations": said, "id": "x"})
    assert read({"conversations": repr(said), "id": "x"}) == found
    assert read({"conversations": json.dumps(said), "id": "x"}) == found


def test_an_empty_answer_takes_its_question_with_it():
    assert conversation(("a", ""), ("b", "c")).turns == (legacy.Turn(user="b", answer="c"),)


def test_an_exec_tag_without_a_partner_is_refused_where_2023_trained_the_result():
    broken = row(("Weather?", f"{think(city='Rome')}<|startofexec|>secret result"))
    trained = [text for text, flag in script2023.segments(broken) if flag]
    assert "secret result" in trained[0]
    with pytest.raises(DataError, match=r"conversations\[2\]: the last <\|startofexec\|> is never"):
        read(broken)


@pytest.mark.parametrize(
    "answer",
    [
        "<|endofexec|>a<|startofexec|>b<|endofexec|>",
        "<|startofexec|>a<|startofexec|>b<|endofexec|>",
    ],
)
def test_exec_tags_out_of_order_are_refused_where_2023_mixed_up_what_is_trained(answer):
    script2023.segments(row(("a", answer)))
    with pytest.raises(DataError, match="out of order"):
        read(row(("a", answer)))


def test_a_user_without_an_answer_is_named_where_2023_broke_down():
    data = row(("a", "b"))
    data["conversations"] = data["conversations"][:2]
    with pytest.raises(IndexError):
        script2023.segments(data)
    with pytest.raises(DataError, match=r"conversations\[1\]: a user without an answer"):
        read(data)


def test_speakers_out_of_order_are_named_where_2023_broke_down():
    data = row(("a", "b"), ("c", "d"))
    data["conversations"][2]["from"] = "user"
    with pytest.raises(AssertionError):
        script2023.segments(data)
    with pytest.raises(DataError, match=r"conversations\[2\]: from is 'user'; it must be 'assi"):
        read(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"messages": []}, "no key 'conversations'; keys are 'messages'"),
        ({"conversations": 3}, "conversations"),
        ({"conversations": [{"from": "system", "value": None}]}, r"value is None; expected a str"),
    ],
)
def test_rows_that_are_no_conversations_say_why(data, reason):
    with pytest.raises(DataError, match=reason):
        read(data)


def test_rows_that_2023_left_out_are_counted_by_the_reason(tmp_path):
    rows = [row(("a", "b")), row(("a", "")), {"conversations": []}, row(("a", "b"))]
    rows[3]["conversations"].pop(0)
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    result = read_data(str(path), format=legacy.FORMAT, settings=Settings())
    assert (len(result.examples), result.bad) == (1, ())
    assert result.left_out == {"no turn has an answer": 1, "the first message is not 'system'": 2}


def test_bad_rows_stop_the_run_or_are_skipped_with_file_and_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    bad = row(("a", "<|endofexec|>"))
    path.write_text("\n".join([json.dumps(row(("a", "b"))), json.dumps(bad), "{"]))
    with pytest.raises(DataError, match=r"rows.jsonl:2: conversations\[2\]: exec tag 1"):
        read_data(str(path), format=legacy.FORMAT, settings=Settings())
    result = read_data(str(path), format=legacy.FORMAT, on_bad_row="skip", settings=Settings())
    assert [bad.source.rpartition(":")[2] for bad in result.bad] == ["2", "3"]


def test_the_raw_form_is_never_taken_unless_it_is_asked_for():
    source = Source("rows", None, lambda: [Row(source="rows:1", data=row(("a", ANSWER)))])
    assert legacy.read_source(source, "auto") is None


def test_an_example_offers_the_tools_of_its_plugins_and_none_where_they_do_not_parse():
    assert legacy.example(conversation(("a", "b"))).tool_names == ("get_weather",)
    assert legacy.example(conversation(("a", "b"), system="1. {broken")).tools == ()


def test_steps_show_all_before_them_and_label_what_is_said_next():
    call, summary, again, last = legacy.steps(conversation(*TWO_TURNS))
    assert call.label == f"{think(city='Rome')}\n\n"
    assert call.prompt.endswith("\n\n<|user|>:Weather in Rome?\n\n<|assistant|>:")
    assert (call.header, call.final) == ("\n\n<|assistant|>:", False)
    assert summary.prompt == call.prompt + call.label + executed({"t": 9})
    assert (summary.label, summary.header, summary.final) == ("\n9 degrees.", "", True)
    assert again.prompt.startswith(summary.prompt + summary.label + "\n\n</s>\n\n<|user|>:And")
    assert last.label == "\n7 度。"


def test_a_later_step_is_shown_the_answer_before_it_which_2023_left_out():
    data = row(*TWO_TURNS)
    prompts_2023 = [prompt for prompt, _ in script2023.shown(data)]
    assert "9 degrees." not in prompts_2023[2]
    assert "9 degrees." in legacy.steps(read(data))[2].prompt


def test_the_steps_of_one_turn_are_those_of_2023_with_the_header_given():
    data = row(("Weather in 北京?", NEXT))
    ours = legacy.steps(read(data))
    assert script2023.shown(data) == [
        (
            step.prompt.removesuffix(step.header) if step.header else step.prompt,
            step.header + step.label,
        )
        for step in ours
    ]


def test_blocks_in_a_row_and_at_the_end_are_no_steps():
    found = conversation(("a", f"{think()}{executed('1')}{executed('2')}"))
    assert [step.label for step in legacy.steps(found)] == [think()]
