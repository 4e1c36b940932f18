"""Random predictions and targets of every kind of task, with ignored entries."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lomt.tasks import KINDS, Task, make_task

CHANNELS = {
    "segmentation": 5,
    "depth": 1,
    "normals": 3,
    "edges": 1,
    "keypoints": 2,
    "classification": 4,
    "multilabel": 3,
    "regression": 2,
}
IGNORED = {
    "segmentation": -1,
    "depth": 0.0,
    "normals": 0.0,
    "edges": -1.0,
    "keypoints": -1.0,
    "classification": -1,
    "multilabel": -1.0,
    "regression": torch.nan,
}

Batch = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(
    params=[
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
    ]
)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def task_of() -> Callable[..., Task]:
    """Make a task of a kind, named after it."""

    def make(kind: str, **options: object) -> Task:
        return make_task(kind, kind, CHANNELS[kind], **options)

    return make


@pytest.fixture
def batch_of() -> Callable[..., Batch]:
    """Draw a prediction, a target with about a third of its entries ignored, and the mask of those."""

    def make(kind: str, batch: int = 6, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        size = (5, 7) if KINDS[kind].is_dense else ()
        prediction = 2 * torch.randn(batch, CHANNELS[kind], *size, generator=generator, dtype=dtype)
        target = _draw_target(kind, prediction, generator)
        mask_shape = (batch, 1, *size) if kind == "normals" else target.shape
        ignored = torch.rand(mask_shape, generator=generator) < 0.3
        return prediction, target.masked_fill(ignored, IGNORED[kind]), ignored

    return make


def _draw_target(kind: str, like: Tensor, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(like.shape, generator=generator, dtype=like.dtype)
    if KINDS[kind].holds_labels:
        return (uniform[:, 0] * CHANNELS[kind]).long()
    if kind in ("edges", "multilabel"):
        return (uniform < 0.4).to(like.dtype)
    if kind == "normals":
        return torch.nn.functional.normalize(uniform - 0.5, dim=1)
    if kind == "depth":
        return 0.5 + 3 * uniform
    return uniform
