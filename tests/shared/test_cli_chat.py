"""`agent-finetune chat`, on tiny models and on an engine that says what a test wants."""

import io
import json
import re
import signal

import pytest
from live_engines import close_all, make_adapter
from talkative import save_talkative_model

from agent_finetune import Message, ToolCall, cli, hookimpl, plugins
from agent_finetune.contracts import Delta, EngineInfo, Result, Usage
from agent_finetune.errors import ContextError

TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]
CALL = ToolCall(name="get_weather", arguments={"city": "Zürich"}, id="call_1")
FIGURES = re.compile(
    r"\[(\d+) tokens in \d+\.\d\d s \(\d+\.\d/s\), first after \d+\.\d\d s, "
    r"(\d+) of (\d+) prompt tokens from the cache(, .*)?\]"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    yield save_talkative_model(tmp_path_factory.mktemp("model"))
    close_all()


@pytest.fixture(scope="module")
def adapters(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return [make_adapter(model, folder / name, seed=seed) for seed, name in enumerate("ab", 1)]


@pytest.fixture
def chat(model, capsys, monkeypatch):
    """Types lines into a chat; answers exit code, stdout and stderr."""

    def run(*lines, words=(), tokens=12):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        capsys.readouterr()
        usual = ("chat", "--model", model, "--device", "cpu", "--max-new-tokens", tokens)
        code = cli.main(list(map(str, (*usual, *words))))
        return code, *capsys.readouterr()

    return run


class Scripted:
    """An engine and its answers at once: says what it was given, one answer after another."""

    id = "scripted"

    def __init__(self, *answers, finish="stop", broken=(), between=lambda: None):
        self.answers = list(answers)
        self.asked = []
        self.cancelled = self.closed = False
        self.between = between
        self.finish = finish
        self.broken = broken

    @hookimpl
    def finetune_open_engine(self, config):
        return self

    def info(self):
        return EngineInfo(model="m", revision="r", context=9, device="cpu", dtype="float32")

    def adapters(self):
        return {}

    def stream(self, request):
        self.asked.append(request)
        self.pieces = self.answers.pop(0)
        return self

    def __iter__(self):
        if isinstance(self.pieces, Exception):
            raise self.pieces
        for piece in self.pieces:
            yield piece
            self.between()
        yield Delta(result=self.result())

    def result(self):
        message = Message(
            role="assistant",
            text="".join(piece.text for piece in self.pieces),
            thinking="".join(piece.thinking for piece in self.pieces) or None,
            tool_calls=tuple(piece.call for piece in self.pieces if piece.call),
        )
        return Result(
            id="1",
            message=message,
            finish="cancelled" if self.cancelled else self.finish,
            revision="r",
            usage=Usage(prompt_tokens=4, completion_tokens=len(self.pieces)),
            broken_calls=self.broken,
        )

    def cancel(self):
        self.cancelled = True

    def close(self):
        self.closed = True


def scripted(chat, engine, *lines, words=()):
    with plugins.registered(engine, "scripted"):
        answered = chat(*lines, words=words)
    assert engine.closed
    return answered


def test_each_line_is_answered_until_the_input_ends(chat):
    code, out, err = chat("Weather in Paris?", "", "And in Rome?", words=["--system", "Be brief."])
    assert code == 0
    assert len(out.splitlines()) == 2
    assert re.search(r"loading .*\nloaded in \d+\.\d s: \w+ on cpu, context of 2048 tokens", err)
    assert err.count("you> ") == 4
    first, second = FIGURES.findall(err)
    assert first[0] == second[0] == "12"
    assert first[3] == ", cut off by max_new_tokens or the context"
    assert int(second[1]) >= int(first[2]) - 1  # the first prompt was not computed again


def test_json_has_the_conversation_with_the_exact_ids_and_stderr_its_words(chat):
    _, out, err = chat("Weather in Paris?", words=["--json", "--system", "Be brief."])
    talk = json.loads(out)["messages"]
    assert [message["role"] for message in talk] == ["system", "user", "assistant"]
    assert talk[1]["text"] == "Weather in Paris?"
    assert len(talk[2]["generation"]["ids"]) == 12
    assert talk[2]["text"] in err


def test_flags_decide_how_tokens_are_drawn(chat):
    def told(*words):
        return chat("Hello", words=words)[1].strip()

    greedy = told()
    drawn = told("--temperature", "1", "--top-p", "0.9", "--seed", "4")
    assert greedy == told() != drawn
    assert drawn == told("--temperature", "1", "--top-p", "0.9", "--seed", "4")
    assert greedy.startswith(told("--stop", greedy[8:10], greedy[4:6]))
    assert len(told("--stop", greedy[8:10], greedy[4:6])) <= 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--temperature", "-1"], "temperature is -1.0"),
        (["--top-p", "2"], "top_p is 2.0"),
        (["--adapters", "folder"], "'folder'; legal is NAME=FOLDER"),
        (["--adapters", "default=folder"], "'default=folder'; legal is NAME=FOLDER"),
        (["--adapters", "a=/nowhere"], "/nowhere: no adapter here"),
        (["--tools", "nowhere.json"], "nowhere.json"),
    ],
)
def test_a_setting_that_cannot_be_is_told_before_the_first_line(chat, words, told):
    code, out, err = chat("Hello", words=words)
    assert (code, out) == (2, "")
    assert told in err
    assert "you> " not in err


