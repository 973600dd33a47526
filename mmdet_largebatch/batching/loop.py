"""The train loop that counts updates of a global batch."""

from typing import Dict, Union

from mmdet.registry import LOOPS
from mmengine.dist import get_world_size
from mmengine.runner import EpochBasedTrainLoop
from torch.utils.data import DataLoader

from ..errors import SettingError
from ..optimizers import double_clip_message


def micro_batch_size(dataloader: DataLoader) -> int:
    """Number of images that one rank computes at a time.

    Args:
        dataloader (DataLoader): The training data of one rank. Its batch sampler, where mmdet's
            ``AspectRatioBatchSampler`` took the place of PyTorch's, has the size instead.

    Returns:
        int: Images a micro-batch.
    """
    if dataloader.batch_size is not None:
        return dataloader.batch_size
    return dataloader.batch_sampler.batch_size


@LOOPS.register_module()
class GlobalBatchTrainLoop(EpochBasedTrainLoop):
    """Epoch-based training in which one iteration is one update of a stated global batch.

    The size of the global batch belongs to the recipe: learning rate and warmup were chosen for
    it. This loop trains only where the ranks make up exactly that batch, each with one
    micro-batch an update, and refuses any other number of ranks before the first image is read.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader or dict): The training data; its batch size is the micro-batch, in
            images.
        max_epochs (int): Epochs to train.
        global_batch_size (int): Images that one optimizer update learns from, over all ranks.
        **kwargs: ``val_begin``, ``val_interval`` and ``dynamic_intervals`` of
            :class:`mmengine.runner.EpochBasedTrainLoop`.

    Raises:
        SettingError: If ``global_batch_size`` is not a positive integer, or ranks times
            micro-batch is not the global batch.
    """

    def __init__(
        self,
        runner,
        dataloader: Union[DataLoader, Dict],
        max_epochs: int,
        global_batch_size: int,
        **kwargs,
    ) -> None:
        if isinstance(global_batch_size, bool) or not isinstance(global_batch_size, int):
            raise SettingError(
                f'train_cfg.global_batch_size={global_batch_size!r}. Must be an integer.'
            )
        if global_batch_size < 1:
            raise SettingError(f'train_cfg.global_batch_size={global_batch_size}. Must be >= 1.')
        super().__init__(runner, dataloader, max_epochs, **kwargs)
        self.global_batch_size = global_batch_size
        self._check_ranks()

    def _check_ranks(self) -> None:
        ranks, micro = get_world_size(), micro_batch_size(self.dataloader)
        if ranks * micro == self.global_batch_size:
            return
        advice = (
            f'Run it on {self.global_batch_size // micro} ranks'
            if self.global_batch_size % micro == 0
            else 'The global batch is no multiple of the micro-batch: change one of the two'
        )
        raise SettingError(
            f'train_cfg.global_batch_size={self.global_batch_size}, but {ranks} ranks x '
            f'{micro} images (train_dataloader.batch_size) is {ranks * micro}. {advice}, or set '
            f'train_cfg.global_batch_size={ranks * micro} and choose the LR for that batch.'
        )

    @property
    def updates_per_epoch(self) -> int:
        """int: Optimizer updates in one epoch."""
        return len(self.dataloader)

    def run(self):
        """Log what an update consists of, then train.

        Returns:
            nn.Module: The trained model.
        """
        logger = self.runner.logger
        logger.info(
            f'{get_world_size()} ranks, 1 micro-batch each of '
            f'{micro_batch_size(self.dataloader)} images, global batch '
            f'{self.global_batch_size}, {self.updates_per_epoch} updates an epoch'
        )
        message = double_clip_message(self.runner.optim_wrapper)
        if message:
            logger.warning(message)
        return super().run()
