"""Planner, caller and summarizer from one small model, in AgentScope.

The idea of "Small LLMs Are Weak Tool Learners: A Multi-LLM Agent" (arXiv 2401.07324), with three
adapters on one model instead of three models. The model is asked before it has learned anything,
then the three roles are trained (or `--roles` names a folder in which they are), and it is asked
once more. The tools are Python functions that no training data knows, run by AgentScope.
"""

import argparse
import asyncio
import gc
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch
from agentscope.console import ConsoleRenderer
from agentscope.message import UserMsg
from agentscope.permission import PermissionBehavior, PermissionDecision
from agentscope.tool import FunctionTool, Toolkit
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agent_finetune.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from agent_finetune.engine import registry
from agent_finetune.errors import FinetuneError
from agent_finetune.roles.options import RolesConfig, StageConfig
from agent_finetune.roles.recipe import read_manifest, train_roles
from agent_finetune.settings import read_settings
from agentscope_finetune import MultiRoleAgent, TransformersChatModel
from agentscope_finetune.multi_role import voices

HERE = Path(__file__).parent
REQUESTS = (
    "How many days are there between 2026-03-01 and 2026-04-15?",
    "Which roads lead to Rome?",
)
"""One that a tool serves, and one that none does."""
STAGE_ONE = StageConfig(epochs=2.0, learning_rate=1e-3)
STAGE_TWO = StageConfig(epochs=1.0, learning_rate=5e-4)
ALLOWED = PermissionDecision(behavior=PermissionBehavior.ALLOW, message="These only calculate.")


def days_between(start: str, end: str) -> int:
    """Count the days between two dates.

    Args:
        start: First date, as YYYY-MM-DD.
        end: Last date, as YYYY-MM-DD.
    """
    return (date.fromisoformat(end) - date.fromisoformat(start)).days


def letters_in(word: str) -> int:
    """Count the letters of a word.

    Args:
        word: The word.
    """
    return sum(map(str.isalpha, word))


def fuel_for(kilometres: float, consumption: float) -> float:
    """Calculate how much fuel a car needs for a distance.

    Args:
        kilometres: Distance in kilometres.
        consumption: Litres that the car needs for 100 kilometres.
    """
    return round(kilometres * consumption / 100, 2)


def tools():
    """The tools of the agent; AgentScope asks nobody before it runs them."""
    functions = (days_between, letters_in, fuel_for)
    return Toolkit(tools=[FunctionTool(each, permission=ALLOWED) for each in functions])


def parameters(options):
    return TransformersChatModel.Parameters(max_tokens=options.max_new_tokens)


def untrained(options, settings):
    """The three roles, all played by the model as it is."""
    model = TransformersChatModel(
        model=options.model, parameters=parameters(options), settings=settings, **held(options)
    )
    return MultiRoleAgent("Solver", "", model, tools())


def trained(folder, options, settings):
    """The three roles as they were trained."""
    return MultiRoleAgent.from_folder(
        folder,
        "Solver",
        toolkit=tools(),
        parameters=parameters(options),
        settings=settings,
        held=held(options),
        force_call=True,  # what the caller writes meets the tool's schema
    )


def held(options):
    """How the weights are held, in training and afterwards."""
    return {
        "quantization": options.quantization,
        "dtype": options.dtype,
        "device": options.device,
    }


def train(options, settings):
    """Train one backbone on whole steps, then the roles; answers the folder."""
    one, two = STAGE_ONE, STAGE_TWO
    if options.epochs:
        one, two = (replace(stage, epochs=options.epochs) for stage in (one, two))
    config = RolesConfig(
        run=RunConfig(
            model=ModelConfig(model=options.model, **held(options)),
            data=DataConfig(data=str(options.data)),
            out=str(options.out),
            train=TrainConfig(batch_size=4, resume=options.resume),
        ),
        stages={"backbone": one, "planner": two, "caller": two, "summarizer": two},
    )
    train_roles(config, settings, report=print)
    return options.out


async def ask(agent, console):
    """Ask each request, show the roles as they speak; answers what was said at last."""
    renderer = ConsoleRenderer(verbosity="default", console=console)
    answers = {}
    for request in REQUESTS:
        console.print(f"\nuser> {request}", markup=False)
        agent.state.context.clear()
        async for event in voices(agent.reply_stream(UserMsg("user", request))):
            renderer.render(event)
        last = agent.conversation()[-1]
        answers[request] = last.get_text_content() or ""
    return answers


def measure(agent):
    """Bytes of tensors: the model, and then with one adapter after the other."""
    none = tensor_bytes()
    engine = agent.model.engine
    engine.info()  # loads it
    sizes = [tensor_bytes() - none]
    for name in agent.adapters.values():
        engine.attach(name, Path(name))
        sizes.append(tensor_bytes() - none)
    return sizes


def tensor_bytes():
    """Bytes of all tensors of this process, each storage counted once."""
    gc.collect()
    tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    stores = [each.untyped_storage() for each in tensors if each.device.type != "meta"]
    return sum({(store.data_ptr(), store.device): store.nbytes() for store in stores}.values())


def tell(before, after, sizes, console):
    """Print before and after side by side, and what the roles cost."""
    show = Table(show_lines=True, expand=True)
    for title in ("asked", "before", "after"):
        show.add_column(title, ratio=1)
    for request in REQUESTS:
        show.add_row(*map(Text, (request, before[request], after[request])))
    console.print(show)
    base, one, *_, three = (size / 2**20 for size in sizes)
    print(f"model            {base:8.1f} MiB of tensors")
    print(f"with one adapter {one:8.1f} MiB")
    print(f"with three       {three:8.1f} MiB, {three / one:.3f} times the single agent's")


async def run(options):
    settings = read_settings(HERE / ".env" if (HERE / ".env").exists() else None)
    console = Console(highlight=False)
    if options.roles and options.model is None:
        options.model = read_manifest(options.roles)["model"]["model"]
    options.model = options.model or "smollm2-135m-instruct"
    print(f"Before: three roles, played by {options.model} as it is")
    agent = untrained(options, settings)
    before = await ask(agent, console)
    registry.close_all()  # nothing is loaded twice
    folder = options.roles or await asyncio.to_thread(train, options, settings)
    print(f"\nAfter: three roles, each with its adapter of {folder}")
    agent = trained(folder, options, settings)
    sizes = measure(agent)
    after = await ask(agent, console)
    tell(before, after, sizes, console)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--roles", type=Path, help="folder of trained roles; without it they are trained")
    add("--model", help="hub id, folder, GGUF file or shipped model; smollm2-135m-instruct")
    add("--quantization", default="4bit", choices=["4bit", "8bit", "none"], help="of the weights")
    add("--dtype", default="auto", help="number format: auto, float32, bfloat16, float16")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--data", default=HERE / "data" / "trajectories.jsonl", help="file, folder or hub id")
    add("--epochs", type=float, help="passes over the data, the same for every stage")
    add("--out", type=Path, default=Path("runs/small_llms"), help="where the roles go")
    add("--resume", action="store_true", help="go on with what is in --out")
    add("--max-new-tokens", type=int, default=128, help="most tokens of a role's words")
    options = parser.parse_args(argv)
    try:
        asyncio.run(run(options))
    except KeyboardInterrupt:
        print("\nstopped; --resume goes on", file=sys.stderr)
        return 130
    except FinetuneError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
