"""Settings of runs, read from logs and configs that were written here."""

import pytest
from helpers.work_folders import (
    SGD,
    config,
    stock_config,
    updates,
    whole,
    write,
)

from mmdet_largebatch.results import read_run


@pytest.mark.parametrize(
    ('more', 'batch', 'lr', 'warmup'),
    [
        # 8 ranks of 2 images. MMEngine's schedulers step every iteration, not every update.
        (dict(), 16, 0.02, 500),
        (dict(accumulative=4), 64, 0.02, 125),
        # --auto-scale-lr: linear in ranks x batch size, without accumulation.
        (dict(auto_scale_lr=dict(enable=True, base_batch_size=32)), 16, 0.01, 500),
        (dict(auto_scale_lr=dict(enable=False, base_batch_size=32)), 16, 0.02, 500),
        (dict(param_scheduler=[dict(type='MultiStepLR', milestones=[8])]), 16, 0.02, 0),
        (
            # 2 epochs of 100 iterations.
            dict(param_scheduler=[dict(type='LinearLR', start_factor=0.1, end=2)]),
            16,
            0.02,
            200,
        ),
        (
            # A decay, not a warmup.
            dict(param_scheduler=[dict(type='LinearLR', start_factor=1.0, end_factor=0.0, end=9)]),
            16,
            0.02,
            0,
        ),
    ],
)
def test_settings_of_stock_configs(tmp_path, more, batch, lr, warmup):
    count = more.pop('accumulative', 1)
    text = stock_config(SGD, **more) + f'optim_wrapper["accumulative_counts"] = {count}\n'
    run = read_run(write(tmp_path, updates(SGD, 1, 200), text=text))
    assert (run.global_batch, run.lr, run.warmup_updates, run.ranks) == (batch, lr, warmup, (8,))
    # An update takes as long as its iterations. Images per second are the same.
    assert run.updates[-1].update == 200 // count
    assert run.images_per_second == batch / (0.5 * count)
    assert run.training_seconds == pytest.approx(100)


@pytest.mark.parametrize(
    ('hook', 'lr', 'warmup'),
    [
        (dict(warmup_iters=625), 0.02, 625),
        (dict(warmup_epochs=0.255), 0.02, 26),
        (dict(), 0.02, 0),
        # Global batch 16 against 4: x 4, or x 2.
        (dict(scale_rule='linear', base_batch_size=4), 0.08, 0),
        (dict(scale_rule='sqrt', base_batch_size=4), 0.04, 0),
    ],
)
@pytest.mark.parametrize('place', ['default_hooks', 'custom_hooks'])
def test_settings_of_our_hook(tmp_path, place, hook, lr, warmup):
    hook = dict(hook, type='WarmupStepLRHook')
    hooks = dict(lr=hook) if place == 'default_hooks' else [hook]
    text = stock_config(SGD, param_scheduler=None, **{place: hooks})
    text += "train_cfg = dict(type='GlobalBatchTrainLoop', max_epochs=2, global_batch_size=16)\n"
    run = read_run(write(tmp_path, updates(SGD, 1, 200), dict(SGD, ranks=3), text=text))
    assert (run.global_batch, run.ranks) == (16, (3,))
    assert (run.lr, run.warmup_updates) == (pytest.approx(lr), warmup)


@pytest.mark.parametrize(('optimizer', 'lr'), [('SGD', 0.08), ('LAMB', 0.04)])
def test_auto_scale_lr_of_the_global_batch(tmp_path, optimizer, lr):
    """0.02 at batch 4 for global batch 16: x 4, or x 2. MMEngine's own knows ranks alone."""
    auto = dict(enable=True, base_batch_size=4)
    text = stock_config(dict(SGD, optimizer=optimizer), auto_scale_lr=auto)
    text += "train_cfg = dict(type='GlobalBatchTrainLoop', max_epochs=2, global_batch_size=16)\n"
    run = read_run(write(tmp_path, updates(SGD, 1, 200), dict(SGD, ranks=3), text=text))
    assert run.lr == pytest.approx(lr)


def test_one_recipe_with_another_seed_place_and_start(tmp_path):
    plain = read_run(write(tmp_path / 'a', whole(SGD), SGD))
    place = dict(work_dir='there', resume=True, load_from='epoch_3.pth', launcher='pytorch')
    s = dict(SGD, seed=5, ranks=2)
    text = config(s) + ''.join(f'{key} = {value!r}\n' for key, value in place.items())
    assert read_run(write(tmp_path / 'b', whole(s), s, text=text)).recipe == plain.recipe
    for other in ("load_from = 'other.pth'", 'train_dataloader = dict(batch_size=4)'):
        folder = write(tmp_path / other[:5], whole(SGD), text=f'{config(SGD)}\n{other}\n')
        assert read_run(folder).recipe != plain.recipe


# Lines that later starts have in their config.
RESUMED = {
    '--resume PATH': "resume = True\nload_from = 'epoch_1.pth'\n",
    '--resume': 'resume = True\nload_from = None\n',
    '--resume of another start': "resume = True\nfirst_start = dict(load_from='a.pth')\n",
}


@pytest.mark.parametrize('later', RESUMED.values(), ids=RESUMED)
def test_the_initial_weights_are_those_of_the_first_start(tmp_path, later):
    """A fine-tuning keeps them when it is resumed; what was trained before it does not count."""
    recipes = {}
    for name in ('a.pth', 'b.pth'):
        text = f'{config(SGD)}load_from = {name!r}\n'
        write(tmp_path / name, updates(SGD, 1, 100), text=config(SGD), begins_at=0)
        write(tmp_path / name, updates(SGD, 1, 100), SGD, '20260103_000000', text=text, begins_at=0)
        text = config(SGD) + later.replace('a.pth', name)
        begin = dict(text=text, begins_at=100)
        write(tmp_path / name, updates(SGD, 101, 200), SGD, '20260104_000000', **begin)
        recipes[name] = read_run(tmp_path / name).recipe
        assert recipes[name]['load_from'] == name
    assert recipes['a.pth'] | dict(load_from='b.pth') == recipes['b.pth']


def test_weights_that_a_start_set_to_resume_began_from(tmp_path):
    text = f"{config(SGD)}resume = True\nfirst_start = dict(load_from='a.pth', resume=False)\n"
    run = read_run(write(tmp_path / 'a', whole(SGD), text=text, begins_at=0))
    plain = write(tmp_path / 'b', whole(SGD), text=f"{config(SGD)}load_from = 'a.pth'\n")
    assert run.recipe == read_run(plain).recipe


def test_the_ranks_of_all_starts(tmp_path):
    for day, ranks in enumerate((8, 8, 4, 8), 1):
        at = (day - 1) * 100
        s = dict(SGD, ranks=ranks)
        write(tmp_path, updates(s, at + 1, at + 100), s, f'2026010{day}_000000')
    assert read_run(tmp_path).ranks == (8, 4, 8)


def test_the_runners_copy_of_the_config_will_do(tmp_path):
    folder = write(tmp_path, whole(SGD))
    next(folder.glob('*/vis_data/config.py')).rename(folder / 'recipe.py')
    assert read_run(folder).lr == 0.02
