"""Configs of sweeps and branches from a recipe whose WarmupStepLRHook is a custom hook."""

from pathlib import Path

from helpers.common import ROOT
from mmengine.config import Config

from mmdet_largebatch.planning import make_plan
from mmdet_largebatch.tuning.branch_start import BranchStart
from mmdet_largebatch.tuning.branches import Branch, branch_config
from mmdet_largebatch.tuning.halving import quarter_of
from mmdet_largebatch.tuning.trials import Trial, trial_config

OTHER = dict(type='NumClassCheckHook')


def recipe():
    cfg = Config.fromfile(ROOT / 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py')
    cfg.custom_hooks = [OTHER, cfg.default_hooks.pop('lr')]
    return cfg


def test_a_trial_and_a_quarter_run_set_the_hook(tmp_path):
    cfg = quarter_of(recipe())
    plan = make_plan(trial_config(cfg, Trial(tmp_path, 0.01, 7, 0)), 1, 512)
    # 32 updates an epoch, 12 epochs with decays at 8 and 11.
    assert (plan.warmup_updates, plan.milestones, plan.epochs) == (7, [64, 88], 3)


def test_a_branch_has_no_second_schedule(tmp_path):
    begin = BranchStart(Path('epoch_1.pth'), 1, 32, 32, 1.0)
    branch = Branch(tmp_path, 0.01, 16, begin, 10, 12)
    cfg = branch_config(recipe(), branch)
    assert cfg.custom_hooks == [OTHER]
    plan = make_plan(cfg, 1, 512)
    assert (plan.warmup_updates, plan.milestones, plan.lr) == (0, [], 0.01)
