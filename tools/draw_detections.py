"""Draw what a checkpoint finds. The program is mmdet_largebatch/cli/draw_detections.py."""

from mmdet_largebatch.cli.draw_detections import main

if __name__ == '__main__':
    main()
