"""The pictures show the values of the runs and are legible."""

from itertools import combinations

import numpy as np
import pytest
from helpers.work_folders import SGD, config, diverged, evaluation, updates, whole, write
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from mmdet_largebatch import SettingError
from mmdet_largebatch.results import (
    as_frame,
    as_markdown,
    draw_curves,
    draw_heatmap,
    is_grid,
    read_run,
)
from mmdet_largebatch.results.curves import curves_figure
from mmdet_largebatch.results.heatmap import heatmap_figure
from mmdet_largebatch.results.plots import COLORS

SHORT = dict(SGD, epochs=2, optimizer='LAMB')
LRS, WARMUPS = (0.0025, 0.005, 0.01, 0.02), (0, 32, 64)


def folder_of(root, s, ap, **more):
    return write(root / f'{s["optimizer"]}_{s["lr"]}_{s["warmup"]}_{s["seed"]}', whole(s, ap), s)


@pytest.fixture(scope='module')
def six(tmp_path_factory):
    """Six recipes; the last diverged."""
    root = tmp_path_factory.mktemp('six')
    folders = [
        folder_of(root, dict(SHORT, optimizer=optimizer, lr=lr, batch=128), 0.3 + lr)
        for optimizer, lr in (('SGD', 0.02), ('SGD', 0.16), ('LARS', 0.1), ('LAMB', 0.01))
    ]
    folders.append(folder_of(root, SHORT, 0.5))
    s = dict(SHORT, lr=9.0)
    folders.append(
        write(root / 'hot', updates(s, 1, 100, lambda n: 1e9 * n), s, ended=diverged(120))
    )
    return [read_run(folder) for folder in folders]


@pytest.fixture(scope='module')
def grid_folders(tmp_path_factory):
    """4 LRs x 3 warmups, the AP highest at LR 0.01 and a warmup of 32; one run diverged."""
    root = tmp_path_factory.mktemp('grid')
    folders = []
    for row, lr in enumerate(LRS):
        for column, warmup in enumerate(WARMUPS):
            s = dict(SHORT, lr=lr, warmup=warmup)
            if (lr, warmup) == (0.02, 0):
                folders.append(write(root / 'hot', updates(s, 1, 50), s, ended=diverged(80)))
            else:
                folders.append(
                    folder_of(root, s, 0.8 - 0.1 * abs(row - 2) - 0.02 * abs(column - 1))
                )
    return folders


@pytest.fixture(scope='module')
def grid(grid_folders):
    return [read_run(folder) for folder in grid_folders]


