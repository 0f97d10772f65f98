"""A real browser, and dashboards for it. Screenshots are kept in build/screenshots."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

SCREENSHOTS = ROOT / "build" / "screenshots"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


# One file at a time: while it lives, no other event loop may run in this thread.
@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium; install it (tools/system.sh does, as root on Debian) or set CHROMIUM to its path")
    # As root, as in containers, Chromium runs only without its sandbox. It opens nothing here but the dashboard.
    arguments = ["--no-sandbox", "--disable-dev-shm-usage"] if hasattr(os, "getuid") and os.getuid() == 0 else []
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=found, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """Opens pages; whatever one of them complains about fails the test at its end, except `page.excused` texts."""
    pages, complaints = [], []

    def make(url=None, clock=False, **options):
        options.setdefault("viewport", {"width": 1440, "height": 900})
        page = browser.new_page(**options)
        page.excused = []
        page.set_default_timeout(15_000)
        page.on("console", lambda said: complaints.append((page, f"{said.type}: {said.text}")))
        page.on("pageerror", lambda error: complaints.append((page, f"exception: {error}")))
        pages.append(page)
        if clock:
            page.clock.install()
        if url is not None:
            page.goto(url)
        return page

    yield make
    found = [text for page, text in complaints if not any(part in text for part in page.excused)]
    for page in pages:
        page.close()
    assert found == []


@pytest.fixture
def make_manager(tmp_path):
    from dashboards import managers

    with managers(tmp_path) as make:
        yield make


@pytest.fixture
def manager(make_manager):
    return make_manager()


@pytest.fixture
def make_dashboard(manager):
    from dashboards import dashboards

    with dashboards() as make:
        yield lambda of=None, **options: make(of or manager, **options)


@pytest.fixture
def dashboard(make_dashboard):
    return make_dashboard()


@pytest.fixture
def screenshot():
    """Keeps what a page looks like."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)

    def take(page, name, **options):
        page.screenshot(path=SCREENSHOTS / f"{name}.png", **options)

    return take
