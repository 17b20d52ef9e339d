"""The next token of each row: as Transformers and torch would choose it, whoever sits beside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from agent_finetune.engine.sampling import Sampling, choose
from agent_finetune.errors import EngineError

WIDTH = 70


def logits(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.randn(count, WIDTH, generator=torch.manual_seed(seed)) * 3).to(dtype)


class Only:
    """A grammar that allows certain tokens, or fails."""

    finished = False

    def __init__(self, *tokens: int, fails: bool = False) -> None:
        self.tokens, self.fails = tokens, fails

    def fill(self, words: Any) -> None:
        if self.fails:
            raise EngineError("the grammar gave up")
        words[:] = 0
        bits = words.view(np.uint32)
        for token in self.tokens:
            bits[token // 32] |= np.uint32(1 << token % 32)


def held(*tokens: int, fails: bool = False, **more: Any) -> Sampling:
    return Sampling(constraint=Only(*tokens, fails=fails), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_greedy_rows_take_the_likeliest_token(dtype: torch.dtype) -> None:
    given = logits(5, dtype=dtype)
    before = given.clone()
    assert choose(given, [Sampling() for _ in range(5)]) == given.argmax(dim=-1).tolist()
    assert torch.equal(given, before)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9), (1.5, 0.4), (0.2, 1)])
def test_sampled_tokens_are_those_that_torch_draws_from_the_warped_logits(
    temperature: float, top_p: float
) -> None:
    given = logits(1, dtype=torch.bfloat16)
    row = Sampling(temperature=temperature, top_p=top_p, seed=5)
    drawn = [choose(given, [row])[0] for _ in range(20)]
    warp = LogitsProcessorList([TemperatureLogitsWarper(temperature), TopPLogitsWarper(top_p)])
    chances = warp(None, given.float()).softmax(dim=-1)
    generator = torch.Generator().manual_seed(5)
    assert drawn == [torch.multinomial(chances, 1, generator=generator).item() for _ in range(20)]


def test_draws_are_spread_as_the_chances_are() -> None:
    given = torch.tensor([[2.0, 1.0, 0.0, -1.0, -9.0]])
    row = Sampling(temperature=0.8, top_p=0.95, seed=1)
    drawn = torch.tensor([choose(given, [row])[0] for _ in range(4000)])
    share = torch.bincount(drawn, minlength=5) / 4000
    warped = TopPLogitsWarper(0.95)(None, given / 0.8).softmax(dim=-1)[0]
    assert torch.allclose(share, warped, atol=0.03)
    assert share[3:].sum() == 0  # behind the first 95%


def test_a_seed_draws_the_same_whatever_is_in_the_batch() -> None:
    steps = [logits(4, seed) for seed in range(12)]

    def row() -> Sampling:
        return Sampling(temperature=0.9, top_p=0.8, seed=11)

    alone, beside = row(), row()
    others = [Sampling(), Sampling(temperature=2.0, seed=4), held(3, temperature=1.0)]
    for step in steps:
        (one,) = choose(step[2:3], [alone])
        assert choose(step, [others[0], others[1], beside, others[2]])[2] == one


def test_without_a_seed_draws_differ_and_a_number_of_any_size_is_a_seed() -> None:
    flat = torch.zeros(1, 100_000)
    free = {choose(flat, [Sampling(temperature=1.0)])[0] for _ in range(4)}
    assert len(free) > 1
    for seed in (-1, 2**80):
        one, other = (choose(flat, [Sampling(temperature=1.0, seed=seed)]) for _ in range(2))
        assert one == other


def test_a_tiny_temperature_is_greedy_and_never_overflows() -> None:
    given = logits(1) * 100
    row = Sampling(temperature=1e-30, seed=0)
    assert choose(given, [row]) == [given.argmax().item()]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_a_grammar_forbids_is_never_chosen(temperature: float) -> None:
    given = logits(3)
    allowed = [31, 32, 63, 69]
    for _ in range(20):
        rows = [Sampling(), held(*allowed, temperature=temperature), held(5)]
        free, chosen, forced = choose(given, rows)
        assert (free, forced) == (given[0].argmax(), 5)
        assert chosen in allowed
    if not temperature:
        assert chosen == max(allowed, key=lambda token: given[1, token])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_fails_alone(temperature: float, bad: float) -> None:
    given = logits(3)
    given[1, 7] = bad
    rows = [Sampling(temperature=temperature, seed=2) for _ in range(3)]
    first, failed, last = choose(given, rows)
    assert isinstance(failed, EngineError)
    assert "not finite" in str(failed)
    assert "grammar" not in str(failed)
    again = [Sampling(temperature=temperature, seed=2) for _ in range(2)]
    assert [first, last] == choose(given[[0, 2]], again)


def test_a_grammar_that_fails_or_allows_nothing_fails_its_row_alone() -> None:
    given = logits(3)
    gave_up, nothing, fine = choose(given, [held(3, fails=True), held(), Sampling()])
    assert isinstance(gave_up, EngineError)
    assert "gave up" in str(gave_up)
    assert isinstance(nothing, EngineError)
    assert "allows no token" in str(nothing)
    assert fine == given[2].argmax()


def test_logits_at_minus_infinity_are_only_never_chosen() -> None:
    given = torch.full((2, WIDTH), -torch.inf)
    given[:, 9] = 0.0
    assert choose(given, [Sampling(), Sampling(temperature=1.0, top_p=0.5)]) == [9, 9]


@pytest.mark.gpu
def test_a_gpu_chooses_as_torch_does_there() -> None:
    given = logits(4).cuda()
    rows = [
        Sampling(),
        held(31, 69),
        Sampling(temperature=0.9, top_p=0.8, seed=3),
        held(7, temperature=1.0, seed=3),
    ]
    chosen = choose(given, rows)
    assert chosen[:2] == choose(given.cpu(), [Sampling(), held(31, 69), *rows[:2]])[:2]
    assert chosen[3] == 7
    beside = Sampling(temperature=0.9, top_p=0.8, seed=3)
    assert choose(given[2:3], [beside]) == [chosen[2]]
    row = Sampling(temperature=0.9, top_p=0.8, seed=3)
    drawn = [choose(given[2:3], [row])[0] for _ in range(20)]
    warp = LogitsProcessorList([TemperatureLogitsWarper(0.9), TopPLogitsWarper(0.8)])
    chances, generator = warp(None, given[2:3]).softmax(dim=-1), torch.Generator("cuda")
    generator.manual_seed(3)
    assert drawn == [torch.multinomial(chances, 1, generator=generator).item() for _ in range(20)]
    given[2, 7] = torch.nan
    assert isinstance(choose(given, rows)[2], EngineError)
