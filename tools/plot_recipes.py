"""Draw the box AP of recipes by epoch and by update, and tabulate their final AP, from run rows.

    python tools/plot_recipes.py docs/results/shapes_small.csv --out docs/images/shapes_small.png

The table is the --table of tools/sweep.py, with a row for each run. Rows that differ only in the
seed are one recipe: a line for the mean, and a band from the lowest to the highest AP.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from mmdet_largebatch.cli import check_output, one_line_errors
from mmdet_largebatch.errors import SettingError
from mmdet_largebatch.results.plots import COLORS, DASHES, MARKERS, save
from mmdet_largebatch.results.run_rows import Row, RowKey, read_rows

Recipe = tuple[str, int, float, int, int]


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Draw and tabulate recipes from a table of runs')
    parser.add_argument('table', type=Path, help='CSV file written by tools/sweep.py --table')
    parser.add_argument('--out', type=Path, required=True, help='picture to write, .png or .svg')
    return parser.parse_args()


def recipes(rows: dict[RowKey, Row]) -> dict[Recipe, list[Row]]:
    """Group rows that differ only in the seed, sorted by optimizer and batch."""
    groups = defaultdict(list)
    for key, row in rows.items():
        groups[key.optimizer, key.batch, key.lr, key.warmup, key.epochs].append(row)
    return dict(sorted(groups.items()))


def name(recipe: Recipe, among: list[Recipe]) -> str:
    """Return optimizer and batch; also LR and warmup if another recipe has the same."""
    optimizer, batch, lr, warmup, _ = recipe
    text = f'{optimizer} at {batch}'
    same = [one for one in among if one[:2] == recipe[:2]]
    return text if len(same) == 1 else f'{text}, LR {lr:g}, warmup {warmup or "none"}'


def curve(rows: list[Row]) -> list[tuple[int, list[float]]]:
    """Return the box APs of all seeds at each epoch that every seed has evaluated."""
    aps = [{epoch: box for epoch, box, _ in row.ap_by_epoch if box is not None} for row in rows]
    epochs = sorted(set.intersection(*map(set, aps)))
    return [(epoch, [one[epoch] for one in aps]) for epoch in epochs]


def draw(axes: Axes, groups: dict[Recipe, list[Row]], by_update: bool) -> None:
    """Draw a line with a band for each recipe.

    Optimizers differ in the colour. Batches differ in the dashes, and recipes in the marker.
    """
    optimizers = list(dict.fromkeys(recipe[0] for recipe in groups))
    batches = sorted({recipe[1] for recipe in groups})
    for index, (recipe, rows) in enumerate(groups.items()):
        points = curve([row for row in rows if row.status == 'done'] or rows)
        per_epoch = max(row.updates for row in rows) / recipe[4]
        xs = [epoch * per_epoch if by_update else epoch for epoch, _ in points]
        extra = [one for one in groups if one[:2] == recipe[:2]].index(recipe)
        dash = len(batches) + extra - 1 if extra else batches.index(recipe[1])
        color = COLORS[optimizers.index(recipe[0]) % len(COLORS)]
        axes.plot(
            xs,
            [mean(aps) for _, aps in points],
            color=color,
            ls=DASHES[dash % len(DASHES)],
            marker=MARKERS[index % len(MARKERS)],
            mfc='white' if recipe[1] == batches[0] else color,
            lw=1.6,
            ms=5.5,
            label=name(recipe, list(groups)) + ('' if points else ' (no AP)'),
        )
        lowest, highest = [min(x) for _, x in points], [max(x) for _, x in points]
        axes.fill_between(xs, lowest, highest, color=color, alpha=0.2, lw=0)
    axes.set(xlabel='optimizer update' if by_update else 'epoch', ylim=(0, 1))
    if by_update:
        axes.set_xscale('log')
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter('{x:,.0f}')
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color='0.9')


def figure_of(groups: dict[Recipe, list[Row]]) -> Figure:
    """Return the figure: box AP by epoch and by update."""
    columns = 3 if len(groups) <= 6 else 2
    lines = -(-len(groups) // columns)
    figure = Figure(figsize=(9, 3.9 + 0.24 * lines), dpi=150, layout='constrained')
    by_epoch, by_update = figure.subplots(1, 2, sharey=True)
    draw(by_epoch, groups, by_update=False)
    draw(by_update, groups, by_update=True)
    by_epoch.set_ylabel('box AP (COCO mAP)')
    figure.legend(
        *by_epoch.get_legend_handles_labels(),
        loc='outside lower center',
        ncols=columns,
        frameon=False,
        handlelength=4.5,
    )
    return figure


def markdown(groups: dict[Recipe, list[Row]]) -> str:
    """Return the table of the final APs: mean ± standard deviation, and range."""
    lines = [
        '| optimizer | batch | LR | warmup | updates | seeds | box AP | range | mask AP | range |',
        '|---|---|---|---|---|---|---|---|---|---|',
    ]
    for (optimizer, batch, lr, warmup, _), rows in groups.items():
        aps = [_spread([row.box_ap for row in rows]), _spread([row.mask_ap for row in rows])]
        updates = max(row.updates for row in rows)
        settings = f'{optimizer} | {batch} | {lr:g} | {warmup} | {updates:,} | {len(rows)}'
        lines.append(f'| {settings} | {aps[0]} | {aps[1]} |')
    return '\n'.join(lines) + '\n'


def _spread(aps: list[float | None]) -> str:
    known = [ap for ap in aps if ap is not None]
    failed = f', {len(aps) - len(known)} failed' if len(known) < len(aps) else ''
    if not known:
        return f'-{failed} | -'
    deviation = f' ± {stdev(known):.3f}' if len(known) > 1 else ''
    return f'{mean(known):.3f}{deviation}{failed} | {min(known):.3f} to {max(known):.3f}'


@one_line_errors(parse_args)
def main(args: argparse.Namespace) -> None:
    """Draw and tabulate."""
    check_output('--out', args.out, ['.png', '.svg'])
    groups = recipes(read_rows(args.table))
    if not groups:
        raise SettingError(f'table={args.table}: no rows there. Must be written by sweep.py.')
    save(figure_of(groups), args.out)
    print(markdown(groups), end='')


if __name__ == '__main__':
    main()
