"""Words of other packages that our programs leave out."""

import logging

import pytest

from agent_finetune.foreign_logs import hush

NAMES = ("bitsandbytes", "DeepSpeed", "accelerate.accelerator")


@pytest.fixture
def loggers():
    """Those that are hushed, as they were before and after."""
    found = [logging.getLogger(name) for name in NAMES]
    before = [(one.level, list(one.filters)) for one in found]
    yield found
    for one, (level, filters) in zip(found, before, strict=True):
        one.setLevel(level)
        one.filters[:] = filters


def told(logger, message):
    record = logging.LogRecord(logger.name, logging.WARNING, __file__, 1, message, (), None)
    return logger.isEnabledFor(logging.WARNING) and bool(logger.filter(record))


def test_deepspeed_says_nothing_of_a_cpu_even_after_it_has_set_its_level(loggers):
    _, deepspeed, _ = loggers
    hush()
    deepspeed.setLevel(logging.WARNING)  # as it does when it is imported
    assert not told(deepspeed, "Setting accelerator to CPU. If you have GPU or other accelerator")
    assert told(deepspeed, "the gradient overflowed")


def test_bitsandbytes_says_errors_only(loggers):
    bitsandbytes, *_ = loggers
    hush()
    assert not told(bitsandbytes, "Failed to load CPU gemm_4bit_forward")
    assert bitsandbytes.isEnabledFor(logging.ERROR)


def test_accelerate_does_not_call_accumulation_a_mismatch(loggers):
    accelerate = loggers[2]
    hush()
    assert not told(accelerate, "[RANK 0] Gradient accumulation steps mismatch: the plugin has 1")
    assert told(accelerate, "[RANK 0] the model was not prepared")


def test_hushing_again_changes_nothing(loggers):
    hush()
    filters = list(loggers[1].filters)
    hush()
    assert loggers[1].filters == filters
