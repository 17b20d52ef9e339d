import json
import sqlite3
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from agent_finetune import plugins
from agent_finetune.contracts import Exchange, Request, Result, Usage
from agent_finetune.errors import ConfigError, DataError, PluginError
from agent_finetune.feedback import align, read_feedback
from agent_finetune.hookspecs import hookimpl
from agent_finetune.readers.chat import read_messages
from agent_finetune.recordings import Recordings, Which
from agent_finetune.recordings.exchanges import to_exchange, to_record
from agent_finetune.records import Generation, Message, Row, ToolCall

TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
CALL = ToolCall(name="look_up", arguments={"city": "Örebro", "at": [1, None]}, id="c1")

WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_recordings import exchange
from agent_finetune.recordings import Recordings

recordings = Recordings(Path(sys.argv[1]))
for number in range(50):
    recordings.add(exchange(f"{sys.argv[2]}-{number}"))
    recordings.feedback(f"{sys.argv[2]}-{number}", value=True)
"""


def exchange(id="g1", text="Paris", *, asked="Capital of France?", time=1000.0, **result):
    return Exchange(
        request=Request(messages=(Message(role="user", text=asked),), adapter="shopper"),
        result=Result(
            id=id,
            message=Message(
                role="assistant",
                text=text,
                generation=Generation(prompt_ids=(1, 2, 3), ids=(7, 8, 9)),
            ),
            revision="sha256:abc",
            usage=Usage(prompt_tokens=3, completion_tokens=3),
            **{"finish": "stop"} | result,
        ),
        time=time,
    )


def conversation():
    """Every field holds something else than its default."""
    earlier = Generation(prompt_ids=(1, 2), ids=(3, 4))
    elsewhere = Generation(prompt_ids=(9, 9), ids=(9,))
    request = Request(
        messages=(
            Message(role="system", text="Be brief."),
            Message(role="user", text="And then?", name="jo"),
            Message(role="assistant", tool_calls=(CALL,), generation=earlier),
            Message(role="tool", text="rain", tool_call_id="c1", name="look_up"),
            Message(role="assistant", text="Hm.", trained=False, generation=elsewhere),
            Message(role="user", text="So?"),
        ),
        tools=(TOOL,),
        tool_choice="required",
        adapter="shopper",
        max_new_tokens=9,
        temperature=0.5,
        top_p=0.9,
        seed=4,
        stop=("END",),
    )
    message = Message(
        role="assistant",
        text="Rain \ud83d.",  # half of a pair, as a model may write into JSON
        thinking="It rains.",
        tool_calls=(CALL,),
        generation=Generation(prompt_ids=(1, 2, 3, 4, 5), ids=(6, 7)),
    )
    result = Result(
        id="g2",
        message=message,
        finish="tool_calls",
        revision="sha256:def",
        usage=Usage(prompt_tokens=5, completion_tokens=2, cached_tokens=4),
        broken_calls=("{oops",),
    )
    return Exchange(request=request, result=result, time=1234.5)


@pytest.fixture
def recordings(tmp_path):
    return Recordings(tmp_path / "deep" / "recordings.db")


def test_an_exchange_comes_back_exactly_as_it_went_in(recordings):
    for recorded in (exchange(), conversation()):
        recordings.add(recorded, model="smol")
        assert recordings.by_id(recorded.result.id) == recorded
    shown = recordings.show("g2")
    assert (shown.model, shown.adapter, shown.redacted) == ("smol", "shopper", None)


def test_the_ids_of_earlier_turns_are_written_once():
    record = json.loads(json.dumps(to_record(conversation(), model="", adapter=None)))
    written = [m["generation"] for m in record["request"]["messages"] if "generation" in m]
    assert written == [{"prompt_ids": 2, "ids": [3, 4]}, {"prompt_ids": [9, 9], "ids": [9]}]
    assert to_exchange(record) == conversation()


def test_the_file_is_for_its_owner_alone(recordings, tmp_path):
    recordings.add(exchange())
    with sqlite3.connect(recordings.path) as connection:
        connection.execute("SELECT * FROM generations").fetchall()
        files = list((tmp_path / "deep").iterdir())
        assert len(files) > 1  # the log lies beside it
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    connection.close()
    assert stat.S_IMODE((tmp_path / "deep").stat().st_mode) == 0o700


def test_a_generation_is_recorded_once(recordings):
    recordings.add(exchange())
    with pytest.raises(DataError, match="generation 'g1' is recorded"):
        recordings.add(exchange())


def test_the_adapter_that_spoke_may_be_the_engines_own(recordings):
    recordings.add(exchange(), adapter="house")
    assert recordings.show("g1").adapter == "house"
    assert recordings.list(Which(adapter="shopper")) == []


def test_the_newest_come_first_and_conditions_narrow(recordings):
    for number in range(5):
        recordings.add(exchange(f"g{number}", time=1000.0 + number))
    recordings.add(exchange("other", time=1010.0), adapter="house")

    def ids(*which, **more):
        return [recording.id for recording in recordings.list(*which, **more)]

    assert ids(limit=2) == ["other", "g4"]
    assert ids(Which(since=1001.0, before=1003.0)) == ["g2", "g1"]
    assert ids(Which(adapter="shopper", since=1003.0)) == ["g4", "g3"]


def test_reading_goes_page_by_page_and_loses_nothing(recordings, monkeypatch):
    monkeypatch.setattr("agent_finetune.recordings.store._PAGE", 2)
    for number in range(5):
        recordings.add(exchange(f"g{number}"))
        recordings.feedback(f"g{number}", reward=number)
    read = list(recordings.read())
    assert [(r.id, r.feedback[0].reward) for r in read] == [(f"g{n}", n) for n in range(5)]
    assert len(recordings.list()[0].feedback) == 1


def test_several_processes_and_threads_at_once_lose_nothing(recordings):
    here = str(Path(__file__).parent)
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(recordings.path), str(n), here])
        for n in range(4)
    ]

    def write(thread):
        for number in range(10):
            recordings.add(exchange(f"t{thread}-{number}"))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [writer.wait() for writer in writers] == [0] * 4
    read = list(recordings.read())
    expected = {f"{n}-{i}" for n in range(4) for i in range(50)}
    assert {r.id for r in read if r.feedback} == expected
    assert len(read) == len(expected) + 30


def test_many_may_make_the_file_at_once(tmp_path):
    code = "import sys; from pathlib import Path; from agent_finetune.recordings import Recordings;"
    code += "Recordings(Path(sys.argv[1]))"
    makers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "new.db")]) for _ in range(4)
    ]
    assert [maker.wait() for maker in makers] == [0] * 4


def test_a_writer_waits_for_another_and_says_so_when_it_takes_too_long(recordings, monkeypatch):
    monkeypatch.setattr("agent_finetune.recordings.database._PATIENCE", 0.01)
    impatient = Recordings(recordings.path)
    other = sqlite3.connect(recordings.path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(ConfigError, match=r"recordings\.db: database is locked"):
        impatient.add(exchange())
    threading.Timer(0.3, other.rollback).start()
    recordings.add(exchange())
    assert recordings.by_id("g1") is not None
    other.close()


def test_what_is_not_ours_is_left_alone(tmp_path):
    path = tmp_path / "notes.db"
    with pytest.raises(ConfigError, match="no such file"):
        Recordings(path, create=False)
    assert not path.exists()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE notes (text)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="a database of another program"):
        Recordings(path)
    assert path.read_bytes() == before
    path.write_text("not a database at all" * 100)
    with pytest.raises(ConfigError, match="file is not a database"):
        Recordings(path)
    with pytest.raises(ConfigError, match="unable to open database file"):
        Recordings(tmp_path)


@pytest.mark.parametrize("version", [1, 7])
def test_recordings_of_another_version_are_not_touched(recordings, version):
    connection = sqlite3.connect(recordings.path)
    connection.execute(f"PRAGMA user_version={version}")
    connection.close()
    before = recordings.path.read_bytes()
    with pytest.raises(ConfigError, match=f"recordings of version {version}.* can export them"):
        Recordings(recordings.path)
    assert recordings.path.read_bytes() == before


def test_feedback_attaches_to_a_generation(recordings):
    recordings.add(exchange())
    recordings.feedback("g1", value=False, comment="too short")
    recordings.feedback("g1", correction="Paris, of course.", value=True)
    first, second = recordings.show("g1").feedback
    assert (first.value, first.comment, first.correction) == (False, "too short", None)
    assert second.time >= first.time > 1e9
    merged = recordings.show("g1").judgement
    assert (merged.value, merged.correction, merged.comment) == (
        True,
        "Paris, of course.",
        "too short",
    )


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({}, "nothing is said"),
        ({"value": "up"}, "value is 'up'; legal are True, False and None"),
        ({"reward": float("nan")}, "reward is nan; it must be a finite number"),
        ({"reward": True}, "reward is True"),
        ({"correction": " "}, "correction is ' '; it must say something"),
        ({"correction": Message(role="user", text="x")}, "correction is of 'user'"),
        ({"correction": Message(role="assistant")}, "correction has no words and no calls"),
    ],
)
def test_feedback_that_says_nothing_is_refused(recordings, said, reason):
    recordings.add(exchange())
    with pytest.raises(DataError, match=reason):
        recordings.feedback("g1", **said)
    assert recordings.show("g1").feedback == ()


def test_feedback_on_nothing_is_refused(recordings):
    with pytest.raises(DataError, match="no generation 'g1' is recorded"):
        recordings.feedback("g1", value=True)
    with pytest.raises(DataError, match="no generation 'g1' is recorded"):
        recordings.show("g1")
    assert recordings.by_id("g1") is None


def test_generations_are_found_by_who_asked_and_in_which_conversation(recordings):
    recordings.add(exchange("a"), agent="Cook", session="monday", reply="r1")
    recordings.add(exchange("b"), agent="Cook", session="monday", reply="r1")
    recordings.add(exchange("c"), agent="Cook", session="tuesday", reply="r2")
    recordings.add(exchange("d"), agent="Waiter", session="monday")
    recordings.add(exchange("e"))

    def ids(**which):
        return [recording.id for recording in recordings.read(Which(**which))]

    assert ids(agent="Cook") == ["a", "b", "c"]
    assert ids(session="monday") == ["a", "b", "d"]
    assert ids(agent="Cook", session="monday") == ["a", "b"]
    assert ids(reply="r1") == ["a", "b"]
    shown = recordings.show("c")
    assert (shown.agent, shown.session, shown.reply) == ("Cook", "tuesday", "r2")
    assert recordings.delete(Which(agent="Cook")) == 3


def test_a_name_that_is_an_address_is_taken_out_and_the_ids_stay(recordings):
    recordings.add(exchange(), session="jo@example.org")
    shown = recordings.show("g1")
    assert (shown.session, shown.redacted) == ("[redacted e-mail]", None)
    assert shown.exchange == exchange()


def test_a_correction_may_be_a_call(recordings):
    better = Message(role="assistant", text="Looking.", thinking="Hm.", tool_calls=(CALL,))
    recordings.add(exchange())
    recordings.feedback("g1", correction=better)
    (said,) = recordings.show("g1").feedback
    assert said.correction == better
    (item,) = recordings.judgements()
    assert item == {"id": "g1", "correction": better}
    (pair,) = align(read_feedback([item]), more=recordings).preferences
    assert (pair.chosen, pair.rejected.text) == (better, "Paris")
    (row,) = json.loads(json.dumps(list(recordings.export("feedback"))))
    (pair,) = align(read_feedback([row])).preferences
    assert pair.chosen == better
    assert list(recordings.examples()) == []


def test_a_corrected_call_with_a_secret_is_kept_redacted_and_not_learnt(recordings):
    call = ToolCall(name="log_in", arguments={"user": "jo", "password": "hunter2!x"})
    recordings.add(exchange())
    recordings.feedback("g1", correction=Message(role="assistant", tool_calls=(call,)))
    (said,) = recordings.show("g1").feedback
    assert said.redacted
    assert said.correction.tool_calls[0].arguments["password"] == "[redacted secret]"
    assert list(recordings.judgements()) == []


def test_answers_are_found_by_a_piece_of_their_text(recordings):
    for id, text in (("a", " Paris TERMINATE\n"), ("b", "Not Paris"), ("c", "paris"), ("d", "  ")):
        recordings.add(exchange(id, text))
    recordings.add(conversation())
    assert [e.result.id for e in recordings.by_text("Paris")] == ["a", "b"]
    assert [e.result.id for e in recordings.by_text("Rain \ud83d.")] == ["g2"]
    assert [e.result.id for e in recordings.by_text("")] == ["d"]
    assert [e.result.id for e in recordings.by_text("100%")] == []


def test_a_secret_is_not_written_and_takes_the_exact_ids_with_it(recordings):
    secret, address = "sk-" + "a1B2c3D4e5F6g7H8i9", "jo@example.org"
    said = exchange("g1", f"Your key is {secret}.", asked=f"I am {address}; my key?")
    earlier = Message(role="assistant", text="Hi", generation=Generation(prompt_ids=(1,), ids=(2,)))
    request = replace(said.request, messages=(earlier, *said.request.messages))
    recordings.add(replace(said, request=request))
    recordings.feedback("g1", correction=f"Ask {address}.", comment=secret)
    recordings.add(exchange("g2"))
    shown = recordings.show("g1")
    assert shown.redacted == "answer"
    assert shown.exchange.result.message.text == "Your key is [redacted secret]."
    assert all(m.generation is None for m in shown.exchange.request.messages)
    assert shown.exchange.result.message.generation is None
    assert recordings.show("g2").redacted is None
    content = b"".join(path.read_bytes() for path in recordings.path.parent.iterdir())
    assert secret.encode() not in content
    assert address.encode() not in content
    assert b"[redacted secret]" in content


def test_nothing_is_learnt_from_an_answer_that_is_not_what_was_said(recordings):
    recordings.add(exchange("asked", asked="I am jo@example.org"))
    recordings.add(exchange("said", "I am jo@example.org"))
    recordings.add(exchange("corrected"))
    for id in ("asked", "said"):
        recordings.feedback(id, value=True)
    recordings.feedback("corrected", correction="jo@example.org")
    assert recordings.show("asked").redacted == "prompt"
    assert [example.id for example in recordings.examples()] == ["asked"]
    assert [row["id"] for row in recordings.export()] == ["asked", "corrected"]
    for rows in (recordings.judgements(), recordings.export("feedback")):
        assert [row["id"] for row in rows] == ["asked"]


def test_a_plugin_that_cleans_in_place_is_noticed(recordings):
    class Clean:
        @hookimpl
        def finetune_redact_record(self, record):
            if "result" in record:
                record["result"]["message"]["text"] = "?"
            return record

    with plugins.registered(Clean(), "clean"):
        recordings.add(exchange())
    shown = recordings.show("g1")
    assert shown.redacted == "answer"
    assert shown.exchange.result.message.generation is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda record: {"id": record["id"]}, "answered what is no record any more"),
        (lambda record: record | {"id": "x"}, "changed the id or time of 'g1'"),
        (lambda record: record | {"request": "?"}, "answered what is no record any more"),
    ],
)
def test_a_redaction_that_loses_the_record_is_named_and_nothing_is_written(
    recordings, change, reason
):
    class Lossy:
        @hookimpl
        def finetune_redact_record(self, record):
            return change(dict(record))

    with plugins.registered(Lossy(), "lossy"), pytest.raises(PluginError, match=reason):
        recordings.add(exchange())
    assert recordings.list() == []


def test_whole_answers_nobody_disliked_are_demonstrations(recordings):
    recordings.add(conversation())  # holds a broken call
    for id in ("good", "liked", "disliked", "corrected"):
        recordings.add(exchange(id))
    for finish in ("length", "cancelled"):
        recordings.add(exchange(finish, finish=finish))
    recordings.add(exchange("silent", ""))
    recordings.feedback("liked", value=True)
    recordings.feedback("disliked", value=False)
    recordings.feedback("corrected", correction="Paris!")
    examples = list(recordings.examples())
    assert [example.id for example in examples] == ["good", "liked"]
    assert examples[0].source == "recordings.db:good"
    assert examples[0].messages[-1].generation.ids == (7, 8, 9)
    assert examples[0].messages[-1].trained


def test_only_the_answer_of_a_demonstration_is_trained(recordings):
    said = conversation()
    recordings.add(replace(said, result=replace(said.result, broken_calls=())))
    (example,) = recordings.examples()
    assert [m.trained for m in example.messages if m.role == "assistant"] == [False, False, True]
    assert example.tools == (TOOL,)


def test_tools_that_were_not_offered_are_not_trained(recordings):
    said = exchange()
    request = replace(said.request, tools=(TOOL,), tool_choice="none")
    recordings.add(replace(said, request=request))
    (example,) = recordings.examples()
    assert example.tools == ()


def judge(recordings):
    for id in ("a", "b", "c", "d", "e"):
        recordings.add(exchange(id, f"answer {id}"))
    recordings.feedback("a", correction="Better.", value=False)
    recordings.feedback("b", value=True)
    recordings.feedback("b", value=False)  # somebody thought again
    recordings.feedback("c", reward=0.25)
    recordings.feedback("d", comment="hm")


def test_judgements_are_what_alignment_takes(recordings):
    judge(recordings)
    items = list(recordings.judgements(Which(adapter="shopper")))
    assert items == [
        {"id": "a", "correction": "Better."},
        {"id": "b", "label": False},
        {"id": "c", "reward": 0.25},
    ]
    learning = align(read_feedback(items), [], more=recordings, threshold=0.5)
    (pair,) = learning.preferences
    assert (pair.chosen.text, pair.rejected.text) == ("Better.", "answer a")
    assert pair.rejected.generation.ids == (7, 8, 9)
    assert [v.good for v in learning.verdicts if v.completion.text == "answer b"] == [False]
    assert learning.prompt_source["disk"] >= 2


def test_exported_feedback_is_complete_without_the_file(recordings):
    judge(recordings)
    rows = json.loads(json.dumps(list(recordings.export("feedback"))))
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    learning = align(read_feedback(rows), [], threshold=0.5)
    (pair,) = learning.preferences
    assert (pair.prompt[-1].text, pair.chosen.text) == ("Capital of France?", "Better.")
    assert learning.prompt_source["given"] >= 2


def test_exported_messages_are_what_our_readers_read(recordings):
    said = conversation()
    recordings.add(replace(said, result=replace(said.result, broken_calls=())))
    recordings.add(exchange("cut", finish="length"))
    (row,) = json.loads(json.dumps(list(recordings.export())))
    read = read_messages(Row(source="x:1", data=row))
    (expected,) = recordings.examples()

    def bare(messages):
        return [replace(message, generation=None) for message in messages]

    assert bare(read.messages) == bare(expected.messages)
    assert (read.tools, read.id) == (expected.tools, "g2")


def test_what_is_deleted_is_gone_from_the_disk(recordings):
    for number in range(6):
        recordings.add(exchange(f"g{number}", f"unforgettable {number} " * 500, time=number))
        recordings.feedback(f"g{number}", comment=f"memorable {number}")
    recordings.add(exchange("other", time=0.5), adapter="house")
    assert recordings.delete(ids=["g5", "missing"]) == 1
    assert recordings.delete(Which(adapter="shopper", before=2)) == 2
    content = b"".join(path.read_bytes() for path in recordings.path.parent.iterdir())
    for number in range(6):
        gone = number in (0, 1, 5)
        assert (f"unforgettable {number}".encode() in content) != gone
        assert (f"memorable {number}".encode() in content) != gone
    assert recordings.delete(everything=True) == 4
    assert recordings.list() == []


def test_what_to_delete_has_to_be_said(recordings):
    recordings.add(exchange())
    with pytest.raises(ConfigError, match="say what to delete"):
        recordings.delete()
    with pytest.raises(ConfigError, match="say what to delete"):
        recordings.delete(ids=["g1"], everything=True)
    assert len(recordings.list()) == 1


def test_deleting_says_when_a_reader_keeps_the_old_text_on_disk(recordings, monkeypatch):
    recordings.add(exchange())
    reader = sqlite3.connect(recordings.path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM generations").fetchall()
    monkeypatch.setattr("agent_finetune.recordings.database._PATIENCE", 0.01)
    with pytest.raises(ConfigError, match="another process was reading"):
        Recordings(recordings.path).delete(everything=True)
    reader.close()
    assert recordings.delete(everything=True) == 0


def test_the_kernel_is_imported_without_sqlalchemy():
    code = "import sys, agent_finetune, agent_finetune.plugins as p, agent_finetune.cli;"
    code += "p.plugin_hooks(); sys.exit('sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
