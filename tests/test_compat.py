"""Reaches into MMEngine that no other test covers."""

from helpers.common import ROOT
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hub import get_model
from yapf.yapflib import yapf_api

from mmdet_largebatch.compat import lay_out_configs_once


def test_a_config_is_laid_out_once_and_anew_when_it_changed(monkeypatch):
    """The expected text is MMEngine's own, before."""
    laid_out = []

    def count(text, style_config):
        laid_out.append(text)
        return text.replace('=', ' = '), True

    monkeypatch.setattr(yapf_api, 'FormatCode', count)
    cfg = Config(dict(model=dict(type='A', depth=18)))
    expected = cfg.pretty_text
    lay_out_configs_once()
    lay_out_configs_once()
    assert [cfg.pretty_text for _ in range(3)] == [expected] * 3
    assert len(laid_out) == 2
    cfg.model.depth = 50
    assert cfg.pretty_text == expected.replace('18', '50')
    assert len(laid_out) == 3


def test_mmengines_hub_builds_the_model_of_a_recipe():
    name = 'shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'
    model = get_model(f'mmdet_largebatch::{name}')
    expected = MODELS.build(Config.fromfile(ROOT / 'configs' / name).model)
    assert type(model) is type(expected)
    shapes = [{key: x.shape for key, x in m.state_dict().items()} for m in (model, expected)]
    assert shapes[0] == shapes[1]
