"""The benchmark of the optimizers: its figures against others' arithmetic, never against a clock.

What it says of speed is not tested: only that its tables follow from the times that it writes down.
"""

import json
import re
import runpy
import statistics
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from common import ROOT
from matplotlib.backends.backend_agg import FigureCanvasAgg
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hub import get_config
from torch.optim import Optimizer

RECIPE = 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'
COCO = 'configs/mask_rcnn/mask-rcnn_r50_fpn_64xb2-lamb-1x_coco.py'
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


@pytest.fixture(autouse=True)
def tools(monkeypatch):
    """Import the benchmark's modules as it does itself."""
    monkeypatch.syspath_prepend(ROOT / 'tools')
    monkeypatch.chdir(ROOT)


@pytest.fixture
def tool(monkeypatch, capsys):
    """Run the tool as a command does; its exit status, and what it printed."""

    def run(*words):
        monkeypatch.setattr(sys, 'argv', ['benchmark_optimizers.py', *map(str, words)])
        status = 0
        try:
            runpy.run_path('tools/benchmark_optimizers.py', run_name='__main__')
        except SystemExit as ended:
            status = ended.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope='module')
def measured(tmp_path_factory, command):
    """A short run with all that is installed: what it printed, and its files."""
    folder = tmp_path_factory.mktemp('benchmark')
    files = [folder / name for name in ('table.md', 'times.json', 'times.png')]
    options = zip(('--markdown', '--json', '--plot'), files, strict=True)
    words = [word for option in options for word in option]
    tool = ['tools/benchmark_optimizers.py', RECIPE, '--rounds', 3, '--device', 'cpu']
    done = command(sys.executable, *tool, *words, OMP_NUM_THREADS='1')
    assert done.returncode == 0, done.stderr
    return done.stdout, files[0].read_text(), json.loads(files[1].read_text()), files[2]


def table(markdown):
    """The rows by the optimizer's name, cells by column."""
    lines = [line.strip('|').split('|') for line in markdown.splitlines() if line.startswith('| ')]
    head, _, *rows = [[cell.strip(' *') for cell in line] for line in lines]
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def test_a_row_for_each_optimizer_that_is_installed(measured):
    stdout, markdown, times, _ = measured
    installed = {*LEAST, *(name for name, package in NEEDS.items() if find_spec(package))}
    rows = table(markdown)
    assert set(rows) == installed == set(times['results'])
    assert markdown.strip() in stdout
    for name in (*NEEDS, 'Apex-FusedLAMB'):
        (line,) = [line for line in markdown.splitlines() if line.startswith('- left out: ')]
        assert (f'{name} (' in line) == (name not in installed)


def test_parameters_are_those_of_the_model_that_are_trained(measured):
    _, markdown, times, _ = measured
    sizes = [p.numel() for p in MODELS.build(Config.fromfile(RECIPE).model).parameters()]
    assert (times['tensors'], times['parameters']) == (len(sizes), sum(sizes))  # none is frozen
    assert times['largest'] == max(sizes)
    assert f'{sum(sizes):,} in {len(sizes)} tensors' in markdown
    assert f'`{RECIPE}`, 2 parameter groups' in markdown


def test_figures_follow_from_the_times(measured):
    _, markdown, times, _ = measured
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
        assert float(row['GB/s']) == pytest.approx(moved / median / 1e9, rel=1e-3)
        bound = statistics.median(s * c / moved for s, c in zip(seconds, copied, strict=True))
        assert float(row['x their time']) == pytest.approx(bound, abs=6e-4)
        names = ('one_element_seconds', 'kernel_seconds', 'seconds')
        triples = zip(*(result[name] for name in names), strict=True)
        python = statistics.median((one - kernels) / whole for one, kernels, whole in triples)
        assert float(row['Python, %']) == pytest.approx(100 * python, abs=0.06)
        largest = result['peak_bytes'] / (4 * times['largest'])
        assert float(row['x largest tensor']) == pytest.approx(largest, abs=6e-4)
        peer = times['results'].get(result['beside'])
        if peer is None:
            assert row["x timm's"] == ''
        else:
            pairs = zip(seconds, peer['seconds'], strict=True)
            ratio = statistics.median(a / b for a, b in pairs)
            assert float(row["x timm's"]) == pytest.approx(ratio, abs=6e-4)


