"""The stages in order: artefacts in, artefacts out."""

from lomt.pipeline.add_stage import AddSummary, add
from lomt.pipeline.group_stage import GroupSummary, group
from lomt.pipeline.run import STAGES, run
from lomt.pipeline.summary import RunSummary

__all__ = ["STAGES", "AddSummary", "GroupSummary", "RunSummary", "add", "group", "run"]
