"""Check that heads, metainfo and annotation files have the same classes."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from mmdet.registry import MODELS
from mmengine.config import Config

from ..checks import invalid
from ..errors import SettingError
from ..utils.type_names import is_stock
from .coco_file import CocoFile
from .rows import Shown, listed, repeated, shown
from .sources import Source, resolve

# Heads whose num_classes is the number of the data set's classes. An rpn_head has one class, a
# backbone those of its pretraining, a semantic_head those of its maps.
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


def check_no_text(source: Source) -> None:
    """Refuse a text as class names, whose letters would be the names."""
    if isinstance(source.classes, str):
        wanted = f'a list, as ({source.classes!r},) with a comma for one class, or a file of names'
        raise invalid(f'{source.setting}.metainfo.classes', source.classes, wanted)


def class_names(source: Source) -> tuple[str, ...] | None:
    """Return the class names of a data set, None if the data set finds them by itself."""
    classes, setting = source.classes, f'{source.setting}.metainfo.classes'
    if classes is None:
        return None
    check_no_text(source)
    wrong = not isinstance(classes, (list, tuple)) or [x for x in classes if not isinstance(x, str)]
    if wrong or not classes:
        raise invalid(setting, shown(classes), 'a list of class names')
    twice = repeated(classes)
    if twice is not None:
        raise invalid(setting, shown(classes), f'different names; {twice!r} stands twice')
    return tuple(classes)


def classes_of(sources: list[Source], names: dict[str, tuple[str, ...]]) -> tuple | None:
    """Return the class names of the first data set that has some.

    Args:
        sources (list[Source]): The data sets.
        names (dict[str, tuple[str, ...]]): Class names of each that has some, by setting.
    """
    return next((names[x.setting] for x in sources if x.setting in names), None)


def categories_in_use(file: CocoFile, source: Source, classes: tuple[str, ...]) -> set:
    """Return the ids of the categories in use, if the classes of a data set agree with its file.

    MMDetection numbers classes in the order of the *file*, not of ``metainfo.classes``. If the
    orders differ, or the file lacks a name, later classes are drawn and listed under wrong names.
    A file to train on may lack the last classes, as in a ConcatDataset: no number changes.
    """
    setting = f'{source.setting}.metainfo.classes'
    if source.split == 'train' and file.names and tuple(file.names) == classes[: len(file.names)]:
        return file.category_ids(classes)
    missing = [name for name in classes if name not in file.names]
    if missing:
        value = Shown(f'({listed(classes)})')
        if (source.config.get('metainfo') or {}).get('classes') is None and source.kind is not None:
            own = f"the {len(classes)} of {source.kind.__name__}'s own METAINFO"
            value = Shown(f'None (not set, so {own})')
        wanted = f'names of the categories of ann_file={file.path}, in its order'
        has = f'it has {listed(file.names)}, and lacks {listed(missing)}'
        raise invalid(setting, value, f'{wanted}: {has}')
    names = [name for name in file.names if name in set(classes)]
    twice = repeated(names)
    if twice is not None:
        raise SettingError(
            f'ann_file={file.path}: {twice!r} is the name of {names.count(twice)} categories. Must '
            'be a different name for each.'
        )
    if tuple(names) != classes:
        wanted = (
            f'({listed(names)}), as in ann_file={file.path}: MMDetection numbers classes by the '
            'file, and another order mixes names up'
        )
        raise invalid(setting, Shown(f'({listed(classes)})'), wanted)
    return file.category_ids(classes)


def _number(head: Mapping, name: str) -> int | None:
    """Return the value or default of a head's setting, None if a user's own class defines it."""
    kind = resolve(MODELS, head)
    for one in kind.__mro__ if kind else ():
        init = vars(one).get('__init__')
        found = init and inspect.signature(init).parameters.get(name)
        if found:
            value = head.get(name)
            value = found.default if value is None else value
            return value if isinstance(value, int) and is_stock(one) else None
    return None


def _heads(node: Any, setting: str) -> Iterator[tuple[str, Mapping]]:
    """Iterate over the heads in a config, at any depth, with their settings."""
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
    """Iterate over the numbers of classes of a head, with their settings."""
    things, stuff = head.get('num_things_classes'), head.get('num_stuff_classes')
    if isinstance(things, int):
        if _number(head, 'num_things_classes') is not None:
            yield f'{setting}.num_things_classes', things + (stuff if isinstance(stuff, int) else 0)
    elif 'panoptic' not in setting.rsplit('.', 1)[-1] and not head.get('class_agnostic'):
        number = _number(head, 'num_classes')
        if number is not None:
            yield f'{setting}.num_classes', number


def has_classes(cfg: Config) -> bool:
    """Return False for a model without a head of classes, such as an RPN."""
    model = cfg.get('model')
    return not isinstance(model, Mapping) or next(_heads(model, 'model'), None) is not None


def check_heads(
    cfg: Config, source: Source, classes: tuple[str, ...], of_proposals: bool = False
) -> None:
    """Refuse heads of the model whose number of classes is not that of a data set.

    Args:
        cfg (Config): The config.
        source (Source): The data set.
        classes (tuple[str, ...]): Its classes.
        of_proposals (bool): True if only proposals are evaluated on it. A head may then have fewer
            classes, such as one for all objects. Defaults to False.
    """
    model = cfg.get('model')
    if not isinstance(model, Mapping):
        return
    text = {'language_model', 'text_encoder'}
    if any(key in text for key in _keys(model)):
        # The classes of an open-vocabulary detector stand in a prompt.
        return
    for setting, head in _heads(model, 'model'):
        for name, number in _numbers_of_classes(setting, head):
            if number > len(classes) or number < len(classes) and not of_proposals:
                wanted = (
                    f'{len(classes)}, as {source.setting} has {len(classes)} classes: '
                    f'{listed(classes)}; or metainfo.classes must have {number} names'
                )
                raise invalid(name, number, wanted)


def _keys(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield key
            yield from _keys(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _keys(value)


def check_same_classes(first: Source, other: Source, names: dict[str, tuple[str, ...]]) -> None:
    """Refuse two data sets with different classes, or in another order.

    Args:
        first (Source): A data set.
        other (Source): Another data set.
        names (dict[str, tuple[str, ...]]): Class names of each, by setting.
    """
    one, two = names[first.setting], names[other.setting]
    if one != two:
        wanted = f'({listed(one)}), the classes of {first.setting} in the same order'
        raise invalid(f'{other.setting}.metainfo.classes', Shown(f'({listed(two)})'), wanted)


def predicts_masks(cfg: Config) -> bool:
    """Return False for a detector of MMDetection without a mask head, True for any other."""
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
