from contextlib import contextmanager

import pytest
import torch

from training.recording import RecordedStep


class Graph:
    """Stands in for a CUDA graph: replays what was called while it was recorded."""

    def __init__(self):
        self.calls = []

    def replay(self):
        for function, inputs in self.calls:
            function(*inputs)


class Stream:
    def wait_stream(self, other):
        assert isinstance(other, Stream)


@pytest.fixture
def cuda(monkeypatch):
    """A stand-in for the parts of torch.cuda that are used, and what is being recorded."""
    recording = []

    @contextmanager
    def graph(made, capture_error_mode):
        recording.append(made)
        yield
        recording.pop()

    @contextmanager
    def stream(_):
        yield

    for name, value in {
        "Stream": Stream, "current_stream": Stream, "stream": stream, "CUDAGraph": Graph, "graph": graph,
        "set_stream": lambda given: given.wait_stream(given),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    return recording


def counting(recording, fails=False):
    """(a step that adds its input to a total, the total, how often Python ran it)."""
    total, runs = torch.zeros(()), []

    def step(number):
        runs.append(1)
        if recording:
            if fails:
                raise RuntimeError("operation not permitted when stream is capturing\nand more")
            recording[-1].calls.append((total.add_, (number,)))  # recorded, not done
        else:
            total.add_(number)

    return step, total, runs


def test_every_call_is_one_step_before_and_after_the_recording(cuda):
    step, total, runs = counting(cuda)
    recorded = RecordedStep(step, graphs=True)
    for number in range(1, 11):
        recorded(torch.tensor(float(number)))
        assert total == number * (number + 1) / 2
    assert len(runs) == 4  # three ordinary calls and the recording


def test_inputs_of_another_shape_are_not_replayed(cuda):
    total, runs = torch.zeros(()), []

    def step(numbers):
        runs.append(len(numbers))
        if not cuda:
            total.add_(numbers.sum())

    recorded = RecordedStep(step, graphs=True)
    for length in (2, 2, 2, 2, 3):
        recorded(torch.ones(length))
    assert runs == [2, 2, 2, 2, 3]
    assert total == 2 + 2 + 2 + 3  # the stand-in for the fourth replays nothing


def test_a_step_that_cannot_be_recorded_is_called_as_it_is(cuda, caplog):
    step, total, _ = counting(cuda, fails=True)
    recorded = RecordedStep(step, graphs=True)
    with pytest.MonkeyPatch.context() as patch:

        @contextmanager
        def graph(made, capture_error_mode):
            cuda.append(made)
            try:
                yield
            finally:
                cuda.pop()

        patch.setattr(torch.cuda, "graph", graph)
        for number in range(6):
            recorded(torch.tensor(float(number)))
    assert total == 15
    assert caplog.text.count("cannot be recorded") == 1


def test_elsewhere_nothing_is_recorded():
    step, total, runs = counting([])
    recorded = RecordedStep(step, graphs=False)
    for _ in range(5):
        recorded(torch.ones(()))
    assert len(runs) == total == 5
