"""The kinds of database that a test runs on."""

from __future__ import annotations

import pytest

only_sqlite = pytest.mark.parametrize("kind", ["sqlite"])
"""For tests whose result cannot differ between the databases."""

only_postgresql = pytest.mark.parametrize("kind", ["postgresql"])
"""For tests of what SQLite does not have."""

slow_on_postgresql = pytest.mark.slow_on_postgresql
"""For tests, or whole modules, that run on both databases and take long on PostgreSQL."""
