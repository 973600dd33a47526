"""With one micro-batch a rank GlobalBatchTrainLoop trains as MMEngine's own loop does.

Each row of the table is a feature that users' configs have. It is trained with both loops; weights,
optimizer state, schedules, the points at which hooks are called, logs and checkpoints' names are
the same. A row that a global batch cannot have is refused in one line instead.
"""

import pytest
from helpers.parity_table import NO_FLIP, TABLE, stock_part
from helpers.runs import GLOBAL_BATCH, assert_same, state, train


def both(folder, row):
    """Train a row's config with both loops."""
    record = dict(default_hooks=dict(record=dict(type='Record')))
    changes = [row.changes, record]
    if row.own_batches:
        changes.insert(0, dict(train_dataloader=dict(dataset=dict(pipeline=NO_FLIP))))
    ours = train(folder / 'ours/work', *changes, GLOBAL_BATCH, ours_of(row), row.ours)
    if row.refused:
        return None, ours
    return train(folder / 'stock/work', *changes, stock_part(row), row.stock), ours


def ours_of(row):
    """The global batch of one micro-batch."""
    batch = row.changes.get('train_dataloader', {}).get('batch_size', 4)
    return dict(train_cfg=dict(global_batch_size=batch))


def of_update(state):
    """Return the state that does not change at an epoch's end."""
    # The best weights are saved without an optimizer.
    optimizer = state.get('optimizer', {}).get('state')
    return state['state_dict'], optimizer, state['meta']['iter']


def without_states_before_evaluations(ours, stock):
    """Drop the saves right before an evaluation at updates at which stock saves nothing."""
    saved = [point for point in stock if point[0] == 'before_save_checkpoint']
    for point, following in zip(ours, [*ours[1:], [None]], strict=True):
        if point in saved or (point[0], following[0]) != ('before_save_checkpoint', 'before_val'):
            yield point


PARAMS = [
    pytest.param(row, id=row.name, marks=[] if row.short else [pytest.mark.whole]) for row in TABLE
]


@pytest.mark.parametrize('row', PARAMS)
@pytest.mark.slow
def test_trains_as_stock(row, tmp_path):
    if row.needs:
        pytest.importorskip(row.needs)
    stock, ours = both(tmp_path, row)
    if row.refused:
        assert ours.status == 2 and len(ours.errors) == 1, ours.output[-3000:]
        assert row.refused in ours.errors[0]
        return
    assert stock.status == 0, stock.output[-3000:]
    assert ours.status == 0, ours.output[-3000:]
    # The state saved before an evaluation, where no other is; stock has no such file.
    assert [name for name in ours.files if not name.startswith('restart_')] == stock.files
    for path in sorted(stock.folder.glob('*.pth')):
        if path.stem in stock.files:
            a, b = stock.checkpoint(path.name), ours.checkpoint(path.name)
            assert_same(*(of_update(state(x)) if row.saved_again else state(x) for x in (a, b)))
            # What hooks count, which MMEngine does not save.
            assert a.keys() == b.keys() - {'hooks'}
    assert_same(stock.logged, ours.logged)
    assert_same(stock.points, list(without_states_before_evaluations(ours.points, stock.points)))
