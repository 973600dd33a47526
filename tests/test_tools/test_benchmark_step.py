"""A step of the optimizers' benchmark: what is computed, timed and counted in it."""

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from torch.optim import Optimizer

pytestmark = pytest.mark.usefixtures('benchmark_modules')

COCO = 'configs/mask_rcnn/mask-rcnn_r50_fpn_64xb2-lamb-1x_coco.py'


def test_calls_that_compute_are_recorded_and_made_again():
    """Three of them, one in a list, one writes into a view; what only looks is left out."""
    from step import kernel_calls

    x, y = torch.ones(4), torch.ones(2)

    def step():
        assert x.numel() == 4 and x.is_contiguous()
        head, _ = x.view(2, 2).split(1)
        head.mul_(2)
        torch._foreach_add_([x, y], 1)
        torch.cat([x, y.detach()])

    calls = kernel_calls(step)
    assert [function.__name__ for function, _, _ in calls] == ['mul_', '_foreach_add_', 'cat']
    assert x.tolist() == [3, 3, 2, 2]
    for function, args, kwargs in calls:
        function(*args, **kwargs)
    assert (x.tolist(), y.tolist()) == ([7, 7, 3, 3], [3, 3])


class Buffers(Optimizer):
    """Takes memory of known sizes: state, what it keeps, and what it gives back."""

    def __init__(self, params, kept, passing):
        super().__init__(params, {})
        self.sizes, self.kept = (kept, passing), None

    def step(self):
        kept, passing = self.sizes
        for group in self.param_groups:
            for p in group['params']:
                if p not in self.state:
                    self.state[p]['momentum'] = torch.zeros_like(p)
        if self.kept is None:
            self.kept = torch.empty(kept)
        for _ in range(2):  # One after the other: the second takes the place of the first.
            buffer = torch.empty(passing)
            del buffer


@pytest.mark.parametrize(('kept', 'passing'), [(0, 0), (0, 12_345), (777, 0), (777, 12_345)])
def test_peak_memory_is_what_is_taken_above_the_state(kept, passing):
    from step import peak_memory

    p = torch.nn.Parameter(torch.ones(100, 30))
    p.grad = torch.ones_like(p)
    _, peak = peak_memory(lambda: Buffers([p], kept, passing), lambda: None, 'cpu')
    assert peak == 4 * (kept + passing)


def test_peak_memory_of_torch_sgd():
    """It adds the decay to a copy of one gradient at a time; of two tensors, the larger counts."""
    from step import peak_memory

    params = [torch.nn.Parameter(torch.ones(n)) for n in (1000, 3000)]
    for p in params:
        p.grad = torch.ones_like(p)
    made, peak = peak_memory(
        lambda: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1, foreach=False),
        lambda: None,
        'cpu',
    )
    # Numbers such as the decay are tensors of one element while PyTorch computes with them.
    assert 4 * 3000 <= peak < 4 * 3000 + 64 and len(made.state) == 2


def test_groups_of_the_coco_recipe():
    """168 tensors of 44.17 M parameters in two groups, one without decay: README and docs."""
    from step import of_one_element, recipe_groups

    groups = recipe_groups(Config.fromfile(COCO))
    (weights, _, decay), (others, _, no_decay) = groups
    assert (decay, no_decay, len(weights + others)) == (1e-4, 0.0, 168)
    assert sum(shape.numel() for shape in weights + others) == pytest.approx(44.17e6, 1e-3)
    assert all(len(shape) == 1 for shape in others)
    small, *_ = of_one_element(groups[0])
    assert [len(shape) for shape in small] == [len(shape) for shape in weights]
    assert {shape.numel() for shape in small} == {1}


