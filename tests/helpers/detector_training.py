"""Short trainings of the detectors of detectors.py."""

from mmengine.config import Config

from helpers.detectors import CLASSES, detector


def _dataset(name, root):
    masks = name.startswith('mask')
    load = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=masks),
    ]
    change = [
        dict(type='Resize', scale=(64, 64), keep_ratio=True),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackDetInputs'),
    ]
    mosaic = [
        dict(type='Mosaic', img_scale=(32, 32), pad_val=114.0),
        dict(type='RandomFlip', prob=0.5),
        dict(type='Pad', pad_to_square=True, pad_val=dict(img=(114.0, 114.0, 114.0))),
        dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
        dict(type='PackDetInputs'),
    ]
    mixed = name == 'yolox'
    pictures = dict(
        type='CocoDataset',
        data_root=f'{root}/',
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        metainfo=dict(classes=CLASSES),
        filter_cfg=dict(filter_empty_gt=True, min_size=8),
        pipeline=load if mixed else load + change,
    )
    if mixed:
        return dict(type='MultiImageMixDataset', dataset=pictures, pipeline=mosaic)
    return pictures


def training(name, root, work_dir, micro_batches=8, updates=20, micro_batch=2, **changes):
    """Config of a run: updates of `micro_batches` x `micro_batch` pictures, without evaluation.

    Args:
        name (str): A key of `DETECTORS`.
        root (Path): Folder of pictures, as `tools/make_shapes.py` writes it.
        work_dir (Path): Work folder.
        micro_batches (int): Micro-batches of an update; 0 for MMEngine's own loop.
        updates (int): Updates after which the run ends.
        micro_batch (int): Pictures of a micro-batch.
        **changes: What else differs, merged into the config.
    """
    loop = dict(type='EpochBasedTrainLoop', max_epochs=updates)
    if micro_batches:
        loop = dict(
            type='GlobalBatchTrainLoop',
            max_epochs=updates,
            max_updates=updates,
            global_batch_size=micro_batch * micro_batches,
        )
    cfg = Config(
        dict(
            default_scope='mmdet',
            work_dir=str(work_dir),
            model=detector(name),
            train_dataloader=dict(
                batch_size=micro_batch,
                num_workers=0,
                persistent_workers=False,
                sampler=dict(type='DefaultSampler', shuffle=True),
                batch_sampler=dict(type='AspectRatioBatchSampler') if name != 'yolox' else None,
                dataset=_dataset(name, root),
            ),
            train_cfg=loop,
            optim_wrapper=dict(
                type='OptimWrapper',
                optimizer=dict(type='SGD', lr=0.005, momentum=0.9, weight_decay=1e-4),
                clip_grad=dict(max_norm=10, norm_type=2),
            ),
            default_hooks=dict(
                timer=dict(type='IterTimerHook'),
                logger=dict(type='LoggerHook', interval=100),
                checkpoint=dict(type='AtomicCheckpointHook', interval=1000),
                sampler_seed=dict(type='DistSamplerSeedHook'),
            ),
            env_cfg=dict(dist_cfg=dict(backend='gloo')),
            randomness=dict(seed=0),
            log_level='WARNING',
        )
    )
    cfg.merge_from_dict(changes)
    return cfg
