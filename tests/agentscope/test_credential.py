import subprocess
import sys

import pytest
from agentscope.credential import CredentialFactory, OpenAICredential
from pydantic import ValidationError

import agentscope_finetune
from agent_finetune.contracts import Settings
from agentscope_finetune.credential import TransformersCredential
from agentscope_finetune.model import TransformersChatModel


def registered():
    titles = [schema["title"] for schema in CredentialFactory.list_schemas()]
    return titles.count("Local models (Transformers)")


def test_importing_the_package_registers_the_credential_once():
    assert agentscope_finetune.TransformersCredential is TransformersCredential
    assert registered() == 1
    CredentialFactory.register_credential(TransformersCredential)
    assert registered() == 1


def test_the_factory_makes_it_from_what_a_service_stored():
    stored = {"type": "transformers_credential", "id": "a", "name": "mine", "hf_token": "hf_x"}
    made = CredentialFactory.from_dict(stored)
    assert isinstance(made, TransformersCredential)
    assert made.hf_token.get_secret_value() == "hf_x"
    assert CredentialFactory.get_credential_class("transformers_credential") is type(made)
    assert made.get_chat_model_class() is TransformersChatModel


def test_other_providers_are_still_made_beside_it():
    made = CredentialFactory.from_dict({"type": "openai_credential", "api_key": "k"})
    assert isinstance(made, OpenAICredential)


def test_the_web_form_hides_the_token_and_does_not_ask_for_it():
    schema = TransformersCredential.model_json_schema()
    assert schema["properties"]["hf_token"]["anyOf"][0]["writeOnly"]
    assert "hf_token" not in schema.get("required", [])
    assert schema["properties"]["trust_remote_code"]["default"] is False


@pytest.mark.parametrize(
    "show", [repr, str, lambda c: c.model_dump_json(), lambda c: c.model_dump()]
)
def test_the_token_shows_itself_nowhere(show):
    assert "hf_secret" not in str(show(TransformersCredential(hf_token="hf_secret")))


def test_the_token_reaches_the_kernel_and_a_credential_without_one_leaves_the_process_its_own():
    own = Settings()
    model = TransformersChatModel(
        TransformersCredential(hf_token="hf_secret"), "owner/name", settings=own
    )
    assert model._settings.hub_token.reveal() == "hf_secret"
    assert (
        TransformersChatModel(TransformersCredential(), "owner/name", settings=own)._settings is own
    )
    assert "hf_secret" not in repr(model._settings)


def test_another_type_is_refused():
    with pytest.raises(ValidationError, match="transformers_credential"):
        TransformersCredential(type="openai_credential")


def test_importing_registering_listing_and_making_a_model_import_no_torch():
    program = """
import sys
import agentscope_finetune
from agentscope.credential import CredentialFactory
credential = CredentialFactory.from_dict({"type": "transformers_credential"})
model = credential.get_chat_model_class()(credential=credential, model="smollm2-135m-instruct")
assert credential.list_models()
model.engine, model.context_size
heavy = {"torch", "transformers", "peft", "trl", "datasets"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True)
