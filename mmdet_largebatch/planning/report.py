"""Format a plan as text and as JSON."""

import json
from dataclasses import asdict

from .plan import Plan


def as_json(plan: Plan) -> str:
    """Return the plan as one JSON object, without the LR of each update.

    Args:
        plan (Plan): The plan.

    Returns:
        str: One line. Bytes, images, updates and epochs as numbers; names as in :class:`Plan`.
    """
    fields = asdict(plan)
    del fields['lrs']
    return json.dumps(fields)


def as_text(plan: Plan) -> str:
    """Return the plan as text, one line a figure.

    Args:
        plan (Plan): The plan.

    Returns:
        str: Several lines.
    """
    lines = [
        ('ranks', f'{plan.ranks} ({plan.ranks_from})'),
        ('global batch', _global_batch(plan)),
        (
            'updates',
            f'{plan.updates:,}: {plan.epochs} epochs of {plan.updates_per_epoch:,.6g} '
            f'({plan.images:,} images)',
        ),
        ('LR', '; '.join(filter(None, [f'{plan.lr:.6g} {plan.lr_from}', plan.lr_published]))),
        ('warmup', _warmup(plan)),
        ('decay', _decay(plan)),
        ('schedule by', plan.schedule),
        ('optimizer', plan.optimizer + _backend(plan)),
        (
            'parameters',
            f'{plan.parameters:,} in {_count(plan.tensors, "tensor")} of '
            f'{_count(plan.groups, "group")}',
        ),
    ]
    for setting in plan.group_settings:
        options = ', '.join(f'{name}={value}' for name, value in setting.options.items())
        lines.append(
            (
                '',
                f'{options}: {setting.parameters:,} in {_count(setting.tensors, "tensor")} of '
                f'{_count(setting.groups, "group")}',
            )
        )
    lines += [
        ('optimizer state', f'{_megabytes(plan.state_bytes)} on each rank'),
        ('gradients sent', _gradients(plan)),
        ('warnings', '' if plan.warnings else 'none'),
    ]
    text = [f'{name:<17}{value}'.rstrip() for name, value in lines]
    return '\n'.join(text + [f'  - {warning}' for warning in plan.warnings])


def _global_batch(plan: Plan) -> str:
    least, most = plan.micro_batches_per_rank
    each = f'{least}' if least == most else f'{least} or {most}'
    return (
        f'{plan.global_batch} images: {_count(plan.micro_batches, "micro-batch")} of '
        f'{plan.micro_batch}, {each} on each rank'
    )


def _warmup(plan: Plan) -> str:
    if not plan.warmup_updates:
        return 'none'
    share = f'{plan.warmup_epochs:.1%} of the first epoch'
    if plan.warmup_epochs > 1:
        share = f'{plan.warmup_epochs:.3g} epochs'
    return f'{plan.warmup_updates:,} updates ({share}) from {plan.first_lr:.4g}'


def _decay(plan: Plan) -> str:
    if plan.gradual_decay:
        return f'gradual, to {plan.last_lr:.4g} at the last update'
    steps = [
        f'to {decay.lr:.4g} after {decay.update:,} updates (epoch {decay.epoch:.4g})'
        for decay in plan.decays
    ]
    return ', '.join(steps) or 'none'


def _backend(plan: Plan) -> str:
    one = plan.backend
    if one is None:
        return ''
    names = {'apex': "NVIDIA's Apex", 'torch': 'PyTorch', None: 'refused'}
    if (one.here, one.here_reason) == (one.on_gpu, one.on_gpu_reason):
        return f' on {names[one.here]} ({one.here_reason})'
    return (
        f'. On a GPU: {names[one.on_gpu]} if it is installed there ({one.on_gpu_reason}). '
        f'On this machine: {names[one.here]} ({one.here_reason})'
    )


def _gradients(plan: Plan) -> str:
    added = ', added as integers (exact_sum)' if plan.exact_sum else ''
    if plan.ranks == 1:
        return f'none, there is one rank{added}'
    return f'{_megabytes(plan.gradient_bytes)} by each rank, once an update{added}'


def _count(number: int, thing: str) -> str:
    plural = 'es' if thing.endswith('ch') else 's'
    return f'{number} {thing}{"" if number == 1 else plural}'


def _megabytes(number: int | None) -> str:
    return 'not known' if number is None else f'{number / 1e6:,.1f} MB'
