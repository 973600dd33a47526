"""Begin a training that is set to resume and has nothing to resume from."""

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..checkpoints.finding import last_checkpoint
from ..checkpoints.first_start import begin_run, first_start
from ..compat import has_loaded, load_from, resumes, set_load_from, set_resume
from ..utils.dist import from_main_process
from ..utils.runner import is_training


class FirstStartHook(Hook):
    """Begin as the config's ``first_start`` says, if there is no checkpoint to resume from.

    ``tools/train.py`` sets ``first_start`` and adds this hook. The main process decides for all
    ranks.
    """

    # After AtomicCheckpointHook, which chooses the checkpoint to resume from.
    priority = 'LOWEST'

    def before_run(self, runner: Runner) -> None:
        """Choose the checkpoint to begin from."""
        if not is_training(runner) or has_loaded(runner) or load_from(runner) is not None:
            return
        first, newest = first_start(runner.cfg), None
        if resumes(runner):
            # MMEngine's CheckpointHook chooses none.
            if is_main_process():
                newest = last_checkpoint(runner.work_dir, begin_run(runner))
            newest = from_main_process(newest)
        set_resume(runner, resumes(runner) and (newest is not None or first.resume))
        set_load_from(runner, newest or first.load_from)
