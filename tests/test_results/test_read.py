"""Runs read from logs with known values, written here."""

import json
import math

import pytest
from helpers.work_folders import (
    SGD,
    config,
    diverged,
    evaluation,
    stock_config,
    updates,
    whole,
    write,
)

from mmdet_largebatch import SettingError
from mmdet_largebatch.results import read_run

SHORT = dict(SGD, epochs=3)


def test_later_starts_override_what_they_computed_again(tmp_path):
    """The first start ends at update 250. The second resumes at 100 and ends at 150, the third
    resumes at 100 and finishes: only updates to 100 count from the first two."""
    write(tmp_path, [*updates(SHORT, 1, 100, time=1.0), evaluation(1, 0.1, 0.1)], SHORT)
    first = [*updates(SHORT, 101, 250, time=1.0), evaluation(2, 0.2, 0.2)]
    write(tmp_path, first, SHORT, '20260102_030406')
    write(tmp_path, updates(SHORT, 101, 150, time=2.0), SHORT, '20260102_040000')
    between = read_run(tmp_path)
    assert [one.update for one in between.updates] == [50, 100, 150]
    assert [one.epoch for one in between.evaluations] == [1]
    assert (between.epochs_done, between.status) == (1, 'unfinished')

    third = [*updates(SHORT, 101, 200, time=4.0), evaluation(2, 0.25, 0.2)]
    third += [*updates(SHORT, 201, 300, time=4.0), evaluation(3, 0.3, 0.25)]
    write(tmp_path, third, SHORT, '20260103_000000')
    run = read_run(tmp_path)
    assert [one.update for one in run.updates] == [50, 100, 150, 200, 250, 300]
    assert [one.seconds for one in run.updates] == [1.0] * 2 + [4.0] * 4
    assert [one.box_ap for one in run.evaluations] == [0.1, 0.25, 0.3]
    assert (run.box_ap, run.mask_ap, run.status) == (0.3, 0.25, 'done')
    # 100 updates of 1 s, then 200 of 4 s. The median is 4 s.
    assert run.training_seconds == 900.0
    assert run.images_per_second == 16 / 4.0


def test_a_rollback_within_one_start(tmp_path):
    records = [*updates(SHORT, 1, 200), evaluation(1, 0.1, 0.1), *updates(SHORT, 101, 300)]
    run = read_run(write(tmp_path, [*records, evaluation(3, 0.3, 0.3)], SHORT, rollbacks=1))
    assert [one.update for one in run.updates] == [50, 100, 150, 200, 250, 300]
    assert run.status_text == 'done, 1 rollback'


def test_a_test_in_the_same_folder_is_no_start(tmp_path):
    write(tmp_path, whole(SHORT), SHORT)
    later = dict(SHORT, lr=9.0)
    write(tmp_path, [], later, '20260109_000000')
    write(tmp_path, [evaluation(0, 0.9, 0.9)], later, '20260110_000000')
    run = read_run(tmp_path)
    assert (run.lr, run.status, len(run.evaluations)) == (0.02, 'done', 3)


def test_a_stock_run_that_became_nan(tmp_path):
    losses = dict(loss=lambda update: math.nan if update > 120 else 1.0)
    records = [*updates(SHORT, 1, 300, **losses), dict(time=0.1, step=3)]
    run = read_run(write(tmp_path, records, SHORT, text=stock_config(SHORT)))
    assert (run.status, run.status_text) == ('nan', 'nan from update 150')
    assert (run.epochs_done, run.box_ap) == (3, None)


def test_a_loss_that_was_finite_again_is_not_nan(tmp_path):
    losses = dict(loss=lambda update: math.inf if update == 150 else 1.0)
    records = [*updates(SHORT, 1, 300, **losses), evaluation(3, 0.1, 0.1)]
    assert read_run(write(tmp_path, records, SHORT)).status == 'done'