def assert_readable(figure):
    """Nothing is clipped, and no text covers another text."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    edge = figure.get_tightbbox(canvas.get_renderer())
    width, height = figure.get_size_inches()
    assert min(edge.x0, edge.y0) >= 0 and edge.x1 <= width and edge.y1 <= height
    texts = [text for legend in figure.legends for text in legend.get_texts()]
    for axes in figure.axes:
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    assert len(boxes) > 2
    assert not [one for one, other in combinations(boxes, 2) if one.overlaps(other)]


def lines_by_label(figure):
    [legend] = figure.legends
    handles = legend.legend_handles
    return {text.get_text(): line for text, line in zip(legend.get_texts(), handles, strict=True)}


def style(line):
    return to_hex(line.get_color()).upper(), line.get_linestyle(), line.get_marker()


def test_each_run_has_a_line_in_each_panel_with_its_values(six):
    figure = curves_figure(six)
    box, mask, loss = figure.axes
    assert (box.get_ylabel(), mask.get_ylabel()) == ('box AP (COCO mAP)', 'mask AP (COCO mAP)')
    assert (loss.get_xlabel(), loss.get_ylabel()) == ('optimizer update', 'training loss')
    # The last run was never evaluated.
    for axes, key in ((box, 'box_ap'), (mask, 'mask_ap')):
        drawn = [list(line.get_xydata().ravel()) for line in axes.lines]
        assert drawn == [
            [value for one in run.evaluations for value in (one.epoch, getattr(one, key))]
            for run in six[:-1]
        ]
    losses = [line for line in loss.lines if len(line.get_xdata()) > 1]
    assert [list(line.get_xdata()) for line in losses] == [
        [one.update for one in run.updates] for run in six
    ]


def test_runs_differ_in_colour_and_in_print(six, grid):
    for runs in (six, grid):
        lines = [line for text, line in lines_by_label(curves_figure(runs)).items() if ',' in text]
        lines = [line for line in lines if line.get_marker() != 'x']
        assert len(lines) == len(runs)
        assert len({style(line) for line in lines}) == len(runs)
        # In grey too.
        assert len({style(line)[1:] for line in lines}) == len(runs)
        assert {style(line)[0] for line in lines} <= set(COLORS)


def test_labels_say_what_differs(six, grid):
    labels = list(lines_by_label(curves_figure(six)))
    assert labels[:2] == ['SGD, batch 128, LR 0.02', 'SGD, batch 128, LR 0.16']
    assert labels[-2:] == ['LAMB, batch 16, LR 9: diverged', 'diverged, or nan from here']
    assert 'LAMB, LR 0.0025, warmup 32' in lines_by_label(curves_figure(grid))


def test_in_a_sweep_the_colour_is_the_lr(grid):
    lines = lines_by_label(curves_figure(grid))
    by_lr = [{style(x)[0] for text, x in lines.items() if f'LR {lr:g},' in text} for lr in LRS]
    assert [len(colors) for colors in by_lr] == [1] * 4 and len(set.union(*by_lr)) == 4


def test_a_loss_that_blows_up_does_not_hide_the_others(six):
    loss = curves_figure(six).axes[2]
    highest = max(one.loss for run in six[:-1] for one in run.updates)
    assert highest < loss.get_ylim()[1] < 2 * highest
    crosses = [x for x in loss.lines if x.get_marker() == 'x' and len(x.get_xdata())]
    # At the last logged update, at the top.
    assert [x.get_xydata().tolist() for x in crosses] == [[[100.0, loss.get_ylim()[1]]]]


def test_batches_far_apart_are_drawn_on_a_logarithmic_axis(tmp_path):
    few, many = dict(SHORT), dict(SHORT, per_epoch=800, batch=2)
    runs = [
        read_run(write(tmp_path / name, whole(s), s)) for name, s in dict(a=few, b=many).items()
    ]
    assert curves_figure(runs).axes[2].get_xscale() == 'log'
    assert curves_figure(runs[:1]).axes[2].get_xscale() == 'linear'


def test_many_logged_losses_are_averaged(tmp_path):
    """Twelve epochs of 100 updates, all logged: 1,200 become 60 means of 20."""
    s = dict(SGD, interval=1)
    run = read_run(write(tmp_path, updates(s, 1, 1200, lambda update: float(update)), s))
    x, y = curves_figure([run]).axes[1].lines[0].get_data()
    assert len(x) == 60
    assert x[30] == pytest.approx(610, abs=11) and y == pytest.approx(x)


def test_the_grid_is_a_heat_map(grid):
    assert is_grid(grid)
    figure = heatmap_figure(grid)
    box = figure.axes[0]
    assert [text.get_text() for text in box.get_xticklabels()] == ['0', '32', '64']
    assert [text.get_text() for text in box.get_yticklabels()] == [
        '0.0025',
        '0.005',
        '0.01',
        '0.02',
    ]
    cells = {text.get_position(): text.get_text() for text in box.texts}
    assert len(cells) == 12
    for run in grid:
        place = (WARMUPS.index(run.warmup_updates) + 0.5, LRS.index(run.lr) + 0.5)
        expected = 'diverged' if run.status == 'diverged' else f'{run.box_ap:.3f}'
        assert cells[place] == expected
    [frame] = [patch for patch in box.patches if patch.get_linewidth() == 3]
    assert frame.get_xy() == (1, 2)


def test_seeds_in_a_cell_give_their_mean(tmp_path):
    runs = [
        read_run(folder_of(tmp_path, dict(SHORT, lr=lr, warmup=warmup, seed=seed), 0.2 + seed / 10))
        for lr in (0.1, 0.2)
        for warmup in (0, 50)
        for seed in (0, 1)
    ]
    assert is_grid(runs)
    text = heatmap_figure(runs).axes[0].texts[0].get_text()
    assert text == f'{(runs[0].box_ap + runs[1].box_ap) / 2:.3f}\nn = 2 of 2'


def test_seeds_share_a_line_in_the_band_of_their_range(tmp_path):
    """Three seeds with AP 0.2, 0.3 and 0.7, a fourth that diverged, and another recipe."""
    runs = [
        read_run(folder_of(tmp_path, dict(SHORT, seed=seed), ap))
        for seed, ap in enumerate((0.2, 0.3, 0.7))
    ]
    s = dict(SHORT, seed=3)
    hot = write(tmp_path / 'hot', updates(s, 1, 100), s, ended=diverged(120))
    other = folder_of(tmp_path, dict(SHORT, lr=0.5), 0.4)
    figure = curves_figure([*runs, read_run(hot), read_run(other)], group_seeds=True)
    box, _, loss = figure.axes
    lasts = [run.box_ap for run in runs]
    assert [len(axes.lines) - 4 * (axes is loss) for axes in (box, loss)] == [2, 4]
    assert box.lines[0].get_ydata()[-1] == pytest.approx(sum(lasts) / 3)
    [band] = box.collections
    ends = [y for x, y in band.get_paths()[0].vertices if x == 2]
    assert (min(ends), max(ends)) == (min(lasts), max(lasts))
    assert list(lines_by_label(figure)) == [
        'LAMB, LR 0.02',
        'LAMB, LR 0.02, seed 3: diverged',
        'LAMB, LR 0.5, seed 0',
        'diverged, or nan from here',
    ]


@pytest.mark.parametrize('epochs', [(3, 12), (2, 7), (12, 0)])
def test_seeds_that_stopped_early_are_averaged_while_all_train(tmp_path, epochs):
    """The losses are 2 and 4 throughout, so the mean is 3 up to the end of the shorter seed."""
    runs = []
    for seed, count in enumerate(epochs):
        s = dict(SGD, seed=seed, interval=1)
        end = dict(how='stopped early', epoch=count)
        records = whole(s, loss=lambda update, seed=seed: 2.0 + 2 * seed, epochs=count or 1)
        records = records if count else records[-1:]
        runs.append(read_run(write(tmp_path / str(seed), records, s, ended=end)))
    loss = curves_figure(runs, group_seeds=True).axes[2]
    x, y = loss.lines[0].get_data()
    shorter = min(filter(None, epochs))
    # 60 intervals of equal length.
    assert len(x) == 60 and x[-1] == pytest.approx(100 * shorter, abs=shorter)
    assert y == pytest.approx(np.full(60, 3.0 if all(epochs) else 2.0))


def test_a_run_that_was_cut_ends_where_it_was(tmp_path):
    """Cut after 120 updates of 100 per epoch: the second evaluation is at 1.2 epochs."""
    s = dict(SHORT, epochs=12)
    text = config(s).replace('max_epochs=12', 'max_epochs=12, max_updates=120')
    records = [*updates(s, 1, 100), evaluation(1, 0.1, 0.1), evaluation(2, 0.3, 0.2)]
    resolved = dict(updates_per_epoch=100)
    run = read_run(write(tmp_path, records, s, text=text, **resolved))
    assert (run.status, run.status_text) == ('done', 'done, cut at update 120')
    assert curves_figure([run]).axes[0].lines[0].get_xydata().tolist() == [[1, 0.1], [1.2, 0.3]]
    title = heatmap_figure([run]).get_suptitle()
    assert title.startswith('LAMB, global batch 16, 120 updates')
    frame = as_frame([run])
    assert frame[['epochs_done', 'epochs', 'max_updates']].values.tolist() == [[1.2, 12, 120]]
    row = as_markdown(frame).splitlines()[2]
    assert '| 1.2 of 12 | 0.300 | 0.200 |' in ' '.join(row.split())
    # Without the evaluation the run is unfinished.
    run = read_run(write(tmp_path / 'b', records[:-1], s, text=text, **resolved))
    assert (run.status, run.epochs_done) == ('unfinished', 1)


def test_what_is_no_grid(grid, six, tmp_path):
    assert not is_grid(grid[:-1]) and not is_grid(grid[:3]) and not is_grid(six)
    # A heat map may have missing pairs.
    assert [text.get_text() for text in heatmap_figure(grid[:-1]).axes[0].texts].count('-') == 1
    with pytest.raises(SettingError, match='optimizer=SGD, LARS, LAMB. Must be one.'):
        draw_heatmap(six, tmp_path / 'map.png')
    s = dict(SHORT, lr=0.5)
    text = (
        "train_pipeline = ['other']\n"
        + (grid[0].work_dir / '20260102_030405').joinpath('vis_data/config.py').read_text()
    )
    other = read_run(write(tmp_path / 'other', whole(s), s, text=text))
    with pytest.raises(SettingError, match=r'/other differ in train_pipeline too'):
        draw_heatmap([*grid, other], tmp_path / 'map.png')


@pytest.fixture(scope='module')
def thirty(tmp_path_factory):
    """A large sweep, and three runs that differ only in their long names."""
    root, name = tmp_path_factory.mktemp('thirty'), 'a_name_that_people_give' * 4
    settings = [
        dict(SHORT, lr=lr, warmup=warmup)
        for lr in (0.00125, 0.0025, 0.005, 0.01, 0.02, 0.04)
        for warmup in (0, 1000, 1250, 1500, 1750)
    ]
    sweep = [folder_of(root, s, 0.3) for s in settings]
    same = [write(root / f'{name}{number}{name}', whole(SHORT), SHORT) for number in range(3)]
    return [read_run(folder) for folder in sweep], [read_run(folder) for folder in same]


@pytest.mark.slow
def test_no_text_is_cut_off_in_large_ones(thirty):
    sweep, same = thirty
    for figure in (curves_figure(sweep), curves_figure(same), heatmap_figure(sweep)):
        assert_readable(figure)


@pytest.mark.slow
def test_no_text_is_cut_off(six, grid):
    for figure in (curves_figure(six), curves_figure(grid), curves_figure(six[:1])):
        assert_readable(figure)
    for runs in (grid, grid[:2], grid[:1]):
        assert_readable(heatmap_figure(runs))


def test_runs_without_anything_logged(tmp_path):
    run = read_run(write(tmp_path, [], SHORT, ended=diverged(1)))
    texts = [text.get_text() for axes in curves_figure([run]).axes for text in axes.texts]
    assert texts == ['no box AP was logged', 'no loss was logged']
    with pytest.raises(SettingError, match='curves.xyz: cannot be written'):
        draw_curves([run], tmp_path / 'curves.xyz')


@pytest.mark.slow
def test_the_tool_draws_the_heat_map_of_a_grid_by_itself(tool, grid_folders, tmp_path):
    out = tmp_path / 'out'
    done = tool('results.py', *grid_folders, grid_folders[0], '--out', out)
    assert (done.returncode, done.stderr) == (0, '')
    # A heading, a rule and a row for each folder; a folder given twice is one run.
    assert len(done.stdout.splitlines()) == 14
    names = ['ap_by_epoch.csv', 'curves.png', 'heatmap.png', 'results.csv', 'results.md']
    assert sorted(path.name for path in out.iterdir()) == names
    done = tool('results.py', *grid_folders[:-1], '--out', tmp_path / 'less')
    assert done.returncode == 0 and not (tmp_path / 'less/heatmap.png').exists()
    done = tool('results.py', *grid_folders[:-1], '--heatmap', '--out', tmp_path / 'less')
    assert done.returncode == 0 and (tmp_path / 'less/heatmap.png').exists()


def test_the_tool_refuses_a_folder_without_logs(tool, grid_folders, tmp_path):
    (tmp_path / 'empty').mkdir()
    words = (grid_folders[0], tmp_path / 'empty', '--out', tmp_path / 'out')
    done = tool('results.py', *words)
    assert (done.returncode, done.stdout) == (2, '')
    line = f'error: work_dir={tmp_path}/empty: no logs of a training there.'
    assert done.stderr.startswith(line)
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / 'out').exists()
