"""How well a model calls tools: after the right history step by step, and in runs of its own.

`run` scores whoever answers, `evaluate_examples` a model that is loaded. Metrics are the kernel's
(`agent_finetune.metrics`), those of runs are defined in `free_runs`; `legacy_metrics` has the
numbers of 2023 for comparison.
"""

from modelscope_agent_train.evaluation.answerers import Answerer, LocalAnswerer
from modelscope_agent_train.evaluation.endpoint import EndpointAnswerer
from modelscope_agent_train.evaluation.evaluating import evaluate_examples, run
from modelscope_agent_train.evaluation.files import score_files
from modelscope_agent_train.evaluation.report import Report

__all__ = [
    "Answerer",
    "EndpointAnswerer",
    "LocalAnswerer",
    "Report",
    "evaluate_examples",
    "run",
    "score_files",
]
