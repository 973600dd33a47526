"""Compare LRs or batches from one state. The program is mmdet_largebatch/cli/branch.py."""

from mmdet_largebatch.cli.branch import main

if __name__ == '__main__':
    main()
