"""What the tests of the kernel and of plugins stand on: tiny real models, and what engines promise.

Nothing here is pretended, and nothing here needs pytest.
"""

from agent_finetune.testing.checking import EngineCase
from agent_finetune.testing.engines import ENGINE_CONTRACT
from agent_finetune.testing.tiny import CHATML, save_tiny_model, tiny_model, tiny_tokenizer

__all__ = [
    "CHATML",
    "ENGINE_CONTRACT",
    "EngineCase",
    "save_tiny_model",
    "tiny_model",
    "tiny_tokenizer",
]
