"""The batcher with functions in place of networks: every job is answered once, with its own answer or its own error."""

import asyncio
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.serve.batcher import Batcher, FullError


class PoisonError(Exception):
    """Of a job that is at fault."""


class Network:
    """Ten times each number; a pass with a number below zero breaks. noise: what a batch adds to its results."""

    def __init__(self, noise: float = 0.0) -> None:
        self.noise, self.passes = noise, []

    def __call__(self, items):
        self.passes.append(list(items))
        if min(items) < 0:
            raise PoisonError(min(items))
        return [10 * item + self.noise * (len(items) > 1) for item in items]


async def answers(batcher: Batcher, jobs, run) -> list:
    batcher.start()
    try:
        return await asyncio.gather(*(batcher.submit(key, item, run) for key, item in jobs), return_exceptions=True)
    finally:
        await batcher.stop()


JOBS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(-2, 50)), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(jobs=JOBS, largest=st.integers(1, 8), noise=st.sampled_from([0.0, 0.5]))
def test_every_job_gets_its_own_answer_whatever_goes_with_it(jobs, largest, noise):
    network = Network(noise)
    batcher = Batcher(100, largest, lambda a, b: a == b)
    results = asyncio.run(answers(batcher, jobs, network))
    for (_, item), result in zip(jobs, results):
        if item < 0:
            assert isinstance(result, PoisonError)
            assert result.args == (item,)
        else:
            assert result.result == 10 * item  # also where a batch would have added noise
    assert max(map(len, network.passes)) <= largest
    assert batcher.held == 0


@settings(max_examples=40, deadline=None)
@given(jobs=JOBS, largest=st.integers(2, 8))
def test_a_batch_holds_one_key_and_keeps_the_order(jobs, largest):
    passes = []

    def run(items):
        passes.append(list(items))
        return items

    numbered = [(key, (key, number)) for number, (key, _) in enumerate(jobs)]
    results = asyncio.run(answers(Batcher(100, largest), numbered, run))
    assert [done.result for done in results] == [item for _, item in numbered]
    assert all(len({key for key, _ in items}) == 1 for items in passes)
    for key in "ab":
        mine = [item for items in passes for item in items if item[0] == key]
        assert mine == sorted(mine, key=lambda item: item[1])
    assert sum(map(len, passes)) == len(jobs)


def test_equal_batches_go_together_after_one_comparison_and_unequal_ones_never_do():
    async def twice(network):
        batcher = Batcher(100, 4, lambda a, b: a == b)
        batcher.start()
        for _ in range(2):
            await asyncio.gather(*(batcher.submit("a", item, network) for item in range(4)))
        await batcher.stop()
        return network.passes

    alone, together = [[i] for i in range(4)], [[0, 1, 2, 3]]
    assert asyncio.run(twice(Network())) == [*alone, *together, *together]
    assert asyncio.run(twice(Network(0.5))) == [*alone, *together, *alone]


def test_nothing_compared_with_nothing_shows_nothing_and_is_given_up():
    async def often(network):
        batcher = Batcher(100, 2, lambda a, b: None)
        batcher.start()
        for _ in range(6):
            await asyncio.gather(*(batcher.submit("a", item, network) for item in range(2)))
        await batcher.stop()
        return [len(items) for items in network.passes]

    assert asyncio.run(often(Network())) == [*[1, 1, 2] * 4, *[1, 1] * 2]


def test_a_lone_job_runs_at_once_and_a_job_that_nobody_awaits_is_not_run():
    started, go, seen = threading.Event(), threading.Event(), []

    def run(items):
        seen.extend(items)
        started.set()
        assert go.wait(20)
        return items

    async def main():
        batcher = Batcher(10, 8)
        batcher.start()
        first = asyncio.create_task(batcher.submit("a", 1, run))
        assert await asyncio.to_thread(started.wait, 20)  # though up to seven others might still come
        others = [asyncio.create_task(batcher.submit("a", item, run)) for item in (2, 3)]
        await asyncio.sleep(0)
        others[0].cancel()
        go.set()
        assert (await others[1]).result == 3
        assert (await first).together == 1
        await batcher.stop()

    asyncio.run(main())
    assert seen == [1, 3]


def test_the_queue_is_bounded_and_says_when_to_ask_again():
    async def main():
        batcher = Batcher(3, 1)
        with batcher.reserve(2):
            with pytest.raises(FullError, match="2 of 3 pictures wait, and 2 came; ask again in 1 s") as caught:
                batcher.reserve(2).__enter__()
            with batcher.reserve(1):
                assert batcher.held == 3
        assert caught.value.seconds == 1
        assert batcher.held == 0

    asyncio.run(main())


def test_a_job_that_fails_alone_and_passes_together_ends_nothing():
    """As memory that runs out once: the one is told, the other answered, and those that come later are served."""
    tries = []

    def run(items):
        tries.append(len(items))
        if items == [1] and tries.count(1) == 2:
            raise PoisonError(1)
        return [len(items) * item for item in items]

    async def both():
        batcher = Batcher(10, 4, lambda a, b: len(a) == len(b))  # which has no length of an exception
        batcher.start()
        hold = batcher.submit("k", 0, lambda items: [threading.Event().wait(0.05)])
        first = [asyncio.ensure_future(each) for each in (hold, *(batcher.submit("k", n, run) for n in (0, 1)))]
        found = await asyncio.gather(*first, return_exceptions=True)
        later = await asyncio.wait_for(batcher.submit("k", 3, run), 5)
        await batcher.stop()
        return found, later

    found, later = asyncio.run(both())
    assert isinstance(found[2], PoisonError) or found[2].result == 1
    assert later.result == 3


def test_an_observer_that_fails_is_told_to_those_who_wait():
    def observe(*_):
        raise PoisonError("a counter")

    async def one():
        batcher = Batcher(10, 4, None, observe)
        batcher.start()
        told = [await asyncio.gather(batcher.submit("k", 1, Network()), return_exceptions=True) for _ in range(2)]
        await batcher.stop()
        return told

    assert [type(answer) for (answer,) in asyncio.run(one())] == [PoisonError, PoisonError]
