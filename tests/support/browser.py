"""A page in headless Chromium, and what a script in it finds."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--virtual-time-budget=30000", "--enable-logging=stderr", "--dump-dom"),
]


def found_in(page: str, script: str, folder: Path) -> tuple[Any, list[str]]:
    """What the expression `script` comes to once all charts are drawn, and what the console said.

    It has `views`, and `symbols(root)`: the rows behind the points that were drawn.
    """
    end = page.rindex("</body>")
    own = (
        "<script>const symbols = (item) => [...(item.mark?.marktype === 'symbol' ? [item.datum] : []),"
        "...(item.items ?? []).flatMap(symbols)]; window.linscoreViews.then(async (views) => {"
        "const found = document.createElement('pre'); found.id = 'found';"
        f"found.textContent = JSON.stringify(await (async () => ({script}))());"
        "document.body.append(found); });</script>"
    )
    path = folder / "page.html"
    path.write_text(page[:end] + own + page[end:], encoding="utf-8")
    command = [str(CHROMIUM), *QUIET, f"--user-data-dir={folder / 'profile'}", path.as_uri()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    said = [line for line in ended.stderr.splitlines() if "CONSOLE" in line]
    match = re.search(r'<pre id="found">(.*?)</pre>', ended.stdout, re.DOTALL)
    assert match, f"no answer from the page: {said}"
    return json.loads(html.unescape(match[1])), said
