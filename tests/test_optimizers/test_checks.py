"""Every bad argument beside the one line that it gets."""

import pytest
import torch

from mmdet_largebatch.errors import SettingError
from mmdet_largebatch.optimizers import LAMB, LARS

NAN, INF = float('nan'), float('inf')

BOTH = [
    ('lr', -1.0, 'Invalid lr=-1.0. Must be >= 0.0.'),
    ('lr', NAN, 'Invalid lr=nan. Must be >= 0.0.'),
    ('lr', INF, 'Invalid lr=inf. Must be finite as a float32.'),
    ('lr', 1e39, 'Invalid lr=1e+39. Must be finite as a float32.'),
    ('lr', '1e-3', "Invalid lr='1e-3'. Must be a number."),
    ('lr', True, 'Invalid lr=True. Must be a number.'),
    ('lr', None, 'Invalid lr=None. Must be a number.'),
    ('eps', -1e-8, 'Invalid eps=-1e-08. Must be >= 0.0.'),
    ('eps', NAN, 'Invalid eps=nan. Must be >= 0.0.'),
    ('weight_decay', -0.1, 'Invalid weight_decay=-0.1. Must be >= 0.0.'),
    ('weight_decay', NAN, 'Invalid weight_decay=nan. Must be >= 0.0.'),
]
TWO = 'Must be two numbers in [0.0, 1.0).'
CLIP = 'Must be (low, high) with 0.0 <= low <= high, or None.'
FLAG = 'Must be True or False.'
OF_LAMB = [
    ('betas', (1.0, 0.999), f'Invalid betas=(1.0, 0.999). {TWO}'),
    ('betas', (0.9, -0.1), f'Invalid betas=(0.9, -0.1). {TWO}'),
    ('betas', (0.9, NAN), f'Invalid betas=(0.9, nan). {TWO}'),
    # Below 1, but not as a float32: bias correction would divide by 0.
    ('betas', (0.9, 0.99999999), f'Invalid betas=(0.9, 0.99999999). {TWO}'),
    ('betas', (0.9,), f'Invalid betas=(0.9,). {TWO}'),
    ('betas', 0.9, f'Invalid betas=0.9. {TWO}'),
    ('betas', ('0.9', '0.999'), f"Invalid betas=('0.9', '0.999'). {TWO}"),
    ('max_grad_norm', 0, 'Invalid max_grad_norm=0. Must be > 0.0, or None to switch it off.'),
    ('max_grad_norm', NAN, 'Invalid max_grad_norm=nan. Must be > 0.0, or None to switch it off.'),
    ('max_grad_norm', 'no', "Invalid max_grad_norm='no'. Must be a number."),
    ('trust_clip', (2.0, 1.0), f'Invalid trust_clip=(2.0, 1.0). {CLIP}'),
    ('trust_clip', (-1.0, 1.0), f'Invalid trust_clip=(-1.0, 1.0). {CLIP}'),
    ('trust_clip', (0.0, NAN), f'Invalid trust_clip=(0.0, nan). {CLIP}'),
    ('trust_clip', (INF, INF), f'Invalid trust_clip=(inf, inf). {CLIP}'),
    ('trust_clip', 10.0, f'Invalid trust_clip=10.0. {CLIP}'),
    ('trust_clip', True, f'Invalid trust_clip=True. {CLIP}'),
    ('bias_correction', 1, f'Invalid bias_correction=1. {FLAG}'),
    ('grad_averaging', 'False', f"Invalid grad_averaging='False'. {FLAG}"),
    ('adam_w_mode', None, f'Invalid adam_w_mode=None. {FLAG}'),
    ('use_nvlamb', 0, f'Invalid use_nvlamb=0. {FLAG}'),
]
OF_LARS = [
    ('eta', -1.0, 'Invalid eta=-1.0. Must be >= 0.0.'),
    ('eta', NAN, 'Invalid eta=nan. Must be >= 0.0.'),
    ('momentum', -0.9, 'Invalid momentum=-0.9. Must be in [0.0, 1.0).'),
    ('momentum', 1.0, 'Invalid momentum=1.0. Must be in [0.0, 1.0).'),
    ('momentum', NAN, 'Invalid momentum=nan. Must be in [0.0, 1.0).'),
    ('dampening', 1.0, 'Invalid dampening=1.0. Must be in [0.0, 1.0).'),
    ('dampening', -0.1, 'Invalid dampening=-0.1. Must be in [0.0, 1.0).'),
    ('nesterov', 1, f'Invalid nesterov=1. {FLAG}'),
]
ROWS = [(LAMB, *row) for row in BOTH + OF_LAMB] + [(LARS, *row) for row in BOTH + OF_LARS]
GROUP_ROWS = ROWS + [(LARS, 'lars_exclude', 'yes', f"Invalid lars_exclude='yes'. {FLAG}")]


