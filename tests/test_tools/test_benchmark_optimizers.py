"""The benchmark of the optimizers as a tool: its figures against others' arithmetic, never a clock.

What it says of speed is not tested: only that its tables follow from the times that it writes down.
"""

import copy
import json
import statistics
from dataclasses import asdict
from importlib.util import find_spec

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from mmdet.registry import MODELS
from mmengine.config import Config

pytestmark = pytest.mark.usefixtures('benchmark_modules')

RECIPE = 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'
# Reads and writes of a step, value by value: the norm of all gradients; p, g, m, v read and m, v, u
# written; p, u read and p written. Each is 4 bytes.
CLIP, MOMENTS, APPLY = 'g', 'pgmv' + 'mvu', 'pu' + 'p'
LEAST = {
    'LAMB': 4 * len(CLIP + MOMENTS + APPLY),
    'LAMB-noclip': 4 * len(MOMENTS + APPLY),
    'LARS': 4 * len('pg' + 'pgb' + 'pb'),
    'torch-SGD': 4 * len('pgb' + 'pb'),
    'torch-AdamW-fused': 4 * len('pgmv' + 'pmv'),
}
NEEDS = {
    'timm-Lamb': 'timm',
    'timm-Lamb-noclip': 'timm',
    'timm-Lars': 'timm',
    'mmpretrain-LARS': 'mmpretrain',
    'pytorch_optimizer-Lamb': 'pytorch_optimizer',
    'pytorch_optimizer-LARS': 'pytorch_optimizer',
}


@pytest.fixture(scope='module')
def measured(tmp_path_factory, tool):
    """A short run with all that is installed: what it printed, and its files."""
    folder = tmp_path_factory.mktemp('benchmark')
    times, picture = folder / 'times.json', folder / 'times.png'
    words = [RECIPE, '--rounds', 3, '--device', 'cpu', '--json', times, '--plot', picture]
    done = tool('benchmarks/optimizers.py', *words, process=True, OMP_NUM_THREADS='1')
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(times.read_text()), picture


def table(markdown):
    """The rows by the optimizer's name, cells by column."""
    lines = [line.strip('|').split('|') for line in markdown.splitlines() if line.startswith('| ')]
    head, _, *rows = [[cell.strip(' *') for cell in line] for line in lines]
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


@pytest.mark.slow
def test_a_row_for_each_optimizer_that_is_installed(measured):
    markdown, times, _ = measured
    installed = {*LEAST, *(name for name, package in NEEDS.items() if find_spec(package))}
    rows = table(markdown)
    assert set(rows) == installed == set(times['results'])
    for name in (*NEEDS, 'Apex-FusedLAMB'):
        (line,) = [line for line in markdown.splitlines() if line.startswith('- left out: ')]
        assert (f'{name} (' in line) == (name not in installed)


@pytest.mark.slow
def test_columns_of_a_gpu(measured):
    """Counted there alone: kernels and waits, here numbers in their place."""
    from report import as_markdown

    report = copy.deepcopy(measured[1])
    for number, result in enumerate(report['results'].values()):
        result.update(kernels=number, host_syncs=100 + number)
    rows = table(as_markdown(report)).values()
    counts = [(row['kernel launches'], row['waits for the GPU']) for row in rows]
    assert counts == [(str(x), str(100 + x)) for x in range(len(counts))]


@pytest.mark.slow
def test_parameters_are_those_of_the_model_that_are_trained(measured):
    markdown, times, _ = measured
    sizes = [p.numel() for p in MODELS.build(Config.fromfile(RECIPE).model).parameters()]
    assert (times['tensors'], times['parameters']) == (len(sizes), sum(sizes))  # none is frozen
    assert times['largest'] == max(sizes)
    assert f'{sum(sizes):,} in {len(sizes)} tensors' in markdown
    assert f'`{RECIPE}`, 2 parameter groups' in markdown


@pytest.mark.slow
def test_figures_follow_from_the_times(measured):
    markdown, times, _ = measured
    copied = times['copied_bytes_a_second']
    assert len(copied) == 3
    for name, row in table(markdown).items():
        result = times['results'][name]
        seconds, least = result['seconds'], result['least_bytes']
        assert len(seconds) == len(result['one_element_seconds']) == 3 and min(seconds) > 0
        median = statistics.median(seconds)
        moved = least * times['parameters']
        assert float(row['step, ms']) == pytest.approx(1e3 * median, rel=1e-3)
        assert int(row['least bytes a parameter']) == least
        bound = statistics.median(s * c / moved for s, c in zip(seconds, copied, strict=True))
        assert float(row['x their time']) == pytest.approx(bound, abs=6e-4)
        names = ('one_element_seconds', 'kernel_seconds', 'seconds')
        triples = zip(*(result[name] for name in names), strict=True)
        python = statistics.median((one - kernels) / whole for one, kernels, whole in triples)
        assert float(row['Python, %']) == pytest.approx(100 * python, abs=0.06)
        largest = result['peak_bytes'] / (4 * times['largest'])
        assert float(row['peak memory, x largest tensor']) == pytest.approx(largest, abs=6e-4)
        peer = times['results'].get(result['beside'])
        if peer is None:
            assert row["x timm's"] == ''
        else:
            pairs = zip(seconds, peer['seconds'], strict=True)
            ratio = statistics.median(a / b for a, b in pairs)
            assert float(row["x timm's"]) == pytest.approx(ratio, abs=6e-4)


