"""Two agents, two adapters, one base: `python examples/live_engine.py --adapter A --adapter B`."""

import argparse
import asyncio
from contextlib import closing
from pathlib import Path

from agent_finetune import Message, plugins
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import EngineConfig, Request
from agent_finetune.settings import read_settings

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="smollm2-135m-instruct")
parser.add_argument("--adapter", action="append", default=[], type=Path, help="none: the base")
parser.add_argument("--ask", default="What is the capital of France?")
options = parser.parse_args()
folders = dict(zip(("ann", "bob"), options.adapter, strict=False))


def open_engine(name):  # an engine costs nothing: all of one model share its weights
    config = EngineConfig(model=ModelConfig(model=options.model))
    engine = plugins.open_engine(config, read_settings())
    if name in folders:
        engine.attach(name, folders[name])
    return closing(engine)


def ask(engine, name):
    voice = name if name in folders else None
    messages = [Message(role="user", text=options.ask)]
    return engine.stream(Request(messages=messages, adapter=voice, max_new_tokens=48))


async def talk(ann, bob):
    from_ann, from_bob = ask(ann, "ann"), ask(bob, "bob")
    bobs = asyncio.create_task(from_bob.aresult())  # comes while Ann's words are shown
    async for piece in from_ann:
        print(piece.text, end="", flush=True)
    for name, result in (("ann", await from_ann.aresult()), ("bob", await bobs)):
        print(f"\n{name}: {result.message.text!r}\n  {result.usage}\n  {result.revision}")


with open_engine("ann") as ann, open_engine("bob") as bob:
    asyncio.run(talk(ann, bob))