def one():
    return [torch.nn.Parameter(torch.ones(2))]


@pytest.mark.parametrize(('kind', 'name', 'value', 'message'), ROWS)
def test_a_bad_argument_gets_its_line(kind, name, value, message):
    options = {'lr': 0.1} | {name: value}
    with pytest.raises(SettingError) as error:
        kind(one(), **options)
    assert str(error.value) == message


@pytest.mark.parametrize(('kind', 'name', 'value', 'message'), GROUP_ROWS)
def test_a_bad_argument_of_a_group_gets_its_line(kind, name, value, message):
    with pytest.raises(ValueError) as error:
        kind([{'params': one(), name: value}], lr=0.1)
    assert str(error.value) == message


@pytest.mark.parametrize(('kind', 'name', 'value', 'message'), GROUP_ROWS)
def test_a_refused_group_is_not_added(kind, name, value, message):
    optimizer = kind(one(), lr=0.1)
    with pytest.raises(ValueError) as error:
        optimizer.add_param_group({'params': one(), name: value})
    assert str(error.value) == message
    assert len(optimizer.param_groups) == 1


def test_an_unknown_backend_is_named_with_the_choices():
    with pytest.raises(SettingError) as error:
        LAMB(one(), backend='cuda')
    assert str(error.value) == "Invalid backend='cuda'. Must be one of 'auto', 'apex', 'torch'."


@pytest.mark.parametrize(
    'options', [{'momentum': 0.0}, {'dampening': 0.1}, {'momentum': 0.0, 'dampening': 0.1}]
)
def test_nesterov_needs_momentum_and_no_dampening(options):
    with pytest.raises(SettingError) as error:
        LARS(one(), lr=0.1, nesterov=True, **options)
    momentum, dampening = options.get('momentum', 0.9), options.get('dampening', 0)
    assert str(error.value) == (
        f'Invalid nesterov=True with momentum={momentum} and dampening={dampening}. '
        'Must be used with momentum > 0.0 and dampening=0.'
    )


def test_a_group_cannot_have_its_own_max_grad_norm():
    with pytest.raises(SettingError) as error:
        LAMB([{'params': one(), 'max_grad_norm': 5.0}])
    assert str(error.value) == (
        'Invalid max_grad_norm=5.0 in a parameter group. '
        'Must be 1.0 as for all groups: it bounds their gradients together.'
    )


@pytest.mark.parametrize('kind', [LAMB, LARS])
def test_complex_parameters_are_refused(kind):
    p = torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))
    with pytest.raises(SettingError) as error:
        kind([{'params': one()}, {'params': [p]}], lr=0.1)
    assert str(error.value) == (
        'Invalid dtype=torch.complex64. '
        'Must be real floating-point (parameter 0 of group 1, shape (2,)).'
    )


@pytest.mark.parametrize(
    'options',
    [
        {'lr': 0, 'eps': 0, 'weight_decay': 0},
        {'betas': [0.0, 0.0]},
        {'max_grad_norm': INF},
        {'max_grad_norm': None},
        {'trust_clip': (0, INF)},
        {'lr': torch.tensor(0.1).numpy()[()]},
    ],
)
def test_the_bounds_themselves_are_taken(options):
    LAMB(one(), **options)
