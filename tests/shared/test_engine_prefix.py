"""What finished conversations leave behind."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from agent_finetune.engine.memory import Memory
from agent_finetune.engine.prefix import PrefixStore, common_length


def remembered(ids):
    memory = Memory()
    memory.extend(0, torch.zeros(1, len(ids), 4), torch.zeros(1, len(ids), 4))
    memory.commit(ids)
    return memory


ONE = remembered([0]).nbytes
"""Bytes of a short memory."""


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_the_common_length_is_that_of_the_longest_common_prefix(one, other):
    expected = 0
    while expected < min(len(one), len(other)) and one[expected] == other[expected]:
        expected += 1
    assert common_length(one, other) == expected
    assert common_length(one, tuple(other)) == expected


def test_a_conversation_goes_on_with_its_own_memory():
    store = PrefixStore(10 * ONE)
    memory = remembered(list(range(20)))
    store.put("a", memory)
    taken = store.take("a", [*range(20), 99])
    assert taken is memory
    assert store.nbytes == 0


def test_a_conversation_that_was_printed_differently_goes_on_from_where_it_agrees():
    store = PrefixStore(10 * ONE)
    store.put("a", remembered(list(range(20))))
    taken = store.take("a", [*range(15), 77, 78])
    assert taken.ids == list(range(15))


def test_another_conversation_with_the_same_beginning_gets_a_copy():
    store = PrefixStore(10 * ONE)
    memory = remembered(list(range(200)))
    store.put("a", memory)
    taken = store.take("a", [*range(100), 999])
    assert taken is not memory
    assert taken.ids == list(range(100))
    assert memory.ids == list(range(200))
    assert store.take("a", [*range(200), 5]) is memory


def test_a_running_row_is_copied_from():
    store = PrefixStore(10 * ONE)
    running = remembered(list(range(50)))
    taken = store.take("a", [*range(40), 999], [running])
    assert taken is not running
    assert taken.ids == list(range(40))


def test_the_prompts_last_token_is_always_left_to_compute():
    store = PrefixStore(10 * ONE)
    store.put("a", remembered(list(range(20))))
    assert store.take("a", list(range(20))).ids == list(range(19))


def test_another_adapters_memory_is_never_used():
    store = PrefixStore(10 * ONE)
    store.put("a", remembered(list(range(20))))
    assert store.take("b", [*range(20), 1]) is None


def test_the_least_recently_used_makes_room():
    store = PrefixStore(2 * ONE)
    for start in (0, 100, 200):
        store.put("a", remembered(list(range(start, start + 20))))
    assert store.nbytes == 2 * ONE
    assert store.take("a", [*range(20), 1]) is None
    assert store.take("a", [*range(100, 120), 1]) is not None


def test_what_is_larger_than_the_store_is_not_kept():
    store = PrefixStore(ONE - 1)
    store.put("a", remembered(list(range(20))))
    assert store.nbytes == 0


def test_a_dropped_adapters_memories_are_gone():
    store = PrefixStore(10 * ONE)
    store.put("a", remembered(list(range(20))))
    store.put("b", remembered(list(range(20))))
    store.drop("a")
    assert store.nbytes == ONE
    assert store.clear()
    assert not store.clear()


class Uncut(Memory):
    can_cut = False


def test_a_memory_that_cannot_be_cut_is_used_whole_or_not_at_all():
    memory = Uncut()
    memory.extend(0, torch.zeros(1, 20, 4), torch.zeros(1, 20, 4))
    memory.commit(range(20))
    store = PrefixStore(10 * ONE)
    store.put("a", memory)
    assert store.take("a", [*range(19), 50]) is None
    assert store.take("a", [*range(20), 50]) is memory
