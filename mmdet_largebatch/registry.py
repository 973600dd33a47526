"""The package as a scope of MMEngine: ``_base_ = 'mmdet_largebatch::FOLDER/CONFIG.py'``.

What a config inherits in this way is built in the scope ``mmdet_largebatch``. Its registries are
empty, and find everything in mmdet's, where this package registers its classes.
"""

from mmdet import registry as mmdet_registry
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import Registry

from .compat import locations

# MMEngine reads configs of the packages that it knows by name, from the folder of the distribution.
# An editable install has none: a module's name makes MMEngine ask the import system instead.
MODULE2PACKAGE['mmdet_largebatch'] = 'mmdet_largebatch.version'

for _registry in list(vars(mmdet_registry).values()):
    if isinstance(_registry, Registry) and _registry.scope == 'mmdet':
        # The locations are imported at the first use: mmdet's classes are registered there.
        Registry(
            _registry.name,
            parent=_registry,
            scope='mmdet_largebatch',
            locations=locations(_registry),
        )
