"""Format a plan as text and as JSON, beside the earlier starts in the work folder."""

import json
from contextlib import suppress
from dataclasses import asdict
from math import isclose
from pathlib import Path
from typing import Any

from ..utils.record import RECORD, read_record
from .plan import Plan

# Figures of a record that a resume may change. A resume keeps the seed of the checkpoint.
COMPARED = (
    *('ranks', 'global_batch', 'micro_batch', 'micro_batches', 'updates_per_epoch', 'epochs'),
    *('updates', 'max_updates', 'lr', 'warmup_updates', 'milestones', 'gamma', 'optimizer'),
)


def read_starts(work_dir: str | Path) -> list[dict[str, Any]]:
    """Read the records of the earlier starts in a work folder.

    Args:
        work_dir (str or Path): The work folder; it need not exist.

    Returns:
        list[dict]: The content of each valid ``largebatch.json``, oldest first, with the name of
        its folder as ``start``.
    """
    folders = sorted(path.parent for path in Path(work_dir).glob(f'*/{RECORD}'))
    starts = []
    for folder in folders:
        with suppress(ValueError):
            starts.append(dict(start=folder.name, **(read_record(folder) or {})))
    return starts


def resume_changes(plan: Plan, starts: list[dict[str, Any]]) -> dict[str, list]:
    """Compare a plan with the newest start.

    Args:
        plan (Plan): The plan.
        starts (list[dict]): From :func:`read_starts`.

    Returns:
        dict[str, list]: The recorded and the planned figure, by name, where they differ.
    """
    last = starts[-1] if starts else {}
    pairs = {name: [last[name], getattr(plan, name)] for name in COMPARED if name in last}
    return {name: pair for name, pair in pairs.items() if not _equal(*pair)}


def _equal(before: Any, now: Any) -> bool:
    # An LR that is scaled differs in the last bit.
    numbers = isinstance(before, float) and isinstance(now, float)
    return isclose(before, now) if numbers else before == now


def as_json(plan: Plan, starts: list[dict[str, Any]] | None = None) -> str:
    """Return the plan as one JSON object, without the LR of each update.

    Args:
        plan (Plan): The plan.
        starts (list[dict], optional): From :func:`read_starts`.

    Returns:
        str: One line. Names are those of :class:`Plan`, and ``earlier_starts`` and
        ``resume_changes``.
    """
    fields = asdict(plan)
    del fields['lrs']
    changes = resume_changes(plan, starts or [])
    return json.dumps(dict(fields, earlier_starts=starts or [], resume_changes=changes))


def as_text(plan: Plan, starts: list[dict[str, Any]] | None = None) -> str:
    """Return the plan as text, one line a figure.

    Args:
        plan (Plan): The plan.
        starts (list[dict], optional): From :func:`read_starts`.

    Returns:
        str: Several lines.
    """
    least, most = plan.micro_batches_per_rank
    each = f'{least}' if least == most else f'{least} or {most}'
    updates = f'{plan.epochs} epochs of {plan.updates_per_epoch:,.6g} ({plan.images:,} images)'
    micro_batches = f'{_count(plan.micro_batches, "micro-batch")} of {plan.micro_batch}'
    sent = f'{_megabytes(plan.gradient_bytes)} by each rank, once an update'
    added = ', added as integers (exact_sum)' if plan.exact_sum else ''
    lines = [
        ('ranks', f'{plan.ranks} ({plan.ranks_from})'),
        ('global batch', f'{plan.global_batch} images: {micro_batches}, {each} on each rank'),
        ('updates', f'{plan.updates:,}: {updates}'),
        ('LR', '; '.join(filter(None, [f'{plan.lr:.6g} {plan.lr_from}', plan.lr_published]))),
        ('warmup', _warmup(plan)),
        ('decay', _decay(plan)),
        ('schedule by', plan.schedule),
        ('optimizer', plan.optimizer + _backend(plan)),
        ('parameters', _parameters(plan)),
        *(
            ('', f'{", ".join(f"{k}={v}" for k, v in one.options.items())}: {_parameters(one)}')
            for one in plan.group_settings
        ),
        ('optimizer state', f'{_megabytes(plan.state_bytes)} on each rank'),
        ('gradients sent', (sent if plan.ranks > 1 else 'none, there is one rank') + added),
        *_earlier(plan, starts or []),
        ('warnings', '' if plan.warnings else 'none'),
    ]
    text = [f'{name:<17}{value}'.rstrip() for name, value in lines]
    return '\n'.join(text + [f'  - {warning}' for warning in plan.warnings])


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


def _earlier(plan: Plan, starts: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return the lines on earlier starts and on what a resume would change."""
    if not starts:
        return []
    lines = [('' if index else 'earlier starts', _start(one)) for index, one in enumerate(starts)]
    changes = resume_changes(plan, starts)
    text = ', '.join(f'{name} {before} -> {now}' for name, (before, now) in changes.items())
    if 'updates_per_epoch' in changes:
        text += ' (refused: updates_per_epoch must be the same to resume)'
    return [*lines, ('a resume changes', text or 'nothing')]


def _start(record: dict[str, Any]) -> str:
    names = ('ranks', 'global_batch', 'lr')
    figures = [f'{name} {record[name]}' for name in names if name in record]
    begin = f'from update {record.get("begins_at", 0)}'
    ended = record.get('ended') or {}
    end = 'no end recorded: still running, or killed'
    if ended:
        end = ': '.join(
            filter(None, [f'{ended["how"]} at update {ended["update"]}', ended['message']])
        )
    return f'{record["start"]}: {", ".join([*figures, begin])}; {end}'


def _parameters(one: Any) -> str:
    """Return the number of parameters, tensors and groups of a plan or of a group setting."""
    tensors, groups = _count(one.tensors, 'tensor'), _count(one.groups, 'group')
    return f'{one.parameters:,} in {tensors} of {groups}'


def _count(number: int, thing: str) -> str:
    plural = 'es' if thing.endswith('ch') else 's'
    return f'{number} {thing}{"" if number == 1 else plural}'


def _megabytes(number: int | None) -> str:
    return 'not known' if number is None else f'{number / 1e6:,.1f} MB'
