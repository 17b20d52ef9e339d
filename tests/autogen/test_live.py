"""A local model as one agent speaks with it: what it learns is its own, and is found again."""

import asyncio
import json

import pytest
from live_engines import ask, config_of, make_adapter
from updating_host import PAIRS, QUICK

from agent_finetune.contracts import Settings
from agent_finetune.errors import ConfigError
from agent_finetune.testing import save_tiny_model
from autogen_finetune.live import LiveModel, fresh_name


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def live(model, tmp_path):
    """Makes agents' models that share one folder of adapters."""
    made = []

    def make(**options):
        settings = Settings(cache_dir=tmp_path / "cache")
        config = config_of(model, adapter=options.pop("begins_with", None))
        made.append(LiveModel(config, store=tmp_path / "store", settings=settings, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def answer(live, text="Who are you?"):
    return live.stream(ask(text)).result()


def test_an_update_changes_the_next_answer_of_its_agent_and_of_no_other(live):
    taught, other = live(), live()
    before, others = answer(taught), answer(other)
    update = taught.update(PAIRS, speaker="The helper!", config=QUICK)
    assert update.report.accepted
    assert answer(taught).revision == update.report.revision != before.revision
    assert answer(other).message == others.message
    assert answer(other).revision == others.revision
    assert taught.name.startswith("The-helper-2")


def test_what_an_agent_learned_is_found_again_under_its_name(live):
    taught = live(adapter="helper")
    revision = taught.revision
    update = taught.update(PAIRS, config=QUICK)
    again = live(adapter="helper")
    assert again.revision == taught.revision != revision
    assert answer(again).revision == update.report.revision
    assert asyncio.run(_asked(again)).revision == update.report.revision


async def _asked(live):
    return await (await live.astream(ask("Hello"))).aresult()


def test_a_roll_back_brings_the_answers_of_before(live):
    taught = live(adapter="helper")
    first = taught.update(PAIRS, config=QUICK).report.revision
    taught.update(PAIRS, config=QUICK)
    assert answer(taught).revision != first
    assert taught.roll_back() == 1
    assert answer(taught).revision == first


def test_the_first_update_of_an_agent_without_an_adapter_is_rolled_back_to_the_base(live):
    taught = live()
    before, revision = answer(taught), taught.revision
    update = taught.update(PAIRS, config=QUICK)
    assert answer(taught).revision == update.report.revision
    assert taught.roll_back() is None
    assert (taught.revision, taught.adapter) == (revision, None)
    assert answer(taught).message == before.message
    with pytest.raises(ConfigError):
        taught.roll_back()


def test_an_adapter_with_a_name_has_nothing_before_its_first_version(live):
    taught = live(adapter="helper")
    taught.update(PAIRS, config=QUICK)
    with pytest.raises(ConfigError, match="none was before it"):
        taught.roll_back()


def test_learning_goes_on_from_the_adapter_an_agent_begins_with(live, model, tmp_path):
    begun = make_adapter(model, tmp_path / "begun", seed=1)
    taught = live(begins_with=begun)
    assert taught.adapter == begun
    update = taught.update(PAIRS, config=QUICK)
    assert update.report.version == 2
    assert update.adapter.parent.name == "0002"


def test_only_the_agents_own_answers_are_its_log(live):
    one, two = live(), live()
    said = answer(one, "One")
    answer(two, "Two")
    assert [exchange.result.id for exchange in one.log()] == [said.id]


def test_stats_are_json_and_say_what_had_to_be_reconstructed(live):
    taught = live()
    said = answer(taught).message.text
    update = taught.update([("I am an assistant.", said)], config=QUICK)
    stats = json.loads(json.dumps(update.stats()))
    assert stats["pairs"] == 1
    assert stats["prompt_source"] == {"log": 1}
    assert stats["reconstructed"] == 0
    assert stats["accepted"] is update.report.accepted


def test_a_name_that_no_folder_can_have_is_refused_at_once(live):
    with pytest.raises(ConfigError, match="adapter name is"):
        live(adapter="../up")


def test_fresh_names_are_legal_and_differ():
    names = {fresh_name("Ärger & söhne/..") for _ in range(50)}
    assert len(names) == 50
