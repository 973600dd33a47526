"""Write work folders with the logs of runs that never ran."""

import json
import math

SGD = dict(
    optimizer='SGD',
    lr=0.02,
    warmup=500,
    batch=16,
    epochs=12,
    seed=0,
    ranks=8,
    per_epoch=100,
    interval=50,
)
SHORT = dict(SGD, epochs=3)
# CocoMetric's line in the text log.
EMPTY = 'The testing results of the whole dataset is empty.'


def config(s):
    """Return a dumped config of this project."""
    return f"""
train_cfg = dict(type='GlobalBatchTrainLoop', max_epochs={s['epochs']},
                 global_batch_size={s['batch']})
train_dataloader = dict(batch_size=2)
val_dataloader = dict(batch_size=1)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='{s['optimizer']}', lr={s['lr']}))
default_hooks = dict(lr=dict(type='WarmupStepLRHook', warmup_iters={s['warmup']}))
randomness = dict(seed={s['seed']})
work_dir = 'anywhere'
"""


def stock_config(s, **more):
    """Return a dumped config of MMDetection, which has no global batch."""
    text = f"""
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs={s['epochs']})
train_dataloader = dict(batch_size=2)
val_dataloader = dict(batch_size=1)
optim_wrapper = dict(optimizer=dict(type='{s['optimizer']}', lr={s['lr']}))
randomness = dict(seed={s['seed']})
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end={s['warmup']}),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11]),
]
"""
    return text + ''.join(f'{key} = {value!r}\n' for key, value in more.items())


def updates(s, first, last, loss=None, time=0.5):
    """Return the logged records of the updates from first to last."""
    per_epoch, interval = s['per_epoch'], s['interval']
    loss = loss or (lambda update: 4.0 / math.sqrt(update))
    return [
        dict(
            lr=s['lr'],
            loss=loss(update),
            time=time,
            epoch=(update - 1) // per_epoch + 1,
            iter=update,
            step=update,
        )
        for update in range(first, last + 1)
        if ((update - 1) % per_epoch + 1) % interval == 0
    ]


def evaluation(epoch, box, mask):
    return {'coco/bbox_mAP': box, 'coco/segm_mAP': mask, 'time': 0.1, 'step': epoch}


def whole(s, ap=0.38, loss=None, time=0.5, epochs=None):
    """Return the records of a run whose AP rises to `ap` and jumps at the LR decay."""
    records = []
    for epoch in range(1, (epochs or s['epochs']) + 1):
        records += updates(s, (epoch - 1) * s['per_epoch'] + 1, epoch * s['per_epoch'], loss, time)
        now = ap * (1 - math.exp(-epoch / 3)) * (1.0 if epoch > 8 else 0.85)
        records.append(evaluation(epoch, round(now, 3), round(now * 0.92, 3)))
    return records


def diverged(update):
    """Return the end of a diverged run, as in largebatch.json."""
    return dict(how='diverged', update=update, epoch=1, message='Diverged.')


def write(work_dir, records, s=SGD, timestamp='20260102_030405', lines=(), text=None, **record):
    """Write one start with its largebatch.json, and return the work folder."""
    folder = work_dir / timestamp
    (folder / 'vis_data').mkdir(parents=True)
    (folder / 'vis_data/config.py').write_text(text or config(s))
    if records:
        written = ''.join(f'{json.dumps(record)}\n' for record in records)
        (folder / 'vis_data/scalars.json').write_text(written)
    head = '2026/01/02 03:04:05 - mmengine - INFO - '
    log = [
        f'{head}\n{"-" * 60}\nSystem environment:\n    GPU 0: none\n\nRuntime environment:',
        f'    seed: {s["seed"]}\n    Distributed training: True\n    GPU number: {s["ranks"]}',
        '-' * 60,
        f'{head}Epoch(train)  [1][ 50/{s["per_epoch"]}]  lr: 1.0000e-02',
        *(head + line for line in lines),
    ]
    (folder / f'{timestamp}.log').write_text('\n'.join(log) + '\n')
    if record:
        (folder / 'largebatch.json').write_text(json.dumps(record))
    return work_dir


def evaluated(epoch, text):
    """Return the line of an evaluation in the text log."""
    return f'Epoch(val) [{epoch}][8/8]    {text}data_time: 0.0010  time: 0.1000'