def test_groups_of_a_stock_config():
    """mmdet's own recipe is one group, into which MMEngine puts the 33 frozen tensors too."""
    from step import recipe_groups

    ((shapes, *_),) = recipe_groups(get_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'))
    assert len(shapes) == 168
    assert sum(shape.numel() for shape in shapes) == pytest.approx(44.17e6, 1e-3)


def after(name, steps=3):
    """An optimizer of the benchmark after steps: its parameters, and LAMB's moments."""
    from peers import ENTRIES
    from step import Contestant, Problem

    (entry,) = [entry for entry in ENTRIES if entry.name == name]
    shapes = list(map(torch.Size, [(64, 32, 3, 3), (128, 64)]))
    groups = [(shapes, 1e-2, 1e-4), ([torch.Size([64])], 1e-2, 0.0)]
    contestant = Contestant(Problem(groups, 'cpu'), entry.load('cpu'), entry.options)
    for _ in range(steps):
        contestant.time()
    params = [p.detach() for g in contestant.optimizer.param_groups for p in g['params']]
    state = contestant.optimizer.state.values()
    names = ('exp_avg', 'exp_avg_sq') if 'amb' in name.lower() else ()
    return params, [of_one[name] for of_one in state for name in names]


@pytest.mark.parametrize(
    ('ours', 'peer'),
    [
        ('LAMB', 'timm-Lamb'),
        ('LAMB-noclip', 'timm-Lamb-noclip'),
        ('LARS', 'timm-Lars'),
        ('LARS', 'mmpretrain-LARS'),
    ],
)
def test_peers_make_the_same_update(ours, peer):
    """So what is compared is the same work. Of LAMB, the clip shows in the moments alone."""
    package = peer.partition('-')[0]
    if find_spec(package) is None:
        pytest.skip(f'{package} is not installed: it is no requirement of this project')
    start, _ = after(ours, steps=0)
    params, moments = after(ours)
    their_params, their_moments = after(peer)
    for a, b, p in zip(params, their_params, start, strict=True):
        assert not torch.allclose(a, p, rtol=2e-6, atol=2e-7)
        torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-7)
    assert len(moments) == (6 if 'LAMB' in ours else 0)
    # timm takes 1 - 0.999 in double, which is off by 1e-5 from that of float32.
    torch.testing.assert_close(moments, their_moments, rtol=1e-4, atol=1e-9)


def test_gradients_are_written_anew_for_the_next():
    """The step of LARS after another optimizer has spoilt the gradients that both share."""
    from step import Contestant, Problem

    class Spoils(torch.optim.SGD):
        def step(self):
            for p in self.param_groups[0]['params']:
                p.grad.fill_(float('nan'))

    problem = Problem([([torch.Size([8, 4])], 1e-2, 1e-4)], 'cpu')
    spoils, other = (Contestant(problem, kind, {}) for kind in (Spoils, torch.optim.SGD))
    spoils.time()
    other.time()
    (p,) = other.optimizer.param_groups[0]['params']
    assert p.isfinite().all() and p.grad.norm().item() == pytest.approx(10)


def test_a_module_is_imported_without_the_package_above_it(tmp_path, monkeypatch):
    """As timm's optimizers where torchvision, which its models need, is missing."""
    from peers import Entry, Unavailable

    (tmp_path / 'needy/inner').mkdir(parents=True)
    (tmp_path / 'needy/__init__.py').write_text('import a_module_that_is_not_there')
    (tmp_path / 'needy/inner/__init__.py').write_text('raise ImportError')
    (tmp_path / 'needy/inner/good.py').write_text('from ._part import Good')
    (tmp_path / 'needy/inner/_part.py').write_text('class Good: pass')
    monkeypatch.syspath_prepend(tmp_path)
    good = Entry('good', 'needy.inner.good', 'Good', 20).load('cpu')
    assert Path(sys.modules[good.__module__].__file__) == tmp_path / 'needy/inner/_part.py'
    with pytest.raises(ImportError, match='a_module_that_is_not_there'):
        import needy  # noqa: F401
    for module, said in (
        ('needy.inner.none', "No module named 'needy.inner.none'"),
        ('nowhere.inner', 'nowhere is not installed'),
        ('apex.optimizers', 'runs on CUDA alone'),
    ):
        with pytest.raises(Unavailable, match=re.escape(said)):
            Entry('bad', module, 'Good', 20).load('cpu')
