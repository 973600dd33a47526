"""One update of the loop, checked by hand on a model whose gradient is known."""

import json

import pytest
import torch
from helpers import unfreezing
from helpers.common import ROOT, data_options
from helpers.cpu_amp import CPUAmp
from helpers.forked import run_apart
from helpers.regression import START, Detector, Points, Regression, gradient, toy_runner, train
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import BaseLoop, Runner
from torch.utils.data import ConcatDataset, DataLoader, Subset

from mmdet_largebatch import SettingError
from mmdet_largebatch.global_batch import GlobalBatchTrainLoop

RECIPE = ROOT / 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'


@pytest.mark.parametrize('micro_batch', [1, 2, 3, 6, 12])
def test_an_update_takes_the_mean_gradient_and_logs_the_mean_loss(tmp_path, micro_batch):
    runner, log = train(tmp_path, micro_batch)
    mean, loss = gradient()
    torch.testing.assert_close(runner.model.w.double(), START.double() - 0.1 * mean)
    assert runner.iter == 1
    assert log.losses == [pytest.approx(loss, rel=1e-6)]
    assert len(runner.model.draws) == 12 // micro_batch
    assert len(set(runner.model.draws)) == 12 // micro_batch


def test_clip_grad_is_of_the_mean_gradient(tmp_path):
    """Clipped to norm 0.01 once: LR 0.1 moves the weight by 0.001 along the gradient."""
    runner, _ = train(tmp_path, 2, dict(clip_grad=dict(max_norm=0.01)))
    mean, _ = gradient()
    torch.testing.assert_close(
        runner.model.w.double() - START, -0.001 * mean / mean.norm(), rtol=1e-3, atol=1e-7
    )


@pytest.mark.slow
@pytest.mark.parametrize('settings', [{}, dict(exact_sum=True)])
def test_a_compiled_model_has_the_weights_of_one_that_is_not(tmp_path, settings):
    """MMEngine's `compile`, with the backend of PyTorch that computes what it has traced."""
    weights = []
    for name, more in (('plain', {}), ('compiled', dict(cfg=dict(compile=dict(backend='eager'))))):
        model = Detector()
        toy_runner(tmp_path / name, model, epochs=3, train_cfg=settings, **more).train()
        assert hasattr(model.train_step, '_torchdynamo_orig_callable') == (name == 'compiled')
        weights.append(model.state_dict())
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_ema_sees_one_iteration_an_update(tmp_path):
    """After 3 updates EMAHook's average, by its own formula over the 3 weights it should see."""
    weights = []

    class Weights(Hook):
        priority = 'HIGHEST'

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            weights.append(runner.model.w.detach().clone())

    ema = EMAHook(momentum=0.5)
    train(tmp_path, 2, hooks=[ema, Weights()], epochs=3)
    # MMEngine copies the weights at its first step, then averages: avg += momentum * (w - avg).
    expected = weights[0]
    for w in weights[1:]:
        expected = expected + 0.5 * (w - expected)
    assert len(weights) == 3
    # EMAHook swaps the averaged weights in for validation alone; its own copy is asked for.
    torch.testing.assert_close(ema.ema_model.module.w.detach(), expected)


def test_the_eta_counts_to_where_the_training_is_cut(tmp_path):
    """Of 8 updates the third is the last: MMEngine's own ETA would be for 5 more then."""

    class Clock(Hook):
        priority = 'LOW'

        def __init__(self):
            self.etas, self.times = [], []

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            self.times.append(runner.message_hub.get_scalar('train/time').current())
            self.etas.append(runner.message_hub.get_info('eta'))

    clock = Clock()
    train(tmp_path, 12, hooks=[clock], epochs=8, max_updates=3)
    means = [sum(clock.times[:n]) / n for n in (1, 2, 3)]
    assert clock.etas == pytest.approx([2 * means[0], 1 * means[1], 0])


