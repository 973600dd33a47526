"""Checkpoints that hold a command, which leaves a file where it runs."""

import builtins
import copyreg
import operator
import os
import subprocess

import torch
from mmengine.logging import HistoryBuffer


class Calls:
    """Is pickled as a call of a function, and of what is given to its result's `__setstate__`."""

    def __init__(self, function, *words, state=None):
        self.reduced = (function, words) if state is None else (function, words, state)

    def __call__(self):
        """Pickle takes nothing for a function that cannot be called."""

    def __reduce__(self):
        return self.reduced


class Buffer(HistoryBuffer):
    """A history with something in the place of a statistic."""


def commands(marker):
    """Of every way to run a command: what is pickled, and the name that the refusal must hold."""
    python = f'open({str(marker)!r}, "w").close()'
    return {
        'os.system': (Calls(os.system, f'touch {marker}'), 'posix.system'),
        'subprocess': (Calls(subprocess.call, ['touch', str(marker)]), 'subprocess.call'),
        'eval': (Calls(builtins.eval, python), 'eval'),
        'exec': (Calls(builtins.exec, python), 'exec'),
        'open': (Calls(builtins.open, str(marker), 'w'), 'open'),
        'getattr of a module': (
            Calls(Calls(getattr, Calls(__import__, 'os'), 'system'), f'touch {marker}'),
            '__import__',
        ),
        'getattr of an allowed class': (
            Calls(
                Calls(getattr, Calls(getattr, HistoryBuffer.mean, '__globals__'), 'get'), 'np'
            ),
            'getattr',
        ),
        'getattr of the class': (Calls(getattr, HistoryBuffer, '__init__'), 'getattr'),
        'methodcaller': (
            Calls(Calls(operator.methodcaller, 'system', f'touch {marker}'), 0),
            'operator.methodcaller',
        ),
        'state': (Calls(copyreg._reconstructor, Buffer, object, None, state={}), 'copyreg'),
    }  # fmt: skip


def places(command):
    """Every part of a checkpoint with a command in it."""
    history = HistoryBuffer([1.0], [1])
    history.extra = command
    return {
        'meta': dict(meta=dict(note=[dict(deep=(command,))])),
        'message hub': dict(message_hub=dict(runtime_info=dict(note=command))),
        'history': dict(message_hub=dict(log_scalars=dict(loss=history))),
        'optimizer': dict(optimizer=dict(state={0: dict(exp_avg=command)}, param_groups=[])),
        'weights': dict(state_dict=dict(w=command)),
    }


def save(path, command, place='meta', **options):
    """A checkpoint with a command in one of its parts."""
    content = dict(meta=dict(iter=1, epoch=0), message_hub={}, state_dict=dict(w=torch.arange(3.0)))
    torch.save(content | places(command)[place], path, **options)
    return path