def test_diverged_until_it_is_started_again(tmp_path):
    write(tmp_path, updates(SHORT, 1, 100), SHORT, ended=diverged(130))
    run = read_run(tmp_path)
    assert (run.status_text, run.epochs_done) == ('diverged at update 130', 1)
    write(tmp_path, updates(SHORT, 101, 150), SHORT, '20260103_000000')
    assert read_run(tmp_path).status == 'unfinished'


def test_diverged_before_anything_was_logged(tmp_path):
    run = read_run(write(tmp_path, [], SHORT, ended=diverged(1)))
    assert (run.status_text, run.epochs_done, run.training_seconds) == (
        'diverged at update 1',
        0,
        None,
    )


def test_preempted_unfinished_and_not_evaluated(tmp_path):
    ended = dict(how='preempted', update=150, epoch=1, message='Preempted.')
    run = read_run(write(tmp_path / 'a', updates(SHORT, 1, 150), SHORT, ended=ended))
    assert (run.status, run.epochs_done) == ('preempted', 1)
    run = read_run(write(tmp_path / 'b', updates(SHORT, 1, 150), SHORT))
    assert run.status == 'unfinished'
    # The last updates of the epoch are not logged: the checkpoint shows that the epoch ended.
    seldom = dict(SHORT, interval=40)
    line = 'Saving checkpoint at 3 epochs'
    run = read_run(write(tmp_path / 'c', updates(seldom, 1, 300), seldom, lines=[line]))
    assert (run.epochs_done, run.status_text) == (3, 'unfinished, last epoch not evaluated')
    text = stock_config(seldom).replace('val_dataloader = dict(batch_size=1)', '')
    records = updates(seldom, 1, 300)
    run = read_run(write(tmp_path / 'd', records, seldom, text=text, lines=[line]))
    assert run.status == 'done'


@pytest.mark.parametrize(
    ('more', 'batch', 'lr', 'warmup'),
    [
        # 8 ranks of 2 images. MMEngine's schedulers step every iteration, not every update.
        (dict(), 16, 0.02, 500),
        (dict(accumulative=4), 64, 0.02, 125),
        # --auto-scale-lr: linear in ranks x batch size, without accumulation.
        (dict(auto_scale_lr=dict(enable=True, base_batch_size=32)), 16, 0.01, 500),
        (dict(auto_scale_lr=dict(enable=False, base_batch_size=32)), 16, 0.02, 500),
        (dict(param_scheduler=[dict(type='MultiStepLR', milestones=[8])]), 16, 0.02, 0),
        (
            # 2 epochs of 100 iterations.
            dict(param_scheduler=[dict(type='LinearLR', start_factor=0.1, end=2)]),
            16,
            0.02,
            200,
        ),
        (
            # A decay, not a warmup.
            dict(param_scheduler=[dict(type='LinearLR', start_factor=1.0, end_factor=0.0, end=9)]),
            16,
            0.02,
            0,
        ),
    ],
)
def test_settings_of_stock_configs(tmp_path, more, batch, lr, warmup):
    count = more.pop('accumulative', 1)
    text = stock_config(SGD, **more) + f'optim_wrapper["accumulative_counts"] = {count}\n'
    run = read_run(write(tmp_path, updates(SGD, 1, 200), text=text))
    assert (run.global_batch, run.lr, run.warmup_updates, run.ranks) == (batch, lr, warmup, (8,))
    # An update takes as long as its iterations. Images per second are the same.
    assert run.updates[-1].update == 200 // count
    assert run.images_per_second == batch / (0.5 * count)
    assert run.training_seconds == pytest.approx(100)


