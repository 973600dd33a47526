"""All that is written of several runs: the table, the curves, and the heat map of a sweep."""

from collections.abc import Sequence
from pathlib import Path

from .curves import draw_curves
from .heatmap import draw_heatmap, is_grid
from .run import Run
from .table import write_table


def write_report(
    runs: Sequence[Run],
    folder: Path,
    group_seeds: bool = False,
    heatmap: bool | None = None,
) -> str:
    """Write the table and the pictures: ``curves.png``, and ``heatmap.png`` for a sweep.

    Args:
        runs (Sequence[Run]): The runs, at least one.
        folder (Path): Where to; made if it is not there.
        group_seeds (bool): See :func:`table_rows`. Defaults to False.
        heatmap (bool, optional): Whether to draw the heat map. None draws it where the runs are a
            whole grid of LR and warmup. Defaults to None.

    Returns:
        str: The Markdown table.

    Raises:
        SettingError: If a file cannot be written, or the runs make no heat map.
    """
    table = write_table(runs, folder, group_seeds)
    draw_curves(runs, folder / 'curves.png', group_seeds)
    if is_grid(runs) if heatmap is None else heatmap:
        draw_heatmap(runs, folder / 'heatmap.png')
    return table
