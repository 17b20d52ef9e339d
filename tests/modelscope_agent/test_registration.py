"""What ModelScope finds under our names, and that it is put back."""

import subprocess
import sys

import pytest

import modelscope_agent_train as package

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def registered():
    package.register()
    yield
    package.unregister()
    package.register()


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()


def index():
    from modelscope.utils.ast_utils import INDEX_KEY
    from modelscope.utils.import_utils import LazyImportModule

    return LazyImportModule.get_ast_index()[INDEX_KEY]


def test_importing_the_package_imports_neither_torch_nor_modelscope():
    code = "import sys, modelscope_agent_train; print(*(n in sys.modules for n in sys.argv[1:]))"
    found = subprocess.run(
        [sys.executable, "-c", code, "torch", "modelscope", "transformers", "datasets"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert found == ["False"] * 4


@pytest.mark.parametrize(
    "first",
    [
        "import modelscope_agent_train, modelscope.utils.import_utils",
        "import modelscope.utils.import_utils, modelscope_agent_train",
    ],
)
def test_modelscope_knows_the_names_whichever_is_imported_first(first):
    code = (
        f"{first}\n"
        "from modelscope.utils.ast_utils import INDEX_KEY\n"
        "from modelscope.utils.import_utils import LazyImportModule as L\n"
        "print(L.get_ast_index()[INDEX_KEY][('TRAINERS', 'default', 'agent-sft')]['module'])"
    )
    assert run(code)[-1] == "modelscope_agent_train.native.trainer"


def test_each_name_builds_the_class_that_is_ours():
    from modelscope.metrics.builder import build_metric
    from modelscope.preprocessors.builder import PREPROCESSORS
    from modelscope.trainers.hooks.builder import build_hook
    from modelscope.utils.import_utils import LazyImportModule

    assert type(build_metric("agent-ppl")).__module__ == "modelscope_agent_train.metrics"
    assert type(build_metric("agent-tool-metric")).__name__ == "ToolMetric"
    hook = build_hook({"type": "AgentDeepspeedHook", "config": "x.json"})
    assert type(hook).__module__ == "modelscope_agent_train.repair.deepspeed_hook"
    LazyImportModule.import_module(("PREPROCESSORS", "nlp", "msagent-preprocessor"))
    found = PREPROCESSORS.get("msagent-preprocessor", group_key="nlp")
    assert found.__module__ == "modelscope_agent_train.preprocessor"


def test_registering_twice_is_registering_once_and_unregistering_puts_everything_back():
    package.unregister()
    before = dict(index())
    package.register(repair_stock=True)
    package.register(repair_stock=True)
    found = index()["HOOKS", "default", "DeepspeedHook"]["module"]
    assert found == "modelscope_agent_train.repair.deepspeed_hook"
    package.unregister()
    package.unregister()
    assert index() == before


def test_stock_names_are_ours_only_when_asked_for_and_until_taken_back():
    from modelscope.metrics.builder import METRICS, build_metric
    from modelscope.metrics.ppl_metric import PplMetric

    assert type(build_metric("ppl")) is PplMetric
    package.register(repair_stock=True)
    assert type(build_metric("ppl")).__name__ == "StockPerplexity"
    package.unregister()
    assert METRICS.get("ppl") is PplMetric
    assert METRICS.get("agent-ppl") is None
    package.register()
    assert type(build_metric("agent-ppl")).__name__ == "PerplexityMetric"


def test_a_name_that_is_not_public_is_no_attribute():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # noqa: B018
