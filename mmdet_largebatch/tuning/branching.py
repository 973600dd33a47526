"""Train branches and read their losses."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from mmengine.config import Config

from ..checks import invalid
from ..errors import SettingError
from ..results import Run
from ..utils.record import FINISHED
from .branches import Branch, branch_config
from .comparison import Curve, diverged
from .training_job import TrainingJob, run_of, write_config
from .trainings import Trainings


@dataclass
class Branching(Trainings):
    """Branches in progress."""

    def result(self, job: TrainingJob) -> Run | None:
        """Return the run of a training that made its updates, or diverged."""
        run = run_of(job)
        if run is None or run.status in ('diverged', 'nan'):
            return run
        if isinstance(job, Branch):
            done = bool(run.updates) and run.updates[-1].update >= job.end
        else:
            done = run.ended.get('how') in FINISHED
        return run if done else None

    def summary(self, run: Run) -> str:
        """Return the last loss of a run, or its divergence."""
        if run.status in ('diverged', 'nan'):
            return run.status_text
        return f'update {run.updates[-1].update}, loss {run.updates[-1].loss:.4g}'

    def train_branches(self, branches: Sequence[Branch], images: int) -> None:
        """Train branches up to their ends.

        Args:
            branches (Sequence[Branch]): Branches.
            images (int): Images that this adds to each, for the progress bar.

        Raises:
            SettingError: If a branch failed, or refused its settings.
        """
        folders = {branch.folder for branch in branches}
        self.known = [job for job in self.known if job.folder not in folders]
        self.known += branches
        waiting = [branch for branch in branches if not self.is_done(branch)]
        self.bar.update(images * (len(branches) - len(waiting)))
        self.train(waiting, images)
        if self.failed:
            job = self.failed[0]
            raise SettingError(f'{job.folder.name} failed: see {job.output}.')

    def train_and_decay(
        self, branches: dict[float, Branch], cfg: Config, added: int, decay: int
    ) -> list[Curve]:
        """Train branches up to their ends, and then on with a lower LR.

        The updates with the lower LR are trained in folders of their own, so that a branch can
        later be trained further with its LR.

        Args:
            branches (dict[float, Branch]): Branches by the setting in which they differ.
            cfg (Config): Recipe.
            added (int): Images that this adds to each before the decay, for the progress bar.
            decay (int): Images of the updates with the lower LR; 0 for none.

        Returns:
            list[Curve]: The losses of each branch.
        """
        self.train_branches(list(branches.values()), added)
        curves = [self.curve(branch, value) for value, branch in branches.items()]
        if not decay:
            return curves
        decayed = {}
        for (value, branch), bad in zip(branches.items(), diverged(curves), strict=True):
            if bad:
                self.bar.update(decay)
                continue
            decayed[value] = branch.decayed(round(decay / branch.batch))
            if not self.is_done(decayed[value]) and not decayed[value].begin.path.exists():
                wanted = f'more: {branch.folder} has been trained beyond update {branch.end}'
                raise invalid('--updates', branch.updates, wanted)
            write_config(decayed[value], branch_config(cfg, decayed[value]))
        self.train_branches(list(decayed.values()), decay)
        return [
            curve if curve.value not in decayed else self._joined(curve, decayed[curve.value])
            for curve in curves
        ]

    def curve(self, branch: Branch, value: float) -> Curve:
        """Return the losses of a finished branch up to its end.

        Args:
            branch (Branch): Branch.
            value (float): The setting in which the branches differ.

        Returns:
            Curve: The losses.
        """
        run = run_of(branch)
        assert run is not None
        logged = [one for one in run.updates if branch.begin.update < one.update <= branch.end]
        losses = np.array([np.nan if one.loss is None else one.loss for one in logged])
        broken = len(losses) < branch.updates or not np.isfinite(losses).all()
        return Curve(value, branch.lr, branch.batch, losses, broken=broken)

    def _joined(self, curve: Curve, decayed: Branch) -> Curve:
        """Return the losses of a branch with those after its LR decay."""
        after = self.curve(decayed, curve.value)
        return replace(
            curve,
            losses=np.concatenate([curve.losses, after.losses]),
            decayed=len(after.losses),
            broken=after.broken,
        )
