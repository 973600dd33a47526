"""Features that users' configs have, for trainings beside MMEngine's own loop."""

from dataclasses import dataclass, field

from helpers.runs import STOCK, merged


@dataclass
class Row:
    """A feature.

    Args:
        name (str): Its name.
        changes (dict): What it changes in the config, for both loops.
        stock (dict): For MMEngine's loop alone.
        ours (dict): For GlobalBatchTrainLoop alone.
        own_batches (bool): MMEngine's loop keeps the batch sampler of the config; the pictures are
            not flipped then, as it would draw the flips from another generator.
        refused (str): A part of the line that refuses it under GlobalBatchTrainLoop.
        needs (str): A package without which there is no such feature.
        saved_again (bool): Stock saves a checkpoint by update once more after an evaluation, from
            after its epoch's end; ours stays from before it, and resumes to that end.
        short (bool): Part of the short form.
    """

    name: str
    changes: dict = field(default_factory=dict)
    stock: dict = field(default_factory=dict)
    ours: dict = field(default_factory=dict)
    own_batches: bool = False
    refused: str = ''
    needs: str = ''
    saved_again: bool = False
    short: bool = False


ASPECT = dict(type='AspectRatioBatchSampler')
NO_FLIP = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='PackDetInputs'),
]
FLIP = [*NO_FLIP[:3], dict(type='RandomFlip', prob=0.5), NO_FLIP[3]]


def loader(name, short=False, refused='', **options):
    """A row of options of the training's loader."""
    changes = dict(train_dataloader=options)
    return Row(f'loader: {name}', changes, own_batches=True, short=short, refused=refused)


def hook(name, *hooks, short=False, **changes):
    """A row of hooks that a user adds."""
    return Row(name, dict(custom_hooks=list(hooks), **changes), short=short)


def checkpoint(name, short=False, saved_again=False, **options):
    """A row of options of the checkpoint hook."""
    changes = dict(default_hooks=dict(checkpoint=options))
    return Row(f'checkpoint: {name}', changes, saved_again=saved_again, short=short)


def schedule(name, *schedulers, short=False, **changes):
    """A row of schedulers."""
    return Row(f'schedule: {name}', dict(param_scheduler=list(schedulers), **changes), short=short)


def optimizer(name, short=False, clip_grad=None, **options):
    """A row of an optimizer."""
    clip_grad = clip_grad and dict(clip_grad, _delete_=True)
    wrapper = dict(optimizer=dict(options, _delete_=True), clip_grad=clip_grad)
    return Row(f'optimizer: {name}', dict(optim_wrapper=wrapper), short=short)


def coco(split='train', **options):
    """The data of the base, for a wrapper."""
    return dict(
        type='CocoDataset',
        data_root='{{$SHAPES:data/shapes}}/',
        ann_file=f'annotations/instances_{split}.json',
        data_prefix=dict(img=f'{split.split("_")[0]}/'),
        metainfo=dict(classes=('circle', 'square', 'triangle')),
        **dict(filter_cfg=dict(filter_empty_gt=True, min_size=8), pipeline=FLIP) | options,
    )


def data(name, short=False, **options):
    """A row of another training set."""
    changes = dict(train_dataloader=dict(dataset=dict(options, _delete_=True)))
    return Row(f'data: {name}', changes, short=short)


WARMUP = dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=3)
SGD = dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4)
MIX = [
    dict(type='Mosaic', img_scale=(64, 64), pad_val=114.0, prob=1.0),
    dict(type='RandomAffine', scaling_ratio_range=(0.8, 1.2), border=(-32, -32)),
    *FLIP[2:],
]
MIXED = dict(type='MultiImageMixDataset', dataset=coco(pipeline=NO_FLIP[:2]), pipeline=MIX)
EMA = dict(type='EMAHook', momentum=0.05, priority=49)
SCORE = dict(monitor='mean_score', rule='greater')
TENSORBOARD = dict(type='TensorboardVisBackend')