@pytest.mark.parametrize("content", ["{", '{"name": "f"}', '["f"]', '[{"function": {}}]'])
def test_a_tools_file_that_is_none_is_named(chat, tmp_path, content):
    tools = tmp_path / "bad_tools.json"
    tools.write_text(content)
    code, _, err = chat("Hello", words=["--tools", tools])
    assert code == 2
    assert "bad_tools.json" in err


def test_adapters_are_switched_while_the_conversation_goes_on(chat, adapters):
    first, second = adapters
    lines = ["Hello", "/reset", f"/adapter b={second}", "Hello", "/reset", "/adapter a", "Hello",
             "/adapter", "/reset", "/adapter default", "Hello"]  # fmt: skip
    code, out, err = chat(*lines, words=["--adapters", f"a={first}"])
    base, b, a, again = out.splitlines()
    assert code == 0
    assert base == again
    assert len({base, a, b}) == 3
    assert "b answers from now on" in err
    assert re.search(r"  default\n\* a sha256:\w{12}\n  b sha256:\w{12}\n", err)
    assert chat("Hello", words=["--adapter", first])[1].strip() == a


def test_reset_forgets_all_but_the_system_message(chat):
    words = ["--json", "--system", "Be brief."]
    talk = json.loads(chat("Hello", "/reset", "Bye", words=words)[1])["messages"]
    assert [m["text"] for m in talk[:2]] == ["Be brief.", "Bye"]
    assert len(talk) == 3


def test_help_tells_every_command(chat):
    _, _, err = chat("/help")
    assert {"/adapter", "/reset", "/help", "Ctrl-C", "Ctrl-D"} <= set(re.findall(r"[/\w-]+", err))


@pytest.mark.parametrize("line", ["/quit", "/reset now", "/adapter nobody"])
def test_a_command_that_is_none_ends_a_script(chat, line):
    code, out, err = chat(line, "Hello")
    assert (code, out) == (2, "")
    assert f"error: {line!r} is no command" in err or "legal are default" in err


def test_a_line_behind_a_blank_is_said_even_if_it_looks_like_a_command(chat):
    engine = Scripted([Delta(text="A folder.")])
    scripted(chat, engine, " /etc is what?")
    assert engine.asked[0].messages[-1].text == "/etc is what?"


def test_thinking_stands_apart_where_nothing_can_be_dimmed(chat):
    pieces = [Delta(thinking="Zürich"), Delta(thinking=", then."), Delta(text="It is\n"),
              Delta(text=" warm.")]  # fmt: skip
    _, out, _ = scripted(chat, Scripted(pieces), "Weather?")
    assert out == "thinking: Zürich, then.\nIt is\n warm.\n"


