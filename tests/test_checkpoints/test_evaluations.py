"""AtomicCheckpointHook in an evaluation that a user's hook runs within an update."""

import pytest
from helpers.small_training import Tell, load, make, same
from mmengine.hooks import Hook

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
