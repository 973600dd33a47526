"""Losses that some micro-batches or ranks lack: means and gradients against those by hand."""

import sys

import pytest
import torch
from helpers.absent import CASES, RANKS, UPDATES
from helpers.common import PYTHONPATH
from helpers.regression import START, Points


def assert_near(found, expected):
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def by_hand(having):
    """The training in float64: gradients over all six micro-batches, means over those that have."""
    points, w, v, logged = Points(), START.double(), -START.double(), []
    for update in range(UPDATES):
        losses_w, losses_v = [], []
        w, v = w.requires_grad_(), v.requires_grad_()
        for number in range(6):
            x, y = points.x[number::6].float().double(), points.y[number::6].float().double()
            losses_w.append(((x @ w - y) ** 2).mean())
            if number in having[update]:
                losses_v.append(((x @ v - y) ** 2).mean())
        total = sum(losses_w) + sum(losses_v)
        means = dict(loss=total.item() / 6, loss_w=sum(losses_w).item() / 6)
        if losses_v:
            means['loss_v'] = sum(losses_v).item() / len(losses_v)
        logged.append(means)
        total.backward()
        w = w.detach() - 0.1 * w.grad / 6
        v = v.detach() - 0.1 * (0 if v.grad is None else v.grad) / 6
    return w, v, logged


def test_absent_losses(command, tmp_path):
    out = tmp_path / 'out'
    done = command(sys.executable, '-m', 'helpers.absent', out, PYTHONPATH=PYTHONPATH)
    assert done.returncode == 0, done.stderr[-3000:]
    for ranks in RANKS:
        found = [torch.load(f'{out}.{ranks}.{rank}.pth') for rank in range(ranks)]
        for name, having in CASES.items():
            expected_w, expected_v, expected = by_hand(having)
            for rank in range(ranks):
                w, v, logged = found[rank][name]
                assert_near(w, expected_w)
                assert_near(v, expected_v)
                assert logged == [pytest.approx(means, rel=1e-5) for means in expected], name
                assert w.equal(found[0][name][0]) and v.equal(found[0][name][1]), name
