"""Models that somebody else wrote: taken apart into a backbone and decoders, cut and put together again."""

from lomt.models.adopted.adapter import Adapter, AdapterFit
from lomt.models.adopted.adoption import Adoption, adopt
from lomt.models.adopted.answers import AdoptionError
from lomt.models.adopted.decoders import AdoptedDecoder
from lomt.models.adopted.explanation import Explanation, explain
from lomt.models.adopted.features import Feature
from lomt.models.adopted.network import AdoptedModel, AdoptedSpec, fit_adapters
from lomt.models.adopted.proposal import describe, recipe_block

__all__ = [
    "Adapter",
    "AdapterFit",
    "AdoptedDecoder",
    "AdoptedModel",
    "AdoptedSpec",
    "Adoption",
    "AdoptionError",
    "Explanation",
    "Feature",
    "adopt",
    "describe",
    "explain",
    "fit_adapters",
    "recipe_block",
]
