from pathlib import Path

import pytest
import torch
from torch import nn

from lomt.deploy import network_gauge
from lomt.deploy.network_gauge import NetworkGauge
from lomt.errors import UnsupportedLayerError

IMAGES = torch.rand(1, 3, 32, 32)


def chain(width):
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))


@pytest.mark.slow
def test_a_sixteenth_of_the_work_is_faster_in_the_same_measurement():
    with NetworkGauge(chain(64), IMAGES, seconds=0.3) as gauge:
        times = gauge(chain(16))
        assert 0 < times.model_ms < times.dense_ms
        assert gauge.dense_ms() > 0
        folder = Path(gauge._folder.name)
        assert folder.is_dir()
    assert not folder.exists()


def test_a_model_that_cannot_be_exported_leaves_no_files(tmp_path, monkeypatch):
    def refuse(model, inputs, path):
        path.touch()
        raise UnsupportedLayerError("no")

    monkeypatch.setattr(network_gauge, "export_for_timing", refuse)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(UnsupportedLayerError, match=r"^no$"):
        NetworkGauge(chain(4), IMAGES)
    assert not list(tmp_path.iterdir())