def test_thinking_is_dimmed_on_a_terminal(chat, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    pieces = [Delta(thinking="Hm."), Delta(text="[b]Warm[/b] :smile:")]
    _, out, err = scripted(chat, Scripted(pieces), "Weather?")
    assert out == "\x1b[2;3mHm.\x1b[0m\n[b]Warm[/b] :smile:\n"
    assert "\x1b[2m[2 tokens in" in err


def test_the_user_plays_the_tools(chat, tmp_path):
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps(TOOLS))
    engine = Scripted([Delta(text="Let me see."), Delta(call=CALL)], [Delta(text="Warm.")])
    words = ["--json", "--tools", tools]
    code, out, err = scripted(chat, engine, "Weather?", "25 degrees", words=words)
    talk = json.loads(out)["messages"]
    assert code == 0
    assert [message["role"] for message in talk] == ["user", "assistant", "tool", "assistant"]
    assert (talk[2]["text"], talk[2]["tool_call_id"]) == ("25 degrees", "call_1")
    assert 'Let me see.\ncalls get_weather({"city": "Zürich"})\n' in err
    assert engine.asked[0].tools == tuple(TOOLS)


def test_a_call_may_be_left_without_a_result(chat):
    engine = Scripted([Delta(call=CALL)], [Delta(text="Fine.")])
    _, out, _ = scripted(chat, engine, "Weather?", "", "Never mind.", words=["--json"])
    roles = [message["role"] for message in json.loads(out)["messages"]]
    assert roles == ["user", "assistant", "user", "assistant"]


def test_a_call_that_does_not_parse_is_told(chat):
    engine = Scripted([Delta(text="Hm.")], broken=('{"name": "get_',))
    _, _, err = scripted(chat, engine, "Weather?")
    assert 'a tool call that does not parse: {"name": "get_\n' in err


def test_what_failed_is_left_out_and_a_script_ends_with_it(chat):
    engine = Scripted([Delta(text="Hi.")], ContextError("too long"))
    code, out, err = scripted(chat, engine, "Hello", "A long story", words=["--json"])
    assert (code, out) == (2, "")
    assert err.endswith("that line is left out of the conversation\nerror: too long\n")


def test_at_a_terminal_the_talk_goes_on_after_an_error(chat, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(io, "StringIO", Terminal)
    engine = Scripted(ContextError("too long"), [Delta(text="Hi.")])
    code, out, err = scripted(chat, engine, "A long story", "/quit", "Hello", words=["--json"])
    assert code == 0
    assert [m["text"] for m in json.loads(out)["messages"]] == ["Hello", "Hi."]
    assert "error: too long" in err
    assert "error: '/quit' is no command" in err


def test_at_a_terminal_lines_can_be_edited(chat, monkeypatch):
    lines = ["Hello"]

    def typed(prompt):
        if not lines:
            raise EOFError
        return lines.pop(0)

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(io, "StringIO", Terminal)
    monkeypatch.setattr("builtins.input", typed)
    monkeypatch.setattr("sys.stdout", Terminal())
    engine = Scripted([Delta(text="Hi.")])
    assert scripted(chat, engine)[0] == 0
    assert engine.asked[0].messages[-1].text == "Hello"


def test_ctrl_c_stops_the_answer_and_what_came_stays(chat, monkeypatch):
    from agent_finetune.cli import screen

    written = screen.Screen._show
    before = signal.getsignal(signal.SIGINT)

    def show(self, piece):
        written(self, piece)
        if piece.text and not stopped:
            stopped.append(piece)
            signal.raise_signal(signal.SIGINT)

    stopped = []
    monkeypatch.setattr(screen.Screen, "_show", show)
    code, out, err = chat("Tell me a story", words=["--json"], tokens=2000)
    talk = json.loads(out)["messages"]
    assert code == 0
    assert talk[1]["text"].startswith(stopped[0].text.strip())
    assert talk[1]["text"] in err
    assert len(talk[1]["generation"]["ids"]) < 1500
    assert FIGURES.findall(err)[0][3] == ", cancelled"
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_before_anything_came_takes_the_line_back(chat):
    engine = Scripted([])
    engine.cancelled = True
    _, out, err = scripted(chat, engine, "Hello", words=["--json"])
    assert json.loads(out)["messages"] == []
    assert "that line is left out" in err


@pytest.fixture
def heeded_ctrl_c():
    """Python's own answer to Ctrl-C, which a program that a shell put into the background lacks."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_ends_the_program(chat, heeded_ctrl_c):
    engine = Scripted([Delta(text="Hi."), Delta(text=" You.")])
    engine.between = lambda: signal.raise_signal(signal.SIGINT)
    code, _, err = scripted(chat, engine, "Hello")
    assert code == 130
    assert engine.cancelled
    assert err.endswith("interrupted\n")
