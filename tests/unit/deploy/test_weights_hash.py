import copy

import torch

from lomt.deploy.weights_hash import weights_sha256
from tests.unit.deploy.networks import mixed_net


def test_equal_weights_have_one_hash_and_any_change_another():
    model = mixed_net()
    known = weights_sha256(model)
    assert len(known) == 64 and weights_sha256(copy.deepcopy(model).train()) == known
    for name in model.state_dict():
        changed = copy.deepcopy(model)
        with torch.no_grad():
            changed.state_dict()[name].view(-1)[-1] += 1
        assert weights_sha256(changed) != known, name


def test_type_and_name_count():
    layer = torch.nn.Linear(2, 2)
    hashes = {
        weights_sha256(own) for own in (layer, torch.nn.Sequential(layer), copy.deepcopy(layer).bfloat16())
    }
    assert len(hashes) == 3
