"""A resumed run that judges its evaluations by another metric than before."""

from helpers.regression import loader
from helpers.small_training import make
from mmengine.evaluator import BaseMetric
from mmengine.hooks import EarlyStoppingHook


class TwoMetrics(BaseMetric):
    """An AP that stays, and an error of above 1 that falls with each evaluation."""

    evaluations = 0

    def process(self, data_batch, data_samples):
        self.results += [0.0 for _ in data_samples]

    def compute_metrics(self, results):
        TwoMetrics.evaluations += 1
        error = 1 + 1 / TwoMetrics.evaluations
        return dict(mAP=0.9, mAP_error=error, error=error)


def train(folder, epochs, **options):
    options |= dict(
        val=False,
        val_dataloader=loader(6, shuffle=False),
        val_cfg=dict(type='ValLoop'),
        val_evaluator=dict(type=TwoMetrics),
        lr_hook=dict(milestones=[1]),
    )
    runner = make(folder, epochs=epochs, **options)
    runner.train()
    return runner


def test_a_metric_whose_name_begins_with_the_others(tmp_path):
    train(tmp_path, 2, checkpoint=dict(interval=1, save_best='mAP_error', rule='less'))
    # Its last error is above 1, so above the AP.
    train(tmp_path, 3, resume=True, checkpoint=dict(interval=1, save_best='mAP', rule='greater'))
    assert list(tmp_path.glob('best_mAP_epoch_*'))


def test_another_save_best(tmp_path):
    """The AP of 0.9 would be the lowest error for ever."""
    train(tmp_path, 2, checkpoint=dict(interval=1, save_best='mAP', rule='greater'))
    assert (tmp_path / 'best_mAP_epoch_1.pth').exists()
    other = dict(interval=1, save_best='error', rule='less')
    train(tmp_path, 4, resume=True, checkpoint=other)
    assert [path.name for path in tmp_path.glob('best_error*')] == ['best_error_epoch_4.pth']
    train(tmp_path, 5, resume=True, checkpoint=other)
    names = sorted(path.name for path in tmp_path.glob('best_*'))
    assert names == ['best_error_epoch_5.pth', 'best_mAP_epoch_1.pth']


def test_another_monitor_of_early_stopping(tmp_path):
    """An error that falls never stops; counted from the AP's best score it would."""
    train(tmp_path, 2, hooks=[EarlyStoppingHook('mAP', patience=9)])
    hook = EarlyStoppingHook('error', rule='less', patience=2, min_delta=0.0)
    assert train(tmp_path, 6, resume=True, hooks=[hook]).epoch == 6
