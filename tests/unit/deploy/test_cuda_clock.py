import ctypes

import pytest

from lomt.deploy import ProviderError, cuda_clock
from lomt.deploy.cuda_clock import CudaClock


class Runtime:
    """Stands in for the CUDA runtime: streams and events are numbers, a record notes its turn."""

    def __init__(self):
        self.next = 1
        self.records = {}
        self.waits = 0
        self.status = 0

    def _make(self, reference):
        reference._obj.value = self.next
        self.next += 1
        return self.status

    cudaStreamCreate = cudaEventCreate = _make

    def cudaEventRecord(self, event, stream):
        self.records[event.value] = (len(self.records), stream.value)
        return self.status

    def cudaStreamSynchronize(self, stream):
        self.waits += 1
        return self.status

    def cudaEventElapsedTime(self, reference, first, last):
        assert self.records[first.value][0] < self.records[last.value][0]
        reference._obj.value = 1.5
        return self.status

    def cudaMemGetInfo(self, free, total):
        free._obj.value, total._obj.value = 30, 100
        return self.status


def test_it_marks_beginning_and_end_on_its_own_stream():
    runtime = Runtime()
    clock = CudaClock(runtime)
    clock.start()
    clock.stop()
    clock.synchronize()
    assert clock.elapsed_ms() == 1.5
    assert {stream for _, stream in runtime.records.values()} == {clock.stream}
    assert runtime.waits == 1
    assert clock.used_bytes() == 70


def test_a_call_that_fails_is_told():
    runtime = Runtime()
    clock = CudaClock(runtime)
    runtime.status = 999
    with pytest.raises(ProviderError, match=r"Expected cudaEventRecord to succeed, but got CUDA error 999\."):
        clock.start()


def test_a_machine_without_cuda_is_told(monkeypatch):
    def refuse(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    monkeypatch.setattr(cuda_clock, "_candidates", lambda: iter(["libcudart.so"]))
    with pytest.raises(
        ProviderError, match=r"Expected the CUDA runtime library \(libcudart\) to be loadable"
    ):
        CudaClock.open()
