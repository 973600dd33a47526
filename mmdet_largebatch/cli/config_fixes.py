"""Fix settings that MMEngine or PyTorch refuse, though their meaning is clear."""

import sys

from mmengine.config import Config

from ..utils.local_rank import is_first_of_machine

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# MMEngine itself removes these where they are None.
MMENGINES_HOOKS = {
    'runtime_info',
    'timer',
    'sampler_seed',
    'logger',
    'param_scheduler',
    'checkpoint',
}
# Options that a PyTorch loader refuses without data workers.
WORKER_OPTIONS = ('persistent_workers', 'prefetch_factor', 'timeout', 'multiprocessing_context')


def take_out_hooks(cfg: Config) -> None:
    """Remove hooks that are None from ``default_hooks``, as MMEngine does with its own.

    Args:
        cfg (Config): The config, changed in place.
    """
    hooks = cfg.get('default_hooks') or {}
    for name in [name for name, hook in hooks.items() if hook is None]:
        if name not in MMENGINES_HOOKS:
            hooks.pop(name)


def leave_out_worker_options(cfg: Config) -> None:
    """Remove the options of data workers from loaders without workers, and print a line.

    Args:
        cfg (Config): The config, changed in place.
    """
    for name in LOADERS:
        loader = cfg.get(name)
        if not isinstance(loader, dict) or loader.get('num_workers', 0) != 0:
            continue
        unused = [option for option in WORKER_OPTIONS if loader.pop(option, None)]
        if unused and is_first_of_machine():
            print(
                f'note: {name}.num_workers=0 leaves out {", ".join(unused)}, options of data '
                'workers.',
                file=sys.stderr,
            )
