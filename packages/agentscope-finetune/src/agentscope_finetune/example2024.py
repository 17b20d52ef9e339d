"""What is known of AgentScope's 2024 example, conversation_with_agent_with_finetuned_model.

Its configurations (`fine_tune_config`, `model_configs.json`) are read with their meaning, and its
output folders are served: see the modules that these names come from.
"""

from agentscope_finetune.fine_tune_config import FineTuneConfig, read_fine_tune_config
from agentscope_finetune.folders2024 import is_folder_2024, open_folder_2024
from agentscope_finetune.model_configs import ModelEntry, load_model_configs, read_model_configs

__all__ = [
    "FineTuneConfig",
    "ModelEntry",
    "is_folder_2024",
    "load_model_configs",
    "open_folder_2024",
    "read_fine_tune_config",
    "read_model_configs",
]
