"""Load saved states that were changed at random; each must be refused, or be right.

PYTHONPATH=.:tests python -m helpers.optimizers.fuzz_loading --cases 10000

A case draws an optimizer that has trained, changes its saved state in harmless ways and, in two
cases of three, in one that must be refused, and loads it into another optimizer. A refused one must
leave that as it was; after one that is taken two steps must equal those of the NumPy reference,
which is given the changed state. A crash of the process is the third way to fail, so that the tests
run this in a process of its own.
"""

import argparse
import copy
import json
import random

import numpy as np
import torch
from mmengine.logging import MMLogger

from mmdet_largebatch.errors import SettingError
from mmdet_largebatch.optimizers import LAMB, LARS

from .groups import as_arrays, lockstep, set_gradients
from .reference import LAMB_DEFAULTS, LARS_DEFAULTS, ReferenceLAMB, ReferenceLARS

SHAPES = [(), (1,), (7,), (5, 3), (3, 5), (4, 3, 3, 3), (0, 2), (2050,), (1, 5, 3)]
KEYS = {LAMB: ('exp_avg', 'exp_avg_sq'), LARS: ('momentum_buffer',)}
NAN = float('nan')


def draw_groups(draw, shapes, dtype, named):
    groups = []
    for index, of_group in enumerate(shapes):
        params = [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in of_group]
        if named:
            params = [(f'group{index}.{n}', p) for n, p in enumerate(params)]
        groups.append({'params': params, 'weight_decay': draw.choice([0.0, 0.01])})
    return groups


def a_moment(draw, saved, kind):
    """Draw a state tensor: the index of its parameter, its key and the tensor; None if none."""
    known = [i for i, of_param in saved['state'].items() if of_param]
    if not known:
        return None
    i, key = draw.choice(known), draw.choice(KEYS[kind])
    return i, key, saved['state'][i][key]


def laid_out(draw, x):
    """The same values, or equal ones, laid out in memory otherwise."""
    way = draw.choice(['gaps', 'reversed', 'channels_last', 'expanded', 'in a larger one'])
    if way == 'gaps' and x.dim():
        wide = torch.zeros(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype)
        wide[..., ::2] = x
        return wide[..., ::2]
    if way == 'reversed' and x.dim() > 1:
        order = list(range(x.dim()))[::-1]
        return x.permute(order).contiguous().permute(order)
    if way == 'channels_last' and x.dim() == 4:
        return x.to(memory_format=torch.channels_last)
    if way == 'expanded':
        return torch.full((), 0.25, dtype=x.dtype).expand(x.shape)
    larger = torch.zeros(x.numel() + 9, dtype=x.dtype)
    larger[5 : 5 + x.numel()] = x.flatten()
    return larger[5 : 5 + x.numel()].view(x.shape)


def harmless(draw, saved, kind):
    """Change the state in a way that loads."""
    group = draw.choice(saved['param_groups'])
    found = a_moment(draw, saved, kind)
    way = draw.choice(['layout', 'dtype', 'alias', 'drop', 'ids', 'lr', 'option', 'step', 'names'])
    if found and way == 'layout':
        i, key, x = found
        saved['state'][i][key] = laid_out(draw, x)
    elif found and way == 'dtype':
        i, key, x = found
        saved['state'][i][key] = x.to(draw.choice([torch.bfloat16, torch.float64, torch.float32]))
    elif found and way == 'alias':
        i, _, x = found
        saved['state'][i] = dict.fromkeys(KEYS[kind], x.abs())
    elif found and way == 'drop':
        del saved['state'][found[0]]
    elif way == 'ids':
        saved['state'] = {i + 100: of_param for i, of_param in saved['state'].items()}
        for other in saved['param_groups']:
            other['params'] = [i + 100 for i in other['params']]
    elif way == 'lr':
        group['lr'] = 0.05
    elif way == 'option':
        group.pop('eps', None)
    elif way == 'step' and 'step' in group:
        group['step'] = draw.choice([float, torch.tensor, np.int64])(int(group['step']))
    elif way == 'names':
        for other in saved['param_groups']:
            other.pop('param_names', None)


