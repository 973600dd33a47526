"""LAMB and LARS in NumPy float64, written from their definitions and from nothing of the package.

LAMB's six steps are those of Apex's ``FusedLAMB`` as read in its kernels, LARS is Algorithm 1 of
arXiv 1708.03888. Scalars are rounded to float32 first, the arithmetic is float64.
"""

import numpy as np

LAMB_DEFAULTS = dict(
    lr=1e-3,
    betas=(0.9, 0.999),
    eps=1e-6,
    weight_decay=0.01,
    bias_correction=True,
    grad_averaging=True,
    adam_w_mode=True,
    use_nvlamb=False,
    trust_clip=None,
)
LARS_DEFAULTS = dict(
    momentum=0.9,
    weight_decay=0.0,
    eta=1e-3,
    eps=1e-8,
    dampening=0.0,
    nesterov=False,
    lars_exclude=False,
)


def f32(value):
    """A scalar rounded to float32, held in a float64."""
    return np.float64(np.float32(value))


def norm(x):
    return np.sqrt(np.sum(np.square(x)))


class ReferenceLAMB:
    """Holds float64 copies of the parameters; ``step`` takes the gradients (None where missing)."""

    def __init__(self, groups, max_grad_norm=1.0, **options):
        self.max_grad_norm = max_grad_norm
        self.groups = [{**LAMB_DEFAULTS, **options, 'step': 0, **group} for group in groups]
        for group in self.groups:
            group['params'] = [np.array(p, np.float64) for p in group['params']]
            group['m'] = [np.zeros_like(p) for p in group['params']]
            group['v'] = [np.zeros_like(p) for p in group['params']]

    def step(self, grads):
        with np.errstate(all='ignore'):
            present = [g for group in grads for g in group if g is not None]
            G = norm(np.array([norm(np.array(g, np.float64)) for g in present]))
            c = np.float64(1)
            if self.max_grad_norm is not None and G > f32(self.max_grad_norm):
                c = G / f32(self.max_grad_norm)
            for group, group_grads in zip(self.groups, grads, strict=True):
                group['step'] += 1
                for i, g in enumerate(group_grads):
                    if g is not None:
                        self._update(group, i, np.array(g, np.float64) / c)

    def _update(self, group, i, g):
        p, m, v = group['params'][i], group['m'][i], group['v'][i]
        wd, eps = f32(group['weight_decay']), f32(group['eps'])
        beta1, beta2 = f32(group['betas'][0]), f32(group['betas'][1])
        if not group['adam_w_mode']:
            g = g + wd * p
        beta3 = f32(1 - beta1) if group['grad_averaging'] else 1.0
        m[...] = beta1 * m + beta3 * g
        v[...] = beta2 * v + f32(1 - beta2) * g * g
        bc1 = bc2 = 1.0
        if group['bias_correction']:
            bc1, bc2 = f32(1 - beta1 ** group['step']), f32(1 - beta2 ** group['step'])
        u = (m / bc1) / (np.sqrt(v / bc2) + eps)
        if group['adam_w_mode']:
            u = u + wd * p
        ratio = 1.0
        if wd != 0 or group['use_nvlamb']:
            if norm(p) != 0 and norm(u) != 0:
                ratio = norm(p) / norm(u)
            if group['trust_clip'] is not None:
                ratio = np.clip(ratio, *map(f32, group['trust_clip']))
        p[...] = p - f32(group['lr']) * ratio * u


class ReferenceLARS:
    """As ``ReferenceLAMB``; ``lr`` may be changed between steps in ``groups``."""

    def __init__(self, groups, lr, **options):
        self.groups = [{**LARS_DEFAULTS, 'lr': lr, **options, **group} for group in groups]
        for group in self.groups:
            group['params'] = [np.array(p, np.float64) for p in group['params']]
            group['buf'] = [None for _ in group['params']]

    def step(self, grads):
        with np.errstate(all='ignore'):
            for group, group_grads in zip(self.groups, grads, strict=True):
                for i, g in enumerate(group_grads):
                    if g is not None:
                        self._update(group, i, np.array(g, np.float64))

    def _update(self, group, i, g):
        p, buf = group['params'][i], group['buf'][i]
        lr, momentum, wd = (f32(group[name]) for name in ('lr', 'momentum', 'weight_decay'))
        r = 1.0
        if not group['lars_exclude'] and norm(p) != 0 and norm(g) != 0:
            r = f32(group['eta']) * norm(p) / (norm(g) + wd * norm(p) + f32(group['eps']))
        moved = lr * r * (g + wd * p if wd else g)  # no decay of an infinite weight is 0
        if buf is None:  # the first one is undamped, as in torch.optim.SGD
            buf = moved
        else:
            buf = momentum * buf + f32(1 - f32(group['dampening'])) * moved
        group['buf'][i] = buf
        if momentum == 0:
            p[...] = p - moved
        elif group['nesterov']:
            p[...] = p - (momentum * buf + moved)
        else:
            p[...] = p - buf
