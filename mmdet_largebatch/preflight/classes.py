"""Check that heads, metainfo and annotation files speak of the same classes."""

import inspect
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from mmdet.registry import MODELS
from mmengine.config import Config

from ..errors import SettingError
from .coco_file import CocoFile, listed, shown
from .sources import Source, resolve

# The heads whose num_classes is the number of the data set's classes. An rpn_head has one class of
# its own, a backbone those of its pretraining, a semantic_head those of its maps.
HEADS = (
    'bbox_head',
    'mask_head',
    'mask_iou_head',
    'point_head',
    'glbctx_head',
    'query_head',
    'segm_head',
    'panoptic_head',
    'panoptic_fusion_head',
)


def class_names(source: Source) -> tuple[str, ...] | None:
    """Return the class names of a data set.

    Args:
        source (Source): The data set.

    Returns:
        tuple[str, ...], optional: The names; None where the data set finds them by itself.

    Raises:
        SettingError: If they are no list of different names.
    """
    classes, setting = source.classes, f'{source.setting}.metainfo.classes'
    if classes is None:
        return None
    if isinstance(classes, str):
        raise SettingError(
            f'{setting}={classes!r}: a string, not a list of names, and no file of names. Must be '
            f'({classes!r},) for one class: the comma makes the list.'
        )
    wrong = not isinstance(classes, (list, tuple)) or [x for x in classes if not isinstance(x, str)]
    if wrong or not classes:
        raise SettingError(f'{setting}={shown(classes)}: must be a list of class names.')
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        raise SettingError(f'{setting}: {twice[0]!r} stands twice. Must be different names.')
    return tuple(classes)