def wrong_tensor(draw, x):
    def to_shape(x):
        other = (
            [*x.shape, 1] if draw.random() < 0.3 else [n + draw.choice([-1, 1]) for n in x.shape]
        )
        return torch.randn([max(n, 0) for n in other] if x.dim() else [draw.choice([1, 3])])

    return draw.choice(
        [
            to_shape,
            to_shape,
            to_shape,
            lambda x: x.flatten() if x.dim() > 1 else x.view(*x.shape, 1, 1),
            lambda x: x.long(),
            lambda x: x.bool(),
            lambda x: x.to(torch.complex64),
            lambda x: x.to('meta'),
            lambda x: x.to_sparse() if x.dim() else x.int(),
            lambda x: x.tolist(),
            lambda x: x.float().numpy(),
            lambda x: None,
        ]
    )(x)


def harmful(draw, saved, kind):
    """Change the state in a way that must be refused; False if this one had nothing to change."""
    index = draw.randrange(len(saved['param_groups']))
    group, found = saved['param_groups'][index], a_moment(draw, saved, kind)
    way = draw.choice(
        ['tensor'] * 6
        + ['missing', 'surplus', 'unknown', 'groups', 'params', 'twice', 'option', 'mark']
        + ['step', 'no step', 'names', 'garbage', 'swapped']
    )
    if way in ('tensor', 'surplus', 'missing') and not found:
        return False
    if way == 'tensor':
        i, key, x = found
        saved['state'][i][key] = wrong_tensor(draw, x)
    elif way == 'missing':
        if kind is LARS:
            return False
        del saved['state'][found[0]][found[1]]
    elif way == 'surplus':
        saved['state'][found[0]][draw.choice(['step', 'max_exp_avg_sq', 7])] = torch.tensor(1.0)
    elif way == 'unknown':
        saved['state'][draw.choice([999, 'x'])] = {}
    elif way == 'groups':
        if draw.random() < 0.5:
            saved['param_groups'].append({**group, 'params': []})
        else:
            saved['param_groups'].pop()
    elif way == 'params':
        group['params'] = [*group['params'], 998]
    elif way == 'twice':
        if len(group['params']) < 2:
            return False
        group['params'] = [group['params'][0]] * len(group['params'])
    elif way == 'option':
        name = draw.choice(['lr', 'weight_decay', 'betas' if kind is LAMB else 'momentum'])
        group[name] = draw.choice([-1.0, NAN, 'x', None, True, (1.0, 0.9), [-0.1, 0.9]])
    elif way == 'mark':
        del group['betas' if kind is LAMB else 'eta']
    elif way == 'step':
        if kind is LARS:
            return False
        group['step'] = draw.choice([-1, 2.5, NAN, 'a', True, None, 2**40, torch.ones(2), [1]])
    elif way == 'no step':
        if kind is LARS or not any(saved['state'].get(i) for i in group['params']):
            return False
        del group['step']
    elif way == 'names':
        if 'param_names' not in group:
            return False
        names = group['param_names']
        group['param_names'] = draw.choice(
            [names[1:], [*names, 'more'], None, [f'other.{name}' for name in names]]
            + [names[::-1]] * (len(names) > 1)
        )
    elif way == 'garbage':
        part = draw.choice(['state', 'param_groups'])
        saved[part] = draw.choice([None, [1], 'x', {0: 'x'} if part == 'state' else [{}]])
    elif way == 'swapped':
        known = list(saved['state'])
        one, two = draw.choice(known or [0]), draw.choice(known or [0])
        if one == two or _shape(saved, one, kind) in (None, _shape(saved, two, kind)):
            return False
        if _shape(saved, two, kind) is None:
            return False
        saved['state'][one], saved['state'][two] = saved['state'][two], saved['state'][one]
    return True


