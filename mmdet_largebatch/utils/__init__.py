"""Helpers that the other packages share."""


def register_all_modules(init_default_scope: bool = True) -> None:
    """Register all that MMDetection and this package have.

    ``mmengine.hub.get_model`` calls the function of this name in every package.

    Args:
        init_default_scope (bool): Whether to set the default scope to mmdet. Defaults to True.
    """
    # The package hides what mmdet prints as it is imported.
    from mmdet.utils import register_all_modules as register

    register(init_default_scope)
