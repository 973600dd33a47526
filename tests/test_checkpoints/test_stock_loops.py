"""Our hooks and tools under MMEngine's own train loops, compared with stock trainings."""

import json

import pytest
from helpers.runs import assert_same, state, train

ATOMIC = dict(default_hooks=dict(checkpoint=dict(type='AtomicCheckpointHook')))
PREEMPTION = dict(default_hooks=dict(preemption=dict(type='PreemptionHook')))
# 5 updates an epoch; no evaluation, whose random draws do not matter here.
SHORT = dict(train_cfg=dict(max_epochs=2), val_dataloader=None, val_cfg=None, val_evaluator=None)


@pytest.fixture(autouse=True)
def data(shapes, monkeypatch):
    monkeypatch.setenv('SHAPES', str(shapes))
    monkeypatch.chdir(shapes)


TWO_OPTIMIZERS = dict(
    model=dict(type='TwoOptimizers'),
    optim_wrapper=dict(_delete_=True, constructor='BackboneAndRest'),
)


def test_several_optimizers(tmp_path):
    """MMEngine's own hook and ours: the same training, and a resumed one with both optimizers."""
    runs = {}
    for name, ours in dict(stock={}, ours=ATOMIC).items():
        runs[name] = run = train(tmp_path / name, SHORT, TWO_OPTIMIZERS, ours)
        assert run.status == 0, run.output
        [record] = [json.loads(path.read_text()) for path in run.folder.glob('*/largebatch.json')]
        assert record['optimizer'] == 'SGD, AdamW' and record['ended']['how'] == 'done'
    assert_same(state(runs['stock'].last), state(runs['ours'].last))
    longer = dict(SHORT, train_cfg=dict(max_epochs=3))
    resumed = train(tmp_path / 'ours', longer, TWO_OPTIMIZERS, ATOMIC, arguments=['--resume'])
    assert resumed.status == 0, resumed.output
    # Both LRs at the end, by the milestones of tiny.py: x 0.5 after epochs 1 and 2.
    groups = [state['param_groups'][0] for state in resumed.last['optimizer'].values()]
    assert [group['lr'] for group in groups] == pytest.approx([0.02 / 4, 0.001 / 4])
    assert resumed.last['meta']['iter'] == 15
