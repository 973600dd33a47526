"""Decode each picture of a small data set once."""

import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmdet.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadImageOnce(LoadImageFromFile):
    """``LoadImageFromFile`` that keeps each decoded picture in memory.

    Each data worker keeps its own pictures: height x width x channels bytes per picture, 100 MB for
    8,192 pictures of 64 x 64. The result depends on the path alone, never on earlier pictures. A
    file must not change during a training.

    It belongs in a train pipeline. mmdet's ``DetInferencer`` asks for ``LoadImageFromFile`` in the
    test pipeline, by its name.

    Args:
        *args: As of ``LoadImageFromFile``.
        **kwargs: As of ``LoadImageFromFile``.

    Examples:
        >>> from mmdet.registry import TRANSFORMS
        >>> TRANSFORMS.build(dict(type='LoadImageOnce')).decoded
        {}
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.decoded: dict[str, np.ndarray] = {}

    def transform(self, results: dict) -> dict | None:
        """Load a picture.

        Args:
            results (dict): Sample with ``img_path``.

        Returns:
            dict, optional: Sample with ``img``, ``img_shape`` and ``ori_shape``. ``img`` is a copy,
            which later transforms may change. None if the file is missing under ``ignore_empty``.
        """
        path = results['img_path']
        if path not in self.decoded:
            loaded = super().transform(results)
            if loaded is None:
                return None
            self.decoded[path] = loaded['img']
        image = self.decoded[path].copy()
        results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        return results
