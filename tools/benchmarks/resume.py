"""The cost of resuming in the middle of an epoch; see loop.py."""

import multiprocessing
from pathlib import Path
from time import perf_counter

import torch
from mmcv.transforms import LoadImageFromFile
from mmdet.registry import MODELS, TRANSFORMS
from mmengine.config import Config
from mmengine.dataset import BaseDataset, DefaultSampler
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner

from mmdet_largebatch import SettingError
from mmdet_largebatch.global_batch import GlobalBatchSampler

RECIPE = Path(__file__).parents[2] / 'configs/shapes/mask-rcnn_r18_fpn_2xb8-sgd-1x_shapes.py'
LOOPS = ('GlobalBatchTrainLoop', 'EpochBasedTrainLoop', 'IterBasedTrainLoop')
DONE, UPDATES = 900, 917
# An update has two micro-batches of one image; 131 images, each 14 times, are 917 updates.
COUNT, IMAGES, TIMES = 2, 131, 14
# COCO train2017 after mmdet's filter, and the 64 x 2 of its recipes.
COCO_IMAGES, COCO_COUNT, COCO_MICRO_BATCH = 117_266, 64, 2


def recipe(shapes: Path, work_dir: Path, name: str, path: Path = RECIPE) -> Config:
    """Return a recipe on shapes for one process: micro-batches of one image, no validation."""
    cfg = Config.fromfile(path)
    cfg.work_dir = str(work_dir / name)
    cfg.experiment_name = cfg.visualizer.name = name
    cfg.log_level = 'ERROR'
    cfg.update({f'{a}_{b}': None for a in ('val', 'test') for b in ('dataloader', 'cfg')})
    cfg.val_evaluator = cfg.test_evaluator = None
    cfg.train_dataloader.dataset.data_root = f'{shapes}/'
    cfg.train_dataloader.update(batch_size=1, num_workers=0, persistent_workers=False)
    cfg.train_cfg.exact_sum = False
    return cfg


def at_loop_start(cfg: Config) -> Runner:
    """Return a runner that has done all that comes before its train loop."""
    runner = Runner.from_cfg(cfg)
    loop = runner.train_loop
    loop.run = lambda: None
    runner.train()
    del loop.run
    return runner


@TRANSFORMS.register_module()
class CountedImage(LoadImageFromFile):
    """Load an image and count it, in any process."""

    read = multiprocessing.Value('q', 0)

    def transform(self, results: dict) -> dict | None:
        """Load the image."""
        with self.read.get_lock():
            self.read.value += 1
        return super().transform(results)


@MODELS.register_module()
class OneWeight(BaseModel):
    """A model that takes no time: the mean of the pixels times a weight."""

    def __init__(self, data_preprocessor: dict) -> None:
        super().__init__(data_preprocessor)
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, inputs: torch.Tensor, data_samples: list, mode: str) -> dict:
        """Return the loss."""
        return dict(loss=inputs.mean() * self.weight)


class Marks(Hook):
    """Note time and images read at the end of given iterations; the last one ends the run."""

    priority = 'VERY_LOW'

    def __init__(self, iterations: list[int]) -> None:
        self.iterations, self.done, self.found = iterations, 0, []
        CountedImage.read.value = 0
        self.begin = perf_counter()

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        """Note both."""
        self.done += 1
        if self.done in self.iterations:
            self.found.append((perf_counter() - self.begin, CountedImage.read.value))
        if self.done == self.iterations[-1]:
            raise KeyboardInterrupt


