r"""Random projections of gradients from millions of parameters to a few hundred numbers, without the matrix.

A projection is a linear map :math:`P^\top: \mathbb{R}^p \to \mathbb{R}^d` with :math:`E[P P^\top] = I`, so that inner
products are kept on average with a spread of about :math:`1/\sqrt d`. Its entries follow from a seed: they are made
again, block by block, whenever they are needed. The memory is that of one block whatever :math:`p` is.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["PROJECTIONS", "Projection", "RademacherProjection", "SparseProjection"]


@dataclass(frozen=True)
class Projection(ABC):
    r"""The map :math:`g \mapsto P^\top g` and its transpose :math:`w \mapsto P w`.

    Args:
        sizes: Number of entries of each parameter, in the order in which gradients come; :math:`p` is their sum.
        dimension: :math:`d`, at least 1.
        seed: Of the random entries, at least 0.

    Raises:
        ValueError: If a number is out of its range.
    """

    sizes: tuple[int, ...]
    dimension: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dimension < 1:
            raise ValueError(f"Expected `dimension` to be at least 1, but got {self.dimension}.")
        if self.seed < 0:
            raise ValueError(f"Expected `seed` to be at least 0, but got {self.seed}.")
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(
                f"Expected `sizes` to be at least one number, each at least 1, but got {self.sizes}."
            )

    def project(self, gradients: Sequence[Tensor | None]) -> Float[Tensor, "samples dimension"]:
        r"""Return :math:`P^\top g` of every sample.

        Args:
            gradients: One tensor (samples, ...) a parameter, in the order of ``sizes``; None stands for zeros. At
                least one is a tensor.

        Raises:
            ValueError: If a gradient has another number of entries than ``sizes`` says.
        """
        given = next((g for g in gradients if g is not None), None)
        if given is None or len(gradients) != len(self.sizes):
            raise ValueError(
                f"Expected `gradients` to be {len(self.sizes)} tensors, not all of them None, "
                f"but got {len(gradients)}."
            )
        result = given.new_zeros(len(given), self.dimension, dtype=torch.float32)
        for index, (gradient, size) in enumerate(zip(gradients, self.sizes, strict=True)):
            if gradient is None:
                continue
            flat = gradient.reshape(len(gradient), -1).float()
            if flat.shape[1] != size:
                raise ValueError(
                    f"Expected gradient {index} to have {size} entries, but got {flat.shape[1]}."
                )
            for block, start, stop in self._blocks(index):
                self._add(result, flat[:, start:stop], self._random(index, block))
        return result

    def lift(self, vector: Float[Tensor, " dimension"]) -> list[Float[Tensor, " entries"]]:
        """Return :math:`P w`, one flat tensor a parameter."""
        lifted = []
        for index, size in enumerate(self.sizes):
            whole = vector.new_empty(size)
            for block, start, stop in self._blocks(index):
                whole[start:stop] = self._lift_block(vector, stop - start, self._random(index, block))
            lifted.append(whole)
        return lifted

    @property
    @abstractmethod
    def block_entries(self) -> int:
        """How many parameters are projected at once."""

    @abstractmethod
    def _add(self, result: Tensor, block: Tensor, random: np.random.Generator) -> None:
        """Add a block's part to the projections (samples, dimension)."""

    @abstractmethod
    def _lift_block(self, vector: Tensor, entries: int, random: np.random.Generator) -> Tensor:
        """Return the lifted vector's entries in a block."""

    def _blocks(self, index: int) -> Iterator[tuple[int, int, int]]:
        for block, start in enumerate(range(0, self.sizes[index], self.block_entries)):
            yield block, start, min(start + self.block_entries, self.sizes[index])

    def _random(self, index: int, block: int) -> np.random.Generator:
        return np.random.default_rng((1, self.seed, index, block))


@dataclass(frozen=True)
class RademacherProjection(Projection):
    r"""Independent signs :math:`\pm 1/\sqrt d`, as published; :math:`p d` operations a sample.

    References:
        Li, Sharma and Zhang, "Scalable Multitask Learning Using Gradient-based Estimation of Task Affinity", 2024,
        https://arxiv.org/abs/2409.06091, section 3.
    """

    @property
    def block_entries(self) -> int:
        """As many as fill 16 MB with signs."""
        return max(1, 2**22 // self.dimension)

    def _add(self, result: Tensor, block: Tensor, random: np.random.Generator) -> None:
        result.addmm_(block, self._signs(block.shape[1], random).to(block.device))

    def _lift_block(self, vector: Tensor, entries: int, random: np.random.Generator) -> Tensor:
        return self._signs(entries, random).to(vector) @ vector

    def _signs(self, entries: int, random: np.random.Generator) -> Tensor:
        count = entries * self.dimension
        bits = np.unpackbits(np.frombuffer(random.bytes(-(-count // 8)), np.uint8), count=count)
        signs = torch.from_numpy(bits).view(entries, self.dimension).float()
        return signs.mul_(2).sub_(1).mul_(self.dimension**-0.5)


@dataclass(frozen=True)
class SparseProjection(Projection):
    r"""Each parameter goes to one of :math:`d` sums, with a random sign; :math:`p` operations a sample.

    References:
        Charikar, Chen and Farach-Colton, "Finding frequent items in data streams", 2004,
        https://doi.org/10.1016/S0304-3975(03)00400-6; Weinberger et al., "Feature Hashing for Large Scale Multitask
        Learning", 2009, https://arxiv.org/abs/0902.2206, lemma 2 (unbiased, variance :math:`O(1/d)`).
    """

    @property
    def block_entries(self) -> int:
        """One million, a few megabytes of indices and signs."""
        return 2**20

    def _add(self, result: Tensor, block: Tensor, random: np.random.Generator) -> None:
        places, signs = self._hashes(block.shape[1], random, block.device)
        # A sample at a time: rows of a few samples are scattered much more slowly than single numbers.
        for sums, entries in zip(result, block, strict=True):
            sums.index_add_(0, places, entries * signs)

    def _lift_block(self, vector: Tensor, entries: int, random: np.random.Generator) -> Tensor:
        places, signs = self._hashes(entries, random, vector.device)
        return vector[places] * signs.to(vector)

    def _hashes(
        self, entries: int, random: np.random.Generator, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        places = random.integers(0, self.dimension, entries, dtype=np.int32)
        bits = np.unpackbits(np.frombuffer(random.bytes(-(-entries // 8)), np.uint8), count=entries)
        signs = torch.from_numpy(bits).float().mul_(2).sub_(1)
        return torch.from_numpy(places).to(device), signs.to(device)


PROJECTIONS: Mapping[str, Callable[..., Projection]] = {
    "sparse": SparseProjection,
    "rademacher": RademacherProjection,
}
