"""AG2 1.x (`ag2`): a model config for its agents, and its update.

    from autogen_finetune.ag2 import HFConfig, update_model

    config = HFConfig(model="HuggingFaceTB/SmolLM2-135M-Instruct")
    agent = Agent("helper", "Be kind.", config=config)
    reply = await agent.ask("Who are you?")
    await update_model(agent, [("I am your helper.", reply.body)], reply)

What AG2's evaluations say of answers becomes feedback in `ag2.labels`.
"""

try:
    import ag2 as _host  # noqa: F401
except ImportError as error:
    raise ImportError(
        "autogen_finetune.ag2 needs AG2 1.x, which is not installed: pip install 'ag2>=1.2,<2'"
    ) from error

from autogen_finetune.ag2.client import HFClient
from autogen_finetune.ag2.config import HFConfig
from autogen_finetune.ag2.learning import update_model

__all__ = ["HFClient", "HFConfig", "update_model"]
