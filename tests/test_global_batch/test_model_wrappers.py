"""Model wrappers that the loop trains and refuses."""

import pytest
import torch
from helpers.regression import START, Detector, Regression, gradient, toy_runner
from mmdet.registry import HOOKS
from mmengine.hooks import Hook

from mmdet_largebatch import SettingError


@pytest.mark.parametrize(
    ('micro_batch', 'train_cfg', 'hooks', 'why'),
    [
        (12, {}, [], None),
        (6, {}, [], 'several micro-batches on a rank'),
        (12, dict(exact_sum=True), [], r'train_cfg\.exact_sum=True'),
        (12, {}, [dict(type='Listener')], 'Listener'),
    ],
)
def test_a_static_graph_needs_a_synchronised_backward_pass(
    one_rank, tmp_path, micro_batch, train_cfg, hooks, why
):
    """Otherwise DDP ends with an internal assertion of PyTorch."""

    class Listener(Hook):
        def wants_micro_batches(self, runner):
            return True

        def after_micro_batch(self, runner, index, gradients):
            pass

    HOOKS.register_module(module=Listener, force=True)
    runner = toy_runner(
        tmp_path,
        Regression(),
        micro_batch,
        train_cfg=train_cfg,
        hooks=hooks,
        ddp=dict(static_graph=True),
    )
    if why is None:
        runner.train()
        mean, _ = gradient()
        torch.testing.assert_close(runner.model.module.w.double(), START.double() - 0.1 * mean)
        return
    with pytest.raises(SettingError, match=rf'static_graph=True\. Must be False with {why}:'):
        runner.train()


def test_a_wrapper_other_than_ddp_is_refused(tmp_path):
    """Such as FSDP, which gathers parameters in each forward pass. FSDP itself needs a GPU."""
    runner = toy_runner(tmp_path, torch.nn.DataParallel(Regression()))
    with pytest.raises(
        SettingError, match=r"model_wrapper_cfg\.type='DataParallel'. Must be MMDistributed"
    ):
        runner.train()


def test_a_ddp_for_each_child_is_refused(one_rank, tmp_path):
    """MMEngine's class for GANs derives from DDP without being one."""
    kind = 'MMSeparateDistributedDataParallel'
    runner = toy_runner(tmp_path, Detector(), ddp=dict(type=f'mmengine.{kind}'))
    with pytest.raises(
        SettingError, match=rf"model_wrapper_cfg\.type='{kind}'. Must be MMDistributedData"
    ):
        runner.train()
