"""The signal handlers of a process in which a training is one step of many."""

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
        assert all(signal.getsignal(number) is not handler for number in SIGNALS)
        raise self.error


def handler(number, frame):
    """The user's own."""


@pytest.fixture
def own_handlers():
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    yield
    for number, previous in before.items():
        signal.signal(number, previous)


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
@pytest.mark.usefixtures('own_handlers')
def test_an_error_leaves_the_handlers_as_they_were(tmp_path, error):
    with pytest.raises(error):
        make(tmp_path, hooks=[Fail(error)]).train()
    assert [signal.getsignal(number) for number in SIGNALS] == [handler, handler]


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
