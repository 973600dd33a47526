"""The settings that branches suggest train with the LRs that the branches had."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.quadratic import config
from mmengine.config import Config

from mmdet_largebatch.planning import make_plan
from mmdet_largebatch.tuning.branch_conclusions import batch_conclusion, lr_conclusion
from mmdet_largebatch.tuning.branch_start import BranchStart
from mmdet_largebatch.tuning.branches import Branch, branch_config
from mmdet_largebatch.tuning.comparison import Curve, compare
from mmdet_largebatch.tuning.run_branches import lrs_of_batches, plans_of_batches

# LR 0.05 at batch 8. The model has one parameter, w, of which w.* is the name.
SCALED = """
default_hooks['lr'].update(scale_rule='linear', base_batch_size=4)
"""
STOCK = """
auto_scale_lr = dict(enable=True, base_batch_size=4)
"""
ABSOLUTE = """
optim_wrapper['paramwise_cfg'] = dict(custom_keys=dict(w=dict(lr=0.001)))
"""
FLAT = """
optim_wrapper['constructor'] = 'MergedGroupsConstructor'
optim_wrapper['paramwise_cfg'] = dict(flat_options=dict(lr=0.001))
"""


def lrs_of(cfg):
    """LR of the optimizer and of the group of w, after scaling."""
    plan = make_plan(cfg, 1)
    return [plan.lr, *(setting.options['lr'] for setting in plan.group_settings)]


def with_lines_of(cfg, text):
    """The config with the lines that a conclusion prints."""
    names = {}
    exec('\n'.join(line.strip() for line in text.splitlines() if line.startswith(' ')), names)
    cfg = cfg.copy()
    cfg.merge_from_dict({name: value for name, value in names.items() if name[0] != '_'})
    return cfg


@pytest.mark.parametrize(
    'more',
    ['', SCALED, STOCK, ABSOLUTE, SCALED + FLAT],
    ids=['plain', 'scale_rule', 'auto_scale_lr', 'custom_keys', 'scale_rule and flat_options'],
)
def test_the_lines_train_with_the_lrs_of_the_branch(more, tmp_path):
    cfg = Config.fromstring(config() + more, '.py')
    cfg.work_dir = str(tmp_path)
    plan = make_plan(cfg, 1)
    assert plan.lr == pytest.approx(0.05 * (2 if more in (SCALED, STOCK, SCALED + FLAT) else 1))
    begin = BranchStart(Path('epoch_1.pth'), 1, 30, 30, 1.0)
    branch = Branch(tmp_path, 0.02, 8, begin, 40, 4)
    losses = np.full(40, 2.0)

    curves = [Curve(lr, lr, 8, losses + lr) for lr in (0.02, 0.04)]
    text = lr_conclusion(compare(curves), cfg, plan.lr)
    assert lrs_of(with_lines_of(cfg, text)) == pytest.approx(lrs_of(branch_config(cfg, branch)))

    plans = plans_of_batches(cfg, plan, [8, 24], 1)
    lrs = lrs_of_batches(cfg, plan.lr, 8, [8, 24], None)
    curves = [Curve(batch, lr, batch, losses) for batch, lr in lrs.items()]
    base_lrs = {batch: one.lr for batch, one in plans.items()}
    text = batch_conclusion(compare(curves, 8), cfg, base_lrs, 0.01)
    branch = replace(branch, lr=lrs[24], batch=24)
    assert lrs_of(with_lines_of(cfg, text)) == pytest.approx(lrs_of(branch_config(cfg, branch)))


def test_absolute_lrs_decay_with_the_branch(tmp_path):
    """A tenth of LR 0.02, and of 0.001 x 0.02 / 0.05."""
    cfg = Config.fromstring(config() + ABSOLUTE, '.py')
    begin = BranchStart(Path('epoch_1.pth'), 1, 30, 30, 1.0)
    decayed = Branch(tmp_path, 0.02, 8, begin, 40, 4).decayed(20)
    assert lrs_of(branch_config(cfg, decayed)) == pytest.approx([0.002, 0.00004])
