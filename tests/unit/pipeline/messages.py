"""A progress for tests of the pipeline."""

from lomt.training import SilentProgress


class Messages(SilentProgress):
    """Remembers what the run said."""

    def __init__(self):
        self.texts = []

    def message(self, text):
        self.texts.append(text)