def categories_in_use(file: CocoFile, source: Source, classes: tuple[str, ...]) -> set:
    """Check the classes of a data set against its file.

    MMDetection numbers classes in the order of the *file*, whatever the order of
    ``metainfo.classes``: with another order, or with a name that the file lacks, every later class
    is drawn and listed under a wrong name.

    Args:
        file (CocoFile): The file.
        source (Source): The data set.
        classes (tuple[str, ...]): Its class names.

    Returns:
        set: Ids of the categories in use.

    Raises:
        SettingError: If they do not agree.
    """
    setting = f'{source.setting}.metainfo.classes'
    has = f'the categories of ann_file={file.path} are {listed(file.names)}'
    missing = [name for name in classes if name not in file.names]
    if missing:
        given = (source.config.get('metainfo') or {}).get('classes') is not None
        hint = ''
        if not given and source.kind is not None:
            hint = f" (not set, so the {len(classes)} of {source.kind.__name__}'s own METAINFO)"
        raise SettingError(
            f'{setting}{hint} has {listed(missing)}, but {has}. Must be names that the file '
            "has, in the file's order."
        )
    names = [name for name in file.names if name in set(classes)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise SettingError(
            f'ann_file={file.path}: {twice[0]!r} is the name of {names.count(twice[0])} '
            'categories. Must be a different name for each.'
        )
    if tuple(names) != classes:
        raise SettingError(
            f'{setting}=({listed(classes)}): the file has them in another order, by which '
            f'MMDetection numbers classes, so names would be mixed up. Must be ({listed(names)}), '
            f'as in ann_file={file.path}.'
        )
    pairs = zip(file.categories.ids, file.names, strict=True)
    return {key for key, name in pairs if name in set(classes)}


def _default_num_classes(head: Mapping) -> int | None:
    """Return the num_classes that a head has where its config names none."""
    kind = resolve(MODELS, head)
    for one in kind.__mro__ if kind else ():
        init = vars(one).get('__init__')
        found = init and inspect.signature(init).parameters.get('num_classes')
        if found:
            return found.default if isinstance(found.default, int) else None
    return None


def _heads(node: Any, setting: str) -> Iterator[tuple[str, Mapping]]:
    """Iterate over the heads in a config, at any depth, with where they stand."""
    if isinstance(node, (list, tuple)):
        for index, one in enumerate(node):
            yield from _heads(one, f'{setting}.{index}')
    elif isinstance(node, Mapping):
        parts = setting.split('.')
        name = parts[-2] if parts[-1].isdigit() else parts[-1]
        if name in HEADS:
            yield setting, node
        for key, value in node.items():
            yield from _heads(value, f'{setting}.{key}')


def _numbers_of_classes(setting: str, head: Mapping) -> Iterator[tuple[str, int]]:
    """Iterate over the settings of a head that are a number of classes."""
    things, stuff = head.get('num_things_classes'), head.get('num_stuff_classes')
    if isinstance(things, int):
        yield f'{setting}.num_things_classes', things + (stuff if isinstance(stuff, int) else 0)
    elif 'panoptic' not in setting.rsplit('.', 1)[-1] and not head.get('class_agnostic'):
        number = head.get('num_classes')
        number = _default_num_classes(head) if number is None else number
        if isinstance(number, int):
            yield f'{setting}.num_classes', number


def check_heads(cfg: Config, source: Source, classes: tuple[str, ...]) -> None:
    """Check the number of classes of each head of the model.

    Args:
        cfg (Config): The config.
        source (Source): A data set that the model is trained on or tested with.
        classes (tuple[str, ...]): Its class names.

    Raises:
        SettingError: If a head has another number.
    """
    model = cfg.get('model')
    if not isinstance(model, Mapping) or source.config.get('return_classes'):
        return
    text = {'language_model', 'text_encoder'}
    if any(key in text for key in _keys(model)):
        # The classes of an open-vocabulary detector are words of a prompt.
        return
    for setting, head in _heads(model, 'model'):
        for name, number in _numbers_of_classes(setting, head):
            if number != len(classes):
                raise SettingError(
                    f'{name}={number}, but {source.setting} has {len(classes)} classes: '
                    f'{listed(classes)}. Must be {len(classes)}, or metainfo.classes must have '
                    f'{number} names.'
                )


def _keys(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield key
            yield from _keys(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _keys(value)


def check_same_classes(first: Source, other: Source, names: dict[str, tuple[str, ...]]) -> None:
    """Check that two data sets have the same classes in the same order.

    Args:
        first (Source): A data set.
        other (Source): Another one.
        names (dict[str, tuple[str, ...]]): Class names of each, by its setting.

    Raises:
        SettingError: If they do not.
    """
    one, two = names[first.setting], names[other.setting]
    if one != two:
        raise SettingError(
            f'{other.setting}.metainfo.classes=({listed(two)}), but {first.setting} has '
            f'({listed(one)}). Must be the same names in the same order.'
        )


def predicts_masks(cfg: Config) -> bool:
    """Return True unless the model is known to predict boxes alone.

    Args:
        cfg (Config): The config.

    Returns:
        bool: False for a detector of MMDetection without any head for masks.
    """
    model = cfg.get('model')
    if not isinstance(model, Mapping):
        return True
    for key in ('detector', 'module'):
        if isinstance(model.get(key), Mapping):
            return predicts_masks(Config(dict(model=model[key])))
    roi_head = model.get('roi_head')
    heads = [head for _, head in _heads(model, 'model')]
    kinds = [resolve(MODELS, node) for node in (model, *heads)]
    if None in kinds or any(not kind.__module__.startswith('mmdet.models.') for kind in kinds):
        return True
    if any(head.get('num_things_classes') is not None for head in heads):
        return True
    if isinstance(roi_head, Mapping):
        return bool(roi_head.get('mask_head'))
    if isinstance(model.get('bbox_head'), Mapping) and not model.get('mask_head'):
        kind = resolve(MODELS, model['bbox_head'])
        return kind is None or any(word in kind.__name__ for word in ('Ins', 'Mask', 'Seg'))
    return True
