import pytest
import torch
from torch import nn

from lomt.compress.channel_baselines import ChannelBaseline, consumer_masks, removable_part
from lomt.errors import ScoreError, SparsityTargetError, UnknownNameError
from lomt.pruning.prune import analyse, prune
from lomt.sparsity.baselines import BASELINES, apply_masks
from tests.reference import channel_scores as reference
from tests.reference.pruning_laws import assert_same_function

IMAGES = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class TwoTasks(nn.Module):
    """A residual stream that both tasks read, a stretch that depth alone reads, and decoders with channels."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.block = nn.Sequential(
            nn.Conv2d(6, 10, 3, padding=1), nn.BatchNorm2d(10), nn.ReLU(), nn.Conv2d(10, 6, 1)
        )
        self.deep = nn.Sequential(nn.Conv2d(6, 8, 1), nn.ReLU())
        self.depth = nn.Sequential(nn.Conv2d(8, 5, 1), nn.ReLU(), nn.Conv2d(5, 1, 1))
        self.label = nn.Sequential(nn.Conv2d(6, 7, 1), nn.ReLU(), nn.Conv2d(7, 2, 1))

    def forward(self, images):
        features = self.stem(images)
        features = features + self.block(features)
        return {"depth": self.depth(self.deep(features)), "label": self.label(features)}

    @staticmethod
    def component_of(name):
        part = name.partition(".")[0]
        return part if part in ("depth", "label") else "backbone"


def two_tasks(seed=0):
    torch.manual_seed(seed)
    model = TwoTasks().double().eval()
    model.stem[1].running_mean.normal_()
    return model, analyse(model, IMAGES)


def losses(model):
    for shift in (0.0, 1.0):
        outputs = model(IMAGES + shift)
        yield {"depth": outputs["depth"].abs().mean(), "label": 2 * outputs["label"].square().mean()}


def all_losses(model):
    return [loss for batch in losses(model) for loss in batch.values()]


def by_task(model, structure, method):
    used = {"depth": {"stem.0", "block.0", "deep.0", "depth.0"}, "label": {"stem.0", "block.0", "label.0"}}
    if method == "disparse_pretrained":
        sizes = reference.magnitude(model, structure)
        return {task: {name: sizes[name] for name in sizes if name in names} for task, names in used.items()}
    return {
        task: {
            name: values
            for name, values in reference.taylor(
                model, structure, [batch[task] for batch in losses(model)]
            ).items()
            if name in used[task]
        }
        for task in used
    }


def kept(masks):
    return {(name, c) for name, mask in masks.keep.items() for c in mask.nonzero().flatten().tolist()}


def top(scores, count):
    flat = [(float(v), name, c) for name, values in scores.items() for c, v in enumerate(values)]
    flat.sort(reverse=True)
    return {(name, c) for _, name, c in flat[:count]}


def union(tasks, kappa):
    """Return what is among the top floor(kappa N) of any task's N channels."""
    return set().union(
        *(top(scores, int(kappa * sum(map(len, scores.values())) + 1e-9)) for scores in tasks.values())
    )


def test_the_names_are_the_layers():
    _, structure = two_tasks()
    assert [own.name for own in structure.prunable] == ["stem.0", "block.0", "deep.0", "depth.0", "label.0"]


@pytest.mark.parametrize("method", ["global_magnitude", "imp", "lth", "snip"])
def test_the_highest_scores_stay(method):
    model, structure = two_tasks()
    masks = ChannelBaseline(method, losses=losses).masks(model, structure, 0.5)
    if method == "snip":
        totals = [sum(batch.values()) for batch in losses(model)]
        scores = reference.taylor(model, structure, totals)
    else:
        scores = reference.magnitude(model, structure)

    assert masks.total.zero == 18
    assert kept(masks) == top(scores, 18)


@pytest.mark.parametrize("method", ["disparse_static", "disparse_pretrained"])
@pytest.mark.parametrize("target", [0.25, 0.5, 0.75])
def test_the_union_rule_on_channels(method, target):
    model, structure = two_tasks()
    baseline = ChannelBaseline(method, losses=losses)
    masks = baseline.masks(model, structure, target)
    tasks = by_task(model, structure, method)
    count = masks.total.count - masks.total.zero

    assert masks.total.zero == 36 * target
    # By hand: raise kappa until the union is large enough.
    kappa = next(kappa for kappa in (i / 2000 for i in range(2001)) if len(union(tasks, kappa)) >= count)
    assert masks.facts["kappa"] == pytest.approx(kappa, abs=1 / 2000)
    # A layer of which no task wants anything keeps its best channel.
    forced = {(name, c) for name, c in kept(masks) - union(tasks, kappa) if int(masks.keep[name].sum()) == 1}
    assert kept(masks) - forced <= union(tasks, kappa)
    if len(union(tasks, kappa)) == count and not forced:
        assert kept(masks) == union(tasks, kappa)
    table = baseline.agreement(model, structure, masks)
    assert [layer.name for layer in table.layers] == ["stem.0", "block.0"]
    assert set(table.layers[0].kept) == {"depth", "label"}


