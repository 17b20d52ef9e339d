"""A user and three agents talk, and one of the agents is fine-tuned while they do.

Writer, Critic and Teacher speak with one copy of a small model's weights. In the middle of the
conversation the Writer is fine-tuned; the question that was asked before is asked again, and both
answers stand side by side. Without arguments the user's words come from a script.
"""

import argparse
import asyncio
import json
import os
import sys
from collections import deque
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from agentscope.agent import Agent, InjectionConfig, ReActConfig
from agentscope.console import ConsoleRenderer
from agentscope.event import ReplyEndEvent, ReplyStartEvent
from agentscope.message import Msg, UserMsg
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agent_finetune.errors import ConfigError, FinetuneError
from agent_finetune.settings import read_settings
from agentscope_finetune import (
    FineTuneAgent,
    TransformersChatModel,
    TransformersMultiAgentFormatter,
    load_model_configs,
)

HERE = Path(__file__).parent
QUESTION = "Explain in simple terms how the attention mechanism of a transformer model works"
MEANWHILE = "What is it good for?"
PROMPTS = {
    "Writer": "You are a helpful assistant.",
    "Critic": "You are a critic. You say what is hard to understand, and what can go wrong.",
    "Teacher": "You are a primary school teacher who explains everything with an example.",
}
GO_ON = None
"""What a user says who lets the next part begin: training, and then the end."""


class RoundTable:
    """A pipeline of AgentScope: each agent in turn answers the user, then hears the others.

    It has `reply_stream`, as agents have, so that it goes where they go (`PipelineProtocol`).
    That nobody hears the others first is for the small model, which would say the same again.
    """

    def __init__(self, agents):
        self.agents = agents

    async def reply_stream(self, inputs):
        said = []
        for agent in self.agents:
            async for event in agent.reply_stream(inputs, yield_final_msg=True):
                if isinstance(event, Msg):
                    said.append((agent, event))
                else:
                    yield event
        for agent in self.agents:
            await agent.observe([words for speaker, words in said if speaker is not agent])


class Script:
    """A user whose words are known beforehand."""

    def __init__(self, *lines):
        self._lines = deque(lines)

    async def line(self):
        if not self._lines:
            raise EOFError
        said = self._lines.popleft()
        if said is not GO_ON:
            print(f"\nuser> {said}")
        return said


class Person:
    """A user at the keyboard, who is waited for on the event loop: no thread, clean to cancel."""

    def __init__(self):
        self._unread = b""

    async def line(self):
        print("\nuser> ", end="", flush=True)
        while b"\n" not in self._unread:
            await _readable(sys.stdin.fileno())
            found = os.read(sys.stdin.fileno(), 4096)
            if not found:  # Ctrl-D
                print()
                raise EOFError
            self._unread += found
        line, self._unread = self._unread.split(b"\n", 1)
        said = line.decode(errors="replace").strip()
        if said == "/quit":
            raise EOFError
        return GO_ON if said == "/tune" else said


async def _readable(file):
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    try:
        loop.add_reader(file, came.set)
    except PermissionError:  # a file on disk, which never keeps anybody waiting
        return
    try:
        await came.wait()
    finally:
        loop.remove_reader(file)


class Screen:
    """Shows who says what; what is to be noted meanwhile waits until they have finished."""

    def __init__(self):
        self.console = Console(highlight=False)
        self._renderer = ConsoleRenderer(verbosity="default", console=self.console)
        self._speaking = False
        self._notes = []

    def show(self, event):
        self._speaking = isinstance(event, ReplyStartEvent) or self._speaking
        self._renderer.render(event)
        if isinstance(event, ReplyEndEvent):
            self._speaking = False
            self.note(*self._notes)
            self._notes = []

    def note(self, *lines):
        for line in lines:
            if self._speaking:
                self._notes.append(line)
            else:
                self.console.print(f"  {line}", style="dim", markup=False)

    def progress(self, line):
        if "loss" in line:
            told = f"step {line['step']}, epoch {line['epoch']:.1f}, loss {line['loss']:.3f}"
            self.note(f"the Writer trains: {told}, {line['seconds']:.0f} s")


async def open_agents(options, screen):
    """Writer, Critic and Teacher, on one copy of the weights."""
    env_file = HERE / ".env" if (HERE / ".env").exists() else None
    models = load_model_configs(options.configs, settings=read_settings(env_file))
    agents = []
    for name, prompt in PROMPTS.items():
        if name.lower() not in models:
            known = ", ".join(map(repr, models))
            raise ConfigError(f"{options.configs}: no model {name.lower()!r}; there are {known}")
        model = models[name.lower()]
        model.formatter = TransformersMultiAgentFormatter()  # there is more than one to listen to
        config = replace(
            model.model_config,
            model=options.model or model.model_config.model,
            dtype=options.dtype,
            quantization="4bit" if options.load_in_4bit else model.model_config.quantization,
        )
        await model.serve(config)
        if options.max_new_tokens:
            change = {"max_tokens": options.max_new_tokens}
            model.parameters = model.parameters.model_copy(update=change)
        agents.append(
            FineTuneAgent(
                name,
                prompt,
                model,
                env_file=env_file,
                on_progress=screen.progress,
                # No clock in the prompt, so that the same question is the same question later.
                injection_config=InjectionConfig(inject_runtime_state=False),
                react_config=ReActConfig(interruption_raise_cancelled_error=True),
            )
        )
    return agents


async def ask_alone(agents, question):
    """What each agent says when it remembers nothing: the same question, and the same prompt."""
    answers = {}
    for agent in agents:
        fresh = Agent(
            agent.name,
            PROMPTS[agent.name],
            agent.model,
            injection_config=agent.injection_config,
            react_config=agent.react_config,
        )
        answers[agent.name] = (await fresh.reply(UserMsg("user", question))).get_text_content()
    return answers


