"""What it costs to go on from a checkpoint in the middle of an epoch; see benchmark_loop.py."""

import multiprocessing
from functools import partial
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

RECIPE = Path(__file__).parents[1] / 'configs/shapes/mask-rcnn_r18_fpn_2xb8-sgd-1x_shapes.py'
DONE, UPDATES = 900, 917
# An update has two micro-batches of one picture; 131 pictures, each 14 times, are 917 updates.
COUNT, PICTURES, TIMES = 2, 131, 14
# COCO train2017 after mmdet's filter, and the 64 x 2 of its recipes.
COCO_PICTURES, COCO_COUNT, COCO_MICRO_BATCH = 117_266, 64, 2


def recipe(shapes: Path, work_dir: Path, name: str) -> Config:
    """The recipe on the shapes for one process, with micro-batches of one picture, without
    validation and data workers.

    Args:
        shapes (Path): Root folder of the shapes.
        work_dir (Path): Where a folder ``name`` takes the logs.
        name (str): Tells the runners of one process apart.

    Returns:
        Config: The config.
    """
    cfg = Config.fromfile(RECIPE)
    cfg.work_dir = str(work_dir / name)
    cfg.experiment_name = cfg.visualizer.name = name
    cfg.log_level = 'ERROR'
    for split in ('val', 'test'):
        for part in ('dataloader', 'cfg', 'evaluator'):
            cfg[f'{split}_{part}'] = None
    cfg.train_dataloader.dataset.data_root = f'{shapes}/'
    cfg.train_dataloader.update(batch_size=1, num_workers=0, persistent_workers=False)
    return cfg


def at_loop_start(cfg: Config) -> Runner:
    """A runner that has done all that comes before its train loop.

    Args:
        cfg (Config): The config.

    Returns:
        Runner: The runner; ``runner.train_loop.run()`` trains.
    """
    runner = Runner.from_cfg(cfg)
    loop = runner.train_loop
    loop.run = lambda: None
    runner.train()
    del loop.run
    return runner


@TRANSFORMS.register_module()
class CountedImage(LoadImageFromFile):
    """Loads a picture and counts it, whichever process does so."""

    read = multiprocessing.Value('q', 0)

    def transform(self, results: dict) -> dict | None:
        """Load the picture.

        Args:
            results (dict): What is known of it.

        Returns:
            dict, optional: The same with the picture.
        """
        with self.read.get_lock():
            self.read.value += 1
        return super().transform(results)


@MODELS.register_module()
class OneWeight(BaseModel):
    """A model that takes no time: the mean of the pixels times a weight."""

    def __init__(self, data_preprocessor: dict) -> None:
        super().__init__(data_preprocessor)
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(
        self, inputs: torch.Tensor, data_samples: list, mode: str
    ) -> dict[str, torch.Tensor]:
        """The loss.

        Args:
            inputs (torch.Tensor): Pictures, shape (n, 3, height, width).
            data_samples (list): Not used.
            mode (str): ``'loss'``.

        Returns:
            dict[str, torch.Tensor]: The loss, 0-d.
        """
        return dict(loss=inputs.mean() * self.weight)


class _Reached(Exception):
    """What was to be measured is measured."""


class Marks(Hook):
    """Notes when an iteration of the resumed run is done, and how many pictures were read by then.

    Args:
        iterations (list[int]): Which ones, counted from 1; after the last the training ends.
    """

    priority = 'VERY_LOW'

    def __init__(self, iterations: list[int]) -> None:
        self.iterations, self.done, self.found = iterations, 0, []
        CountedImage.read.value = 0
        self.begin = perf_counter()

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        """Note the time and the count.

        Args:
            runner (Runner): The runner.
            *args: Not used.
            **kwargs: Not used.
        """
        self.done += 1
        if self.done in self.iterations:
            self.found.append((perf_counter() - self.begin, CountedImage.read.value))
        if self.done == self.iterations[-1]:
            raise _Reached


