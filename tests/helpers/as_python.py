"""A config with names in MMEngine's pure-Python style, where `type` is a class."""

from mmdet import registry
from mmengine.config import Config

REGISTRIES = [
    getattr(registry, name)
    for name in (
        *('TRANSFORMS', 'MODELS', 'TASK_UTILS', 'DATASETS', 'DATA_SAMPLERS', 'METRICS', 'LOOPS'),
        *('OPTIM_WRAPPERS', 'OPTIMIZERS', 'PARAM_SCHEDULERS', 'HOOKS', 'VISUALIZERS'),
        *('VISBACKENDS', 'LOG_PROCESSORS', 'OPTIM_WRAPPER_CONSTRUCTORS'),
    )
]


class Name(str):
    """A bare name in the text of a config."""

    __repr__ = str.__str__


def _named(value, classes):
    if isinstance(value, dict):
        items = {key: _named(part, classes) for key, part in value.items()}
        if isinstance(value.get('type'), str):
            found = (kind.get(value['type']) for kind in REGISTRIES)
            cls = next(filter(None, found), None)
            if cls is not None:
                classes[cls.__name__] = cls.__module__
                items['type'] = Name(cls.__name__)
        return items
    if isinstance(value, (list, tuple)):
        return type(value)(_named(part, classes) for part in value)
    return value


def rewrite(path):
    """Write a config file anew in the other style, beside it; give back its path."""
    classes = {}
    cfg = {key: _named(value, classes) for key, value in Config.fromfile(path).to_dict().items()}
    del cfg['custom_imports']
    lines = [f'from {module} import {name}' for name, module in classes.items()]
    lines += [f'{key} = {value!r}' for key, value in cfg.items()]
    written = path.with_name(f'{path.stem}_as_python.py')
    written.write_text('\n'.join([*lines, '']))
    return written
