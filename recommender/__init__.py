"""A For You feed inside an application's own SQL database.

One SQLAlchemy statement finds candidates, computes a weighted sum of named signals in the database,
and returns an ordered feed, on the caller's session and in the caller's transaction.

The public names are listed in `__init__.pyi`. Each is imported when it is first used, so importing
the package is cheap.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
