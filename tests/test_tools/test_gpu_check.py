"""tools/gpu_check.sh: to its end on a CPU, and each of its parts as far as a CPU goes."""

import sys
import time
import warnings
import zipfile

import pytest
import torch
from helpers.common import ROOT
from mmcv.ops import nms
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

PARTS = ['tests', 'optimizers', 'loop', 'hooks', *(f'train-float{x}' for x in ('32', '16'))]
PARTS.append('train-bfloat16')
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason='of a machine without a GPU')


@pytest.fixture
def module(benchmark_modules):
    import gpu_check

    return gpu_check


def results(report):
    """Result and reason of each part in the table."""
    rows = [line.split('|')[1:3] for line in report.splitlines() if line.startswith('| ')]
    return {name.strip(): result.strip() for name, result in rows if name.strip() != 'part'}


def write_wheel(folder, name):
    """A wheel of one empty module."""
    info = f'{name}-1.0.dist-info'
    with zipfile.ZipFile(folder / f'{name}-1.0-py3-none-any.whl', 'w') as wheel:
        wheel.writestr(f'{name}.py', '')
        wheel.writestr(f'{info}/METADATA', f'Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n')
        tags = 'Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n'
        wheel.writestr(f'{info}/WHEEL', tags)
        wheel.writestr(f'{info}/RECORD', '')


@without_gpu
@pytest.mark.slow
def test_without_a_gpu_every_part_is_skipped_with_its_reason(command, tmp_path):
    """With a wheel that a machine without a network lacks."""
    wheels, report = tmp_path / 'wheels', tmp_path / 'new/report.md'
    wheels.mkdir()
    write_wheel(wheels, 'missing_here')
    done = command(
        *('bash', 'tools/gpu_check.sh', '--wheels', wheels),
        *('--out', report, '--work-dir', tmp_path / 'work'),
        PYTHON=sys.executable,
        PIP_TARGET=str(tmp_path / 'target'),
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'target/missing_here.py').is_file()
    text = report.read_text()
    found = results(text)
    assert list(found) == ['shapes', *PARTS]
    assert len(set(found.values())) == 1
    assert found['tests'].startswith(f'skipped: no GPU: torch {torch.__version__} ')
    assert text.count('\nSkipped: no GPU: ') == len(found)
    assert '0 passed, 0 failed, 8 skipped.' in text
    for fact in ('- PyTorch: ', '- MMDetection: ', '- commit: ', "- Apex: NVIDIA's Apex is not"):
        assert fact in text
    assert f'== report: {report}' in done.stdout


@without_gpu
@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_rehearsal_on_a_cpu(command, shapes, tmp_path):
    """The commands of the parts that no other test runs, shorter.

    test_benchmark_optimizers.py runs that of the optimizers. float16 needs a GPU.
    """
    parts = ('tests', 'loop', 'hooks', 'train-float16', 'train-bfloat16')
    done = command(
        *(sys.executable, 'tools/benchmarks/gpu_check.py', '--device', 'cpu', '--short'),
        *('--shapes', shapes, '--work-dir', tmp_path, '--part', *parts),
        OMP_NUM_THREADS='1',
        PYTHONPATH=str(ROOT),
    )
    text = (tmp_path / 'report.md').read_text()
    assert done.returncode == 0, text
    found = results(text.split('## ')[0])
    skipped = {name for name, result in found.items() if result != 'passed'}
    assert (set(found), skipped) == (set(parts), {'tests', 'train-float16'})
    assert '| update | 1 | ' in text and '| **DivergenceHook** | ' in text
    (row,) = [x for x in text.splitlines() if x.startswith('| bfloat16 | cpu | ')]
    # 20 images are 2 updates an epoch.
    assert row.endswith(' | 4 | done |')


