"""AtomicCheckpointHook and evaluations: within an update, and without the metric of save_best."""

import pytest
from helpers.regression import loader
from helpers.small_training import Error, Tell, load, log_of, make, same
from mmengine.hooks import Hook

from mmdet_largebatch import SettingError
from mmdet_largebatch.utils.exit_codes import Preempted


class Evaluates(Hook):
    """A user's hook that evaluates within update 5, once the optimizer has stepped."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 4:
            runner.val_loop.run()
            runner.model.train()


LOOPS = dict(
    GlobalBatchTrainLoop={},
    # 4 batches of 3 points an epoch.
    EpochBasedTrainLoop=dict(type='EpochBasedTrainLoop', global_batch_size=None, max_epochs=2),
    IterBasedTrainLoop=dict(
        type='IterBasedTrainLoop', global_batch_size=None, max_epochs=None, max_iters=8
    ),
)
# The LR of each update is another.
LR = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=20)]


@pytest.mark.parametrize('loop', LOOPS)
def test_told_in_an_evaluation_within_an_update(tmp_path, loop):
    """Each checkpoint holds the updates that it names, as those of MMEngine's own hook."""
    options = dict(
        train_cfg=LOOPS[loop] | dict(val_interval=8), divergence=False, param_scheduler=LR
    )
    stock = dict(type='CheckpointHook', by_epoch=False, interval=1)
    make(tmp_path / 'stock', checkpoint=stock, preemption=False, **options).train()
    options['checkpoint'] = dict(by_epoch=False, interval=3, save_best='error', rule='less')
    run = tmp_path / 'run'

    def check(*names):
        assert sorted(path.stem for path in run.glob('[!b]*.pth')) == list(names)
        for name in names:
            ours = load(run / f'{name}.pth')
            whole = load(tmp_path / f'stock/iter_{ours["meta"]["iter"]}.pth')
            for part in ('state_dict', 'optimizer', 'param_schedulers'):
                assert same(ours[part], whole[part]), (name, part)

    with pytest.raises(Preempted):
        make(run, hooks=[Evaluates(), Tell(in_evaluation=4)], **options).train()
    if loop == 'EpochBasedTrainLoop':
        # It would repeat the epoch.
        check('iter_3')
        return
    check('iter_3', 'restart_5')
    make(run, hooks=[Evaluates()], resume=True, **options).train()
    check('iter_3', 'iter_6', 'iter_8')


class Detections(Error):
    """A second metric, which has no value in the first evaluation."""

    evaluations = 0

    def compute_metrics(self, results):
        self.evaluations += 1
        return dict(error=0.5) | (dict(mAP=0.1) if self.evaluations > 1 else {})


class Adds(Hook):
    """A user's hook that adds a metric of its own."""

    def after_val_epoch(self, runner, metrics=None):
        metrics['bbox_mAP'] = 0.3


def evaluated_by(folder, save_best, rule, hooks=(), **metric):
    evaluation = dict(
        val_dataloader=loader(6, shuffle=False),
        val_cfg=dict(type='ValLoop'),
        val_evaluator=dict(type=Detections, **metric),
    )
    options = dict(epochs=2, lr_hook=dict(milestones=[1]), val=False, **evaluation)
    checkpoint = dict(interval=2, save_best=save_best, rule=rule)
    make(folder, hooks=hooks, checkpoint=checkpoint, **options).train()
    return sorted(path.stem for path in folder.glob('best*.pth'))


def test_a_metric_that_one_evaluation_lacks(tmp_path):
    """MMEngine's hook ends the training with a KeyError."""
    best = evaluated_by(tmp_path, ['error', 'mAP'], ['less', 'greater'])
    assert best == ['best_error_epoch_1', 'best_mAP_epoch_2']
    words = 'The evaluation has no mAP, only error: no best checkpoint is saved by it.'
    assert log_of(tmp_path).count(words) == 1


def test_a_metric_that_no_evaluation_has(tmp_path):
    """The name of MMDetection 2 is refused, unless a user's hook may add it."""
    line = r"Invalid .*checkpoint\.save_best='bbox_mAP'\. Must be a name that begins with coco/, as"
    with pytest.raises(SettingError, match=line):
        evaluated_by(tmp_path / 'refused', 'bbox_mAP', 'greater', prefix='coco')
    best = evaluated_by(tmp_path / 'added', 'bbox_mAP', 'greater', hooks=[Adds()], prefix='coco')
    assert best == ['best_bbox_mAP_epoch_1']
