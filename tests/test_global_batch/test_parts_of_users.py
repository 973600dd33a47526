"""Parts of users in the loop: own train_steps, losses that come and go, options of the loader."""

import pytest
import torch
from helpers.pictures import Pictures
from helpers.regression import Regression, train
from mmengine.dataset import DefaultSampler
from mmengine.optim import OptimWrapper

from mmdet_largebatch import SettingError
from mmdet_largebatch.global_batch import GlobalBatchSampler
from mmdet_largebatch.global_batch.loader import with_global_batch
from mmdet_largebatch.global_batch.logged_means import LoggedMeans


def own_step(self, data, optim_wrapper):
    assert isinstance(optim_wrapper, OptimWrapper) and optim_wrapper.get_lr()['lr'] == [0.1]
    with optim_wrapper.optim_context(self):
        losses = self(**self.data_preprocessor(data, True))
    optim_wrapper.zero_grad()
    optim_wrapper.backward(losses['loss'])
    optim_wrapper.step()
    return losses


def two_steps(self, data, optim_wrapper):
    own_step(self, data, optim_wrapper)
    return own_step(self, data, optim_wrapper)


@pytest.mark.parametrize('micro_batch', [2, 12])
def test_own_train_step(tmp_path, monkeypatch, micro_batch):
    usual, _ = train(tmp_path / 'usual', micro_batch, epochs=2)
    monkeypatch.setattr(Regression, 'train_step', own_step)
    own, _ = train(tmp_path / 'own', micro_batch, epochs=2)
    assert own.model.w.equal(usual.model.w)


def test_a_train_step_of_two_steps_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Regression, 'train_step', two_steps)
    with pytest.raises(SettingError, match='2 times a micro-batch. Must be once'):
        train(tmp_path, 12)


def test_means_are_of_the_micro_batches_that_have_a_value():
    means = LoggedMeans(ranks=1, micro_batches=3)
    a, b = torch.tensor(1.0), torch.tensor([4.0])
    found, _ = means([dict(loss=a), dict(loss=b, grid=2), None], 3)
    assert {name: float(value) for name, value in found.items()} == dict(loss=2.5, grid=2.0)
    assert found['loss'].dtype == torch.float32
    found, _ = means([dict(loss=a)] * 3, 3)
    assert list(found) == ['loss']
    with pytest.raises(SettingError, match='returns x, a dict. Must be a number'):
        means.detached(dict(x={}))


def sampler(number, drop_last, round_up=True):
    base = DefaultSampler(Pictures(number), seed=0, round_up=round_up)
    return GlobalBatchSampler(base, 2, 6, drop_last=drop_last)


@pytest.mark.parametrize(('number', 'updates'), [(12, 2), (13, 2), (16, 3), (101, 17)])
def test_drop_last(number, updates):
    found = sampler(number, True)
    assert len(found) == updates
    assert [len(indices) for indices in found] == [2] * 3 * updates


def test_round_up_false_is_refused_where_a_micro_batch_would_be_missing():
    assert len(list(sampler(12, False, round_up=False))) == 6
    with pytest.raises(SettingError, match='Invalid .*round_up=False. Must be True: of 13 images'):
        sampler(13, False, round_up=False)


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        (dict(shuffle=True), 'Invalid train_dataloader.shuffle=True. Must be left out'),
        (dict(in_order=False), 'in_order=False. Must be True'),
        (dict(batch_size=0), 'batch_size=0. Must be an integer >= 1'),
        (dict(num_batch_per_epoch=0), 'num_batch_per_epoch=0. Must be an integer >= 1'),
    ],
)
def test_options_of_the_loader_are_refused(option, message):
    loader = dict(dataset=Pictures(12), sampler=dict(type='DefaultSampler'), batch_size=2)
    with pytest.raises(SettingError, match=message):
        with_global_batch(loader | option, 6)


def test_an_unknown_setting_is_refused(tmp_path):
    with pytest.raises(SettingError, match='Invalid train_cfg.max_update=3. Must be left out'):
        train(tmp_path, 2, max_update=3)
