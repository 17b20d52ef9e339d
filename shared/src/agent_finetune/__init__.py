"""Load, fine-tune and keep improving the model behind an agent, whatever framework it lives in.

This package imports neither torch nor any agent framework; the heavy modules
(`agent_finetune.models`, `.render`, `.train`, `.evaluate`) are imported by name when used.
"""

from agent_finetune.errors import (
    ConfigError,
    DataError,
    DownloadError,
    FinetuneError,
    ModelError,
    PluginError,
    RenderError,
    TrainError,
)
from agent_finetune.hookspecs import hookimpl
from agent_finetune.records import (
    AcceptedCall,
    Example,
    Generation,
    Message,
    Preference,
    Section,
    Tokens,
    ToolCall,
    Verdict,
)

__version__ = "0.1.0"
__all__ = [
    "AcceptedCall",
    "ConfigError",
    "DataError",
    "DownloadError",
    "Example",
    "FinetuneError",
    "Generation",
    "Message",
    "ModelError",
    "PluginError",
    "Preference",
    "RenderError",
    "Section",
    "Tokens",
    "ToolCall",
    "TrainError",
    "Verdict",
    "hookimpl",
]
