"""APs of runs, read from logs with known values, written here."""

import math

import pytest
from helpers.work_folders import (
    EMPTY,
    SHORT,
    evaluated,
    evaluation,
    updates,
    write,
)

from mmdet_largebatch.results import read_run


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