@pytest.mark.slow
def test_least_bytes(measured):
    """A peer's are those of ours that makes the same update."""
    alike = {'Lamb': 'LAMB', 'Lamb-noclip': 'LAMB-noclip', 'Lars': 'LARS'}
    for name, result in measured[1]['results'].items():
        kind = name if name in LEAST else name.partition('-')[2]
        assert result['least_bytes'] == LEAST[alike.get(kind, kind)], name


@pytest.mark.slow
def test_the_picture_is_a_png(measured):
    assert measured[2].read_bytes().startswith(b'\x89PNG')


def report_of(seconds, copied):
    from peers import ENTRIES

    results = {
        entry.name: asdict(entry) | dict(ours=entry.ours, seconds=seconds[entry.name])
        for entry in ENTRIES
        if entry.name in seconds
    }
    return dict(parameters=1_000_000, copied_bytes_a_second=copied, results=results)


def test_ratios_are_taken_within_a_round():
    """The third round was slow for both; ratios 0.5, 0.3, 0.4, while that of the medians is 0.3."""
    from report import bound, times_peer

    report = report_of(dict(LAMB=[1.0, 0.6, 4.0], **{'timm-Lamb': [2.0, 2.0, 10.0]}), [1e9] * 3)
    assert times_peer(report, 'LAMB') == pytest.approx(0.4)
    # 44 bytes of a million parameters take 0.044 s at 1e9 bytes a second.
    assert bound(report, 'LAMB') == pytest.approx([0.044] * 3)


def test_nothing_in_the_picture_is_cut_off():
    """Times that differ by a factor of 10,000, and every name there is."""
    from peers import ENTRIES
    from report import OURS, PEER, draw

    seconds = {e.name: [10.0 ** (1 - i / 3)] * 3 for i, e in enumerate(ENTRIES)}
    figure = draw(report_of(seconds, [1e9] * 3), 'a config')
    FigureCanvasAgg(figure).draw()
    axes = figure.axes[0]
    names = [label.get_text().split()[0] for label in axes.get_yticklabels()]
    assert axes.get_yticklabels()[0].get_text() == 'LAMB  10000 ms'
    assert names == [entry.name for entry in ENTRIES]
    ours = [bar.get_facecolor() for bar, name in zip(axes.patches, names, strict=True)]
    same = [color == ours[0] for color in ours]
    assert same == [name in ('LAMB', 'LAMB-noclip', 'LARS') for name in names] and OURS != PEER
    times = [
        text for text in axes.get_xticklabels() if text.get_position()[0] <= axes.get_xlim()[1]
    ]
    texts = [*axes.get_yticklabels(), *times, axes.xaxis.label]
    for text in (*texts, *figure.legends, figure._suptitle):
        box, whole = text.get_window_extent(), figure.bbox
        assert box.x0 >= 0 and box.y0 >= 0, text
        assert box.x1 <= whole.x1 and box.y1 <= whole.y1, text
    boxes = [text.get_window_extent() for text in axes.get_yticklabels()]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['--only', 'LAMB', 'Lambda'], "Invalid --only='Lambda'. Must be one of LAMB, timm-Lamb, "),
        (['--only', 'Apex-FusedLAMB', '--device', 'cpu'], 'runs on CUDA alone'),
        (['configs/none.py'], 'config=configs/none.py: no such file.'),
        (['--plot', 'times.doc'], "Invalid --plot='times.doc'. Must be a .png or "),
        (['--json', '/proc/times.json'], "Invalid --json='/proc/times.json'. Must be in a "),
    ],
)
def test_a_mistake_is_one_line(tool, words, said):
    done = tool('benchmarks/optimizers.py', *words)
    assert (done.returncode, done.stdout) == (2, '')
    line = done.stderr.splitlines()[-1]
    assert line.startswith('error: ') and said in line
    assert 'Traceback' not in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason='a GPU is there, so it is right use')
def test_a_gpu_that_is_not_there(tool):
    done = tool('benchmarks/optimizers.py', '--device', 'cuda')
    said = "error: Invalid --device='cuda'. Must be cpu without a GPU."
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, said)
