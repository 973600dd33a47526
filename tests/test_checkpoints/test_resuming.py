"""A resume takes the state from the checkpoint, the settings from the config, or is refused."""

import pytest
import torch
from helpers.small_training import Net, load, make, resume_lines, same
from mmengine.hooks import EarlyStoppingHook, EMAHook, Hook

from mmdet_largebatch import SettingError

OPTIMIZERS = dict(
    SGD=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-3),
    AdamW=dict(type='AdamW', lr=0.01, weight_decay=1e-3),
    LAMB=dict(type='LAMB', lr=0.01, weight_decay=1e-3),
    LARS=dict(type='LARS', lr=0.5, weight_decay=1e-3),
)
INSTEAD = 'to begin from its weights, give it as load_from without --resume.'


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A checkpoint of 2 of 4 epochs, by optimizer and other options."""
    paths = {}

    def of(optimizer='SGD', **options):
        key = (optimizer, str(options))
        if key not in paths:
            folder = tmp_path_factory.mktemp('trained')
            make(folder, optimizer=OPTIMIZERS[optimizer], **options).train()
            paths[key] = str(folder / 'epoch_2.pth')
        return paths[key]

    return of


def resume(folder, path, optimizer='SGD', **options):
    changed = OPTIMIZERS[optimizer] | options.pop('changed', {})
    runner = make(folder, optimizer=changed, resume=True, load_from=path, **options)
    runner.train()
    return runner


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_a_model_of_other_shapes_is_refused(tmp_path, trained, name):
    with pytest.raises(SettingError) as raised:
        resume(tmp_path, trained(name), name, model=Net(width=5))
    line = str(raised.value)
    assert 'first.weight and 6 more of shape (5, 3) in the config and (4, 3) in the' in line
    assert line.endswith(INSTEAD) and '\n' not in line
    assert not list(tmp_path.glob('*.pth'))


@pytest.mark.parametrize('more', ['in the model', 'in the checkpoint'])
def test_a_model_of_other_layers_is_refused(tmp_path, trained, more):
    model = Net()
    if more == 'in the model':
        model.extra = torch.nn.Linear(2, 1)
    else:
        model.norm = torch.nn.Identity()
    with pytest.raises(SettingError) as raised:
        resume(tmp_path, trained(), model=model)
    words = 'extra.weight and 1 more not in the checkpoint'
    if more == 'in the checkpoint':
        words = 'norm.weight and 4 more not in the model'
    assert f'model: {words}.' in str(raised.value)


def test_a_buffer_that_the_model_lacks_is_left_out(tmp_path, trained):
    """As from a checkpoint of the same training without it. MMEngine resumes too."""
    model = Net()
    model.register_buffer('position_ids', torch.arange(3))
    runner = resume(tmp_path / 'run', trained(model=model))
    plain = resume(tmp_path / 'plain', trained())
    assert same(dict(runner.model.state_dict()), dict(plain.model.state_dict()))
    assert resume_lines(tmp_path / 'run') == ['left out, as not in the model: position_ids.']


@pytest.mark.parametrize(
    ('before', 'after'), [('LAMB', 'SGD'), ('SGD', 'LARS'), ('AdamW', 'LAMB'), ('LARS', 'AdamW')]
)
def test_another_optimizer_is_refused(tmp_path, trained, before, after):
    with pytest.raises(SettingError) as raised:
        resume(tmp_path, trained(before), after)
    expected = f"optim_wrapper.optimizer.type={after}: the checkpoint's optimizer is {before}."
    assert str(raised.value).startswith(expected) and str(raised.value).endswith(INSTEAD)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_other_groups_are_refused(tmp_path, trained, name):
    """MMEngine's single group; a group per tensor; two merged groups; two others."""
    merged = dict(constructor='MergedGroupsConstructor')
    no_decay = dict(norm_decay_mult=0.0, bias_decay_mult=0.0)
    wrappers = [
        {},
        dict(paramwise_cfg=no_decay),
        dict(merged, paramwise_cfg=no_decay),
        dict(merged, paramwise_cfg=dict(norm_decay_mult=0.0)),
    ]
    for number, before in enumerate(wrappers):
        after = wrappers[number - 1]
        with pytest.raises(SettingError) as raised:
            resume(tmp_path / str(number), trained(name, wrapper=before), name, wrapper=after)
        line = str(raised.value)
        assert line.startswith('optim_wrapper: ') and line.endswith(INSTEAD) and '\n' not in line
        assert 'paramwise_cfg or constructor?' in line


CHANGES = dict(
    SGD=dict(weight_decay=0.02, momentum=0.5),
    AdamW=dict(weight_decay=0.02, betas=(0.8, 0.95), eps=1e-6),
    LAMB=dict(weight_decay=0.02, betas=(0.8, 0.95), max_grad_norm=None),
    LARS=dict(weight_decay=0.02, momentum=0.5, eta=0.01),
)


@pytest.mark.parametrize('wrapper', [{}, dict(constructor='MergedGroupsConstructor')])
@pytest.mark.parametrize('name', OPTIMIZERS)
def test_options_of_the_config_take_effect_and_are_said(tmp_path, trained, name, wrapper):
    """Equal to the bit to a training whose checkpoint had those options from the beginning."""
    path = trained(name, wrapper=wrapper)
    runner = resume(tmp_path / 'run', path, name, wrapper=wrapper, changed=CHANGES[name])
    [line] = resume_lines(tmp_path / 'run')
    for option in CHANGES[name]:
        assert f'{option} ' in line
        assert runner.optim_wrapper.param_groups[0][option] == CHANGES[name][option]
    assert 'weight_decay 0.001 -> 0.02' in line
    content = load(path)
    for group in content['optimizer']['param_groups']:
        group.update(CHANGES[name])
    del content['meta']['optimizer']
    torch.save(content, tmp_path / 'edited.pth')
    by_hand = resume(
        tmp_path / 'by_hand',
        str(tmp_path / 'edited.pth'),
        name,
        wrapper=wrapper,
        changed=CHANGES[name],
    )
    assert not resume_lines(tmp_path / 'by_hand')
    assert same(dict(runner.model.state_dict()), dict(by_hand.model.state_dict()))
    # With the settings of the checkpoint, nothing is logged and nothing changes.
    resume(tmp_path / 'same', path, name, wrapper=wrapper)
    assert not resume_lines(tmp_path / 'same')


