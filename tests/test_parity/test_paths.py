"""The same on the other paths of a user: pure-Python configs, stock's checkpoints, two ranks."""

import pytest
from helpers.as_python import rewrite
from helpers.parity_table import EMA, Row, stock_part
from helpers.runs import (
    GLOBAL_BATCH,
    assert_same,
    merged,
    state,
    train,
    train_as_process,
    write_config,
)

pytestmark = pytest.mark.slow

KEYED = stock_part(Row('plain'))


def test_a_pure_python_config(tmp_path):
    """`type` is a class everywhere in it."""
    text = write_config(tmp_path, GLOBAL_BATCH)
    named = train(tmp_path / 'named/work', config=text)
    classes = train(tmp_path / 'classes/work', config=rewrite(text))
    assert named.status == 0, named.output[-3000:]
    assert classes.status == 0, classes.output[-3000:]
    assert_same(state(named.last), state(classes.last))
    assert_same(named.logged, classes.logged)


def test_goes_on_from_stocks_checkpoint(tmp_path):
    """Begun with MMEngine's loop and hooks, gone on with the global batch."""
    stock = train(tmp_path / 'stock/work', KEYED)
    assert stock.status == 0, stock.output[-3000:]
    begun = stock.folder / 'epoch_1.pth'
    run = train(tmp_path / 'ours/work', GLOBAL_BATCH, arguments=['--resume', begun])
    assert run.status == 0, run.output[-3000:]
    assert_same(state(stock.last), state(run.last))


TWO_RANKS = {
    'SGD': {},
    'EMA, SyncBuffersHook, the best': dict(
        custom_hooks=[dict(EMA, update_buffers=True), dict(type='SyncBuffersHook')],
        default_hooks=dict(checkpoint=dict(save_best='mean_score', rule='greater')),
    ),
}


@pytest.mark.whole
@pytest.mark.parametrize('feature', TWO_RANKS)
def test_two_ranks(feature, tmp_path):
    """Under tools/dist_train.sh; stock logs the losses of its first rank alone."""
    changes = TWO_RANKS[feature]
    batch = dict(train_cfg=dict(global_batch_size=8))
    stock = train_as_process(tmp_path / 'stock/work', changes, KEYED, ranks=2)
    assert stock.status == 0, stock.output[-3000:]
    ours = train_as_process(tmp_path / 'ours/work', changes, merged(GLOBAL_BATCH, batch), ranks=2)
    assert ours.status == 0, ours.output[-3000:]
    assert ours.files == stock.files
    assert_same(state(stock.last), state(ours.last))
    for path in stock.folder.glob('best_*.pth'):
        assert_same(state(stock.checkpoint(path.name)), state(ours.checkpoint(path.name)))
