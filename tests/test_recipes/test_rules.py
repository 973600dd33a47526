"""The rules, against tables that others have printed."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from mmdet_largebatch.recipes.rules import (
    carried_updates,
    ema_momentum,
    scaled_lr,
    two_stage_sgd_lr,
    warmup_updates,
)
from mmdet_largebatch.schedulers import scale_rule_of


def test_the_example_of_detectron2s_auto_scale_workers():
    """Docstring of `DefaultTrainer.auto_scale_workers`: from 8 workers to 16."""
    before = dict(BASE_LR=0.1, MAX_ITER=5000, STEPS=(4000,), CHECKPOINT_PERIOD=1000)
    after = dict(BASE_LR=0.2, MAX_ITER=2500, STEPS=(2000,), CHECKPOINT_PERIOD=500)
    carried = dict(
        BASE_LR=scaled_lr(before['BASE_LR'], 16, 32, 'linear'),
        MAX_ITER=carried_updates(before['MAX_ITER'], 2),
        STEPS=tuple(carried_updates(step, 2) for step in before['STEPS']),
        CHECKPOINT_PERIOD=carried_updates(before['CHECKPOINT_PERIOD'], 2),
    )
    assert carried == after


def test_d_fine_and_deim_double_the_batch():
    """Both READMEs, "Customizing Batch Size": 32 to 64, to the digits that they print."""
    # lr, linear; of the backbone and of the rest.
    assert scaled_lr(0.0000125, 32, 64, 'linear') == 0.000025
    assert scaled_lr(0.00025, 32, 64, 'linear') == 0.0005
    # ema.decay, "1 - (1 - decay) * 2": the first order of the rule.
    assert f'{1 - ema_momentum(1 - 0.9999, 2):.4f}' == '0.9998'
    # ema.warmups and lr_warmup_scheduler.warmup_duration, "halved".
    assert (carried_updates(1000, 2), carried_updates(500, 2)) == (500, 250)


@pytest.mark.parametrize(
    ('batch', 'lr'), [(64, 0.05), (256, 0.1), (1024, 0.2), (4096, 0.4), (65536, 1.6)]
)
def test_timms_square_root_for_lamb(batch, lr):
    """timm's train.py: `--lr-base 0.1 --lr-base-size 256`, its defaults, times the square root."""
    assert scale_rule_of('opt', 'LAMB').name == 'sqrt'
    assert scaled_lr(0.1, 256, batch, 'sqrt') == lr


@pytest.mark.parametrize('doublings', range(7))
def test_the_lamb_papers_table_for_bert(doublings):
    """Untuned LAMB, arXiv 1904.00962: 5 / (2^3.0 x 10^3) at 512, 5 / (2^0 x 10^3) at 32k."""
    printed = 5 / (2 ** (3 - doublings / 2) * 1e3)
    assert scaled_lr(5e-3, 32768, 512 * 2**doublings, 'sqrt') == pytest.approx(printed, rel=1e-5)


@pytest.mark.parametrize(
    ('gpus', 'lr'), [(1, 0.0025), (4, 0.01), (8, 0.02), (16, 0.04), (32, 0.08), (64, 0.16)]
)
def test_mmdetections_auto_scale_lr_for_its_1x_config(gpus, lr):
    """MMEngine's own `scale_lr` at 2 images a GPU; the LR of the config is 0.02 at batch 16."""
    wrapper = OptimWrapper(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.02))
    runner = SimpleNamespace(
        _train_dataloader=dict(batch_size=2),
        world_size=gpus,
        param_schedulers=None,
        logger=MMLogger.get_current_instance(),
    )
    Runner.scale_lr(runner, wrapper, dict(enable=True, base_batch_size=16))
    assert wrapper.get_lr()['lr'] == pytest.approx([lr], rel=1e-12)
    assert scaled_lr(0.02, 16, 2 * gpus, 'linear') == two_stage_sgd_lr(0.02, 16, 2 * gpus) == lr


@pytest.mark.parametrize(
    ('batch', 'lr', 'warmup'),
    [
        (16, 0.02, 500),  # MMDetection's model zoo
        (128, 0.16, 625),  # MLPerf training 3.1, reference convergence points
        (256, 0.24, 1800),  # the same
    ],
)
def test_public_trainings_of_mask_rcnn(batch, lr, warmup):
    assert two_stage_sgd_lr(0.02, 16, batch) == lr
    assert warmup_updates(500, 16, batch) == warmup
    # And back.
    assert two_stage_sgd_lr(lr, batch, 16) == 0.02


def test_agvms_baseline_at_512():
    """AGVM (NeurIPS 2022): SGD at 512 has 0.32."""
    assert two_stage_sgd_lr(0.02, 16, 512) == 0.32
    assert two_stage_sgd_lr(0.02, 16, 1024) == 0.32


@pytest.mark.parametrize(
    ('updates', 'base', 'new', 'images_or_floor'),
    [
        (1000, 256, 64, 4000),  # the same 256,000 images
        (4000, 16, 32, 2000),  # the same 64,000 images
        (2000, 16, 128, 625),  # 250 updates would have these images: the floor
        (0, 16, 128, 0),
    ],
)
def test_warmup_in_images_with_a_floor(updates, base, new, images_or_floor):
    assert warmup_updates(updates, base, new) == images_or_floor


@pytest.mark.parametrize('ratio', [0.25, 1, 3, 8])
def test_an_ema_forgets_the_same_in_the_same_images(ratio):
    """8 x ratio old updates and 8 new ones leave the same share of the average."""
    momentum = 0.0002
    carried = ema_momentum(momentum, ratio)
    left = (1 - carried) ** 8
    assert left == pytest.approx((1 - momentum) ** (8 * ratio), abs=1e-7)
    assert carried == pytest.approx(ratio * momentum, rel=1e-2)
    assert ema_momentum(1.0, ratio) == 1.0