def test_mixed_precision_scales_once_and_skips_whole_updates(tmp_path):
    """bfloat16 has 8 bits: within 2 % of the float64 step. A scale at which fp32 gradients
    overflow: the first update is skipped as a whole, and the scale halved once, not six times.
    """
    runner, _ = train(
        tmp_path / 'a', 2, dict(type=CPUAmp, init_scale=2.0**10, dtype=torch.bfloat16)
    )
    mean, _ = gradient()
    step = runner.model.w.detach().double() - START
    assert float((step + 0.1 * mean).norm() / (0.1 * mean).norm()) < 0.02

    overflow = dict(type=CPUAmp, init_scale=2.0**127, dtype=torch.bfloat16)
    runner, log = train(tmp_path / 'b', 2, overflow)
    assert runner.model.w.equal(START)
    assert runner.optim_wrapper.loss_scaler.get_scale() == 2.0**126
    assert log.losses == [pytest.approx(gradient()[1], rel=0.02)]


class Evaluations(BaseLoop):
    """Stands where a validation loop would, and notes the epochs and updates."""

    def __init__(self, runner):
        super().__init__(runner, DataLoader(Points()))
        self.seen = []

    def run(self):
        self.seen.append((self._runner.epoch, self._runner.iter))


def test_cut_short_within_an_epoch_and_taken_further(tmp_path):
    """Of 4 epochs of 3 updates, 4 are made, then 8, then all: as by one run that was never cut.

    Each part ends with a checkpoint, and with an evaluation in a short epoch of its own.
    """

    def run(folder, max_updates, resume=False, interval=1, epochs=4):
        cfg = Config.fromfile(RECIPE)
        save = dict(cfg.default_hooks.checkpoint, interval=interval)
        evaluations = []

        class Evaluate(Hook):
            def before_train(self, runner):
                runner._val_loop = Evaluations(runner)
                evaluations.append(runner._val_loop)

        runner, log = train(
            tmp_path / folder,
            2,
            hooks=[Evaluate()],
            epochs=epochs,
            checkpoint=save,
            resume=resume,
            global_batch_size=4,
            max_updates=max_updates,
            val_interval=2,
        )
        return runner, log.losses, evaluations[0].seen

    whole, expected, seen = run('whole', None)
    assert seen == [(2, 6), (4, 12)]
    first, losses, seen = run('parts', 4)
    assert (first.iter, seen) == (4, [(2, 4)])
    # Nothing is left to do, but the evaluation that may have been missed.
    again, more, seen = run('parts', 4, resume=True)
    assert (again.iter, more, seen) == (4, [], [(2, 4)])
    second, more, seen = run('parts', 8, resume=True)
    losses += more
    assert (second.iter, seen) == (8, [(2, 6), (3, 8)])
    last, more, seen = run('parts', None, resume=True)
    assert (last.iter, seen) == (12, [(4, 12)])
    assert losses + more == expected
    assert last.model.w.equal(whole.model.w)

    # Saved at the end also where the interval does not ask for it.
    run('seldom', 4, interval=10)
    assert [path.name for path in (tmp_path / 'seldom').glob('*.pth')] == ['restart_4.pth']
    [record] = (tmp_path / 'seldom').glob('*/largebatch.json')
    ended = json.loads(record.read_text())['ended']
    assert (ended['how'], ended['update'], ended['epoch']) == ('cut', 4, 2)
    rest, more, _ = run('seldom', None, resume=True, interval=10)
    assert rest.model.w.equal(whole.model.w) and more == expected[4:]


@pytest.mark.parametrize(
    ('value', 'message'), [(0, '=0. Must be an integer >= 1'), (1.5, '=1.5. Must be an integer')]
)
def test_a_wrong_max_updates_is_refused(tmp_path, value, message):
    with pytest.raises(SettingError, match=rf'train_cfg\.max_updates{message}'):
        train(tmp_path, 2, max_updates=value)


def test_accumulative_counts_is_refused(tmp_path):
    with pytest.raises(SettingError, match=r'optim_wrapper\.accumulative_counts=2\. Must be 1'):
        train(tmp_path, 2, dict(accumulative_counts=2))


