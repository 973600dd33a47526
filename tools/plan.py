"""Print what a training will be. The program is mmdet_largebatch/cli/plan.py."""

from mmdet_largebatch.cli.plan import main

if __name__ == '__main__':
    main()
