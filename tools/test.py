"""Evaluate a checkpoint. The program is mmdet_largebatch/cli/test.py."""

from mmdet_largebatch.cli.test import main

if __name__ == '__main__':
    main()
