"""Train a detector from a config. The program is mmdet_largebatch/cli/train.py."""

from mmdet_largebatch.cli.train import main

if __name__ == '__main__':
    main()
