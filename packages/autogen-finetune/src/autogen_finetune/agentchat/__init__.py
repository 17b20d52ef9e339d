"""AutoGen 0.4 and later (`autogen_core`, `autogen_agentchat`): a model client, and its update.

`RevisionedCache` is in `agentchat.cache`, for it needs autogen-ext.
"""

try:
    import autogen_core  # noqa: F401
except ImportError as error:
    raise ImportError(
        "autogen_finetune.agentchat needs AutoGen 0.4 or later, which is not installed: "
        "pip install 'autogen-agentchat>=0.7,<0.8'"
    ) from error

from autogen_finetune.agentchat.client import HFChatCompletionClient, HFClientConfig
from autogen_finetune.agentchat.learning import update_model

__all__ = ["HFChatCompletionClient", "HFClientConfig", "update_model"]
