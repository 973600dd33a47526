"""Successive halving on made-up APs: which runs come next, and who wins."""

import math

import pytest
from helpers.common import ROOT
from mmengine.config import Config

from mmdet_largebatch import SettingError
from mmdet_largebatch.tuning.halving import FAILED, Halving, Point, quarter_of
from mmdet_largebatch.tuning.run_halving import conclusion

LRS, WARMUPS, SEEDS = [0.01, 0.02, 0.04, 0.08, 0.16], [0, 8, 24], [0, 1]


def peak(at):
    """An AP that falls by 0.05 for each factor of two from the best LR, and less by warmup."""
    return lambda x: 0.8 - 0.05 * abs(math.log2(x.lr / at)) - 0.001 * x.warmup - 0.01 * x.seed


def play(halving, ap):
    """Train stage by stage, as a sweep does, and return the stages and the APs."""
    scores, stages = {}, []
    while missing := halving.missing(scores):
        stages.append(missing)
        scores.update({point: ap(point) for point in missing})
    return stages, scores


def test_stages_and_costs_are_those_of_the_page():
    """docs/tuning.md: 15 quarter-runs, 3 and 2 full runs, 8.75 full trainings."""
    halving = Halving(LRS, WARMUPS, SEEDS)
    stages, scores = play(halving, peak(0.04))
    assert stages[0] == [Point(lr, warmup, 0, False) for lr in LRS for warmup in WARMUPS]
    assert stages[1] == [Point(0.04, warmup, 0, True) for warmup in WARMUPS]
    assert stages[2] == [Point(0.04, warmup, 1, True) for warmup in (0, 8)]
    assert len(stages) == 3
    assert sum(point.cost for point in scores) == halving.remaining_cost({}) == 4 * 8.75
    assert halving.remaining_cost(scores) == 0
    assert halving.winner(scores) == (0.04, 0)
    assert halving.grid(scores) == LRS


def test_the_winner_has_the_better_ap_on_its_worse_seed():
    """The pair that is best with seed 0 collapses with seed 1."""
    halving = Halving(LRS, WARMUPS, SEEDS)
    _, scores = play(halving, lambda x: 0.1 if x == (0.04, 0, 1, True) else peak(0.04)(x))
    assert halving.winner(scores) == (0.04, 8)
    scores[Point(0.04, 0, 1, True)] = FAILED
    assert halving.winner(scores) == (0.04, 8)


def test_a_grid_with_its_best_lr_at_an_edge_gets_one_lr_more():
    halving = Halving(LRS, WARMUPS, SEEDS)
    stages, scores = play(halving, peak(0.16))
    assert stages[1] == [Point(0.32, warmup, 0, False) for warmup in WARMUPS]
    assert halving.grid(scores) == [*LRS, 0.32] and halving.winner(scores) == (0.16, 0)
    # At the other edge; and no more than two LRs.
    stages, scores = play(halving, peak(0.001))
    assert [stage[0].lr for stage in stages[1:3]] == [0.005, 0.0025]
    assert halving.grid(scores) == [0.0025, 0.005, *LRS]
    assert sum(point.cost for point in scores) == 4 * 8.75 + 2 * 3


def test_equal_aps_do_not_move_the_grid():
    halving = Halving(LRS, WARMUPS, SEEDS)
    stages, scores = play(halving, lambda x: FAILED)
    assert [len(stage) for stage in stages] == [15, 3, 2]
    assert halving.winner(scores)[0] == 0.04
    assert 'No winner: no pair trains with both seeds.' in conclusion(halving, scores)
    _, scores = play(halving, peak(0.04))
    assert 'Winner by the worse of its two seeds: LR 0.04, warmup 0.' in conclusion(halving, scores)


def test_the_next_runs_depend_on_the_aps_alone():
    """Stopped after any number of runs, the rest is what an uninterrupted sweep trains."""
    halving = Halving(LRS, WARMUPS, SEEDS)
    _, whole = play(halving, peak(0.16))
    order = list(whole)
    for done in range(len(order)):
        scores = {point: whole[point] for point in order[:done]}
        again = Halving(LRS, WARMUPS, SEEDS)
        assert again.missing(scores)[0] == order[done]
        while missing := again.missing(scores):
            scores |= {point: whole[point] for point in missing}
        assert scores == whole


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((LRS, WARMUPS, [0]), r'Invalid --seeds=\[0\]. Must be two seeds'),
        ((LRS, WARMUPS, [0, 1, 2]), 'Must be two seeds'),
        (([], WARMUPS, SEEDS), r'Invalid --lr=\[\]. Must be given'),
        ((LRS, [], SEEDS), r'Invalid --warmup-iters=\[\]. Must be given'),
    ],
)
def test_what_cannot_be_halved_is_refused(arguments, message):
    with pytest.raises(SettingError, match=message):
        Halving(*arguments)


def test_a_quarter_run_has_the_whole_schedule_four_times_as_short():
    cfg = Config.fromfile(ROOT / 'configs/shapes_small/mask-rcnn_r18_fpn_8xb16-lamb-1x_shapes.py')
    expected = cfg.to_dict()
    # The quarter-run has no epoch 8, and is evaluated after epoch 3.
    cfg.train_cfg.update(val_begin=8, dynamic_intervals=[(10, 1)])
    expected['train_cfg'] |= dict(max_epochs=3, val_interval=3)
    expected['default_hooks']['lr']['milestones'] = [2, 2.75]
    # Hooks that act in the last quarter, and from the middle on, of 768 updates.
    kept = [dict(type='CheckpointHook', by_epoch=True, interval=1), dict(type='Mine', ratio=8)]
    cfg.custom_hooks = [
        dict(type='PipelineSwitchHook', switch_epoch=9, switch_pipeline=[]),
        dict(type='YOLOXModeSwitchHook', num_last_epochs=3),
        dict(type='EMAHook', begin_iter=384),
        *kept,
    ]
    expected['custom_hooks'] = [
        dict(type='PipelineSwitchHook', switch_epoch=2, switch_pipeline=[]),
        dict(type='YOLOXModeSwitchHook', num_last_epochs=1),
        dict(type='EMAHook', begin_iter=96),
        *kept,
    ]
    assert quarter_of(cfg).to_dict() == expected
    assert cfg.train_cfg.max_epochs == 12
    cfg.train_cfg.max_epochs = 10
    with pytest.raises(SettingError, match='Invalid train_cfg.max_epochs=10. Must be a multiple'):
        quarter_of(cfg)
    cfg.train_cfg.update(max_epochs=12, val_begin=13)
    with pytest.raises(SettingError, match='Invalid train_cfg.val_begin=13. Must be <= 12 with'):
        quarter_of(cfg)
    cfg.train_cfg.val_begin = 12
    cfg.default_hooks.lr = None
    with pytest.raises(SettingError, match='--halving needs default_hooks.lr'):
        quarter_of(cfg)
