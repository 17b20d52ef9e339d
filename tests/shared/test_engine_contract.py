"""The contract suite, run on the kernel's own engine; and on engines that break it."""

from dataclasses import replace

import pytest
from live_engines import ask, close_all, config_of, make_adapter, open_engine
from talkative import save_talkative_model

from agent_finetune.contracts import EngineConfig, Settings
from agent_finetune.engine.local import LocalEngine
from agent_finetune.testing import ENGINE_CONTRACT, EngineCase


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    yield save_talkative_model(tmp_path_factory.mktemp("model"))
    close_all()


@pytest.fixture(scope="module")
def case(model, tmp_path_factory):
    adapter = make_adapter(model, tmp_path_factory.mktemp("adapters") / "a", seed=1)
    return EngineCase(
        open=lambda: open_engine(model), request=ask("Count to a hundred."), adapter=adapter
    )


def named(check):
    return check.__name__


@pytest.mark.parametrize("check", ENGINE_CONTRACT, ids=named)
def test_the_local_engine_keeps_the_contract(check, case):
    check(case)


def asked_otherwise(**changes):
    """An engine that answers another request than it was given."""
    return {"stream": lambda self, request: LocalEngine.stream(self, replace(request, **changes))}


def read_otherwise(**methods):
    """An engine whose generations are read in another way; none of their answers is long."""

    class Generation:
        def __init__(self, real):
            self.real = real

        def __getattr__(self, name):
            return getattr(self.real, name)

        def __iter__(self):
            return iter(self.real)

        def __aiter__(self):
            return aiter(self.real)

    for name, method in methods.items():
        setattr(Generation, name, method)

    def stream(self, request):
        short = replace(request, max_new_tokens=request.max_new_tokens or 300)
        return Generation(LocalEngine.stream(self, short))

    return {"stream": stream}


def last_piece(self):
    yield list(self.real)[-1]


async def blocking(self):
    for piece in self.real:
        yield piece


async def waiting(self):
    return self.real.result()


FAULTS = {
    "generate_answers_what_stream_answers": {
        "generate": lambda self, request: self.stream(replace(request, max_new_tokens=3)).result()
    },
    "pieces_come_one_by_one_and_add_up_to_the_message": read_otherwise(__iter__=last_piece),
    "usage_counts_the_ids": {"count_tokens": lambda self, messages, tools, **_: len(messages)},
    "sampling_options_are_heeded": asked_otherwise(top_k=0, repetition_penalty=1.0),
    "max_new_tokens_ends_an_answer": asked_otherwise(max_new_tokens=9),
    "a_stop_string_ends_an_answer_and_is_not_in_its_text": asked_otherwise(stop=()),
    "a_seed_gives_the_same_answer_whatever_is_beside_it": asked_otherwise(seed=None),
    "answers_to_many_threads_are_not_mixed_up": asked_otherwise(messages=ask("Hello.").messages),
    "cancelling_stops_the_work_and_keeps_what_came": read_otherwise(cancel=lambda self: None),
    "waiting_may_end_before_the_answer_does": read_otherwise(
        result=lambda self, timeout=None: self.real.result()
    ),
    "what_is_wrong_is_told_to_every_reader": asked_otherwise(adapter=None),
    "recent_has_each_request_with_its_result": {"recent": lambda self: ()},
    "an_event_loop_turns_while_an_answer_comes": read_otherwise(__aiter__=blocking),
    "cancelling_a_task_cancels_its_answer": read_otherwise(aresult=waiting),
    "closing_ends_one_engine_and_no_other": {"close": lambda self: None},
    "adapters_come_and_go_by_name": {"detach": lambda self, name: None},
}


@pytest.mark.parametrize("check", ENGINE_CONTRACT, ids=named)
def test_a_broken_promise_is_found(check, case, model):
    broken = type("Broken", (LocalEngine,), FAULTS[check.__name__])
    config = EngineConfig(model=config_of(model))
    with pytest.raises(AssertionError):
        check(replace(case, open=lambda: broken(config, Settings())))


def test_an_engine_without_adapters_may_leave_them_unchecked(case):
    ENGINE_CONTRACT[-1](replace(case, adapter=None))
