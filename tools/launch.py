"""Called by dist_train.sh and dist_test.sh. The program is mmdet_largebatch/cli/torchrun.py."""

import runpy
from importlib.util import find_spec
from pathlib import Path

if __name__ == '__main__':
    # By its path: the package brings mmdet along, which a launcher needs not.
    package = Path(find_spec('mmdet_largebatch').origin).parent
    runpy.run_path(str(package / 'cli/torchrun.py'), run_name='__main__')
