import pytest

from agent_finetune.errors import ConfigError, ModelError
from modelscope_agent_train import model_types, plan
from modelscope_agent_train.arguments import SftArguments
from modelscope_agent_train.model_types import MODEL_TYPES, NAMES_2023

OF_2023 = {
    "modelscope-agent-7b": ("damo/ModelScope-Agent-7B", "v1.0.0", ("c_attn",)),
    "qwen-7b": ("qwen/Qwen-7B", "v1.1.8", ("c_attn",)),
    "baichuan-7b": ("baichuan-inc/baichuan-7B", "v1.0.7", ("W_pack",)),
    "baichuan-13b": ("baichuan-inc/Baichuan-13B-Base", "v1.0.3", ("W_pack",)),
    "chatglm2-6b": ("ZhipuAI/chatglm2-6b", "v1.0.7", ("query_key_value",)),
    "llama2-7b": ("modelscope/Llama-2-7b-ms", "v1.0.2", ("q_proj", "k_proj", "v_proj")),
    "llama2-13b": ("modelscope/Llama-2-13b-ms", "v1.0.2", ("q_proj", "k_proj", "v_proj")),
    "llama2-70b": ("modelscope/Llama-2-70b-ms", "v1.0.0", ("q_proj", "k_proj", "v_proj")),
    "openbuddy-llama2-13b": (
        "OpenBuddy/openbuddy-llama2-13b-v8.1-fp16",
        "v1.0.0",
        ("q_proj", "k_proj", "v_proj"),
    ),
}


@pytest.mark.parametrize("name", OF_2023)
def test_a_model_type_of_2023_names_what_it_named(name):
    one = MODEL_TYPES[name]
    assert (one.id, one.revision, one.targets) == OF_2023[name]


def test_there_are_nine_of_2023():
    assert set(NAMES_2023) == set(OF_2023)


@pytest.mark.parametrize(
    "name",
    [
        "qwen2.5-7b-instruct",
        "qwen3-4b",
        "llama3-8b-instruct",
        "llama3.1-8b-instruct",
        "smollm2-135m-instruct",
    ],
)
def test_models_of_today_load_and_get_an_adapter_on_every_linear_layer(name):
    one = model_types.find(name)
    model_types.check_loads(one, trust_remote_code=False)
    assert one.targets == ("all-linear",)


@pytest.mark.parametrize("name", [name for name in NAMES_2023 if MODEL_TYPES[name].own_code])
def test_what_does_not_load_today_says_so_and_names_the_way_out(name):
    with pytest.raises(ModelError, match=f"--model_type {name}: .*Transformers 4.31") as refused:
        plan.chosen_model(SftArguments(model_type=name))
    told = str(refused.value)
    assert f"--model_type {MODEL_TYPES[name].today}" in told
    assert MODEL_TYPES[name].today in MODEL_TYPES
    assert "--model_id_or_path" in told
    assert "--trust_remote_code true" in told


def test_it_may_be_tried_all_the_same():
    chosen = plan.chosen_model(SftArguments(model_type="qwen-7b", trust_remote_code=True))
    assert (chosen.name, chosen.revision, chosen.targets) == ("qwen/Qwen-7B", "v1.1.8", ("c_attn",))


def test_a_wrong_name_tells_the_nearest():
    with pytest.raises(ConfigError, match=r"'qwen2\.5-7b'; nearest are .*qwen2\.5-7b-instruct"):
        model_types.find("qwen2.5-7b")


def test_no_model_at_all_is_an_error():
    with pytest.raises(ConfigError, match="no model: give --model_type"):
        plan.chosen_model(SftArguments())


def test_an_id_a_folder_or_a_file_stands_in_for_the_models_own():
    arguments = SftArguments(model_type="modelscope-agent-7b", model_id_or_path="./mine")
    chosen = plan.chosen_model(arguments)
    assert (chosen.name, chosen.revision, chosen.label) == ("./mine", None, "modelscope-agent-7b")
    assert chosen.targets == ("all-linear",)  # c_attn is a layer of the model it stands in for
    kept = plan.chosen_model(SftArguments(model_type="llama2-7b", model_id_or_path="./mine"))
    assert kept.targets == ("q_proj", "k_proj", "v_proj")


@pytest.mark.parametrize(
    ("given", "label"),
    [("owner/Some-Model", "Some-Model"), ("files/a.gguf", "a"), ("weights/mine/", "mine")],
)
def test_a_model_without_a_type_names_its_folder_itself(given, label):
    assert plan.chosen_model(SftArguments(model_id_or_path=given)).label == label


def test_a_revision_of_ones_own_wins():
    arguments = SftArguments(model_type="llama2-7b", model_revision="v9")
    assert plan.chosen_model(arguments).revision == "v9"