def test_least_bytes(measured):
    """A peer's are those of ours that makes the same update."""
    alike = {'Lamb': 'LAMB', 'Lamb-noclip': 'LAMB-noclip', 'Lars': 'LARS'}
    for name, result in measured[2]['results'].items():
        kind = name if name in LEAST else name.partition('-')[2]
        assert result['least_bytes'] == LEAST[alike.get(kind, kind)], name


def test_the_picture_is_a_png(measured):
    assert measured[3].read_bytes().startswith(b'\x89PNG')


# Seconds on tensors of one element, and of the kernels in them.
ONE_ELEMENT = [5e-3] * 3, [1e-3] * 3


def report_of(seconds, copied, peak_bytes=0):
    from benchmark_peers import ENTRIES
    from benchmark_report import Report, Result

    results = [
        Result(entry, peak_bytes, None, seconds[entry.name], *ONE_ELEMENT)
        for entry in ENTRIES
        if entry.name in seconds
    ]
    return Report({}, 2, 1_000_000, 600_000, {}, results, copied)


def test_ratios_are_taken_within_a_round():
    """The third round was slow for both; ratios 0.5, 0.3, 0.4, while that of the medians is 0.3."""
    report = report_of(dict(LAMB=[1.0, 0.6, 4.0], **{'timm-Lamb': [2.0, 2.0, 10.0]}), [1e9] * 3)
    assert report.beside(report.find('LAMB')) == pytest.approx(0.4)
    # 44 bytes of a million parameters take 0.044 s at 1e9 bytes a second.
    assert report.times_bound(report.find('LAMB')) == pytest.approx(1.0 / 0.044)


def test_targets_are_met_not_met_or_not_measured():
    """LAMB: 0.4 of timm's; 66 ms where its 44 bytes take 44; a peak of one and a half tensors."""
    from benchmark_report import targets

    seconds = {'LAMB': [0.066] * 3, 'timm-Lamb': [0.066 / 0.4] * 3}
    lines = targets(report_of(seconds, [1.0001e9] * 3, peak_bytes=3_600_000))
    assert [line.rpartition(': ')[2] for line in lines] == [
        'met',
        'not met',
        'not measured',
        'not met',
        'not met',
    ]
    assert '0.061 (<= 0.05)' in lines[4]  # 4 of 66 ms
    assert ['0.400 (' in lines[0], '1.500 (' in lines[1], '1.500 (' in lines[3]] == [True] * 3


def test_nothing_in_the_picture_is_cut_off():
    """Times that differ by a factor of 10,000, and every name there is."""
    from benchmark_peers import ENTRIES
    from benchmark_plot import OURS, PEER, draw

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


def test_calls_that_compute_are_recorded_and_made_again():
    """Three of them, one in a list, one writes into a view; what only looks is left out."""
    from benchmark_step import kernel_calls

    x, y = torch.ones(4), torch.ones(2)

    def step():
        assert x.numel() == 4 and x.is_contiguous()
        head, _ = x.view(2, 2).split(1)
        head.mul_(2)
        torch._foreach_add_([x, y], 1)
        torch.cat([x, y.detach()])

    calls = kernel_calls(step)
    assert [function.__name__ for function, _, _ in calls] == ['mul_', '_foreach_add_', 'cat']
    assert x.tolist() == [3, 3, 2, 2]
    for function, args, kwargs in calls:
        function(*args, **kwargs)
    assert (x.tolist(), y.tolist()) == ([7, 7, 3, 3], [3, 3])


