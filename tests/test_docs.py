"""The pages: each command runs here, in another test, or has a reason; each name and path exists."""

import ast
import importlib
import logging
import math
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import mmdet.registry
import pytest
from helpers.common import CUT, ROOT, data_options
from helpers.work_folders import SGD, whole, write
from mmengine.config import Config

from mmdet_largebatch.cli.sweep import parse_args
from mmdet_largebatch.global_batch.layout import log_layout
from mmdet_largebatch.hooks import WarmupStepLRHook
from mmdet_largebatch.planning import make_plan
from mmdet_largebatch.planning.dry_runner import dry_run
from mmdet_largebatch.tuning import combinations, trial_config
from mmdet_largebatch.utils.runner import find_hook

PAGES = [
    *(ROOT / 'README.md', ROOT / 'CONTRIBUTING.md'),
    *sorted(ROOT.glob('docs/*.md')),
    *sorted(ROOT.glob('configs/*/*.md')),
]
SHAPES = 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'
LAMB = 'configs/mask_rcnn/mask-rcnn_r50_fpn_64xb2-lamb-1x_coco.py'


@dataclass(frozen=True)
class By:
    """Another test runs it, on smaller data where it is long."""

    test: str


@dataclass(frozen=True)
class Not:
    """Nothing here runs it."""

    reason: str


