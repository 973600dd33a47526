"""Micro-batches: those of stock MMDetection with a rank for each, whatever the ranks there are."""

import json

import pytest
from helpers import stock_batches
from helpers.forked import run_apart
from helpers.pictures import Pictures
from mmengine.dataset import DefaultSampler, InfiniteSampler

from mmdet_largebatch import SettingError
from mmdet_largebatch.global_batch import GlobalBatchSampler

ASPECT = dict(type='AspectRatioBatchSampler')


def deal(rank=0, ranks=1, number=101, seed=5, epoch=2, update=0, **settings):
    """Return the micro-batches of a rank in an epoch: a list of (key, indices)."""
    sampler = GlobalBatchSampler(
        DefaultSampler(Pictures(number), shuffle=True, seed=0),
        **(dict(batch_size=2, global_batch_size=6, grouping=ASPECT) | settings),
    )
    sampler.rank, sampler.ranks = rank, ranks
    sampler.begin(seed, epoch, update)
    return [(batch.key, list(batch)) for batch in sampler]


@pytest.mark.multiprocess
def test_equal_to_stock_mmdet_with_a_rank_for_each_micro_batch(tmp_path):
    """Three real processes of MMEngine's and mmdet's samplers; 6 images are 3 micro-batches."""
    run_apart(stock_batches.main, tmp_path / 'stock', 3, 5, 2, 2).check_returncode()
    stock = [json.loads((tmp_path / f'stock.{rank}.json').read_text()) for rank in range(3)]
    # 101 pictures: 34 a rank, 17 updates of 2.
    assert [len(batches) for batches in stock] == [17, 17, 17]
    ours = deal()
    assert [indices for _, indices in ours] == [
        stock[number][update] for update in range(17) for number in range(3)
    ]
    # Seed 5; epoch 2 begins at update 34.
    assert [key for key, _ in ours] == [
        (5, 34 + update, number) for update in range(17) for number in range(3)
    ]


@pytest.mark.parametrize('ranks', [2, 3])
def test_ranks_share_out_what_one_would_have_done(ranks):
    shares = [deal(rank, ranks) for rank in range(ranks)]
    assert sorted(sum(shares, [])) == sorted(deal())
    # Of micro-batches 0, 1, 2 rank 0 of 2 has the first and the last.
    assert {key[2] for key, _ in shares[0]} == ({0, 2} if ranks == 2 else {0})


@pytest.mark.parametrize('update', [0, 1, 16, 17])
def test_begun_within_an_epoch_it_goes_on_as_it_would_have(update):
    assert deal(update=update) == deal()[3 * update :]


def test_epochs_differ_and_seeds_differ():
    orders = [deal(epoch=0), deal(epoch=1), deal(epoch=0, seed=100)]
    assert all([b for _, b in a] != [b for _, b in c] for a in orders for c in orders if a is not c)


@pytest.mark.parametrize('number', [1, 5, 6, 7, 12, 13])
def test_every_picture_comes_and_every_micro_batch_is_there(number):
    batches = deal(number=number)
    updates = {key[1] for key, _ in batches}
    assert len(batches) == 3 * len(updates)
    assert {index for _, indices in batches for index in indices} == set(range(number))
    # The end is filled up to a multiple of the 3 micro-batches, as DefaultSampler does for 3 ranks.
    assert sum(len(indices) for _, indices in batches) == -(-number // 3) * 3


@pytest.mark.parametrize('number', [6, 7, 10, 12, 13, 101])
@pytest.mark.parametrize('settings', [{}, dict(grouping=None), dict(drop_last=True)])
def test_updates_that_are_full(number, settings):
    """Against the micro-batches that it deals, of 2 images if full."""
    dealt = deal(number=number, epoch=0, **settings)
    sampler = GlobalBatchSampler(
        DefaultSampler(Pictures(number), shuffle=True, seed=0),
        **(dict(batch_size=2, global_batch_size=6, grouping=ASPECT) | settings),
    )
    for update in range(len(sampler)):
        sizes = {len(indices) for key, indices in dealt if key[1] == update}
        assert sampler.is_full(update) == (sizes == {2})


def test_pictures_of_a_micro_batch_are_of_one_aspect():
    mixed = [
        indices
        for _, indices in deal()
        if len({Pictures().get_data_info(index)['width'] for index in indices}) > 1
    ]
    # Only the rest of each of the 3 orders, its last update, may be mixed.
    assert len(mixed) <= 3


def test_updates_an_epoch_on_coco():
    """117,266 images: 7,330 updates at batch 16, as in mmdet's logs, and 917 at 128."""
    sampler = DefaultSampler(Pictures(117266), shuffle=True, seed=0)
    for batch, updates in ((16, 7330), (128, 917)):
        assert len(GlobalBatchSampler(sampler, 2, batch, ASPECT)) == updates


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (
            dict(global_batch_size=7),
            r'global_batch_size=7\. Must be a multiple .*batch_size=2, such as 6 or 8',
        ),
        (dict(number=0), r'train_dataloader\.dataset has 0 images\. Must have at least 1'),
    ],
)
def test_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        deal(**settings)


def test_another_sampler_is_refused():
    with pytest.raises(SettingError, match=r"type='InfiniteSampler'\. Must be DefaultSampler"):
        GlobalBatchSampler(InfiniteSampler(Pictures(), seed=0), 2, 6)