def _shape(saved, i, kind):
    x = saved['state'].get(i, {}).get(KEYS[kind][0])
    return None if x is None else tuple(x.shape)


def reference_of(kind, optimizer, saved):
    """The NumPy optimizer on the weights of `optimizer` and the state `saved`."""
    known = LAMB_DEFAULTS if kind is LAMB else {**LARS_DEFAULTS, 'lr': None}
    groups = []
    for own, of_saved in zip(optimizer.param_groups, saved['param_groups'], strict=True):
        options = {name: of_saved.get(name, own[name]) for name in known}
        groups.append({'params': own['params'], **options})
    reference = ReferenceLAMB(as_arrays(groups)) if kind is LAMB else None
    reference = reference or ReferenceLARS(as_arrays(groups), 0.1)
    for group, of_saved in zip(reference.groups, saved['param_groups'], strict=True):
        group['step'] = int(of_saved.get('step', 0))
        for position, i in enumerate(of_saved['params']):
            of_param = saved['state'].get(i) or {}
            arrays = [of_param[key].double().numpy().copy() for key in KEYS[kind] if of_param]
            if arrays and kind is LAMB:
                group['m'][position], group['v'][position] = arrays
            elif arrays:
                (group['buf'][position],) = arrays
    return reference


def run_case(seed):
    """Return 'refused' or 'taken'; an AssertionError says what is wrong."""
    draw = random.Random(seed)
    torch.manual_seed(draw.randrange(2**31))
    kind = draw.choice([LAMB, LARS])
    dtype = draw.choice([torch.float32] * 4 + [torch.float64, torch.bfloat16])
    shapes = [draw.choices(SHAPES, k=draw.randint(1, 3)) for _ in range(draw.randint(1, 3))]
    named = draw.random() < 0.5
    options = {'backend': 'torch'} if kind is LAMB else {}
    source, target = (
        kind(draw_groups(draw, shapes, dtype, named), lr=0.1, **options) for _ in range(2)
    )
    for optimizer, steps in ((source, draw.randint(0, 3)), (target, draw.randint(0, 2))):
        for step in range(steps):
            set_gradients(optimizer.param_groups, step)
            optimizer.step()
    saved = copy.deepcopy(source.state_dict())
    for _ in range(draw.randint(0, 2)):
        harmless(draw, saved, kind)
    wrong = draw.random() < 2 / 3 and harmful(draw, saved, kind)

    before, twin = copy.deepcopy(target.state_dict()), copy.deepcopy(target)
    given = copy.deepcopy(saved)
    try:
        target.load_state_dict(saved)
    except SettingError as error:
        assert wrong, f'refused: {error}'
        assert '\n' not in str(error) and 'Must be' in str(error), error
        assert repr(target.state_dict()) == repr(before), 'changed by a state that was refused'
        lockstep(target, twin, 2)
        return 'refused'
    assert not wrong, 'taken, and should have been refused'
    reference = reference_of(kind, target, given)
    loose = dtype == torch.bfloat16
    for step in range(2):
        reference.step(set_gradients(target.param_groups, 50 + step))
        target.step()
    tolerance = dict(rtol=3e-2, atol=3e-2) if loose else dict(rtol=1e-4, atol=1e-5)
    for group, expected in zip(target.param_groups, reference.groups, strict=True):
        for p, array in zip(group['params'], expected['params'], strict=True):
            np.testing.assert_allclose(p.detach().double().numpy(), array, **tolerance)
    return 'taken'


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--cases', type=int, default=400)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    MMLogger.get_current_instance().setLevel('ERROR')
    counts = {'refused': 0, 'taken': 0}
    for case in range(args.cases):
        try:
            counts[run_case(f'{args.seed}-{case}')] += 1
        except Exception as error:
            raise AssertionError(f'case {args.seed}-{case}') from error
    print(json.dumps(counts))


if __name__ == '__main__':
    main()