TABLE = [
    Row('plain', short=True),
    Row('no evaluation', dict(val_cfg=None, val_dataloader=None, val_evaluator=None)),
    Row('val_begin', dict(train_cfg=dict(val_begin=2))),
    Row('val_interval', dict(train_cfg=dict(val_interval=2))),
    Row('dynamic_intervals', dict(train_cfg=dict(val_interval=2, dynamic_intervals=[(2, 1)]))),
    # The loader, its samplers and its workers.
    loader('no batch sampler', batch_sampler=None),
    loader('drop_last', batch_sampler=None, drop_last=True, batch_size=3, short=True),
    loader('drop_last of no batch sampler, False', batch_sampler=None, drop_last=False),
    loader('last batch kept', batch_sampler=None, batch_size=3),
    # Of a multiple of the batch, mmdet's drop_last leaves out a whole batch that its length counts;
    # ours is as long as mmdet says.
    loader(
        'drop_last of AspectRatioBatchSampler, not a multiple',
        batch_sampler=dict(drop_last=True),
        batch_size=3,
        short=True,
    ),
    loader('AspectRatioBatchSampler, not a multiple', batch_size=3),
    loader('shuffle', sampler=dict(shuffle=False)),
    loader('seed of the sampler', sampler=dict(seed=7), short=True),
    loader('round_up', sampler=dict(round_up=False)),
    loader('num_batch_per_epoch', num_batch_per_epoch=3, short=True),
    loader('collate_fn', collate_fn=dict(type='collate_reversed'), short=True),
    loader('worker_init_fn', num_workers=1, worker_init_fn=dict(type='start_worker')),
    loader('prefetch_factor, timeout', num_workers=2, prefetch_factor=1, timeout=60),
    loader('pin_memory', pin_memory=False),
    Row('2 workers', dict(train_dataloader=dict(num_workers=2)), short=True),
    Row(
        '2 persistent workers', dict(train_dataloader=dict(num_workers=2, persistent_workers=True))
    ),
    loader('InfiniteSampler', sampler=dict(type='InfiniteSampler'), refused='InfiniteSampler'),
    loader(
        'ClassAwareSampler',
        sampler=dict(type='ClassAwareSampler', _delete_=True),
        refused="train_dataloader.sampler.type='ClassAwareSampler'",
        short=True,
    ),
    # Data sets and their wrappers.
    data('Concat', type='ConcatDataset', datasets=[coco(), coco('val')], short=True),
    data('Repeat', type='RepeatDataset', times=2, dataset=coco()),
    data('ClassBalanced', type='ClassBalancedDataset', oversample_thr=0.9, dataset=coco()),
    data('MultiImageMix', **MIXED, short=True),
    Row(
        'data: MultiImageMix, 2 persistent workers, its Mosaic taken out by PipelineSwitchHook',
        dict(
            train_dataloader=dict(
                num_workers=2, persistent_workers=True, dataset=dict(MIXED, _delete_=True)
            ),
            custom_hooks=[
                dict(
                    type='PipelineSwitchHook',
                    switch_epoch=1,
                    switch_pipeline=MIX[1:],
                )
            ],
        ),
    ),
    data(
        'pictures without objects',
        **coco('train_half_empty', filter_cfg=dict(filter_empty_gt=False)),
        short=True,
    ),
    Row(
        'data: a loss that is absent for some micro-batches',
        dict(
            model=dict(type='AbsentLoss'),
            train_dataloader=dict(
                batch_size=2,
                dataset=coco('train_half_empty', filter_cfg=dict(filter_empty_gt=False)),
            ),
        ),
        ours=dict(train_cfg=dict(global_batch_size=2)),
        short=True,
    ),
    # Schedules.
    schedule('none'),
    schedule(
        'MultiStepLR by iteration',
        WARMUP,
        dict(type='MultiStepLR', by_epoch=False, milestones=[4, 9], gamma=0.5),
    ),
    schedule(
        'CosineAnnealingLR, convert_to_iter_based',
        dict(type='CosineAnnealingLR', T_max=3, by_epoch=True, convert_to_iter_based=True),
        short=True,
    ),
    schedule('CosineAnnealingLR by epoch', dict(type='CosineAnnealingLR', T_max=3, by_epoch=True)),
    schedule(
        'warmup, then cosine from an epoch on',
        dict(type='LinearLR', start_factor=0.1, by_epoch=True, end=1, convert_to_iter_based=True),
        dict(
            type='CosineAnnealingLR',
            begin=1,
            end=3,
            T_max=2,
            by_epoch=True,
            convert_to_iter_based=True,
        ),
    ),
    schedule('OneCycleLR', dict(type='OneCycleLR', eta_max=0.03, total_steps=15, by_epoch=False)),
    schedule(
        'PolyLR, ExponentialLR',
        dict(type='PolyLR', power=0.9, begin=0, end=10, by_epoch=False),
        dict(type='ExponentialLR', gamma=0.9, by_epoch=True),
    ),
    schedule(
        'ReduceOnPlateauLR',
        WARMUP,
        dict(type='ReduceOnPlateauLR', patience=0, factor=0.5, threshold=0.5, **SCORE),
        short=True,
    ),
    schedule(
        'momentum',
        WARMUP,
        dict(type='CosineAnnealingMomentum', T_max=3, by_epoch=True, convert_to_iter_based=True),
    ),
    schedule(
        'ReduceOnPlateauMomentum',
        dict(type='ReduceOnPlateauMomentum', patience=0, factor=0.5, threshold=0.5, **SCORE),
    ),
    Row(
        'schedule: WarmupStepLRHook',
        dict(
            param_scheduler=None,
            default_hooks=dict(lr=dict(type='WarmupStepLRHook', warmup_iters=3, milestones=[2])),
        ),
        short=True,
    ),
    # Optimizers, clipping, what is trained.
    optimizer('SGD with Nesterov, no clipping', **dict(SGD, nesterov=True)),
    optimizer('clip_grad by value', **SGD, clip_grad=dict(type='value', clip_value=0.01)),
    optimizer('clip_grad with a small norm', **SGD, clip_grad=dict(max_norm=0.1), short=True),
    optimizer('AdamW', type='AdamW', lr=0.001, weight_decay=0.05),
    optimizer('LAMB', type='LAMB', lr=0.005, weight_decay=1e-4, short=True),
    optimizer('LARS', type='LARS', lr=0.1, momentum=0.9, weight_decay=5e-4),
    Row(
        'optimizer: paramwise_cfg',
        dict(
            optim_wrapper=dict(
                paramwise_cfg=dict(
                    bias_lr_mult=2.0,
                    norm_decay_mult=0.0,
                    custom_keys={'backbone': dict(lr_mult=0.1)},
                )
            )
        ),
    ),
    Row(
        'optimizer: MergedGroupsConstructor',
        dict(
            optim_wrapper=dict(
                constructor='MergedGroupsConstructor', paramwise_cfg=dict(norm_decay_mult=0.0)
            )
        ),
    ),
    Row('freezing', dict(model=dict(backbone=dict(frozen_stages=1, norm_eval=True)))),
    Row(
        'unfreezing',
        dict(
            model=dict(backbone=dict(frozen_stages=1)),
            custom_hooks=[dict(type='UnfreezeBackbone', unfreeze_epoch=1)],
        ),
    ),
    Row('own train_step', dict(model=dict(type='OwnStep')), short=True),
    Row('accumulative_counts', dict(optim_wrapper=dict(accumulative_counts=2)), refused='global'),
    # Hooks.
    hook('EMA', dict(EMA, type='EMAHook', update_buffers=True), short=True),
    hook('EMA: ExpMomentumEMA', dict(EMA, ema_type='ExpMomentumEMA', gamma=100)),
    hook('EMA: StochasticWeightAverage', dict(type='EMAHook', ema_type='StochasticWeightAverage')),
    hook('EMA: from an update on', dict(EMA, begin_iter=7)),
    hook('EMA: from an epoch on, every second update', dict(EMA, begin_epoch=2, interval=2)),
    hook(
        'early stopping',
        dict(type='EarlyStoppingHook', patience=1, min_delta=0.9, **SCORE),
        train_cfg=dict(max_epochs=5),
        short=True,
    ),
    hook(
        'early stopping at a threshold',
        dict(type='EarlyStoppingHook', stopping_threshold=0.0, **SCORE),
    ),
    hook('stop_training', dict(type='StopAfterEpochs', epochs=2)),
    hook('NumClassCheckHook', dict(type='NumClassCheckHook')),
    hook('SyncBuffersHook', dict(type='SyncBuffersHook')),
    hook('CheckInvalidLossHook', dict(type='CheckInvalidLossHook', interval=2)),
    hook('EmptyCacheHook', dict(type='EmptyCacheHook', after_iter=True)),
    hook('ProfilerHook', dict(type='ProfilerHook', by_epoch=False, profile_times=2)),
    Row(
        'DetVisualizationHook',
        dict(default_hooks=dict(visualization=dict(type='DetVisualizationHook', draw=True))),
    ),
    Row('no timer', dict(default_hooks=dict(timer=None))),
    Row('no sampler_seed', dict(default_hooks=dict(sampler_seed=None))),
    Row('no param_scheduler', dict(default_hooks=dict(param_scheduler=None))),
    # Checkpoints. Three epochs of five updates.
    checkpoint('interval', interval=2),
    checkpoint('interval, no save_last', interval=2, save_last=False, short=True),
    checkpoint('in updates', interval=4, by_epoch=False, max_keep_ckpts=2),
    checkpoint('in updates, no save_last', interval=4, by_epoch=False, save_last=False),
    checkpoint('never', interval=-1, save_last=False),
    checkpoint('no optimizer', save_optimizer=False),
    checkpoint('no schedulers', save_param_scheduler=False),
    checkpoint('max_keep_ckpts', max_keep_ckpts=1),
    checkpoint('save_begin', save_begin=2),
    checkpoint('filename_tmpl', filename_tmpl='at_{}.pth', max_keep_ckpts=2),
    checkpoint('out_dir', out_dir='{{$SHAPES:data/shapes}}/elsewhere'),
    checkpoint('backend_args', backend_args=dict(backend='local'), max_keep_ckpts=1),
    checkpoint('save_best', save_best='mean_score', rule='less', max_keep_ckpts=1, short=True),
    checkpoint(
        'save_best in updates',
        saved_again=True,
        save_best='mean_score',
        rule='greater',
        by_epoch=False,
    ),
    checkpoint(
        'save_best of several, with keys',
        save_best=['mean_score', 'coco/bbox_mAP'],
        greater_keys=['mean_score', 'map'],
    ),
    checkpoint('save_best auto', save_best='auto', rule=['less']),
    checkpoint(
        'published_keys',
        save_best='mean_score',
        rule='greater',
        published_keys=['meta', 'state_dict'],
    ),
    # Logs.
    Row('vis_backends: none', dict(vis_backends=[], visualizer=dict(vis_backends=[])), short=True),
    Row(
        'vis_backends: TensorBoard',
        dict(vis_backends=[TENSORBOARD], visualizer=dict(vis_backends=[TENSORBOARD])),
        needs='tensorboard',
    ),
    Row(
        'log_processor',
        dict(
            log_processor=dict(
                window_size=2,
                by_epoch=False,
                custom_cfg=[
                    dict(data_src='loss', log_name='max', method_name='max', window_size='global')
                ],
            )
        ),
    ),
    Row(
        'log_processor by epoch',
        dict(
            log_processor=dict(
                custom_cfg=[dict(data_src='loss', method_name='mean', window_size='epoch')],
                log_with_hierarchy=True,
            )
        ),
    ),
    Row('logger', dict(default_hooks=dict(logger=dict(interval=2, ignore_last=False)))),
    Row('logger in updates', dict(default_hooks=dict(logger=dict(log_metric_by_epoch=False)))),
    Row('logger: interval_exp_name', dict(default_hooks=dict(logger=dict(interval_exp_name=2)))),
    # The runner, and what this package adds without a part in the training.
    Row('randomness', dict(randomness=dict(seed=3, deterministic=True))),
    Row('activation_checkpointing', dict(activation_checkpointing=['backbone.layer1'])),
    Row('efficient_conv_bn_eval', dict(efficient_conv_bn_eval=['backbone'])),
    Row(
        'DivergenceHook, TrustRatioHook',
        ours=dict(
            default_hooks=dict(
                divergence=dict(type='DivergenceHook', spike=100.0),
                trust_ratio=dict(type='TrustRatioHook', interval=2),
            )
        ),
    ),
    Row(
        'our hooks taken out',
        ours=dict(default_hooks=dict(lr=None, preemption=None, divergence=None)),
        short=True,
    ),
]


def stock_part(row):
    """Settings with which MMEngine's loop draws as the global batch does."""
    if row.own_batches:
        return STOCK
    keyed = dict(
        batch_sampler=dict(_delete_=True, type='KeyedBatchSampler', of=dict(type=ASPECT['type']))
    )
    return merged(STOCK, dict(train_dataloader=keyed))