@pytest.mark.parametrize(
    ("method", "measure", "target"),
    [
        ("global_magnitude", "removable", 0.0),
        ("global_magnitude", "params", 0.3),
        ("global_magnitude", "macs", 0.7),
        ("disparse_static", "removable", 0.7),
        ("disparse_static", "params", 0.6),
        ("snip", "macs", 0.3),
    ],
)
def test_what_goes_is_the_target_and_its_removal_exact(method, measure, target):
    model, structure = two_tasks()
    masks = ChannelBaseline(method, measure, losses).masks(model, structure, target)
    counts = {
        "removable": (masks.total.zero, 36),
        "params": (structure.params() - structure.params(masks.keep), structure.params()),
        "macs": (structure.macs() - structure.macs(masks.keep), structure.macs()),
    }
    gone, whole = counts[measure]
    assert target <= gone / whole + 1e-12
    assert gone / whole < target + 0.12  # one channel of this small network is as much

    apply_masks(model, consumer_masks(structure, model, masks.keep))
    smaller = prune(model, IMAGES).model
    assert_same_function(model, smaller, IMAGES)
    left = analyse(smaller, IMAGES)
    assert left.params() <= structure.params(masks.keep)


def test_parts_by_the_models_names_or_the_structures():
    model, structure = two_tasks()
    baseline = ChannelBaseline("global_magnitude")
    assert list(baseline.masks(model, structure, 0.5).parts) == ["shared", "depth", "label"]
    own = baseline.masks(model, structure, 0.5, component_of=model.component_of)
    assert {name: part.count for name, part in own.parts.items()} == {"backbone": 24, "depth": 5, "label": 7}


def test_only_the_parts_asked_for_lose_channels():
    model, structure = two_tasks()
    masks = ChannelBaseline("snip", losses=losses).masks(
        model, structure, 0.5, component_of=model.component_of, components=["backbone"]
    )
    assert set(masks.keep) == {"stem.0", "block.0", "deep.0"}
    assert masks.total.zero == 12
    with pytest.raises(
        UnknownNameError, match="Unknown component `edges`. Known are backbone, depth, label."
    ):
        ChannelBaseline("imp").masks(
            model, structure, 0.5, component_of=model.component_of, components=["edges"]
        )


def test_what_is_gone_stays_gone():
    model, structure = two_tasks()
    baseline = ChannelBaseline("imp")
    first = baseline.masks(model, structure, 0.4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, dtype=parameter.dtype))
    second = baseline.masks(model, structure, 0.6, within=first.keep)

    assert kept(second) < kept(first)
    assert not kept(baseline.masks(model, structure, 0.6)) < kept(first)


def test_widths_are_multiples_and_a_least_share_stays():
    model, structure = two_tasks()
    masks = ChannelBaseline("global_magnitude", divisor=2, minimum=0.5).masks(model, structure, 0.3)
    for mask in masks.keep.values():
        assert int(mask.sum()) == len(mask) or int(mask.sum()) % 2 == 0
        assert int(mask.sum()) >= len(mask) / 2


# --- bad input


def test_targets_out_of_reach_say_what_is_in_reach():
    model, structure = two_tasks()
    with pytest.raises(
        SparsityTargetError,
        match=r"^Expected a target of at most 0\.8611 of `removable`, all that can go .* but got 0.9. Ask for less",
    ):
        ChannelBaseline("global_magnitude").masks(model, structure, 0.9)


@pytest.mark.parametrize("target", [-0.1, 1.0])
def test_a_share_that_is_none(target):
    model, structure = two_tasks()
    with pytest.raises(SparsityTargetError, match=f"at least 0 and below 1, but got {target}"):
        ChannelBaseline("global_magnitude").masks(model, structure, target)


def test_a_model_without_channels_that_may_go():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(1, 4), nn.Conv2d(4, 2, 1)).double()
    structure = analyse(model, IMAGES)
    with pytest.raises(
        SparsityTargetError,
        match="^Expected the model to have channels that can be removed exactly, but it has none",
    ):
        removable_part(structure)
    with pytest.raises(SparsityTargetError, match="take granularity `unstructured`"):
        ChannelBaseline("lth").masks(model, structure, 0.5)


def test_unknown_names():
    with pytest.raises(UnknownNameError, match=r"Unknown method `snap`, did you mean `snip`\?"):
        ChannelBaseline("snap")
    with pytest.raises(
        UnknownNameError, match=r"Unknown measure `flops`. Known are macs, params, removable."
    ):
        ChannelBaseline("snip", "flops", losses)


@pytest.mark.parametrize(
    "method", [name for name, own in BASELINES.items() if own.reads in ("losses", "tasks")]
)
def test_methods_that_read_losses_say_so(method):
    with pytest.raises(ScoreError, match=f"^Expected `losses` for method `{method}`, but got None."):
        ChannelBaseline(method)
