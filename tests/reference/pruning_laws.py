"""Laws of pruning as named asserts, each checked against something slow and obvious."""

import torch
from torch import nn

from lomt.pruning.apply import apply_plan, freed_sizes
from lomt.pruning.plan import AttributeChange, PruningPlan
from lomt.structure import copy_model, named_outputs, named_tensors, run_model, trace_structure


@torch.no_grad()
def outputs_of(model, inputs):
    """Run the model in eval mode on a copy."""
    model = copy_model(model)
    model.train()
    return named_outputs(run_model(model.eval(), inputs))


def assert_same_function(model, other, inputs, tolerance=1e-9):
    """Both models give equal outputs, relative to the largest entry of each."""
    expected, actual = outputs_of(model, inputs), outputs_of(other, inputs)
    assert list(actual) == list(expected)
    for name, value in expected.items():
        assert actual[name].shape == value.shape
        largest = max(float(value.abs().max()), 1e-12)
        error = float((actual[name] - value).abs().max()) / largest
        assert error <= tolerance, f"output {name} differs by {error:.2g} relative"


def masked(model, structure, keep):
    """The network of the old size with every slice of every channel that goes at zero, slice by slice."""
    model = copy_model(model)
    tensors = named_tensors(model)
    with torch.no_grad():
        for name, mask in keep.items():
            for own in structure.by_name[name].slices:
                for position, channel in enumerate(own.owner.tolist()):
                    if channel >= 0 and not mask[channel]:
                        tensors[own.tensor].select(own.dim, position).zero_()
    return model


def plan_for(model, structure, keep):
    """The plan that takes out just these channels."""
    resolved = structure.resolve(keep)
    return PruningPlan(
        keep={name: tuple(mask.nonzero().flatten().tolist()) for name, mask in keep.items()},
        tensors={
            name: {dim: tuple(positions.tolist()) for dim, positions in dims.items()}
            for name, dims in resolved.tensors.items()
        },
        attributes=tuple(AttributeChange(*change) for change in resolved.attributes),
        replaced=freed_sizes(model, resolved),
        protected={},
        counts={own.name: own.count for own in structure.coupled},
        params_before=structure.params(),
        params_after=structure.params(keep),
        macs_before=structure.macs(),
        macs_after=structure.macs(keep),
    )


def pruned(model, structure, keep):
    return apply_plan(model, plan_for(model, structure, keep))


def assert_pruned_equals_masked(model, inputs, structure, keep, tolerance=1e-9):
    """Taking channels out is setting all their slices to zero; returns the smaller model."""
    smaller = pruned(model, structure, keep)
    assert_same_function(masked(model, structure, keep), smaller, inputs, tolerance)
    return smaller


def assert_counts_hold(smaller, inputs, structure, keep):
    """The parameters and MACs that the structure predicts are those of the smaller model."""
    assert structure.params(keep) == sum(parameter.numel() for parameter in smaller.parameters())
    again = trace_structure(smaller, inputs)
    assert structure.params(keep) == again.params()
    assert structure.layer_macs(keep) == again.layer_macs()
    assert structure.macs(keep) == again.macs()


def state_of(model):
    """Everything that can be seen of a model: tensors, modes, attributes with their types, methods of its own."""
    tensors = {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}
    plain = {}
    for path, module in model.named_modules():
        plain[path] = (type(module), module.training)
        for name, value in vars(module).items():
            if not isinstance(value, torch.Tensor) and not name.startswith("_"):
                plain[f"{path}.{name}"] = (type(value), repr(value), _types(value))
    hooks = [len(getattr(module, "_forward_hooks", ())) for module in model.modules()]
    identities = {name: id(parameter) for name, parameter in model.named_parameters()}
    return tensors, plain, hooks, identities


def assert_untouched(model, before):
    """The model is as `state_of` found it."""
    tensors, plain, hooks, identities = before
    now = state_of(model)
    assert list(now[0]) == list(tensors)
    for name, tensor in tensors.items():
        torch.testing.assert_close(now[0][name], tensor, rtol=0, atol=0, equal_nan=True)
    assert now[1] == plain
    assert now[2:] == (hooks, identities)


def zero_consumers(model, structure, gone):
    """Set what reads the given channels to zero, in place.

    `gone` maps names of coupled channels to boolean masks, True for channels nobody shall read.
    """
    tensors = named_tensors(model)
    with torch.no_grad():
        for name, mask in gone.items():
            for own in structure.by_name[name].slices:
                if own.role == "consumer":
                    for position, channel in enumerate(own.owner.tolist()):
                        if channel >= 0 and mask[channel]:
                            tensors[own.tensor].select(own.dim, position).zero_()


def random_masks(coupled, generator, share=0.5):
    """Keep each channel with a probability, at least one of each kind."""
    masks = {}
    for own in coupled:
        mask = torch.rand(own.count, generator=generator) < share
        mask[int(torch.randint(own.count, (), generator=generator))] = True
        masks[own.name] = mask
    return masks


def liven(model, seed=0):
    """Give norms random scales, shifts and statistics, and everything else random values; in place, float64."""
    generator = torch.Generator().manual_seed(seed)
    model.double()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator))
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            fan = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter.copy_(noise * fan**-0.5)
    return model.eval()


def _types(value):
    if isinstance(value, list | tuple):
        return [_types(entry) for entry in value]
    if isinstance(value, dict):
        return {str(key): _types(entry) for key, entry in value.items() if not isinstance(entry, nn.Module)}
    return type(value)