@pytest.mark.parametrize(
    ('hook', 'lr', 'warmup'),
    [
        (dict(warmup_iters=625), 0.02, 625),
        (dict(warmup_epochs=0.255), 0.02, 26),
        (dict(), 0.02, 0),
        # Global batch 16 against 4: x 4, or x 2.
        (dict(scale_rule='linear', base_batch_size=4), 0.08, 0),
        (dict(scale_rule='sqrt', base_batch_size=4), 0.04, 0),
    ],
)
@pytest.mark.parametrize('place', ['default_hooks', 'custom_hooks'])
def test_settings_of_our_hook(tmp_path, place, hook, lr, warmup):
    hook = dict(hook, type='WarmupStepLRHook')
    hooks = dict(lr=hook) if place == 'default_hooks' else [hook]
    text = stock_config(SGD, param_scheduler=None, **{place: hooks})
    text += "train_cfg = dict(type='GlobalBatchTrainLoop', max_epochs=2, global_batch_size=16)\n"
    run = read_run(write(tmp_path, updates(SGD, 1, 200), dict(SGD, ranks=3), text=text))
    assert (run.global_batch, run.ranks) == (16, (3,))
    assert (run.lr, run.warmup_updates) == (pytest.approx(lr), warmup)


@pytest.mark.parametrize(('optimizer', 'lr'), [('SGD', 0.08), ('LAMB', 0.04)])
def test_auto_scale_lr_of_the_global_batch(tmp_path, optimizer, lr):
    """0.02 at batch 4 for global batch 16: x 4, or x 2. MMEngine's own knows ranks alone."""
    auto = dict(enable=True, base_batch_size=4)
    text = stock_config(dict(SGD, optimizer=optimizer), auto_scale_lr=auto)
    text += "train_cfg = dict(type='GlobalBatchTrainLoop', max_epochs=2, global_batch_size=16)\n"
    run = read_run(write(tmp_path, updates(SGD, 1, 200), dict(SGD, ranks=3), text=text))
    assert run.lr == pytest.approx(lr)


def test_one_recipe_with_another_seed_place_and_start(tmp_path):
    plain = read_run(write(tmp_path / 'a', whole(SGD), SGD))
    place = dict(work_dir='there', resume=True, load_from='epoch_3.pth', launcher='pytorch')
    s = dict(SGD, seed=5, ranks=2)
    text = config(s) + ''.join(f'{key} = {value!r}\n' for key, value in place.items())
    assert read_run(write(tmp_path / 'b', whole(s), s, text=text)).recipe == plain.recipe
    for other in ("load_from = 'other.pth'", 'train_dataloader = dict(batch_size=4)'):
        folder = write(tmp_path / other[:5], whole(SGD), text=f'{config(SGD)}\n{other}\n')
        assert read_run(folder).recipe != plain.recipe


# Lines that later starts have in their config.
RESUMED = {
    '--resume PATH': "resume = True\nload_from = 'epoch_1.pth'\n",
    '--resume': 'resume = True\nload_from = None\n',
    '--resume of another start': "resume = True\nfirst_start = dict(load_from='a.pth')\n",
}


@pytest.mark.parametrize('later', RESUMED.values(), ids=RESUMED)
def test_the_initial_weights_are_those_of_the_first_start(tmp_path, later):
    """A fine-tuning keeps them when it is resumed; what was trained before it does not count."""
    recipes = {}
    for name in ('a.pth', 'b.pth'):
        text = f'{config(SGD)}load_from = {name!r}\n'
        write(tmp_path / name, updates(SGD, 1, 100), text=config(SGD), begins_at=0)
        write(tmp_path / name, updates(SGD, 1, 100), SGD, '20260103_000000', text=text, begins_at=0)
        text = config(SGD) + later.replace('a.pth', name)
        begin = dict(text=text, begins_at=100)
        write(tmp_path / name, updates(SGD, 101, 200), SGD, '20260104_000000', **begin)
        recipes[name] = read_run(tmp_path / name).recipe
        assert recipes[name]['load_from'] == name
    assert recipes['a.pth'] | dict(load_from='b.pth') == recipes['b.pth']


def test_weights_that_a_start_set_to_resume_began_from(tmp_path):
    text = f"{config(SGD)}resume = True\nfirst_start = dict(load_from='a.pth', resume=False)\n"
    run = read_run(write(tmp_path / 'a', whole(SGD), text=text, begins_at=0))
    plain = write(tmp_path / 'b', whole(SGD), text=f"{config(SGD)}load_from = 'a.pth'\n")
    assert run.recipe == read_run(plain).recipe


