"""Train a recipe with several LRs and warmups. The program is mmdet_largebatch/cli/sweep.py."""

from mmdet_largebatch.cli.sweep import main

if __name__ == '__main__':
    main()
