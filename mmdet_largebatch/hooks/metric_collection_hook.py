"""Collect metrics without files where the ranks share no working directory."""

import shutil
import tempfile
from pathlib import Path

from mmengine.dist import get_rank, is_main_process
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..utils.dist import any_rank, from_main_process

# Where MMEngine's `collect_results_cpu` makes its folders.
FOLDER = '.dist_test'


class MetricCollectionHook(Hook):
    """Set ``collect_device='gpu'`` on metrics if the ranks share no writable working directory.

    MMEngine's metrics collect the results of all ranks in files, in the working directory. On
    machines with one each, every evaluation would fail. With ``'gpu'`` the results pass through the
    process group, also on gloo. Metrics with a ``collect_dir`` are left as they are.

    ``tools/train.py`` and ``tools/test.py`` add this hook to runs of several ranks.
    """

    def before_val(self, runner: Runner) -> None:
        """Choose how the evaluation collects."""
        self._choose(runner, runner.val_evaluator)

    def before_test(self, runner: Runner) -> None:
        """Choose how the test collects."""
        self._choose(runner, runner.test_evaluator)

    def _choose(self, runner: Runner, evaluator: Evaluator) -> None:
        metrics = [metric for metric in evaluator.metrics if _collects_in_files(metric)]
        if not metrics or shares_working_directory():
            return
        for metric in metrics:
            metric.collect_device = 'gpu'
        runner.logger.info(
            f'The ranks share no writable working directory ({Path.cwd()} on rank {get_rank()}): '
            "metrics collect with collect_device='gpu'."
        )


def _collects_in_files(metric: BaseMetric) -> bool:
    """Return True for a metric that collects in the working directory, in MMEngine's way."""
    own = type(metric).evaluate is not BaseMetric.evaluate
    return not own and metric.collect_device == 'cpu' and metric.collect_dir is None


def shares_working_directory() -> bool:
    """Return True if every rank can write into the working directory of rank 0. Collective."""
    folder = None
    if is_main_process():
        try:
            Path(FOLDER).mkdir(exist_ok=True)
            folder = tempfile.mkdtemp(dir=FOLDER)
        except OSError:
            pass
    folder = from_main_process(folder)
    failed = folder is None
    if folder is not None:
        try:
            Path(folder, str(get_rank())).touch()
        except OSError:
            failed = True
    failed = any_rank(failed)
    if folder is not None and is_main_process():
        shutil.rmtree(folder, ignore_errors=True)
    return not failed