@pytest.mark.slow
def test_a_part_that_fails_or_hangs_does_not_end_the_others(module, monkeypatch, tmp_path):
    hangs = 'import subprocess; print("begun", flush=True); subprocess.run(["sleep", "100"])'
    programs = dict(
        broken='print("| a table |"); raise RuntimeError("its last line")',
        hung=hangs,
        good='print("| 1 |")',
    )
    parts = [module.Part(name, name, ['-c', text], ()) for name, text in programs.items()]
    monkeypatch.setattr(module, 'make_parts', lambda args, work_dir: parts)
    monkeypatch.setattr(module, 'environment', lambda: {})
    monkeypatch.setattr(module, 'SECONDS', 2)
    monkeypatch.setattr(sys, 'argv', ['gpu_check.py', '--work-dir', str(tmp_path)])
    begin = time.monotonic()
    assert module.main() == 1
    # The process that the hung one started is ended too, or its output would be waited for.
    assert time.monotonic() - begin < 60
    text = (tmp_path / 'report.md').read_text()
    assert results(text.split('## ')[0]) == dict(
        broken='failed: exit status 1', hung='failed: it took longer than 2 s', good='passed'
    )
    assert 'RuntimeError: its last line' in text and 'begun' in text


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--part', 'loops'], "Invalid --part='loops'. Must be one of shapes, tests, optimizers,"),
        (['--out', 'report.txt'], "report.txt'. Must be a .md file."),
    ],
)
def test_wrong_use_is_one_line(module, monkeypatch, capsys, tmp_path, words, message):
    monkeypatch.setattr(sys, 'argv', ['gpu_check.py', '--work-dir', str(tmp_path), *words])
    assert module.main() == 2
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1


def test_a_folder_of_wheels_that_is_not_there(command):
    done = command('bash', 'tools/gpu_check.sh', '--wheels', 'nowhere')
    line = 'error: Invalid --wheels=nowhere. Must be a folder of wheels.\n'
    assert (done.returncode, done.stderr) == (2, line)


@without_gpu
def test_reasons_beside_the_gpu(module, monkeypatch, tmp_path):
    """As on a GPU with the CPU's build of MMCV."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    part = module.Part('loop', '', ['-c', ''], ('device', 'ops'))
    assert module.run(part, 'cuda', tmp_path / 'log').result == 'skipped'
    assert module.no_cuda_ops() == "MMCV's ops are compiled without CUDA"
    assert module.run(part, 'cpu', tmp_path / 'log').result == 'passed'


def test_waits_for_the_gpu_are_counted(benchmark_modules, monkeypatch):
    """By the warnings that PyTorch gives in its debug mode; here they are ours."""
    from step import host_syncs

    modes = []
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda: None)
    monkeypatch.setattr(torch.cuda, 'set_sync_debug_mode', modes.append)

    def step():
        for _ in range(2):
            warnings.warn('called a synchronizing CUDA operation', stacklevel=1)
        warnings.warn('another', stacklevel=1)

    assert (host_syncs(step), modes) == (2, ['warn', 'default'])


def test_mmcvs_ops_have_no_bfloat16(benchmark_modules):
    """So the parts for mixed precision are float32 where these come in."""
    from mixed_precision import Float32RoIExtractor, Float32RPNHead

    layer = dict(type='RoIAlign', output_size=2, sampling_ratio=1)
    features = [torch.ones(1, 3, 8, 8, dtype=torch.bfloat16)]
    boxes = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    rois = torch.cat([torch.zeros(1, 1), boxes], 1)
    stock, ours = (
        kind(layer, out_channels=3, featmap_strides=[4])
        for kind in (SingleRoIExtractor, Float32RoIExtractor)
    )
    with pytest.raises(RuntimeError, match="not implemented for 'BFloat16'"):
        stock(features, rois)
    assert ours(features, rois).equal(torch.ones(1, 3, 2, 2))
    with pytest.raises(RuntimeError, match='expected scalar type Float but found BFloat16'):
        nms(boxes.bfloat16(), torch.ones(1), 0.5)
    scores, deltas = Float32RPNHead(in_channels=3, feat_channels=3).bfloat16()(features)
    assert {x.dtype for x in scores + deltas} == {torch.float32}
