import pytest
from torch import nn

from lomt.module_modes import modes_kept


class Caching(nn.Module):
    """Keeps a table in eval mode, as some attention modules do."""

    def __init__(self):
        super().__init__()
        self.table = None

    def train(self, mode=True):
        if mode:
            self.table = None
        return super().train(mode)


def test_modes_come_back_and_caches_go():
    model = nn.Sequential(nn.BatchNorm2d(1).eval(), nn.Dropout(), Caching())
    with modes_kept(model):
        model.eval()
        model[2].table = [1]
    assert [module.training for module in model] == [False, True, True]
    assert model[2].table is None


def test_modes_come_back_after_an_error():
    model = nn.Sequential(nn.Dropout().eval()).train()
    model[0].eval()
    with pytest.raises(RuntimeError, match="no data"), modes_kept(model):
        model.train()
        raise RuntimeError("no data")
    assert model.training and not model[0].training
