"""The signal handlers of a process in which a training is one step of many."""

import os
import signal
import threading

import pytest
from helpers.small_training import load, log_of, make, same
from mmengine.hooks import Hook

SIGNALS = signal.SIGTERM, signal.SIGUSR1


class Fail(Hook):
    """End a training after its first update, by an error that a script or a notebook may catch."""

    def __init__(self, error):
        self.error = error

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        raise self.error


@pytest.fixture
def received():
    """The signals that reach the user's own handlers."""
    numbers = []
    before = {number: signal.signal(number, lambda n, _: numbers.append(n)) for number in SIGNALS}
    yield numbers
    for number, previous in before.items():
        signal.signal(number, previous)


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_after_an_error_signals_reach_the_handlers_of_before(tmp_path, received, error):
    with pytest.raises(error):
        make(tmp_path, hooks=[Fail(error)]).train()
    for number in SIGNALS:
        os.kill(os.getpid(), number)
    assert received == list(SIGNALS)


def test_after_an_error_and_a_whole_training_the_handlers_are_those_of_before(tmp_path, received):
    own = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ValueError):
        make(tmp_path / 'failed', hooks=[Fail(ValueError)]).train()
    make(tmp_path / 'whole').train()
    assert [signal.getsignal(number) for number in SIGNALS] == own


def test_a_training_in_another_thread(tmp_path):
    """It ends as one in the main thread, and says that signals do not reach it."""
    make(tmp_path / 'main').train()
    runner = make(tmp_path / 'thread')
    thread = threading.Thread(target=runner.train)
    thread.start()
    thread.join()
    mine, theirs = (load(tmp_path / name / 'epoch_4.pth') for name in ('thread', 'main'))
    assert same(mine['state_dict'], theirs['state_dict'])
    assert 'PreemptionHook does nothing: ' in log_of(tmp_path / 'thread')
    assert 'PreemptionHook does nothing: ' not in log_of(tmp_path / 'main')
