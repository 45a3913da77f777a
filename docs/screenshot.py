"""Remakes sample_reports/report.png, the head of the demo's page: ``python docs/screenshot.py``, with chromium."""

from __future__ import annotations

import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

SAMPLES = Path(__file__).resolve().parent.parent / "sample_reports"
SIZE = {"width": 1100, "height": 1480}  # down to the figure of divergence and loss

if __name__ == "__main__":
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.goto((SAMPLES / "report.html").as_uri())
        page.wait_for_selector("#figure-divergence-and-loss[data-ready]")
        page.wait_for_timeout(500)
        page.screenshot(path=SAMPLES / "report.png")
        browser.close()
    few = Image.open(SAMPLES / "report.png").convert("RGB").quantize(128)
    few.save(SAMPLES / "report.png", optimize=True)
