import multiprocessing
import os
import signal
import threading
import time

import pytest
import torch

from lomt.data.prefetch import in_processes, in_thread
from lomt.errors import DataError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]


def square(number):
    return number * number


def refuse_three(number):
    if number == 3:
        raise DataError("sample 3 is damaged")
    return number


def fail_at_three(number):
    if number == 3:
        raise KeyError("a mistake of ours")
    return number


def slowly(number):
    time.sleep(0.5)
    return number


def tell_process(number):
    return os.getpid()


def in_two_processes(make, numbers):
    return in_processes(make, numbers, workers=2)


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == "lomt-prefetch"]


def assert_nothing_left():
    assert not prefetch_threads()
    assert not multiprocessing.active_children()


WAYS = pytest.mark.parametrize("ahead", [in_thread, in_two_processes], ids=["thread", "processes"])


@WAYS
def test_order(ahead):
    assert list(ahead(square, range(3, 20))) == [n * n for n in range(3, 20)]
    assert_nothing_left()


@WAYS
def test_nothing_to_make(ahead):
    assert list(ahead(square, range(0))) == []
    assert_nothing_left()


@WAYS
def test_closed_early(ahead):
    items = ahead(square, range(100))
    assert next(items) == 0
    items.close()
    assert_nothing_left()


@WAYS
def test_abandoned(ahead):
    for item in ahead(square, range(100)):
        if item == 4:
            break
    assert_nothing_left()


@WAYS
def test_never_started(ahead):
    items = ahead(square, range(100))
    assert_nothing_left()
    del items


@WAYS
def test_errors_reach_the_consumer_in_their_place(ahead):
    items = ahead(refuse_three, range(10))
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError) as caught:
        next(items)
    assert str(caught.value) == "sample 3 is damaged"
    assert_nothing_left()


@WAYS
def test_other_errors_keep_their_kind(ahead):
    with pytest.raises(KeyError, match="a mistake of ours"):
        list(ahead(fail_at_three, range(10)))
    assert_nothing_left()


@WAYS
def test_interrupted_consumer(ahead):
    def consume():
        for item in ahead(square, range(100)):
            if item == 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consume()
    assert_nothing_left()


def test_error_of_the_thread_shows_where_it_arose():
    with pytest.raises(KeyError) as caught:
        list(in_thread(fail_at_three, range(10)))
    assert any(entry.name == "fail_at_three" for entry in caught.traceback)


def test_thread_works_ahead_but_not_further():
    made = []
    items = in_thread(made.append, range(100), ahead=3)
    next(items)
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3]
    items.close()


def test_processes_do_the_work():
    assert os.getpid() not in in_two_processes(tell_process, range(4))


def test_global_random_state_is_not_touched():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(in_two_processes(square, range(2)))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads on this platform")
@WAYS
def test_ctrl_c_while_waiting(ahead):
    items = ahead(slowly, range(10))
    timer = threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        list(items)
    timer.join()
    assert_nothing_left()
