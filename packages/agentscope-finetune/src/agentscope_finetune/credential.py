"""What a web form asks for before an agent may use local models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from agentscope.credential import CredentialBase
from pydantic import ConfigDict, Field, SecretStr

if TYPE_CHECKING:
    from agentscope.model import ChatModelBase

    ModelClass: TypeAlias = type[ChatModelBase]


class TransformersCredential(CredentialBase):
    """Access to models that run in this process.

    It holds no path: which folders a credential may reach is the operator's choice, made with
    `allow_models`. Importing and making one imports no torch.
    """

    model_config = ConfigDict(title="Local models (Transformers)")

    type: Literal["transformers_credential"] = "transformers_credential"
    """The credential type."""

    hf_token: SecretStr | None = Field(
        default=None,
        title="Hugging Face token",
        description="Token for gated or private models of the Hugging Face hub. Not needed for "
        "public models and local folders.",
    )
    """The hub token; without one, the process' own is used, if it has one."""

    trust_remote_code: bool = Field(
        default=False,
        title="Trust remote code",
        description="Run Python code that comes with a model. Works only where the operator of "
        "this service allows it.",
    )
    """Whether code that comes with a model may run."""

    @classmethod
    def get_chat_model_class(cls) -> ModelClass:
        """The chat model that takes this credential."""
        from agentscope_finetune.model import TransformersChatModel

        return TransformersChatModel
