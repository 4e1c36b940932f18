"""The run-time type checker that tests put on all of lomt."""

from beartype import BeartypeConf, beartype

# An int is a float, as type checkers have it.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