def test_the_ranks_of_all_starts(tmp_path):
    for day, ranks in enumerate((8, 8, 4, 8), 1):
        at = (day - 1) * 100
        s = dict(SGD, ranks=ranks)
        write(tmp_path, updates(s, at + 1, at + 100), s, f'2026010{day}_000000')
    assert read_run(tmp_path).ranks == (8, 4, 8)


def test_what_the_logs_do_not_say_is_not_invented(tmp_path):
    folder = write(tmp_path, updates(SGD, 501, 600), text=stock_config(SGD))
    next(folder.glob('*/*.log')).unlink()
    with open(next(folder.glob('*/vis_data/scalars.json')), 'a') as file:
        file.write('{"loss": 0.5, "iter": 6')
    run = read_run(folder)
    assert (run.ranks, run.global_batch, run.images_per_second, run.seed) == ((), None, None, None)
    # The log of the first 500 updates is missing.
    assert run.training_seconds is None and len(run.updates) == 2
    assert [note.split(' in ')[0] for note in run.notes][0] == '1 line is not valid JSON'
    assert 'no text log' in run.notes[1]


def test_the_runners_copy_of_the_config_will_do(tmp_path):
    folder = write(tmp_path, whole(SGD))
    next(folder.glob('*/vis_data/config.py')).rename(folder / 'recipe.py')
    assert read_run(folder).lr == 0.02


EMPTY = 'The testing results of the whole dataset is empty.'


def evaluated(epoch, text):
    return f'Epoch(val) [{epoch}][8/8]    {text}data_time: 0.0010  time: 0.1000'


def test_an_evaluation_that_found_nothing_has_no_ap(tmp_path):
    """Some loops log no metric, MMEngine's loop logs those of the evaluation before. Without a
    record, both are found by CocoMetric's line in the text log."""
    old = 'coco/bbox_mAP: 0.1000  coco/segm_mAP: 0.0800  '
    lines = [evaluated(1, old), evaluated(2, old), EMPTY]
    begun = [*updates(SHORT, 1, 100), evaluation(1, 0.1, 0.08)]
    begun += [*updates(SHORT, 101, 200), evaluation(2, 0.1, 0.08), *updates(SHORT, 201, 300)]
    for name, last, line in (
        ('ours', dict(time=0.1, data_time=0.001, step=3), evaluated(3, '')),
        ('stock', evaluation(3, 0.1, 0.08), evaluated(3, old)),
    ):
        run = read_run(write(tmp_path / name, [*begun, last], SHORT, lines=[*lines, line]))
        assert (run.box_ap, run.mask_ap, run.ap_epoch, run.status) == (None, None, 3, 'done')
        assert run.status_text == 'done, the last evaluation found nothing'
        assert [one.box_ap for one in run.evaluations] == [0.1, 0.1, None]


def test_minus_one_and_nan_are_no_ap(tmp_path):
    records = [*updates(SHORT, 1, 300), evaluation(1, -1.0, math.nan), evaluation(3, 0.3, -1.0)]
    run = read_run(write(tmp_path, records, SHORT))
    assert [(one.box_ap, one.mask_ap) for one in run.evaluations] == [(None, None), (0.3, None)]