TRAIN = 'tools/dist_train.sh configs/mask_rcnn/mask-rcnn_r50_fpn_{}_coco.py 8'
RECIPES = By('tests/test_configs.py::test_two_updates')
LAUNCHED = By('tests/test_tools/test_train_and_test.py::test_log_says_what_runs')
MACHINES = Not('several machines')
INSTALLS = Not('it installs into an environment, as the set-up of these tests does')
SUITE = Not('it runs these tests')
APEX = Not('a build of Apex, which needs CUDA or the network')
COMMANDS = {
    'bash tools/miniature.sh tune': 'miniature',
    'bash tools/miniature.sh final': By('tests/test_tools/test_miniature.py::test_the_six_final_lines_are_made_by_one_command'),
    'bash tools/miniature.sh more': 'miniature',
    'bash tools/reproduce.sh tune': By('tests/test_tools/test_reproduce.py::test_both_stages_and_the_figure'),
    'bash tools/reproduce.sh final': By('tests/test_tools/test_reproduce.py::test_both_stages_and_the_figure'),
    'bash tools/quickstart.sh': Not('13 minutes; its stages are make_shapes, dist_train, dist_test and draw_detections'),
    'bash tools/quickstart.sh --epochs 1': Not('it sets up an environment first'),
    'bash tools/run_tests.sh': SUITE,
    'bash tools/run_tests.sh --fast': SUITE,
    'bash tools/run_tests.sh tests/test_optimizers': SUITE,
    'tools/setup_env.sh': INSTALLS,
    'source .venv/bin/activate': INSTALLS,
    'pre-commit install': Not('it writes into .git'),
    'pip install --no-build-isolation -e .': INSTALLS,
    "pip install torch 'setuptools<80' ninja psutil wheel": INSTALLS,
    "pip install --no-build-isolation -e '.[onedl]'": INSTALLS,
    "pip install --no-build-isolation -e '.[openmmlab]'": INSTALLS,
    'pip wheel --no-deps --no-build-isolation --wheel-dir dist .': By('tests/test_wheel.py'),
    'python -m mmdet_largebatch.cli.train mmdet_largebatch::mask_rcnn/mask-rcnn_r50_fpn_8xb2-lamb-1x_coco.py': By('tests/test_wheel.py'),
    '''python -c "import mmdet_largebatch as m; print(m.__path__[0] + '/.mim/configs')"''': 'folder',
    'git clone https://github.com/NVIDIA/apex && cd apex': APEX,
    'APEX_CPP_EXT=1 APEX_CUDA_EXT=1 pip install -v --no-build-isolation .': APEX,
    f'python tools/plan.py {LAMB} --gpus 8 --images 117266 --plot lr.png': 'plan',
    f'python tools/plan.py {LAMB} --images 117266 --gpus 1 8 16 64 --images-per-second 8 --spread 0.2 --bandwidth 25 --price 2.5 --plot hours.png': 'hours',
    'python tools/plan.py CONFIG --gpus 1 8 16 64 --measure': By('tests/test_tools/test_measured_hours.py::test_times_that_are_measured'),
    'python tools/plan.py CONFIG --gpus 1 8 16 64 --like WORK_DIR': By('tests/test_tools/test_hours.py::test_times_of_an_earlier_run'),
    'python tools/benchmarks/planner.py --shapes data/shapes': By('tests/test_tools/test_benchmark_planner.py::test_both_parts_print_predicted_and_found'),
    'python tools/carry_recipe.py mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py --global-batch 128': 'carry',
    TRAIN.format('8xb2-sgd-1x'): RECIPES,
    TRAIN.format('8xb2-lamb-1x'): RECIPES,
    TRAIN.format('64xb2-lamb-1x'): RECIPES,
    f'NNODES=8 NODE_RANK=0 MASTER_ADDR=10.0.0.1 PORT=29500 {TRAIN.format("64xb2-lamb-1x")}': By('tests/test_tools/test_launch.py::test_settings_reach_every_machine'),
    'GPUS=64 GPUS_PER_NODE=8 CPUS_PER_TASK=5 SRUN_ARGS="--time=12:00:00" '
    f'tools/slurm_train.sh PARTITION JOB_NAME {LAMB} work_dirs/lamb_64': By('tests/test_tools/test_train_and_test.py::test_slurm'),
    'tools/dist_train.sh CONFIG 8 --cfg-options optim_wrapper.optimizer.lr=0.002': 'train',
    'tools/dist_train.sh CONFIG 8 --cfg-options default_hooks.lr.warmup_iters=1000': 'train',
    'tools/dist_train.sh CONFIG 8 --cfg-options default_hooks.lr.warmup_iters=None '
    'default_hooks.lr.warmup_epochs=0.5': 'train',
    f'python tools/sweep.py {LAMB} --lr 0.000625 0.00125 0.0025 --warmup-iters 625 1250 --gpus 8 '
    '--updates 2000': By('tests/test_tools/test_sweep.py::test_every_combination_is_trained_and_a_diverged_one_is_a_result'),
    'python tools/sweep.py configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py --seeds 0 1 2 --jobs 2 '
    '--table work_dirs/shapes.csv': By('tests/test_tools/test_reproduce.py::test_both_stages_and_the_figure'),
    'python tools/branch.py CONFIG CHECKPOINT --lr 0.005 0.01 0.02 0.04 --updates 100': By('tests/test_tools/test_branch.py::test_the_edge_of_stability_is_found'),
    'python tools/branch.py CONFIG CHECKPOINT --global-batch 64 128 256 512': By('tests/test_tools/test_branch.py::test_batches_are_compared_from_an_epochs_end'),
    'bash tools/run_tests.sh tests/test_tuning/test_comparison.py': By('tests/test_tuning/test_comparison.py'),
    'tools/dist_test.sh CONFIG CHECKPOINT 8': By('tests/test_tools/test_train_and_test.py::test_evaluation_alone_gives_the_same_ap_on_one_and_on_two_processes'),
    'python tools/draw_detections.py CONFIG CHECKPOINT --out detections.png': By('tests/test_tools/test_train_and_test.py::test_detections_are_drawn'),
    'python tools/make_shapes.py': By('tests/test_tools/test_make_shapes.py::test_pycocotools_reads_it'),
    'python tools/results.py work_dirs/sgd work_dirs/lars work_dirs/lamb --out results': 'results',
    'python tools/results.py work_dirs/sgd work_dirs/lamb --out results': 'results',
    'bash tools/run_tests.sh -m "whole or not whole" tests/test_global_batch/test_trajectory.py -rP': By('tests/test_global_batch/test_trajectory.py'),
    'bash tools/run_tests.sh -m whole tests/test_global_batch/test_every_detector.py -rP': By('tests/test_global_batch/test_every_detector.py'),
    'bash tools/run_tests.sh tests/test_global_batch/test_rank_means.py': By('tests/test_global_batch/test_rank_means.py'),
    'bash tools/run_tests.sh tests/test_global_batch/test_exact_sum.py': By('tests/test_global_batch/test_exact_sum.py'),
    'python tools/benchmarks/update.py --part exact_sum means --pairs 60': By('tests/test_tools/test_benchmark_update.py'),
    'python tools/benchmarks/update.py --pairs 30 --part noise_idle noise_due noise_idle_exact noise_due_exact': By('tests/test_tools/test_benchmark_update.py'),
    'bash tools/run_tests.sh tests/test_global_batch/test_noise_scale.py -rP': By('tests/test_global_batch/test_noise_scale.py'),
    'python tools/benchmarks/loop.py --shapes data/shapes': By('tests/test_tools/test_gpu_check.py::test_a_rehearsal_on_a_cpu'),
    'python tools/benchmarks/update.py --shapes data/shapes': By('tests/test_global_batch/test_exact_sum.py::test_the_error_on_gradients_of_mask_rcnn_r50'),
    'bash tools/gpu_check.sh': By('tests/test_tools/test_gpu_check.py::test_without_a_gpu_every_part_is_skipped_with_its_reason'),
    'bash tools/gpu_check.sh --wheels wheels': By('tests/test_tools/test_gpu_check.py::test_without_a_gpu_every_part_is_skipped_with_its_reason'),
    '.venv/bin/pip wheel --no-build-isolation --wheel-dir wheels -r requirements.txt': INSTALLS,
    'bash tools/run_tests.sh tests/test_cuda_paths.py': By('tests/test_cuda_paths.py'),
    'git clone https://github.com/NVIDIA/apex ../apex': APEX,
    'APEX_SOURCE=../apex bash tools/run_tests.sh tests/test_optimizers/test_nvidias_class.py': APEX,
    '.venv/bin/pip install --no-deps timm==1.0.31 pytorch-optimizer==4.1.0 mmpretrain==1.2.0': INSTALLS,
    '.venv/bin/python tools/benchmarks/optimizers.py --plot docs/images/benchmark_optimizers.png': By('tests/test_tools/test_benchmark_optimizers.py::test_the_picture_is_a_png'),
    'bash tools/run_tests.sh tests/test_reliability tests/test_checkpoints tests/test_hooks tests/test_tools/test_notices.py': By('tests/test_tools/test_notices.py'),
    'PYTHONPATH=tests python -m helpers.hops': By('tests/test_package.py::test_the_journeys_are_as_long_as_the_table_says'),
    'PYTHONPATH=tests python -m helpers.kills --kills 30': By('tests/test_reliability/test_kills.py::test_killed_again_and_again_it_ends_as_if_never_killed'),
    'bash tools/run_tests.sh -m whole tests/test_optimizers/test_saved_state.py': By('tests/test_optimizers/test_saved_state.py::test_states_changed_at_random_are_refused_or_right'),
    'tools/dist_train.sh CONFIG 8': LAUNCHED,
    'python tools/train.py CONFIG': By('tests/test_tools/test_train_and_test.py::test_log_says_what_runs'),
    'MAX_RESTARTS=100 tools/dist_train.sh CONFIG 8': By('tests/test_tools/test_launch.py::test_a_training_with_restarts_resumes_and_nothing_else_does'),
    'tools/aws_spot_notice.sh $!': By('tests/test_tools/test_notices.py::test_the_notice_of_aws_becomes_a_sigterm'),
    'tools/slurm_train.sh --requeue PARTITION JOB_NAME CONFIG WORK_DIR': By('tests/test_tools/test_notices.py::test_a_preempted_job_goes_back_into_the_queue'),
    'NNODES=4:8 RDZV_ENDPOINT=10.0.0.1:29400 tools/dist_train.sh CONFIG 8': By('tests/test_tools/test_launch.py::test_machines_that_come_and_go'),
}  # fmt: skip
SHORT = [words for words, how in COMMANDS.items() if isinstance(how, str)]