async def listen(table, user, screen, until=None):
    """Let the user speak and the agents answer until the user goes on, or `until` is done.

    Answers the user's last words.
    """
    last = None
    while True:
        line = asyncio.ensure_future(user.line())
        # A script's line is there at once; a person's may come after what is waited for.
        await asyncio.wait({line, until} - {None}, return_when=asyncio.FIRST_COMPLETED)
        if not line.done():
            line.cancel()
            print()
            return last
        if (said := line.result()) is GO_ON:
            return last
        if said:
            last = said
            async for event in table.reply_stream(UserMsg("user", said)):
                screen.show(event)


async def fine_tune(writer, table, user, screen, options):
    """Fine-tune the Writer while the conversation goes on, with all three answering."""
    config = _fine_tune_config(options)
    training = asyncio.ensure_future(
        writer.fine_tune(str(options.data), str(options.output_dir), config)
    )
    try:
        await listen(table, user, screen, until=training)
        return await training
    finally:
        training.cancel()  # nothing, where it is done
        await asyncio.gather(training, return_exceptions=True)


def _fine_tune_config(options):
    """The Writer's part of the configurations, with what the command line says otherwise."""
    entries = json.loads(options.configs.read_text("utf-8"))
    config = next(each for each in entries if each["config_name"] == "writer")
    config = config.get("fine_tune_config", {})
    if options.epochs:
        arguments = {**config.get("training_args", {}), "num_train_epochs": options.epochs}
        config = {**config, "training_args": arguments}
    return config


async def ask_reloaded(writer, result, question, options):
    """What a new agent says that has loaded from disk what the Writer learned."""
    model = TransformersChatModel(
        model=writer.model.model_config.model,
        dtype=options.dtype,
        parameters=writer.model.parameters,
        formatter=writer.model.formatter,
    )
    reader = FineTuneAgent("Writer", PROMPTS["Writer"], model)
    reader.injection_config = writer.injection_config
    quantized = {"bnb_config": {"load_in_4bit": True}} if options.load_in_4bit else None
    await reader.load_model(local_model_path=str(result.folder), fine_tune_config=quantized)
    return (await ask_alone([reader], question))["Writer"]


def tell(question, before, after, reloaded, result, options, console):
    """Print what came of it; answer whether all is as it should be."""
    show = Table(title=f"{question}?", caption="each asked alone", show_lines=True, expand=True)
    for title in ("", "before", "after"):
        show.add_column(title, ratio=8 if title else 2)
    same = [name for name in before if before[name] == after[name]]
    for name in before:
        now = "the same, word for word" if name in same else after[name]
        show.add_row(name, Text(before[name]), Text(now))
    console.print(show)
    run = json.loads((result.folder / "run.json").read_text("utf-8"))
    history = (result.folder / "history.jsonl").read_text("utf-8").splitlines()
    losses = [line["loss"] for line in map(json.loads, history) if "loss" in line]
    rows = run["data"]["train"]["rows"]
    print(f"trained    {rows} rows, {result.steps} steps, {result.seconds:.0f} s")
    print(f"loss       {losses[0]:.3f} at the first step, {losses[-1]:.3f} at the last")
    print(f"data       {short(options.data)}")
    print(f"folder     {short(result.folder)}")
    others = set(before) - {"Writer"}
    print(f"others     {'as before' if others <= set(same) else 'CHANGED'}")
    print(f"reloaded   {'says the same' if reloaded == after['Writer'] else 'SAYS SOMETHING ELSE'}")
    return others <= set(same) and reloaded == after["Writer"]


def short(path):
    """A path as it is, or as it is seen from here."""
    return min(str(path), os.path.relpath(path), key=len)


async def converse(options):
    screen = Screen()
    user = Script(QUESTION, GO_ON, MEANWHILE, GO_ON, QUESTION, GO_ON)
    if options.interactive:
        user = Person()
        print("Say something. /tune fine-tunes the Writer; /quit or Ctrl-D ends the conversation.")
    agents = await open_agents(options, screen)
    table = RoundTable(agents)
    question = await listen(table, user, screen) or QUESTION
    before = await ask_alone(agents, question)
    print(f"\nThe Writer is fine-tuned on {short(options.data)}; the conversation goes on.")
    result = await fine_tune(agents[0], table, user, screen, options)
    print(f"\nThe Writer has learned: {result.steps} steps, loss {result.loss:.3f}")
    with suppress(EOFError):
        await listen(table, user, screen)
    after = await ask_alone(agents, question)
    reloaded = await ask_reloaded(agents[0], result, question, options)
    return tell(question, before, after, reloaded, result, options, screen.console)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--interactive", action="store_true", help="you are the user; /tune trains, /quit ends")
    add("--load-in-4bit", action="store_true", help="weights in 4 bits, and QLoRA")
    add("--model", help="instead of the configurations': hub id, folder, GGUF file")
    # Greedy answers in bfloat16 may differ by rounding alone, and here answers are compared.
    add("--dtype", default="float32", help="number format of the weights; auto for large models")
    add("--configs", type=Path, default=HERE / "configs" / "model_configs.json")
    add("--data", default=HERE / "data" / "dolly_sample.jsonl", help="file, folder or hub id")
    add("--epochs", type=float, help="passes over the data")
    add("--max-new-tokens", type=int, help="most tokens of an answer")
    add("--output-dir", default="runs", help="where the Writer's run goes")
    options = parser.parse_args(argv)
    try:
        return 0 if asyncio.run(converse(options)) else 1
    except EOFError:
        return 0  # the user left before there was anything to compare
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except FinetuneError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
