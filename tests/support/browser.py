"""Open pages in headless Chromium, and measure them as a person with a phone would see them."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
"""The program, None where it is not installed."""

LEAST_CONTRAST = 4.5
"""The contrast of text that WCAG 2.2 asks for at level AA; 3 for large text."""

SCHEMES = {"light": 1, "dark": 0}
"""The numbers of Chromium for colour schemes."""

CHECK = """<!doctype html><title>check</title><body><script>
const channel = c => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
const light = c => .2126 * channel(c[0]) + .7152 * channel(c[1]) + .0722 * channel(c[2]);
const parsed = text => (text.match(/[\\d.]+/g) || []).map(Number);
const ratio = (a, b) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
function behind(element) {
  for (; element; element = element.parentElement) {
    const color = parsed(getComputedStyle(element).backgroundColor);
    if (color.length === 3 || color[3] === 1) return color;
  }
}
function texts(page) {
  const walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT), found = [];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, style = getComputedStyle(element);
    if (!walker.currentNode.data.trim() || style.display === "none") continue;
    if (element.closest("title, style, desc")) continue;
    const isSvg = element instanceof page.defaultView.SVGElement;
    const size = parseFloat(style.fontSize), isBold = Number(style.fontWeight) >= 700;
    const least = size >= 24 || isBold && size >= 18.66 ? 3 : LEAST;
    const color = parsed(isSvg ? style.fill : style.color);
    const contrast = ratio(light(color), light(behind(element)));
    if (contrast < least) found.push([element.outerHTML.slice(0, 80), contrast]);
  }
  return found;
}
function wide(page, width) {
  const found = [];
  for (const element of page.body.querySelectorAll("*")) {
    if (element.closest(".scroll, svg")) continue;
    const { right } = element.getBoundingClientRect();
    if (right > width + .5) found.push(element.outerHTML.slice(0, 80));
  }
  return found;
}
async function measured(width) {
  const frame = document.createElement("iframe");
  frame.style = `border: 0; width: ${width}px; height: 900px`;
  frame.src = "page.html";
  await new Promise(done => { frame.onload = done; document.body.append(frame); });
  const page = frame.contentDocument;
  for (const details of page.querySelectorAll("details")) details.open = true;
  return {
    scroll: page.scrollingElement.scrollWidth, wide: wide(page, width), faint: texts(page),
    charts: page.querySelectorAll("svg[role=img][aria-label]").length,
    background: getComputedStyle(page.body).backgroundColor,
  };
}
(async () => {
  const found = {};
  for (const width of WIDTHS) found[width] = await measured(width);
  document.body.innerHTML = "<pre></pre>";
  document.querySelector("pre").textContent = JSON.stringify(found);
})();
</script>"""


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _run(url: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--log-level=0",
        "--disable-dev-shm-usage", *options, url,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


def measure(page: str, folder: Path, *widths: int, scheme: str) -> Mapping[str, Any]:
    """Return what a page looks like at some widths, and what the console says.

    Args:
        page: the HTML.
        folder: an empty folder.
        widths: in pixels.
        scheme: light or dark.

    Returns:
        For each width the width of the whole page, the elements beyond its edge, and the texts with
        too little contrast; and under `console` the messages.
    """
    (folder / "page.html").write_text(page, encoding="utf-8")
    check = CHECK.replace("LEAST", str(LEAST_CONTRAST)).replace("WIDTHS", json.dumps(widths))
    (folder / "check.html").write_text(check, encoding="utf-8")
    with _served(folder) as url:
        done = _run(
            f"{url}/check.html", folder, "--dump-dom", "--virtual-time-budget=10000",
            f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
        )  # fmt: skip
    written = re.search(r"<pre>(.*)</pre>", done.stdout, re.DOTALL)
    assert written, done.stderr
    found: dict[str, Any] = json.loads(html.unescape(written[1]))
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return {**found, "console": console}