def commands(page):
    """The commands of a page: lines of its bash blocks, and code in a line that begins as one."""
    text = page.read_text()
    blocks = re.findall(r'^```bash\n(.*?)^```', text, re.M | re.S)
    lines = '\n'.join(blocks).replace('\\\n', ' ').splitlines()
    rest = re.sub(r'^```.*?^```', '', text, flags=re.M | re.S)
    lines += re.findall(r'`((?:bash|python|pip|tools/\w+\.sh)\s[^`]+)`', rest)
    plain = (' '.join(line.split('#')[0].split()).removesuffix(' &') for line in lines)
    return [line for line in plain if line]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_command_is_in_the_table(page):
    assert set(commands(page)) <= set(COMMANDS)


def test_the_table_has_no_command_that_no_page_has():
    assert set(COMMANDS) == {line for page in PAGES for line in commands(page)}


def test_the_files_of_each_command_are_there():
    for line in COMMANDS:
        for word in shlex.split(line):
            if word.startswith(('tools/', 'configs/', 'tests/')) and ':' not in word:
                assert (ROOT / word).exists(), line


@pytest.mark.parametrize('page', [*PAGES, ROOT / 'CHANGELOG.md'], ids=lambda page: page.name)
def test_links_and_paths_of_a_page_exist(page):
    """As on a repository page; `mkdocs build --strict` checks the links of the site."""
    text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.M | re.S)
    for link in re.findall(r'\]\(([^)]+)\)', text):
        path, _, anchor = link.partition('#')
        if path.startswith('https://'):
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r'^#+ (.*)', target.read_text(), re.M)
            assert anchor in [re.sub(r'[^\w -]', '', x).lower().replace(' ', '-') for x in headings]
    for path in re.findall(r'`((?:configs|docs|mmdet_largebatch|tests|tools)/[\w./-]*)`', text):
        assert (ROOT / path).exists(), path


