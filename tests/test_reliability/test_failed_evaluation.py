"""An evaluation that fails again after a restart ends the run."""

import pytest
from helpers.runs import GLOBAL_BATCH, merged, train_as_process
from helpers.small_training import make
from mmengine.hooks import Hook

from mmdet_largebatch.cli.failed_evaluation import end_if_failed_again
from mmdet_largebatch.utils.exit_codes import STATUS_FILE


@pytest.mark.multiprocess
def test_a_metric_that_fails_is_not_evaluated_a_third_time(tmp_path, shapes, monkeypatch):
    """`Given` has a value for the first evaluation alone: of two epochs, the second one fails."""
    monkeypatch.setenv('SHAPES', str(shapes))
    monkeypatch.setenv('MAX_RESTARTS', '4')
    failing = dict(
        train_cfg=dict(max_epochs=2),
        train_dataloader=dict(batch_size=2),
        val_evaluator=[dict(type='Given', values=[1.0])],
    )
    run = train_as_process(tmp_path / 'work', merged(GLOBAL_BATCH, failing), ranks=2)
    assert run.status == 1, run.output[-3000:]
    assert run.errors == [
        'error: the evaluation after update 10 ended in IndexError again, as before the restart. '
        'There is no further restart.'
    ]
    assert run.output.count('IndexError: list index out of range') == 2
    assert run.files == ['epoch_1', 'epoch_2']


class Fail(Hook):
    """Raise in an evaluation or in the training, after an update."""

    def __init__(self, error, update, where):
        self.error, self.update, self.where = error, update, where

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if (runner.iter, 'evaluation') == (self.update, self.where):
            raise self.error

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if (runner.iter + 1, 'training') == (self.update, self.where):
            raise self.error


WORKER = 'DataLoader worker (pid 1) is killed by signal: Killed.'


@pytest.mark.parametrize(
    ('failures', 'ends'),
    [
        ([(KeyError('a'), 2, 'evaluation'), (KeyError('b'), 2, 'evaluation')], True),
        ([(KeyError('a'), 2, 'evaluation'), (TypeError('a'), 2, 'evaluation')], False),
        ([(KeyError('a'), 2, 'evaluation'), (KeyError('a'), 4, 'evaluation')], False),
        ([(KeyError('a'), 2, 'training')] * 2, False),
        ([(RuntimeError(WORKER), 2, 'evaluation')] * 2, False),
        ([(OSError(5, 'Input/output error'), 2, 'evaluation')] * 2, False),
        ([(RuntimeError('CUDA error: uncorrectable ECC error'), 2, 'evaluation')] * 2, False),
    ],
)
def test_the_same_error_in_the_same_evaluation(failures, ends, tmp_path, monkeypatch):
    """All but it may come from another process that was killed, or need not come again."""
    status = tmp_path / 'status'
    monkeypatch.setenv(STATUS_FILE, str(status))
    for index, failure in enumerate(failures):
        assert not status.exists()
        with pytest.raises(type(failure[0])) as error:
            make(tmp_path / str(index), hooks=[Fail(*failure)]).train()
        end_if_failed_again(error.value)
    assert (status.exists() and status.read_text() == '1 final') == ends
