"""The global batch under MMEngine's own mixed precision, which it builds on a GPU alone."""

import pytest
import torch
from helpers.regression import START, gradient, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')


# 11 and 8 bits of precision: the step is right to 2 %, the rounding of a few such numbers.
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_the_mean_gradient(tmp_path, dtype):
    wrapper = dict(type='AmpOptimWrapper', dtype=dtype, loss_scale=dict(init_scale=1024.0))
    runner, log = train(tmp_path, 2, wrapper)
    mean, loss = gradient()
    step = runner.model.w.detach().cpu().double() - START
    assert float((step + 0.1 * mean).norm() / (0.1 * mean).norm()) < 0.02
    assert log.losses == [pytest.approx(loss, rel=0.02)]


def test_an_overflow_skips_the_update_and_halves_the_scale_once(tmp_path):
    wrapper = dict(type='AmpOptimWrapper', dtype='float16', loss_scale=dict(init_scale=2.0**127))
    runner, _ = train(tmp_path, 2, wrapper)
    assert runner.model.w.cpu().equal(START)
    assert runner.optim_wrapper.loss_scaler.get_scale() == 2.0**126
