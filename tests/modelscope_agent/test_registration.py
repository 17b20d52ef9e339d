"""What ModelScope finds under our names, and that it is put back."""

import importlib
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


def index():
    from modelscope.utils.ast_utils import INDEX_KEY
    from modelscope.utils.import_utils import LazyImportModule

    return LazyImportModule.get_ast_index()[INDEX_KEY]


IMPORTING = """
import sys
import modelscope_agent_train
print(*(name in sys.modules for name in ("torch", "modelscope", "transformers", "datasets")))
from modelscope.utils.import_utils import LazyImportModule
from modelscope.utils.ast_utils import INDEX_KEY
index = LazyImportModule.get_ast_index()[INDEX_KEY]
print(index["TRAINERS", "default", "agent-sft"]["module"])
print(*(type(finder).__name__ for finder in sys.meta_path))
"""


def test_importing_it_first_imports_nothing_heavy_and_waits_for_modelscope():
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING], capture_output=True, text=True, check=True
    )
    heavy, module, *finders = done.stdout.splitlines()
    assert heavy.split() == ["False"] * 4
    assert module == "modelscope_agent_train.native.trainer"
    assert "_Waiting" not in finders[0].split()


def test_modelscope_that_was_imported_first_knows_the_names():
    package.unregister()
    assert ("TRAINERS", "default", "agent-sft") not in index()
    package.register()
    found = index()["TRAINERS", "default", "agent-sft"]["module"]
    assert found == "modelscope_agent_train.native.trainer"


def test_the_entries_are_made_when_modelscope_is_imported_and_the_finder_is_gone(monkeypatch):
    """As in a process of its own, where what runs cannot be measured."""
    package.unregister()
    module = "modelscope.utils.import_utils"
    index()
    monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys.modules["modelscope.utils"], "import_utils", None)
    package.register()
    (waiting,) = [f for f in sys.meta_path if type(f).__module__.startswith("modelscope_agent")]
    assert waiting.find_spec("json", None) is None
    importlib.import_module(module)
    assert waiting not in sys.meta_path
    assert ("TRAINERS", "default", "agent-sft") in index()
    package.unregister()  # while the index that was changed is the one in force


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
