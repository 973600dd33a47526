"""Called by quickstart.sh: append standard input to a log, and print one line for each epoch.

``TRAINING 2>&1 | python tools/epoch_lines.py LOG``
"""

import re
import signal
import sys

TRAIN = re.compile(r'Epoch\(train\) +\[(\d+)\].* eta: (.*?)  .*? loss: (\S+)')
VAL = re.compile(r'Epoch\(val\) +\[(\d+)\]\[(\d+)/\2\] {4}(?!eta)')
AP = 'coco/{}_mAP: ([0-9.]+)'


def main() -> None:
    """Read until the training ends; Ctrl-C is for the training, which then saves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    left = loss = '-'
    with open(sys.argv[1], 'a', buffering=1) as log:
        for line in sys.stdin:
            log.write(line)
            if train := TRAIN.search(line):
                _, left, loss = train.groups()
            elif val := VAL.search(line):
                found = (re.search(AP.format(kind), line) for kind in ('bbox', 'segm'))
                box, mask = (one[1] if one else '-' for one in found)
                print(
                    f'epoch {val[1]:>2}: loss {loss}, box AP {box}, mask AP {mask}, '
                    f'time left {left}',
                    flush=True,
                )
            elif line.startswith('error: '):
                print(line, end='', flush=True)


if __name__ == '__main__':
    main()
