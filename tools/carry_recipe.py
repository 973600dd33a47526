"""Carry a config to another global batch. The program is mmdet_largebatch/cli/carry_recipe.py."""

from mmdet_largebatch.cli.carry_recipe import main

if __name__ == '__main__':
    main()
