"""Evaluate a checkpoint (COCO mAP), with the arguments of mmdet's own ``test.py``."""

import argparse
from copy import deepcopy

from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmdet.evaluation import DumpDetResults
from mmengine.config import Config, ConfigDict
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmdet_largebatch import SettingError
from mmdet_largebatch.cli import (
    add_common_arguments,
    check_checkpoint,
    check_work_dir,
    load_config,
    look_at_data,
    one_line_errors,
    use_gloo_without_gpu,
)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Evaluate a detector')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='folder of logs and metrics')
    parser.add_argument('--out', help='write the predictions to this .pkl file')
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument('--show-dir', help='write pictures of the predictions to this folder')
    parser.add_argument('--wait-time', type=float, default=2, help='of --show, seconds a picture')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    add_common_arguments(parser)
    args = parser.parse_args()
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out {args.out}: must end in .pkl or .pickle')
    return args


def use_test_time_augmentation(cfg: Config) -> None:
    """Wrap model and pipeline for test-time augmentation, by a horizontal flip unless the config
    says ``tta_model`` and ``tta_pipeline``.

    Args:
        cfg (Config): The config, changed in place.
    """
    nms = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
    model = cfg.get('tta_model') or dict(type='DetTTAModel', tta_cfg=nms)
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    pipeline = cfg.get('tta_pipeline')
    if not pipeline:
        pipeline = deepcopy(dataset.pipeline)
        pack = pipeline[-1]
        pack['meta_keys'] = (*pack['meta_keys'], 'flip', 'flip_direction')
        flips = [dict(type='RandomFlip', prob=prob) for prob in (1.0, 0.0)]
        pipeline[-1] = dict(type='TestTimeAug', transforms=[flips, [pack]])
    cfg.model = ConfigDict(**model, module=cfg.model)
    dataset.pipeline = pipeline


def main() -> None:
    """Build the runner that the config describes and test."""
    args = parse_args()
    with one_line_errors() as context:
        cfg = context['cfg'] = load_config(args)
        check_checkpoint('checkpoint', args.checkpoint)
        look_at_data(cfg, ['test'])
        check_work_dir(cfg)
        cfg.load_from = args.checkpoint
        if args.show or args.show_dir:
            if 'visualization' not in cfg.get('default_hooks', {}):
                raise SettingError(
                    '--show and --show-dir draw by default_hooks.visualization, which the config '
                    "does not have. Set it to dict(type='DetVisualizationHook')."
                )
            cfg = trigger_visualization_hook(cfg, args)
        if args.tta:
            use_test_time_augmentation(cfg)
        use_gloo_without_gpu(cfg)
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
        if args.out:
            runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
        runner.test()


if __name__ == '__main__':
    main()
