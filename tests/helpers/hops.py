"""Count the functions of the package on the journeys that a newcomer follows in the code.

    PYTHONPATH=tests python -m helpers.hops

Prints, for each journey, the number of different functions and files, then their names in the order
of their first call. Comprehensions and lambdas count with the function that holds them. The
training is the toy one of helpers.small_training, on one process.
"""

import sys
import tempfile
from pathlib import Path

from mmengine.hooks import Hook

import mmdet_largebatch
from helpers.regression import toy_runner
from helpers.small_training import Net, Tell

PACKAGE = f'{Path(mmdet_largebatch.__file__).parent}/'
SCHEDULE = ('schedulers/', 'hooks/warmup_step_lr_hook.py')
CHECKPOINTS = ('checkpoints/', 'hooks/preemption_hook.py', 'hooks/atomic_')


class Journey:
    """The package's functions that run in some of its files, or are called from there.

    Args:
        rooms (tuple[str, ...]): Beginnings of the files' paths in the package.
        until (Callable, optional): A function that ends the journey.
    """

    def __init__(self, rooms, until=None):
        self.rooms, self.until = rooms, until
        self.functions = {}

    def __enter__(self):
        sys.setprofile(self.look)

    def __exit__(self, *_):
        sys.setprofile(None)

    def look(self, frame, event, _):
        code = frame.f_code
        if self.until is not None and code is self.until.__code__:
            sys.setprofile(None)
        if event == 'call' and self.room(frame) and not code.co_name.startswith('<'):
            while frame is not None and not self.room(frame).startswith(self.rooms):
                frame = frame.f_back
            if frame is not None:
                place = code.co_filename.removeprefix(PACKAGE)
                self.functions.setdefault((place, code.co_qualname))

    @staticmethod
    def room(frame):
        name = frame.f_code.co_filename
        return name.removeprefix(PACKAGE) if name.startswith(PACKAGE) else ''

    def show(self, name):
        files = {place for place, _ in self.functions}
        print(f'{name}: {len(self.functions)} functions in {len(files)} files')
        for place, function in self.functions:
            print(f'    {place}: {function}')


class BeginAfterUpdate(Hook):
    """Begin a journey after the first update, before or after other hooks."""

    def __init__(self, journey, priority):
        self.journey, self.priority = journey, priority

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 0:
            self.journey.__enter__()


def train(folder, hooks=(), **more):
    runner = toy_runner(
        folder,
        Net(),
        epochs=2,
        train_cfg=dict(global_batch_size=6),
        hooks=hooks,
        default_hooks=dict(
            lr=dict(type='WarmupStepLRHook', warmup_iters=2, milestones=[1]),
            checkpoint=dict(type='AtomicCheckpointHook', interval=1),
            preemption=dict(type='PreemptionHook'),
        ),
        log_level='ERROR',
        **more,
    )
    try:
        runner.train()
    except SystemExit:
        return


def main(folder):
    journey = Journey(SCHEDULE)
    with journey:
        train(folder / 'lr')
    journey.show('LR, from the config to the parameter group')

    journey = Journey(('global_batch/',), until=Net.forward)
    train(folder / 'micro_batch', hooks=[BeginAfterUpdate(journey, 'LOWEST')])
    journey.show('micro-batch, from the sampler to the loss')

    journey = Journey(CHECKPOINTS)
    # The signal is sent by the second hook.
    train(folder / 'saved', hooks=[BeginAfterUpdate(journey, 'VERY_HIGH'), Tell(update=1)])
    sys.setprofile(None)
    journey.show('checkpoint, from the signal to the disk')

    journey = Journey(CHECKPOINTS, until=Net.forward)
    with journey:
        train(folder / 'saved', resume=True)
    journey.show('checkpoint, from the disk to the resumed run')


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