class Buffers(Optimizer):
    """Takes memory of known sizes: state, what it keeps, and what it gives back."""

    def __init__(self, params, kept, passing):
        super().__init__(params, {})
        self.sizes, self.kept = (kept, passing), None

    def step(self):
        kept, passing = self.sizes
        for group in self.param_groups:
            for p in group['params']:
                if p not in self.state:
                    self.state[p]['momentum'] = torch.zeros_like(p)
        if self.kept is None:
            self.kept = torch.empty(kept)
        for _ in range(2):  # One after the other: the second takes the place of the first.
            buffer = torch.empty(passing)
            del buffer


@pytest.mark.parametrize(('kept', 'passing'), [(0, 0), (0, 12_345), (777, 0), (777, 12_345)])
def test_peak_memory_is_what_is_taken_above_the_state(kept, passing):
    from benchmark_step import peak_memory

    p = torch.nn.Parameter(torch.ones(100, 30))
    p.grad = torch.ones_like(p)
    _, peak = peak_memory(lambda: Buffers([p], kept, passing), lambda: None, 'cpu')
    assert peak == 4 * (kept + passing)


def test_peak_memory_of_torch_sgd():
    """It adds the decay to a copy of one gradient at a time; of two tensors, the larger counts."""
    from benchmark_step import peak_memory

    params = [torch.nn.Parameter(torch.ones(n)) for n in (1000, 3000)]
    for p in params:
        p.grad = torch.ones_like(p)
    made, peak = peak_memory(
        lambda: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1, foreach=False),
        lambda: None,
        'cpu',
    )
    # Numbers such as the decay are tensors of one element while PyTorch computes with them.
    assert 4 * 3000 <= peak < 4 * 3000 + 64 and len(made.state) == 2


def test_groups_of_the_coco_recipe():
    """168 tensors of 44.17 M parameters in two groups, one without decay: README and docs."""
    from benchmark_step import recipe_groups

    groups = recipe_groups(Config.fromfile(COCO))
    assert [group.weight_decay for group in groups] == [1e-4, 0.0]
    assert sum(len(group.shapes) for group in groups) == 168
    assert sum(s.numel() for group in groups for s in group.shapes) == pytest.approx(44.17e6, 1e-3)
    assert all(len(shape) == 1 for shape in groups[1].shapes)
    small = groups[0].of_one_element()
    assert [len(s) for s in small.shapes] == [len(s) for s in groups[0].shapes]
    assert {s.numel() for s in small.shapes} == {1}


def test_groups_of_a_stock_config():
    """mmdet's own recipe is one group, into which MMEngine puts the 33 frozen tensors too."""
    from benchmark_step import recipe_groups

    (group,) = recipe_groups(get_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'))
    assert len(group.shapes) == 168
    assert sum(shape.numel() for shape in group.shapes) == pytest.approx(44.17e6, 1e-3)


def after(name, steps=3):
    """An optimizer of the benchmark after steps: its parameters, and LAMB's moments."""
    from benchmark_peers import ENTRIES
    from benchmark_step import Contestant, Group, Problem

    (entry,) = [entry for entry in ENTRIES if entry.name == name]
    shapes = tuple(map(torch.Size, [(64, 32, 3, 3), (128, 64)]))
    groups = [Group(shapes, 1e-2, 1e-4), Group((torch.Size([64]),), 1e-2, 0.0)]
    contestant = Contestant(Problem(groups, 'cpu'), entry.load('cpu'), entry.options)
    contestant.prepare('cpu')
    for _ in range(steps):
        contestant.time(lambda: None)
    params = [p.detach() for g in contestant.optimizer.param_groups for p in g['params']]
    state = contestant.optimizer.state.values()
    names = ('exp_avg', 'exp_avg_sq') if 'amb' in name.lower() else ()
    return params, [of_one[name] for of_one in state for name in names]


@pytest.mark.parametrize(
    ('ours', 'peer'),
    [
        ('LAMB', 'timm-Lamb'),
        ('LAMB-noclip', 'timm-Lamb-noclip'),
        ('LARS', 'timm-Lars'),
        ('LARS', 'mmpretrain-LARS'),
    ],
)
def test_peers_make_the_same_update(ours, peer):
    """So what is compared is the same work. Of LAMB, the clip shows in the moments alone."""
    if find_spec(NEEDS[peer]) is None:
        pytest.skip(f'{NEEDS[peer]} is not installed: it is no requirement of this project')
    start, _ = after(ours, steps=0)
    params, moments = after(ours)
    their_params, their_moments = after(peer)
    for a, b, p in zip(params, their_params, start, strict=True):
        assert not torch.allclose(a, p, rtol=2e-6, atol=2e-7)
        torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-7)
    assert len(moments) == (6 if 'LAMB' in ours else 0)
    # timm takes 1 - 0.999 in double, which is off by 1e-5 from that of float32.
    torch.testing.assert_close(moments, their_moments, rtol=1e-4, atol=1e-9)


