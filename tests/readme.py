"""``python -m tests.readme`` writes what the READMEs' commands print into them."""

from __future__ import annotations

from tests.support.readme import main

if __name__ == "__main__":
    main()
