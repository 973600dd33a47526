"""Models and schedules that users bring, by the commands that they type."""

import pytest
from helpers.common import PYTHONPATH
from helpers.detectors import detector
from helpers.runs import GLOBAL_BATCH, assert_same, state, train, write_config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmdet_largebatch.planning import measured_times


@pytest.fixture(autouse=True)
def data(monkeypatch, shapes):
    monkeypatch.setenv('SHAPES', str(shapes))


def errors(text):
    return [line for line in text.splitlines() if line.startswith('error: ')]


@pytest.mark.multiprocess
def test_communicating_models_are_refused_with_uneven_shares(command, tool, tmp_path):
    """3 micro-batches on 2 ranks; in training and in the plan, in the same words."""
    model = dict(
        custom_imports=dict(
            imports=['mmdet_largebatch', 'helpers.users_parts', 'helpers.communicating']
        ),
        model=dict(type='Communicating'),
        train_cfg=dict(global_batch_size=12),
    )
    config = write_config(tmp_path, GLOBAL_BATCH, model)
    work = tmp_path / 'work'
    words = ('tools/dist_train.sh', config, 2, '--work-dir', work)
    training = command(*words, PYTHONPATH=PYTHONPATH)
    assert training.returncode == 2, training.stderr[-3000:]
    [line] = errors(training.stderr)
    assert line.startswith(
        'error: 2 ranks cannot share the 3 micro-batches of an update evenly, and the model '
        'communicates between the ranks in each: Communicating (all_reduce). Must be 1 or 3 ranks'
    )
    assert not list(work.glob('*.pth'))
    for gpus, expected in ((2, [line]), (3, [])):
        done = tool('plan.py', config, '--gpus', gpus)
        assert errors(done.stderr) == expected, done.stderr[-3000:]
        assert done.returncode == (2 if expected else 0)


@pytest.mark.multiprocess
@pytest.mark.parametrize('find_unused', [False, pytest.param(True, marks=pytest.mark.whole)])
def test_a_head_that_one_rank_does_not_use(command, tmp_path, find_unused):
    model = dict(
        custom_imports=dict(
            imports=['mmdet_largebatch', 'helpers.users_parts', 'helpers.idle_head']
        ),
        model=dict(type='IdleHead'),
        train_cfg=dict(max_epochs=1, max_updates=2, global_batch_size=8, val_interval=10),
        find_unused_parameters=find_unused,
    )
    config = write_config(tmp_path, GLOBAL_BATCH, model)
    words = ('tools/dist_train.sh', config, 2, '--work-dir', tmp_path / 'work')
    done = command(*words, PYTHONPATH=PYTHONPATH)
    if find_unused:
        assert done.returncode == 0, done.stderr[-3000:]
        return
    assert done.returncode == 2, done.stderr[-3000:]
    [line] = errors(done.stderr)
    assert 'had no part in the loss of a micro-batch' in line
    assert 'Must be find_unused_parameters=True in the config' in line


@pytest.mark.slow
def test_a_detector_whose_train_returns_nothing(tool, tmp_path, monkeypatch):
    """Localization distillation. nn.Module.eval returns what train returns, so None too."""
    monkeypatch.setattr(measured_times, 'MICRO_BATCHES', 4)
    student = detector('gfl').to_dict()
    loss = dict(type='KnowledgeDistillationKLDivLoss', loss_weight=0.25, T=10)
    model = student | dict(
        _delete_=True,
        type='KnowledgeDistillationSingleStageDetector',
        teacher_config=dict(model=detector('gfl').to_dict()),
        bbox_head=student['bbox_head'] | dict(type='LDHead', loss_ld=loss),
    )
    changes = dict(model=model, train_cfg=dict(max_updates=1, global_batch_size=8))
    config = write_config(tmp_path, GLOBAL_BATCH, changes)
    run = train(tmp_path / 'work', config=config)
    assert run.status == 0, run.output[-3000:]
    saved = (run.folder / 'last_checkpoint').read_text()
    for name, *words in (
        ('plan.py', config, '--measure'),
        ('draw_detections.py', config, saved, '--out', tmp_path / 'drawn.png'),
    ):
        done = tool(name, *words)
        assert done.returncode == 0, done.stderr[-3000:]


CUT = (GLOBAL_BATCH, dict(train_cfg=dict(val_interval=10)))


@pytest.fixture(scope='module')
def never_cut(tmp_path_factory, shapes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('SHAPES', str(shapes))
        run = train(tmp_path_factory.mktemp('never_cut') / 'work', *CUT)
    assert run.status == 0, run.output[-3000:]
    return run


@pytest.mark.parametrize(
    'cut', [7, *(pytest.param(cut, marks=pytest.mark.whole) for cut in (2, 5, 13))]
)
@pytest.mark.slow
def test_cut_and_resumed_with_mmengines_schedule(never_cut, tmp_path, cut):
    """5 updates an epoch, LR 0.02, a warmup from x 0.1, halved after epochs 1 and 2."""
    first = train(tmp_path / 'work', *CUT, dict(train_cfg=dict(max_updates=cut)))
    assert first.status == 0, first.output[-3000:]
    assert first.last['meta']['iter'] == cut
    run = train(tmp_path / 'work', *CUT, arguments=['--resume'])
    assert run.status == 0, run.output[-3000:]
    assert_same(state(never_cut.last), state(run.last))
    expected = [0.002, 0.011, 0.02, 0.02, 0.02, *[0.01] * 5, *[0.005] * 5]
    for one in (never_cut, run):
        lr = [one.logged['train', update + 1]['lr'] for update in range(15)]
        assert lr == pytest.approx(expected)


@HOOKS.register_module(force=True)
class FindNothing(Hook):
    """Let the model find no object after the second epoch."""

    def before_val_epoch(self, runner):
        runner.model.roi_head.test_cfg.score_thr = 2.0 if runner.epoch == 2 else 0.0


@pytest.mark.slow
def test_an_evaluation_that_finds_nothing_has_no_ap_of_the_one_before(tmp_path, shapes):
    annotations = f'{shapes}/annotations/instances_val.json'
    nothing = dict(
        custom_hooks=[dict(type='FindNothing')],
        val_evaluator=[dict(type='CocoMetric', ann_file=annotations, metric='bbox')],
    )
    run = train(tmp_path / 'work', GLOBAL_BATCH, nothing)
    assert run.status == 0, run.output[-3000:]
    ap = 'coco/bbox_mAP'
    assert [ap in run.logged['val', epoch] for epoch in (1, 2, 3)] == [True, False, True]
    lines = [line for line in run.output.splitlines() if '[2/2]' in line and 'eta' not in line]
    assert [ap in line for line in lines] == [True, False, True]
    # Saved at the end of an epoch, before its evaluation.
    for epoch, there in ((2, True), (3, False)):
        hub = run.checkpoint(f'epoch_{epoch}.pth')['message_hub']
        assert (f'val/{ap}' in hub['log_scalars']) == there
