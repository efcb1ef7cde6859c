"""Write docs/images/report.png: the page of the example adapter as a browser shows it.

    python docs/make_screenshots.py

Needs chromium (apt-get install chromium) and playwright (extra `test`).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from playwright.sync_api import sync_playwright

from s3lora import default_policy, open_adapter, scan
from s3lora.report import make_report
from s3lora.report.html import render

ROOT = Path(__file__).parent.parent
EXAMPLE = "src/s3lora/example/adapter"
IMAGE = ROOT / "docs/images/report.png"
SIZE = {"width": 1280, "height": 1320}


def page() -> str:
    """The page of the example adapter, named as in the README."""
    os.chdir(ROOT)
    adapter = open_adapter(EXAMPLE)
    table = scan(adapter)
    policy = default_policy(table)
    return render(make_report(adapter, table, policy, chosen=policy(table)))


def shoot(text: str, image: Path) -> None:
    """Open the page and save what is seen of it."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with TemporaryDirectory() as folder, sync_playwright() as driver:
        file = Path(folder) / "report.html"
        file.write_text(text, encoding="utf-8")
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        opened = browser.new_page(viewport=SIZE, color_scheme="light")
        opened.goto(file.as_uri())
        opened.screenshot(path=image)
        browser.close()


if __name__ == "__main__":
    IMAGE.parent.mkdir(exist_ok=True)
    shoot(page(), IMAGE)
    click.echo(f"wrote {IMAGE}")