@pytest.mark.parametrize(
    ('metrics', 'box', 'mask', 'note'),
    [
        ({'val2/bbox_mAP': 0.2, 'val2/bbox_mAP_50': 0.4}, 0.2, None, None),
        (
            {'a/bbox_mAP': 0.2, 'coco/bbox_mAP': 0.3, 'coco/segm_mAP': 0.1},
            *(0.3, 0.1, 'coco/segm_mAP; read coco/bbox_mAP and coco/segm_mAP'),
        ),
        # Two evaluators of several data sets, in either order.
        (
            {'night/bbox_mAP': 0.2, 'night/segm_mAP': 0.1, 'day/bbox_mAP': 0.3},
            *(0.3, None, 'day/bbox_mAP, night/bbox_mAP, night/segm_mAP; read day/bbox_mAP'),
        ),
        ({'day/segm_mAP': 0.3, 'night/bbox_mAP': 0.2, 'dusk/bbox_mAP': 0.1}, 0.1, None, 'read du'),
        # One evaluator for boxes and one for masks.
        ({'box/bbox_mAP': 0.2, 'mask/segm_mAP': 0.1}, 0.2, 0.1, None),
        ({'lvis/bbox_AP': 0.2, 'lvis/segm_AP': 0.1, 'lvis/bbox_APr': 0.0}, 0.2, 0.1, None),
        ({'pascal_voc/mAP': 0.7, 'pascal_voc/AP50': 0.7}, None, None, 'pascal_voc/AP50, pascal'),
        ({'coco/AR@100': 0.5}, None, None, 'coco/AR@100'),
    ],
)
def test_aps_under_other_names(tmp_path, metrics, box, mask, note):
    records = [*updates(SHORT, 1, 300), dict(metrics, time=0.1, step=3)]
    run = read_run(write(tmp_path, records, SHORT))
    assert (run.box_ap, run.mask_ap, run.status_text) == (box, mask, 'done')
    assert (note or '') in ''.join(run.notes) and len(run.notes) == (note is not None)


def test_the_text_log_serves_where_there_are_no_scalars(tmp_path):
    """As with TensorBoard alone. The text log has 4 decimals."""
    lines = [
        'Epoch(train)   [1][100/100]  lr: 2.0000e-02  eta: 0:01:00  time: 0.5000  data_time: 0.0100'
        '  loss: 1.2500  loss_cls: 0.2500',
        'Epoch(val)   [1][8/8]    eta: 0:00:00  time: 0.1  data_time: 0.0  ',
        evaluated(1, 'coco/bbox_mAP: 0.1000  coco/bbox_mAP_50: 0.5000  coco/segm_mAP: -1.0000  '),
        'Epoch(train)   [2][ 50/100]  lr: 2.0000e-02  eta: 0:01:00  time: 0.5000  data_time: 0.0100'
        '  loss: nan  loss_cls: 0.2500',
        'Epoch(train)   [3][100/100]  lr: 2.0000e-02  eta: 0:01:00  time: 0.7000  data_time: 0.0100'
        '  loss: 0.7500  loss_cls: 0.2500',
        evaluated(3, 'coco/bbox_mAP: 0.2000  coco/bbox_mAP_50: 0.5000  coco/segm_mAP: 0.1000  '),
    ]
    run = read_run(write(tmp_path, [], SHORT, lines=lines))
    assert [(one.update, one.epoch, one.seconds) for one in run.updates] == [
        (100, 1, 0.5),
        (150, 2, 0.5),
        (300, 3, 0.7),
    ]
    assert [repr(one.loss) for one in run.updates] == ['1.25', 'nan', '0.75']
    assert [(x.epoch, x.box_ap, x.mask_ap) for x in run.evaluations] == [
        (1, 0.1, None),
        (3, 0.2, 0.1),
    ]
    assert run.status == 'done'


def test_the_prefixes_of_a_hierarchy_are_taken_off(tmp_path):
    records = [
        {(key if key in ('epoch', 'iter', 'step') else f'train/{key}'): value}
        | {k: record[k] for k in ('epoch', 'iter', 'step')}
        for record in updates(SHORT, 1, 300)
        for key, value in record.items()
        if key == 'loss'
    ]
    records.append({'val/coco/bbox_mAP': 0.2, 'val/time': 0.1, 'step': 3})
    run = read_run(write(tmp_path, records, SHORT))
    assert len(run.updates) == 6 and run.updates[0].loss is not None
    assert (run.box_ap, run.status) == (0.2, 'done')