def test_the_readme_lists_each_registered_component():
    importlib.import_module('mmdet_largebatch.cli')  # Registers BoxTTAModel.
    names = (
        'HOOKS',
        'LOOPS',
        'DATA_SAMPLERS',
        'MODELS',
        'TRANSFORMS',
        'OPTIMIZERS',
        'OPTIM_WRAPPER_CONSTRUCTORS',
    )
    registered = {
        (name, registry)
        for registry in (*names, 'PARAM_SCHEDULERS')
        for name, kind in getattr(mmdet.registry, registry).module_dict.items()
        if kind.__module__.startswith('mmdet_largebatch.')
    }
    section = (ROOT / 'README.md').read_text().split('## Components')[1].split('\n## ')[0]
    rows = [line.split('|')[1:3] for line in section.splitlines() if line.startswith('| `')]
    listed = {
        (name, registry.strip(' `'))
        for classes, registry in rows
        for name in re.findall(r'`(\w+)`', classes)
    }
    assert listed == registered


@pytest.mark.parametrize(
    'block',
    [
        pytest.param(block, id=f'{page.stem}-{index}')
        for page in PAGES
        for index, block in enumerate(
            re.findall(r'^```python\n(.*?\n)^```', page.read_text(), re.M | re.S)
        )
        if 'import carry_recipe' not in block
    ],
)
def test_settings_of_the_pages_are_accepted(block, tmp_path):
    """In a stock config, which gets the global batch first where the settings need it."""
    base = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
    if 'train_cfg = dict(type' not in block:
        base = str(ROOT / TRAIN.format('8xb2-sgd-1x').split()[1])
    path = tmp_path / 'config.py'
    path.write_text(block if '_base_' in block else f'_base_ = {base!r}\n{block}')
    cfg = Config.fromfile(path)
    if 'global_batch_size=128)' in block:
        cfg.param_scheduler = None
    plan = make_plan(cfg, 8, 117_266)
    assert plan.updates == 12 * math.ceil(117_266 / plan.global_batch)
    for hook in re.findall("type='([A-Za-z]+Hook)'", block):
        assert hook in str(cfg.default_hooks)


def test_the_pages_run_a_build_tool_that_mmcv_builds_with():
    """MMCV 2.1 imports pkg_resources, which setuptools 80 warns of and 82 has not."""
    [pin] = re.findall(r'^setuptools==(\d+)', (ROOT / 'requirements.txt').read_text(), re.M)
    [bound] = re.findall(r"'setuptools<(\d+)'", (ROOT / 'docs/install.md').read_text())
    assert int(pin) < int(bound) <= 80


def test_the_install_page_lists_each_module_that_is_a_tool():
    page = (ROOT / 'docs/install.md').read_text()
    sentence = re.search(r'(`train`.*?) are such modules', page, re.S)[1]
    tools = {path.stem for path in (ROOT / 'tools').glob('*.py')}
    modules = {path.stem for path in (ROOT / 'mmdet_largebatch/cli').glob('*.py')}
    # What dist_train.sh calls is no tool of its own.
    assert set(re.findall(r'`(\w+)`', sentence)) == (tools & modules) - {'launch'}


def test_the_readme_is_short():
    assert len((ROOT / 'README.md').read_text().splitlines()) <= 150


@pytest.mark.parametrize('how', sorted({x.test for x in COMMANDS.values() if isinstance(x, By)}))
def test_the_other_test_is_there(how):
    path, _, name = how.partition('::')
    tree = ast.parse((ROOT / path).read_text())
    names = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert name in names if name else any(x.startswith('test_') for x in names)


def words_of(line):
    """A tool's name and arguments in `python tools/NAME ARGUMENTS`."""
    _, path, *arguments = shlex.split(line)
    return [path.removeprefix('tools/'), *arguments]


def quoted(page, beginning):
    """The block without a language that begins so."""
    blocks = re.findall(r'^```(\w*)\n(.*?)\n^```', (ROOT / page).read_text(), re.M | re.S)
    [block] = [block for kind, block in blocks if not kind and block.startswith(beginning)]
    return block


