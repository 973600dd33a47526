"""Reaches into MMEngine that no other test covers."""

from mmengine.config import Config
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
