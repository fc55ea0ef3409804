"""The check in a browser finds what it should find."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import browser


@pytest.mark.slow
@pytest.mark.skipif(browser.CHROMIUM is None, reason="Chromium is not installed")
def test_the_check_sees_what_is_wrong(tmp_path: Path) -> None:
    page = (
        "<body style='background: #fff; margin: 0'><p style='color: #999'>faint</p>"
        "<p style='color: #000'><span style='display: block; width: 900px'>wide</span></p>"
        "<script>console.error('said')</script>"
    )
    seen = browser.measure(page, tmp_path, 360, scheme="light")
    assert [element[:2] for element, _ in seen["360"]["faint"]] == ["<p"]
    assert (len(seen["360"]["wide"]), seen["360"]["scroll"]) == (1, 900)
    assert "said" in seen["console"][0]