@pytest.mark.parametrize('line', [x for x in SHORT if COMMANDS[x] in ('plan', 'hours')])
@pytest.mark.slow
def test_plan_prints_what_the_page_shows(line, tool, tmp_path):
    name, config, *words = words_of(line)
    done = tool(name, ROOT / config, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    page, begin = dict(plan=('tools', 'ranks '), hours=('hours', '  GPUs'))[COMMANDS[line]]
    assert done.stdout.startswith(quoted(f'docs/{page}.md', begin) + '\n')
    assert (tmp_path / words[-1]).stat().st_size > 0


@pytest.mark.parametrize('line', [x for x in SHORT if COMMANDS[x] == 'carry'])
def test_the_carried_recipe_has_the_lines_that_the_page_shows(line, tool, tmp_path):
    done = tool(*words_of(line), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [path] = tmp_path.glob('*.py')
    page = (ROOT / 'docs/carrying.md').read_text()
    assert f'writes `{path.name}`' in page
    assert quoted('docs/carrying.md', 'optim_wrapper') + '\n' in path.read_text()


@pytest.mark.parametrize('line', [x for x in SHORT if COMMANDS[x] == 'train'])
@pytest.mark.slow
def test_options_of_a_training(line, tool, shapes, tmp_path):
    """On one process, cut after an update; what was set stands in the config that it kept."""
    options = shlex.split(line)[4:]
    work = ('--work-dir', tmp_path / 'work', '--cfg-options')
    done = tool('train.py', SHAPES, *work, *data_options(shapes), *CUT, *options)
    assert done.returncode == 0, done.stderr[-2000:]
    kept = Config.fromfile(next((tmp_path / 'work').glob('*.py')))
    for option in options:
        key, value = option.split('=')
        node = kept
        for part in key.split('.'):
            node = node[part]
        assert node == ast.literal_eval(value)


@pytest.mark.parametrize('line', [x for x in SHORT if COMMANDS[x] == 'miniature'])
@pytest.mark.slow
def test_each_sweep_of_the_miniature_has_a_place_for_its_values(line, command, tmp_path, shapes):
    """Its commands are printed in place of being run, and their configs made: 78 trainings."""
    done = command(*shlex.split(line), PYTHON='echo', DATA=str(shapes), OUT=str(tmp_path))
    assert done.returncode == 0, done.stderr
    lines = [x.split() for x in done.stdout.splitlines() if x.startswith('tools/sweep.py')]
    assert len(lines) == dict(tune=12, more=9)[line.split()[-1]]
    count = 0
    for words in lines:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, 'argv', words)
            args = parse_args()
        cfg = Config.fromfile(ROOT / args.config)
        cfg.merge_from_dict(args.cfg_options or {})
        trials = combinations(tmp_path, args.lr, args.warmup_iters, args.seeds)
        for trial in trials:
            trial_config(cfg, trial)
        count += len(trials)
    assert count == dict(tune=78, more=15)[line.split()[-1]]


@pytest.mark.parametrize('line', [x for x in SHORT if COMMANDS[x] == 'results'])
def test_results(line, tool, tmp_path):
    words = words_of(line)
    for folder in words[1:-2]:
        write(tmp_path / folder, whole(SGD))
    done = tool(*words, cwd=tmp_path)
    found = done.returncode, len(re.findall(r' done +\|', done.stdout))
    assert found == (0, len(words) - 3), done.stderr
    assert (tmp_path / 'results/curves.png').exists()


@pytest.mark.slow
@pytest.mark.parametrize('line', [x for x in SHORT if COMMANDS[x] == 'folder'])
def test_the_folder_of_the_recipes_is_printed(line, command):
    done = command(sys.executable, *shlex.split(line)[1:])
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert (folder / Path(SHAPES).relative_to('configs')).is_file()
    # No library's noise either.
    assert done.stderr == ''


@pytest.mark.slow
def test_lines_of_the_log_are_those_that_are_quoted():
    """The schedule's on the recipe for shapes, the loop's on that of batch 128 with 8 ranks."""
    for config, ranks, images, page, beginning in (
        (SHAPES, 2, 512, 'docs/schedule.md', 'WarmupStepLRHook: '),
        (LAMB, 8, 117_266, 'docs/global_batch.md', '8 ranks, '),
    ):
        lines = []
        handler = logging.Handler()
        handler.emit = lambda record, lines=lines: lines.append(record.getMessage())
        with dry_run(Config.fromfile(ROOT / config), ranks, images) as runner:
            runner.logger.addHandler(handler)
            runner.logger.setLevel(logging.INFO)
            hook = find_hook(runner, WarmupStepLRHook)
            runner.param_schedulers = None
            for group in runner.optim_wrapper.param_groups:
                group['lr'] = group.pop('initial_lr')
            hook.before_run(runner)
            log_layout(runner.train_loop)
        assert quoted(page, beginning).splitlines()[0] in lines
