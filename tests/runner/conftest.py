"""For the tests of the runner: the two doors called in this process; the fixtures are in ``tests/conftest.py``."""

from tests.conftest import Door, Said

__all__ = ["Door", "Said"]