def resume_config(loop: str, workers: int, shapes: Path, work_dir: Path, name: str) -> Config:
    """Return a run of 917 updates an epoch in which only the data takes time."""
    cfg = recipe(shapes, work_dir, name)
    cfg.model = dict(type='OneWeight', data_preprocessor=cfg.model.data_preprocessor)
    cfg.train_dataloader.update(num_workers=workers, persistent_workers=workers > 0)
    dataset = cfg.train_dataloader.dataset
    dataset.update(pipeline=[dict(type='CountedImage'), *dataset.pipeline[1:]], indices=IMAGES)
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=TIMES, dataset=dataset)
    del cfg.default_hooks['lr']
    if loop == 'GlobalBatchTrainLoop':
        cfg.train_cfg.global_batch_size = COUNT
    else:
        del cfg.default_hooks['divergence']
        cfg.optim_wrapper.accumulative_counts = COUNT
        length = dict(max_epochs=12) if 'Epoch' in loop else dict(max_iters=12 * COUNT * UPDATES)
        cfg.train_cfg = dict(type=loop, **length)
    return cfg


def resume(loop: str, workers: int, shapes: Path, work_dir: Path) -> list[tuple[float, int]]:
    """Resume at update 900 of 917.

    Returns:
        list[tuple[float, int]]: Seconds from the loop's start, and images read, until the first
        update is done; and until the first one on images that are new to the run.
    """
    name = f'resume-{loop}-{workers}'
    per_update = 1 if loop == 'GlobalBatchTrainLoop' else COUNT
    saved = at_loop_start(resume_config(loop, workers, shapes, work_dir, f'{name}-saved'))
    if len(saved.train_dataloader) != per_update * UPDATES:
        raise SettingError(f'--shapes {shapes}: too few images. Must be {IMAGES} to train on.')
    saved.train_loop._iter = per_update * DONE - 1
    saved.save_checkpoint(str(work_dir), f'{name}.pth', by_epoch=False)
    cfg = resume_config(loop, workers, shapes, work_dir, name)
    cfg.update(resume=True, load_from=str(work_dir / f'{name}.pth'))
    runner = at_loop_start(cfg)
    replayed = per_update * DONE if loop == 'EpochBasedTrainLoop' else 0
    marks = Marks(sorted({per_update, replayed + per_update}))
    runner.register_hook(marks)
    try:
        runner.train_loop.run()
    except KeyboardInterrupt:
        pass
    return [marks.found[0], marks.found[-1]]


def measure_resume(shapes: Path, work_dir: Path) -> list[list]:
    """Return a table's rows: loop, data workers, and the numbers of :func:`resume`."""
    rows = []
    for loop in LOOPS:
        for workers in (0, 2):
            (first, read), (new, read_new) = resume(loop, workers, shapes, work_dir)
            rows.append([loop, workers, f'{first:.2f}', read, f'{new:.2f}', read_new])
    return rows


class LikeCoco(BaseDataset):
    """As many entries as COCO has, without images: 7 objects of 24 corners each."""

    def load_data_list(self) -> list[dict]:
        """Return entries as mmdet's ``CocoDataset`` does, every fourth in portrait."""
        corners = torch.rand(7, 48).mul(640).round(decimals=2).tolist()
        objects = [
            dict(ignore_flag=0, bbox=polygon[:4], bbox_label=label, mask=[polygon])
            for label, polygon in enumerate(corners)
        ]
        sizes = [dict(width=480, height=640)] + 3 * [dict(width=640, height=480)]
        entries = [dict(img_path='', img_id=0, instances=objects, **size) for size in sizes]
        return [entries[number % 4] for number in range(COCO_IMAGES)]


def measure_sampler() -> list[list]:
    """Return rows of ranks, first update, and the sampler's seconds to it, at COCO's size."""
    sampler = GlobalBatchSampler(
        DefaultSampler(LikeCoco(), seed=0),
        COCO_MICRO_BATCH,
        COCO_COUNT * COCO_MICRO_BATCH,
        dict(type='AspectRatioBatchSampler'),
    )
    rows = []
    for ranks in (1, 8):
        for update in (0, DONE):
            sampler.ranks = ranks
            sampler.begin(0, 0, update)
            begin = perf_counter()
            for _ in zip(sampler.share, sampler, strict=False):
                pass
            rows.append([ranks, f'{update} of {len(sampler)}', f'{perf_counter() - begin:.2f}'])
    return rows