def resume_config(loop: str, workers: int, shapes: Path, work_dir: Path, name: str) -> Config:
    """A run of 917 updates an epoch whose data is all of its work.

    Args:
        loop (str): The train loop.
        workers (int): Data workers.
        shapes (Path): Root folder of the shapes.
        work_dir (Path): Where the runner logs.
        name (str): Tells the runners of one process apart.

    Returns:
        Config: The config.
    """
    cfg = recipe(shapes, work_dir, name)
    cfg.model = dict(type='OneWeight', data_preprocessor=cfg.model.data_preprocessor)
    cfg.train_dataloader.update(num_workers=workers, persistent_workers=workers > 0)
    dataset = cfg.train_dataloader.dataset
    dataset.update(pipeline=[dict(type='CountedImage'), *dataset.pipeline[1:]], indices=PICTURES)
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

    Args:
        loop (str): The train loop.
        workers (int): Data workers.
        shapes (Path): Root folder of the shapes.
        work_dir (Path): Where the runners log.

    Returns:
        list[tuple[float, int]]: Seconds from the loop's start, and pictures read, until the first
        update is done; and until the first that learns from pictures not passed before.
    """
    name = f'resume-{loop}-{workers}'
    config = partial(resume_config, loop, workers, shapes, work_dir)
    per_update = 1 if loop == 'GlobalBatchTrainLoop' else COUNT
    saved = at_loop_start(config(name=f'{name}-saved'))
    if len(saved.train_dataloader) != per_update * UPDATES:
        raise SettingError(
            f'--shapes {shapes}: too few pictures to train on. Must be {PICTURES} at least.'
        )
    saved.train_loop._iter = per_update * DONE - 1
    saved.save_checkpoint(str(work_dir), f'{name}.pth', by_epoch=False)
    cfg = config(name=name)
    cfg.update(resume=True, load_from=str(work_dir / f'{name}.pth'))
    runner = at_loop_start(cfg)
    replayed = per_update * DONE if loop == 'EpochBasedTrainLoop' else 0
    marks = Marks(sorted({per_update, replayed + per_update}))
    runner.register_hook(marks)
    try:
        runner.train_loop.run()
    except _Reached:
        pass
    return [marks.found[0], marks.found[-1]]


def measure_resume(shapes: Path, work_dir: Path) -> list[list]:
    """Resume each loop, with and without data workers.

    Args:
        shapes (Path): Root folder of the shapes.
        work_dir (Path): Where the runners log.

    Returns:
        list[list]: Rows of a table: loop, data workers, and what :func:`resume` gives.
    """
    rows = []
    for loop in ('GlobalBatchTrainLoop', 'EpochBasedTrainLoop', 'IterBasedTrainLoop'):
        for workers in (0, 2):
            (first, read), (new, read_new) = resume(loop, workers, shapes, work_dir)
            rows.append([loop, workers, f'{first:.2f}', read, f'{new:.2f}', read_new])
    return rows


class LikeCoco(BaseDataset):
    """As many entries as COCO has, none with a picture: 7 objects of 24 corners each."""

    def load_data_list(self) -> list[dict]:
        """The entries, every fourth in portrait.

        Returns:
            list[dict]: As mmdet's ``CocoDataset`` makes them.
        """
        rng = torch.Generator().manual_seed(0)
        entries = []
        for number in range(64):
            corners = (640 * torch.rand(7, 48, generator=rng)).round(decimals=2).tolist()
            objects = [
                dict(ignore_flag=0, bbox=polygon[:4], bbox_label=label, mask=[polygon])
                for label, polygon in enumerate(corners)
            ]
            width, height = (480, 640) if number % 4 == 0 else (640, 480)
            path = f'data/coco/train2017/{number:012d}.jpg'
            entries.append(
                dict(img_path=path, img_id=number, width=width, height=height, instances=objects)
            )
        return [entries[number % 64] for number in range(COCO_PICTURES)]


def measure_sampler() -> list[list]:
    """Time the sampler until it has given the first update's micro-batches, at COCO's size.

    Returns:
        list[list]: Rows of a table: ranks, update to begin with, seconds.
    """
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
