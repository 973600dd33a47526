"""Write everything about several runs: table, curves and heat map."""

from collections.abc import Sequence
from pathlib import Path

from .curves import draw_curves
from .heatmap import draw_heatmap, is_grid
from .run import Run
from .table import write_table


def write_report(
    runs: Sequence[Run], folder: Path, group_seeds: bool = False, heatmap: bool | None = None
) -> str:
    """Write the table, ``curves.png``, and ``heatmap.png`` for a sweep.

    Args:
        runs (Sequence[Run]): Runs, at least one.
        folder (Path): Folder to write to; created if missing.
        group_seeds (bool): Merge runs that differ only in the seed. Defaults to False.
        heatmap (bool, optional): Draw the heat map. None draws it if the runs are a full grid of
            LR and warmup. Defaults to None.

    Returns:
        str: The Markdown table.

    Raises:
        SettingError: If a file cannot be written, or the runs are no sweep and a heat map is
            wanted.
    """
    table = write_table(runs, folder, group_seeds)
    draw_curves(runs, folder / 'curves.png', group_seeds)
    if is_grid(runs) if heatmap is None else heatmap:
        draw_heatmap(runs, folder / 'heatmap.png')
    return table
