import asyncio
import json

import pytest
from agentscope_models import ask, user
from talkative import save_talkative_model

from agent_finetune import hookimpl
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import ResolvedModel, Settings
from agent_finetune.errors import ConfigError, ModelError
from agent_finetune.plugins import registered
from agentscope_finetune import policy
from agentscope_finetune.credential import TransformersCredential
from agentscope_finetune.model import TransformersChatModel
from agentscope_finetune.policy import allow_models


@pytest.fixture(autouse=True)
def _unchanged():
    yield
    allow_models()


class Hub:
    """A hub with one private model; it knows who asked."""

    def __init__(self, folder):
        self.folder = folder
        self.asked = []

    @hookimpl
    def finetune_resolve_model(self, name, settings):
        if name != "owner/private":
            return None
        token = settings.hub_token.reveal() if settings.hub_token else None
        if not settings.offline:  # looking for the context's length asks nobody
            self.asked.append(token)
        if token != "hf_good":
            raise ModelError("model 'owner/private': gated")
        return ResolvedModel(name=name, location=str(self.folder))


def check(model, **options):
    return policy.check(ModelConfig(model=str(model), **options))


def make_adapter(folder, base):
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    return folder


def test_a_credential_reaches_hub_ids_and_shipped_models_from_the_start():
    assert check("owner/name").model == "owner/name"
    assert check("smollm2-135m-instruct").model == "smollm2-135m-instruct"


def test_no_local_path_is_reached_until_a_root_is_allowed(tmp_path):
    with pytest.raises(ConfigError, match="gave to allow_models: none"):
        check(tmp_path)
    allow_models(roots=[tmp_path])
    assert check(tmp_path / "model").model == str(tmp_path / "model")


@pytest.mark.parametrize("name", ["/etc", "~/models", "./model", "../model", "a/b/c", "model.gguf"])
def test_whatever_could_be_a_path_is_one(name):
    with pytest.raises(ConfigError, match="model is"):
        check(name)


def test_a_path_that_looks_like_a_hub_id_is_a_path(tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="owner/name"):
        check("owner/name")


def test_a_path_that_is_there_and_one_that_is_not_are_refused_in_the_same_words(tmp_path):
    said = []
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ConfigError) as refused:
            check(path)
        said.append(str(refused.value).replace(str(path), "PATH"))
    assert said[0] == said[1]


def test_dots_and_links_do_not_lead_out_of_a_root(tmp_path):
    root, secret = tmp_path / "root", tmp_path / "secret"
    root.mkdir()
    secret.mkdir()
    (root / "link").symlink_to(secret)
    allow_models(roots=[root])
    for path in (root / "link", f"{root}/../secret", f"{root}-other"):
        with pytest.raises(ConfigError, match="model is"):
            check(path)


def test_what_is_served_is_what_was_checked_even_if_the_link_changes(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "one")
    allow_models(roots=[tmp_path])
    assert check(tmp_path / "link").model == str(tmp_path / "one")


def test_an_adapter_and_the_base_that_it_names_must_lie_under_a_root(tmp_path):
    root = tmp_path / "root"
    inside = make_adapter(root / "inside", root / "base")
    outside = make_adapter(root / "outside", tmp_path / "base")
    allow_models(roots=[root])
    assert check(inside).model == str(inside)
    assert check("owner/name", adapter=str(inside)).adapter == str(inside)
    for options in ({"model": outside}, {"model": "owner/name", "adapter": str(outside)}):
        with pytest.raises(ConfigError, match="base of adapter"):
            check(**options)
    with pytest.raises(ConfigError, match="adapter is"):
        check("owner/name", adapter=str(tmp_path / "elsewhere"))


def test_code_that_comes_with_a_model_runs_only_where_the_operator_allows_it():
    with pytest.raises(ConfigError, match="trust_remote_code"):
        check("owner/name", trust_remote_code=True)
    allow_models(trust_remote_code=True)
    assert check("owner/name", trust_remote_code=True).trust_remote_code


def test_a_root_that_is_no_folder_is_refused_and_changes_nothing(tmp_path):
    allow_models(roots=[tmp_path])
    with pytest.raises(ConfigError, match="no folder"):
        allow_models(roots=[tmp_path / "nothing"])
    assert policy.allowed().roots == (tmp_path.resolve(),)


def test_models_with_a_credential_are_held_to_it_and_those_without_are_not(tmp_path):
    with pytest.raises(ConfigError, match="model is"):
        TransformersChatModel(TransformersCredential(), str(tmp_path))
    with pytest.raises(ConfigError, match="trust_remote_code"):
        TransformersChatModel(TransformersCredential(trust_remote_code=True), "owner/name")
    own = TransformersChatModel(model=str(tmp_path), trust_remote_code=True)
    assert own.model_config.trust_remote_code


def test_weights_that_came_by_one_users_token_do_not_answer_another(tmp_path):
    hub = Hub(save_talkative_model(tmp_path))

    def model(token):
        credential = TransformersCredential(hf_token=token)
        return TransformersChatModel(
            credential, "owner/private", device="cpu", dtype="float32", settings=Settings()
        )

    with registered(hub, "hub"):
        good = model("hf_good")
        assert asyncio.run(ask(good, user("hello"), max_tokens=4))[-1].content
        for token in ("hf_bad", None):
            with pytest.raises(ModelError, match="gated"):
                asyncio.run(ask(model(token), user("hello")))
            with pytest.raises(ModelError, match="gated"):
                asyncio.run(model(token).serve(ModelConfig(model="owner/private")))
        times = len(hub.asked)
        asyncio.run(ask(model("hf_good"), user("hello"), max_tokens=4))
        assert len(hub.asked) == times  # the hub is asked once for a token
    good.engine.close()