def test_the_learning_rate_of_the_config_under_either_schedule(tmp_path, trained):
    ours = resume(tmp_path / 'ours', trained(), changed=dict(lr=0.1))
    # A second hook that saves changes nothing twice, and says nothing twice.
    second = dict(type='mmdet.AtomicCheckpointHook', by_epoch=False, interval=3)
    assert resume_lines(tmp_path / 'ours') == ['optim_wrapper, as the config says: lr 0.05 -> 0.1.']
    assert ours.optim_wrapper.param_groups[0]['initial_lr'] == 0.1
    steps = dict(
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=2),
            dict(type='MultiStepLR', by_epoch=True, milestones=[3], gamma=0.1),
        ]
    )
    for name, hooks in dict(stock=[], two_hooks=[second]).items():
        changed = dict(changed=dict(lr=0.1), hooks=hooks)
        stock = resume(tmp_path / name, trained(**steps), **changed, **steps)
        assert stock.optim_wrapper.param_groups[0]['lr'] == pytest.approx(0.01)
        [line] = resume_lines(tmp_path / name)
        assert 'lr 0.05 -> 0.1' in line


def edited(tmp_path, path, *without):
    content = load(path)
    for key in without:
        del content[key]
    torch.save(content, tmp_path / 'edited.pth')
    return str(tmp_path / 'edited.pth')


def test_what_is_not_in_the_checkpoint_is_said(tmp_path, trained):
    parts = ('optimizer', 'param_schedulers', 'message_hub', 'hooks')
    path = edited(tmp_path, trained(), *parts)
    hooks = [EMAHook(), EarlyStoppingHook('error', rule='less')]
    runner = resume(tmp_path / 'run', path, hooks=hooks)
    assert runner.iter == 8
    text = '\n'.join(resume_lines(tmp_path / 'run'))
    for words in (
        'no message_hub in the checkpoint',
        'no averaged weights (EMAHook) in the checkpoint',
        'no state of EarlyStoppingHook in the checkpoint',
        'no optimizer in the checkpoint: its moments begin at 0',
    ):
        assert words in text
    path = edited(tmp_path, trained(), 'meta')
    with pytest.raises(SettingError, match='it holds weights alone, without the progress'):
        resume(tmp_path / 'weights', path)


def test_without_the_hook_the_trained_weights_go_on_not_the_averaged(tmp_path, trained):
    """As from a checkpoint of the same training without an average."""
    path = trained(hooks=[EMAHook(momentum=0.5)])
    runner = resume(tmp_path / 'run', path)
    assert 'has averaged weights and the config has no EMAHook' in resume_lines(tmp_path / 'run')[0]
    plain = resume(tmp_path / 'plain', trained())
    assert same(dict(runner.model.state_dict()), dict(plain.model.state_dict()))


def test_an_average_of_a_users_hook_is_left_to_it(tmp_path):
    """A copy of EMAHook that is no EMAHook. As a run never stopped."""
    members = {key: value for key, value in vars(EMAHook).items() if key != '__dict__'}
    users = type('UsersEMA', (Hook,), members)
    options = dict(val=False, preemption=False, lr_hook=dict(milestones=[1]))
    runs = [
        make(tmp_path / name, epochs=epochs, hooks=[users(momentum=0.5)], resume=resume, **options)
        for name, epochs, resume in (('whole', 4, False), ('run', 2, False), ('run', 4, True))
    ]
    for run in runs:
        run.train()
    whole, _, resumed = runs
    assert same(dict(whole.model.state_dict()), dict(resumed.model.state_dict()))
    line = 'the averaged weights in the checkpoint are left to UsersEMA.'
    assert resume_lines(tmp_path / 'run') == [line]


def test_seed_and_length(tmp_path, trained):
    resume(tmp_path / 'seed', trained(), randomness=dict(seed=7))
    assert resume_lines(tmp_path / 'seed') == [
        'seed 0 of the checkpoint is taken, not randomness.seed=7.'
    ]
    short = dict(epochs=1, lr_hook=dict(milestones=[], warmup_iters=0))
    runner = resume(tmp_path / 'short', trained(), **short)
    assert runner.iter == 4
    assert 'nothing is left to train' in resume_lines(tmp_path / 'short')[0]


def test_names_of_checkpoints(tmp_path):
    """A user's file name is found on resume; a name of another kind of checkpoint is refused."""
    for name in ('net_{:03d}.pth', 'net{}.ckpt'):
        folder = tmp_path / name[:4]
        options = dict(checkpoint=dict(filename_tmpl=name))
        make(folder, epochs=2, lr_hook=dict(milestones=[1]), **options).train()
        runner = make(folder, resume=True, **options)
        runner.train()
        assert 'resumed epoch: 2' in ''.join(p.read_text() for p in folder.glob('*/*.log'))
    for name in ('best_{}.pth', 'restart_{}.pth'):
        with pytest.raises(SettingError, match='filename_tmpl=.*does not begin with best_'):
            make(tmp_path / 'refused', checkpoint=dict(filename_tmpl=name))
