"""Tabulate and draw what trainings came to. The program is mmdet_largebatch/cli/results.py."""

from mmdet_largebatch.cli.results import main

if __name__ == '__main__':
    main()