def test_a_checkpoint_of_another_global_batch_or_data_set_is_refused(tmp_path):
    """12 points are 2 updates of 6 and 3 of 4; 18 points are 3 updates of 6."""

    def train(batch, dataset=None, resume=False):
        runner = toy_runner(
            tmp_path,
            Regression(),
            2,
            2,
            data=dict(dataset=dataset),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook')),
            train_cfg=dict(global_batch_size=batch),
            resume=resume,
        )
        runner.train()

    train(6)
    words = 'that makes 2 updates an epoch, as in the run of the checkpoint, not 3; to begin'
    with pytest.raises(
        SettingError, match=rf'Invalid .*\.global_batch_size=4\. Must be one {words}'
    ):
        train(4, resume=True)
    more = ConcatDataset([Points(), Subset(Points(), range(6))])
    name = r'len\(train_dataloader\.dataset\)=18'
    with pytest.raises(SettingError, match=f'Invalid {name}. Must be a number of images {words}'):
        train(6, more, resume=True)


@pytest.mark.parametrize('hooks', [{}, dict(runtime_info=None)])
def test_a_checkpoint_of_mmengines_loop_goes_on_in_its_epoch_or_is_refused(tmp_path, hooks):
    """12 points in batches of 4 are 3 iterations an epoch. After 6 a global batch of 4 has done two
    epochs; one of 12 has one update an epoch. Without RuntimeInfoHook only the place is known.
    """
    save = dict(type='CheckpointHook', interval=6, by_epoch=False)
    stock = toy_runner(
        tmp_path / 'stock', Regression(), 4, default_hooks=dict(checkpoint=save) | hooks
    )
    stock._train_loop = dict(by_epoch=True, max_epochs=4)
    stock.train()

    def resume(global_batch, epochs):
        runner = toy_runner(
            tmp_path / f'resumed_{global_batch}',
            Regression(),
            4,
            epochs,
            default_hooks=hooks,
            train_cfg=dict(global_batch_size=global_batch),
            resume=True,
            load_from=str(tmp_path / 'stock/iter_6.pth'),
        )
        return runner.train()

    with pytest.raises(SettingError, match='=12. Must be one that makes [36] updates an epoch'):
        resume(12, 9)
    torch.testing.assert_close(resume(4, 4).w, stock.model.w)


@pytest.mark.parametrize(
    ('micro_batch', 'global_batch', 'message'),
    [
        (8, 12, r'global_batch_size=12\. Must be a multiple .*batch_size=8, such as 8 or 16'),
        (8, 0, r'train_cfg\.global_batch_size=0\. Must be an integer >= 1\.'),
        (8, '16', r"train_cfg\.global_batch_size='16'\. Must be an integer >= 1\."),
        (8, True, r'train_cfg\.global_batch_size=True\. Must be an integer >= 1\.'),
    ],
)
def test_a_wrong_global_batch_is_refused(shapes, tmp_path, micro_batch, global_batch, message):
    cfg = Config.fromfile(RECIPE)
    cfg.merge_from_dict(dict(option.split('=') for option in data_options(shapes)))
    cfg.work_dir = str(tmp_path)
    cfg.train_dataloader.batch_size = micro_batch
    cfg.train_cfg.global_batch_size = global_batch
    cfg.experiment_name = tmp_path.name
    runner = Runner.from_cfg(cfg)
    with pytest.raises(SettingError, match=message):
        runner.build_train_loop(runner._train_loop)


def test_samplers_of_another_kind_are_refused(tmp_path):
    with pytest.raises(
        SettingError, match="batch_sampler='BatchSampler'. Must be a GlobalBatchSampler"
    ):
        GlobalBatchTrainLoop(
            train(tmp_path, 2)[0],
            DataLoader(Points(), batch_size=2, sampler=DefaultSampler(Points(), seed=0)),
            max_epochs=1,
            global_batch_size=12,
        )


@pytest.mark.multiprocess
def test_what_a_hook_unfreezes_is_the_same_on_all_ranks(tmp_path):
    """DDP reduces what was trained when it was built; 4 ranks have 2 or 1 of 6 micro-batches."""
    done = run_apart(unfreezing.main, tmp_path / 'out', 4, 1)
    assert done.returncode == 0, done.stdout[-3000:]
    one = torch.load(tmp_path / 'out.1.0.pth')
    assert one['b'] != 0
    first, *others = (torch.load(tmp_path / f'out.4.{rank}.pth') for rank in range(4))
    torch.testing.assert_close(dict(first), dict(one))
    for other in others:
        assert all(torch.equal(other[name], first[name]) for name in one)