def test_how_it_ended_is_read_from_the_record(tmp_path):
    """The text log does not say that the run stopped early after epoch 2."""
    folder = write(tmp_path, [*updates(SHORT, 1, 200), evaluation(2, 0.1, 0.1)], SHORT)
    assert read_run(folder).status == 'unfinished'
    ended = dict(how='stopped early', epoch=2, update=200, message='')
    record = next(folder.glob('2*_*')) / 'largebatch.json'
    record.write_text(json.dumps(dict(ended=ended)))
    run = read_run(folder)
    assert run.status_text == 'done, stopped early at epoch 2'
    assert (run.epochs_done, run.epochs, run.box_ap) == (2, 3, 0.1)
    # A resumed run is unfinished.
    write(tmp_path, updates(SHORT, 201, 250), SHORT, '20260103_000000')
    assert read_run(folder).status == 'unfinished'


def test_a_run_with_a_record_needs_no_text_log(tmp_path):
    """Another number of ranks and CocoMetric's line stand in the text log, and are not read."""
    record = dict(ranks=4, seed=7, updates_per_epoch=100, optimizer='LAMB', lr=0.3)
    record |= dict(global_batch=16, warmup_updates=20, ended=dict(how='done', epoch=3, update=300))
    records = [*updates(SHORT, 1, 300), evaluation(2, 0.1, 0.1), dict(time=0.1, step=3)]
    folder = write(tmp_path, records, SHORT, lines=[EMPTY, evaluated(2, '')], **record)
    run = read_run(folder)
    assert (run.ranks, run.seed, run.optimizer, run.lr, run.warmup_updates) == (
        (4,),
        7,
        'LAMB',
        0.3,
        20,
    )
    assert [one.box_ap for one in run.evaluations] == [0.1, None]
    assert run.status_text == 'done, the last evaluation found nothing'
    next(folder.glob('*/*.log')).unlink()
    assert read_run(folder) == run and run.notes == ()


def test_a_run_that_logged_nothing_is_done_all_the_same(tmp_path):
    folder = write(tmp_path, [], SHORT)
    ended = dict(how='done', epoch=3, update=300, message='')
    record = next(folder.glob('2*_*')) / 'largebatch.json'
    record.write_text(json.dumps(dict(ended=ended)))
    run = read_run(folder)
    assert (run.status_text, run.epochs_done, run.box_ap, run.training_seconds) == (
        'done',
        3,
        None,
        None,
    )


def test_early_stopping_under_mmdets_own_train_py(tmp_path):
    records = [*updates(SHORT, 1, 200), evaluation(2, 0.1, 0.1)]
    line = 'the monitored metric did not improve in the last 1 records. best score: 0.100. '
    run = read_run(write(tmp_path, records, SHORT, text=stock_config(SHORT), lines=[line]))
    assert run.status_text == 'done, stopped early at epoch 2'


def test_refusals_name_the_folder(tmp_path):
    with pytest.raises(SettingError, match=rf'work_dir={tmp_path}: no logs of a training there'):
        read_run(tmp_path)
    with pytest.raises(SettingError, match='work_dir=nowhere: no logs'):
        read_run('nowhere')
    text = "train_cfg = dict(type='IterBasedTrainLoop', max_iters=100)"
    with pytest.raises(SettingError, match='/a: its train_cfg.type=IterBasedTrainLoop has no'):
        read_run(write(tmp_path / 'a', updates(SGD, 1, 50), text=text))
    with pytest.raises(SettingError, match=r'/b/.*config.py: cannot be read'):
        read_run(write(tmp_path / 'b', updates(SGD, 1, 50), text='train_cfg = ('))
    folder = write(tmp_path / 'c', updates(SGD, 1, 50))
    next(folder.glob('*/vis_data/config.py')).unlink()
    with pytest.raises(SettingError, match='/c: logs without a config'):
        read_run(folder)
    text = stock_config(SGD, default_hooks=dict(logger=dict(log_metric_by_epoch=False)))
    with pytest.raises(SettingError, match='/d: its default_hooks.logger.log_metric_by_epoch'):
        read_run(write(tmp_path / 'd', updates(SGD, 1, 50), text=text))
