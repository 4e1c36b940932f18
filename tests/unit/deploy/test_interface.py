import pytest
import torch

from lomt.deploy import Interface, Preprocessing
from lomt.deploy.deployed_network import DeployedNetwork, raw_answer
from lomt.deploy.interface import ANSWERS
from lomt.errors import ArtifactError, UnknownNameError
from lomt.tasks import make_task

KINDS = {
    "segmentation": 5,
    "depth": 1,
    "normals": 3,
    "edges": 1,
    "keypoints": 2,
    "classification": 4,
    "multilabel": 3,
    "regression": 2,
}


class Stored(torch.nn.Module):
    """Answers with the same tensors whatever the images."""

    def __init__(self, answers):
        super().__init__()
        self.answers = answers

    def forward(self, images):
        return self.answers


@pytest.fixture
def answers():
    torch.manual_seed(0)
    dense = ("segmentation", "depth", "normals", "edges", "keypoints")
    return {
        kind: torch.randn(2, count, 6, 7) if kind in dense else torch.randn(2, count)
        for kind, count in KINDS.items()
    }


def deployed(answers, answer, preprocessing=None):
    interface = Interface(preprocessing, {kind: kind for kind in KINDS}, answer=answer)
    return interface, DeployedNetwork(Stored(answers), list(KINDS), interface)


def test_raw_answers_are_the_models(answers):
    _, network = deployed(answers, "raw")
    assert all(
        torch.equal(found, answers[kind]) for kind, found in network.by_name(torch.rand(2, 3, 6, 7)).items()
    )


@pytest.mark.parametrize("answer", ["probabilities", "labels"])
def test_answers_are_what_they_are_called(answers, answer):
    interface, network = deployed(answers, answer)
    found = network.by_name(torch.rand(2, 3, 6, 7))
    for kind in ("segmentation", "classification"):
        if answer == "labels":
            assert torch.equal(found[kind], answers[kind].argmax(1)) and interface.values(kind) == "labels"
        else:
            torch.testing.assert_close(found[kind], torch.softmax(answers[kind], 1))
            assert interface.values(kind) == "probabilities"
    for kind in ("edges", "keypoints", "multilabel"):
        torch.testing.assert_close(found[kind], torch.sigmoid(answers[kind]))
        assert interface.values(kind) == "probabilities"
    torch.testing.assert_close(found["normals"].norm(dim=1), torch.ones(2, 6, 7))
    assert interface.values("normals") == "unit vectors"
    assert interface.values("depth") == "metres" and torch.equal(found["depth"], answers["depth"])
    assert interface.values("regression") == "values" and torch.equal(
        found["regression"], answers["regression"]
    )


@pytest.mark.parametrize("answer", ANSWERS)
def test_metrics_of_any_answer_are_those_of_the_raw_one(answers, answer):
    interface, network = deployed(answers, answer)
    torch.manual_seed(1)
    targets = {
        "segmentation": torch.randint(5, (2, 6, 7)),
        "depth": torch.rand(2, 1, 6, 7) + 1,
        "normals": torch.nn.functional.normalize(torch.randn(2, 3, 6, 7), dim=1),
        "edges": torch.randint(2, (2, 1, 6, 7)).float(),
        "keypoints": torch.rand(2, 2, 6, 7),
        "classification": torch.randint(4, (2,)),
        "multilabel": torch.randint(2, (2, 3)).float(),
        "regression": torch.randn(2, 2),
    }
    for kind, found in network.by_name(torch.rand(2, 3, 6, 7)).items():
        task = make_task(kind, kind, KINDS[kind])
        again = raw_answer(kind, found, interface, KINDS[kind])
        metrics = [
            task.metrics.compute(task.metrics.statistics(prediction.float(), targets[kind]))
            for prediction in (answers[kind], again)
        ]
        assert metrics[1] == pytest.approx(metrics[0], rel=1e-4), kind


@pytest.mark.parametrize(("order", "highest"), [("RGB", 1), ("BGR", 255)])
def test_baked_preparation_is_the_formula(order, highest):
    class Same(torch.nn.Module):
        def forward(self, images):
            return images

    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
    interface = Interface(Preprocessing(mean, std, order, highest, True))
    image = torch.rand(2, 3, 4, 5)  # red first, 0 to 1
    given = (image.flip(1) if order == "BGR" else image) * highest
    (found,) = DeployedNetwork(Same(), ["output"], interface)(given)
    for channel in range(3):
        expected = (image[:, channel] - mean[channel]) / std[channel]
        torch.testing.assert_close(found[:, channel], expected, atol=1e-5, rtol=1e-5)


def test_metadata_hold_the_whole_interface():
    interface = Interface(
        Preprocessing((0.5, 0.4, 0.3), (0.2, 0.2, 0.2), "BGR", 255, True),
        {"depth": "depth", "room": "classification"},
        {"room": ("kitchen", "bath")},
        "labels",
    )
    metadata = interface.to_metadata(["depth", "room", "extra"])
    assert Interface.from_metadata(metadata) == interface
    assert (
        '"depth": {"kind": "depth", "values": "metres", "unit": "m", "classes": []}'
        in metadata["lomt.outputs"]
    )
    assert Interface.from_metadata({}) == Interface()


@pytest.mark.parametrize(
    "damage",
    [{"lomt.outputs": "{"}, {"lomt.preprocessing": '{"mean": [1]}'}, {"lomt.outputs": '{"depth": 3}'}],
)
def test_damaged_metadata_are_refused(damage):
    with pytest.raises(
        ArtifactError, match=r"Expected the metadata `lomt\.outputs` and `lomt\.preprocessing` to be as"
    ):
        Interface.from_metadata(damage)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: Preprocessing((0.5,), (0.0,)),
            "Expected `mean` and `std` to have one number a channel, and those of",
        ),
        (
            lambda: Preprocessing((0.5, 0.5), (0.1,)),
            "Expected `mean` and `std` to have one number a channel, and",
        ),
        (lambda: Preprocessing((0.5,), (0.1,), "BRG"), "Unknown channel order `BRG`, did you mean"),
        (lambda: Preprocessing((0.5,), (0.1,), "BGR"), "Expected 3 channels for the order BGR, but got 1."),
        (
            lambda: Preprocessing((0.5,), (0.1,), "RGB", 100.0),
            "Expected the highest value of an image to be 1 or 255",
        ),
        (lambda: Interface(answer="label"), "Unknown answer `label`, did you mean `labels`?"),
        (lambda: Interface(kinds={"depth": "dept"}), "Unknown task kind `dept`, did you mean `depth`?"),
    ],
)
def test_what_cannot_be_used_is_refused(make, text):
    with pytest.raises((ValueError, UnknownNameError)) as caught:
        make()
    assert str(caught.value).startswith(text)
