"""What a service's user fills in to speak with a local model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from agentscope.credential import CredentialBase
from pydantic import ConfigDict, Field, SecretStr

if TYPE_CHECKING:
    from agentscope.model import ChatModelBase


class TransformersCredential(CredentialBase):
    """A local model of Transformers; see `agentscope_finetune.policy` for what it may reach."""

    model_config = ConfigDict(title="Local model (Transformers)")

    type: Literal["transformers_credential"] = "transformers_credential"

    hf_token: SecretStr | None = Field(
        default=None, title="Hugging Face token", description="For gated models; may stay empty."
    )
    trust_remote_code: bool = Field(
        default=False,
        title="Run the model's own code",
        description="Only where whoever runs this service allows it.",
    )

    @classmethod
    def get_chat_model_class(cls) -> type[ChatModelBase]:
        """The class of models that this opens."""
        from agentscope_finetune.model import TransformersChatModel

        return TransformersChatModel
