"""What is shared by those who ask at the same time: nobody gets what began before, and nothing runs twice."""

import asyncio

from itemic.serving.gathering import Rounds


def test_who_asks_while_a_round_runs_shares_the_next_one():
    begun, open_ = [], []

    async def work():
        begun.append(len(open_))
        open_.append(asyncio.Event())
        await open_[-1].wait()

    async def ask():
        rounds = Rounds(work)
        first = asyncio.create_task(rounds.next())
        while not open_:
            await asyncio.sleep(0)
        others = [asyncio.create_task(rounds.next()) for _ in range(5)]
        others[0].cancel()  # who gives up takes the round from nobody
        for _ in range(10):
            await asyncio.sleep(0)
        assert begun == [0]
        open_[0].set()
        await first
        while len(open_) < 2:
            await asyncio.sleep(0)
        assert not any(other.done() for other in others[1:])
        open_[1].set()
        await asyncio.gather(*others[1:])
        assert begun == [0, 1]

    asyncio.run(ask())


def test_a_round_that_fails_is_told_to_those_who_waited_for_it_and_to_no_others():
    failing = [True]

    async def work():
        await asyncio.sleep(0)
        if failing:
            failing.clear()
            raise OSError("no store")

    async def ask():
        rounds = Rounds(work)
        found = await asyncio.gather(rounds.next(), rounds.next(), return_exceptions=True)
        assert [str(error) for error in found] == ["no store"] * 2
        await rounds.next()

    asyncio.run(ask())


def test_rounds_go_on_in_another_loop():
    done = []

    async def work():
        done.append(asyncio.get_running_loop())

    rounds = Rounds(work)
    for _ in range(2):
        asyncio.run(rounds.next())
    assert done[0].is_closed()
    assert len(done) == 2


def test_many_who_ask_at_once_need_one_round():
    done = []

    async def work():
        done.append(0)

    async def ask():
        rounds = Rounds(work)
        await asyncio.gather(*(rounds.next() for _ in range(20)))

    asyncio.run(ask())
    assert len(done) == 1