def test_gradients_are_written_anew_for_the_next():
    """The step of LARS after another optimizer has spoilt the gradients that both share."""
    from benchmark_step import Contestant, Group, Problem

    class Spoils(torch.optim.SGD):
        def step(self):
            for p in self.param_groups[0]['params']:
                p.grad.fill_(float('nan'))

    problem = Problem([Group((torch.Size([8, 4]),), 1e-2, 1e-4)], 'cpu')
    spoils, other = (Contestant(problem, kind, {}) for kind in (Spoils, torch.optim.SGD))
    spoils.prepare('cpu')
    other.prepare('cpu')
    spoils.time(lambda: None)
    other.time(lambda: None)
    (p,) = other.optimizer.param_groups[0]['params']
    assert p.isfinite().all() and p.grad.norm().item() == pytest.approx(10)


def test_a_module_is_imported_without_the_package_above_it(tmp_path, monkeypatch):
    """As timm's optimizers where torchvision, which its models need, is missing."""
    from benchmark_peers import Entry, Unavailable

    (tmp_path / 'needy/inner').mkdir(parents=True)
    (tmp_path / 'needy/__init__.py').write_text('import a_module_that_is_not_there')
    (tmp_path / 'needy/inner/__init__.py').write_text('raise ImportError')
    (tmp_path / 'needy/inner/good.py').write_text('from ._part import Good')
    (tmp_path / 'needy/inner/_part.py').write_text('class Good: pass')
    monkeypatch.syspath_prepend(tmp_path)
    good = Entry('good', 'needy.inner.good', 'Good', 20).load('cpu')
    assert Path(sys.modules[good.__module__].__file__) == tmp_path / 'needy/inner/_part.py'
    with pytest.raises(ImportError, match='a_module_that_is_not_there'):
        import needy  # noqa: F401
    for module, said in (
        ('needy.inner.none', "No module named 'needy.inner.none'"),
        ('nowhere.inner', 'nowhere is not installed'),
        ('apex.optimizers', 'runs on CUDA alone'),
    ):
        with pytest.raises(Unavailable, match=re.escape(said)):
            Entry('bad', module, 'Good', 20).load('cpu')


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['--only', 'LAMB', 'Lambda'], '--only Lambda: unknown. Must be of LAMB, timm-Lamb, '),
        (['--only', 'Apex-FusedLAMB', '--device', 'cpu'], 'Apex-FusedLAMB (runs on CUDA alone)'),
        (['configs/none.py'], 'config=configs/none.py: no such file.'),
        (['--plot', 'times.doc'], '--plot times.doc: must end in one of .'),
        (['--json', '/proc/times.json'], '--json /proc/times.json: cannot be written ('),
    ],
)
def test_a_mistake_is_one_line(tool, words, said):
    status, stdout, stderr = tool(*words)
    assert (status, stdout) == (2, '')
    assert stderr.splitlines()[-1].startswith('error: ') and said in stderr.splitlines()[-1]
    assert 'Traceback' not in stderr


def test_a_gpu_that_is_not_there(tool):
    if torch.cuda.is_available():
        pytest.skip('a GPU is there, so it is right use')
    status, _, stderr = tool('--device', 'cuda')
    assert status == 2 and '--device cuda: no GPU is visible.' in stderr.splitlines()[-1]
