import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from itemic import threads
from itemic.errors import ConfigError


def blas_counts() -> set[int]:
    own = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    return {pool["num_threads"] for pool in own if pool.get("threading_layer") != "openmp"}  # those go by thread


def run(code: str, **environment: str) -> str:
    """What a fresh interpreter prints: the choice is made once per process."""
    env = {name: value for name, value in os.environ.items() if name != "ITEMIC_THREADS"} | environment
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout


def test_the_environment_settles_the_count_and_blas_follows():
    code = (
        "import numpy; from itemic import threads; from threadpoolctl import threadpool_info; "
        "print(threads.count(), threads.describe(), [p['num_threads'] for p in threadpool_info()])"
    )
    assert run(code, ITEMIC_THREADS="1").strip() == "1 1 thread (ITEMIC_THREADS) [1]"


def test_torch_keeps_the_count_when_numba_starts_its_threads():
    code = (
        "import torch; from itemic import threads; threads.count(); torch.get_num_threads(); "
        "import numba; threads.apply(); print(torch.get_num_threads())"
    )
    assert run(code, ITEMIC_THREADS="1", NUMBA_NUM_THREADS="3").strip() == "1"


def test_without_it_the_count_is_measured_and_no_torch_is_loaded():
    code = "import sys; from itemic import threads; print(threads.describe()); print('torch' in sys.modules)"
    said, torch_loaded = run(code).splitlines()
    assert torch_loaded == "False"
    assert "measured" in said or "the only CPU" in said


@pytest.mark.parametrize(("one", "every", "chosen"), [(1.0, 0.5, 4), (1.0, 0.9, 1), (1.0, 20.0, 1)])
def test_all_cpus_are_used_only_where_they_are_clearly_faster(monkeypatch, one, every, chosen):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: range(4), raising=False)
    monkeypatch.setattr(threads, "_product_seconds", lambda n: one if n == 1 else every)
    assert threads._measured().n == chosen


@pytest.mark.parametrize("text", ["two", "0", "-1", "1.5"])
def test_a_wrong_count_is_named_with_its_mend(monkeypatch, text):
    monkeypatch.setenv("ITEMIC_THREADS", text)
    with pytest.raises(ConfigError, match=f"ITEMIC_THREADS is '{text}'; give a whole number from 1 up"):
        threads._from_environment()


def test_use_sets_every_loaded_library_and_puts_all_back():
    torch = pytest.importorskip("torch")
    before, blas = threads.count(), blas_counts()
    with threads.use(1):
        assert (threads.count(), blas_counts(), torch.get_num_threads()) == (1, {1}, 1)
        with threads.use(2):
            assert threads.describe() == "2 threads (asked for)"
        assert threads.count() == 1
    assert (threads.count(), blas_counts()) == (before, blas)


def test_parts_run_side_by_side_in_order_with_one_blas_thread_each():
    together = threading.Barrier(2, timeout=20)  # breaks unless two parts run at once

    def work(part: int) -> tuple[int, set[int]]:
        together.wait()
        return part * part, blas_counts()

    with threads.use(2):
        assert threads.spread(work, range(4)) == [(n * n, {1}) for n in range(4)]


def test_overlapping_calls_leave_the_count_as_it_was():
    second_is_in, first_is_out = threading.Event(), threading.Event()

    def second() -> None:
        with threads.single():
            second_is_in.set()
            first_is_out.wait(timeout=20)
            assert blas_counts() == {1}  # the end of the first changes nothing for the second

    with threads.use(2):
        other = threading.Thread(target=second)
        with threads.single():
            other.start()
            assert second_is_in.wait(timeout=20)
        first_is_out.set()
        other.join()
        assert (threads.count(), blas_counts()) == (2, {2})


def test_one_failing_part_raises_its_own_error():
    def work(part: int) -> float:
        return np.ones(3)[part]

    with threads.use(2), pytest.raises(IndexError, match="index 3"):
        threads.spread(work, [0, 1, 2, 3])


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize(("n", "least"), [(0, 1), (1, 1), (7, 1), (1000, 1), (1000, 400), (1000, 5000)])
def test_a_loop_in_parts_visits_every_place_once_in_parts_of_the_least_size(n_threads, n, least):
    parts = []
    with threads.use(n_threads):
        threads.over(lambda begin, end: parts.append((begin, end)), n, least)
    assert sorted(place for part in parts for place in range(*part)) == list(range(n))
    assert len(parts) == 1 or min(end - begin for begin, end in parts) >= least
    assert n_threads > 1 or len(parts) == 1


def test_what_fails_in_a_part_is_raised():
    def fails(begin, end):
        if end == 8:
            raise ValueError("the last part")

    with threads.use(2), pytest.raises(ValueError, match="the last part"):
        threads.over(fails, 8)
