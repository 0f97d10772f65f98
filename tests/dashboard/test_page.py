"""The page in a real browser: contract openclaw §5.2 row `/`, defect D10, and what goes beyond the contract."""

from __future__ import annotations

import re
import threading
import time
from contextlib import contextmanager

import pytest

from upshift import ConnectionPool, ResultCache

PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
HOSTILE = '<img src=x onerror="window.owned=1"><script>window.owned=1</script>{{7*7}}\'"&amp;'
#: What Chromium itself writes when the server is away.
AWAY = [
    "ERR_CONNECTION_REFUSED",
    "Error in connection establishment",
    "ERR_CONNECTION_RESET",
    "ERR_EMPTY_RESPONSE",
    "503",
]


def wait_for_text(page, selector, pattern, timeout=15_000):
    expression = "([selector, pattern]) => new RegExp(pattern).test(document.querySelector(selector)?.innerText ?? '')"
    page.wait_for_function(expression, arg=[selector, pattern], timeout=timeout)


def wait_until_live(page):
    wait_for_text(page, "#link", "^Live$")
    wait_for_text(page, "#tile-memory .value", r"\d")


def set_status(manager, task, status, **columns):
    names = ", ".join(f"{name} = ?" for name in ("status", *columns))
    manager.conn.execute(f"UPDATE background_tasks SET {names} WHERE id = ?", (status, *columns.values(), task))


def furnish(manager):
    """Tasks in every state."""
    now = "2026-01-02 03:04:05"
    types = ("resize_image", "send_digest", "index_document", "rebuild_report")
    for number in range(24):
        task = manager.queue_task(
            types[number % 4], f"Batch {number} of the nightly run", 1 + number % 4, {"batch": number}
        )
        if number < 12:
            set_status(manager, task, "completed", created_at=now, started_at=now, completed_at="2026-01-02 03:04:14")
        elif number < 16:
            error = "ConnectionError: mail.internal refused the connection"
            set_status(manager, task, "failed", error=error, started_at=now, completed_at="2026-01-02 03:05:05")
        elif number < 18:
            set_status(manager, task, "cancelled")
        elif number < 20:
            set_status(manager, task, "running", started_at=time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()))


# --- at a glance


@contextmanager
def working(manager, cache, pool):
    """An application at work: tasks of several types, some of which fail, come and go."""
    types = {"resize_image": 0.12, "send_digest": 0.3, "index_document": 0.06, "rebuild_report": 0.5}
    texts = ("48 product photos", "1,204 subscribers", "docs/handbook/onboarding.md", "Quarterly revenue, all regions")

    def handler(name):
        def handle(context):
            with pool.connection():
                time.sleep(types[name])
            cache.get(context["batch"] % 150) or cache.set(context["batch"] % 150, name)
            if name == "send_digest" and context["batch"] % 3 == 0:
                raise ConnectionError("mail.internal refused the connection")
            return {"success": True, "batch": context["batch"]}

        return handle

    for name in types:
        manager.register_handler(name)(handler(name))
    end = threading.Event()

    def queue():
        batch = 0
        while not end.wait(0.1):
            for _ in range(1 + batch // 20 % 3):
                batch += 1
                kind = batch % 4
                manager.queue_task(list(types)[kind], texts[kind], 1 + batch % 7 % 4, {"batch": batch})

    thread = threading.Thread(target=queue)
    thread.start()
    manager.start_workers()
    try:
        yield
    finally:
        end.set()
        thread.join()
        manager.stop_workers()


def test_looks(make_dashboard, make_manager, open_page, screenshot, tmp_path):  # issue: "make the page beautiful"
    manager = make_manager(scaling_check_interval=1, cpu_threshold=1000)
    cache = ResultCache(max_size=500)
    with ConnectionPool(tmp_path / "a.db", 2, 10) as one, ConnectionPool(tmp_path / "b.db", 1, 4) as other:
        server = make_dashboard(manager, cache=cache, db_pools={"main": one, "reports": other})
        for _ in range(2):
            manager.cancel_task(manager.queue_task("obsolete", "Not wanted any more"))
        with working(manager, cache, one):
            page, phone = open_page(server.url), open_page(server.url, **PHONE)
            wait_until_live(page)
            assert page.title() == "OpenClaw Dashboard"
            page.wait_for_function("() => samples.length >= 10", timeout=40_000)
            page.wait_for_selector("#rows tr")
            screenshot(page, "desktop")
            screenshot(page, "desktop-full", full_page=True)
            wait_until_live(phone)
            phone.wait_for_selector("#rows tr")
            screenshot(phone, "phone")
            phone.locator("#rows tr").nth(3).scroll_into_view_if_needed()
            screenshot(phone, "phone-tasks")
            wait_for_text(page, "#workers", r"worker-\d+\s+active")
            wait_for_text(page, "#tile-cache .value", r"[1-9]")


@pytest.mark.parametrize("width", [320, 390, 768, 1024, 1440, 2560])
def test_nothing_sticks_out(dashboard, manager, open_page, width):  # "readable on a phone"
    manager.queue_task("x" * 300, "y" * 3000)
    manager.queue_task("words", "many words " * 100)
    page = open_page(dashboard.url, viewport={"width": width, "height": 800})
    wait_until_live(page)
    page.wait_for_selector("#rows tr")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_is_dark(dashboard, open_page):  # openclaw §5.2 "dark theme"
    page = open_page(dashboard.url)
    color = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", color)[:3])) < 40


def test_it_asks_no_other_host(dashboard, open_page):  # openclaw §5.2 "self-contained (no CDN)"
    page, asked = open_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(dashboard.url)
    wait_until_live(page)
    assert [url for url in asked if not url.startswith((dashboard.url, "data:"))] == []


# --- live


def test_values_move_without_a_reload(make_dashboard, manager, open_page, tmp_path):  # openclaw §5.2 "live", D1
    cache = ResultCache()
    with ConnectionPool(tmp_path / "a.db", 1, 5) as pool:
        server = make_dashboard(cache=cache, db_pools={"main": pool})
        page = open_page(server.url)
        wait_until_live(page)
        wait_for_text(page, "#tile-queue .value", "^0$")
        assert page.locator("#tile-cache .note").inner_text() == "0 lookups"
        for number in range(7):
            manager.queue_task("work", f"number {number}")
        cache.set("key", 1)
        for _ in range(3):
            cache.get("key")
        cache.get("other")
        with pool.connection():
            wait_for_text(page, "#tile-queue .value", "^7$")
            wait_for_text(page, "#tile-cache", "75 ?%")
            wait_for_text(page, "#pools", "1 in use")
        wait_for_text(page, "#rows", "number 6")
        assert page.locator("#rows tr").count() == 7
        assert page.locator("#filter button[data-status=queued] b").inner_text() == "7"
        wait_for_text(page, "#pools", "0 in use")


def test_workers_and_their_work(make_dashboard, make_manager, open_page):  # openclaw §5.2 "worker boxes"
    manager = make_manager(min_workers=3, max_workers=3, enable_auto_scaling=False)

    @manager.register_handler("note")
    def note(context):
        return {"noted": context["number"]}

    server = make_dashboard(manager)
    page = open_page(server.url)
    wait_until_live(page)
    wait_for_text(page, "#tile-workers .value", r"^0\s*/ 3$")
    manager.start_workers()
    for number in range(20):
        manager.queue_task("note", f"number {number}", context={"number": number})
    wait_for_text(page, "#tile-workers .value", r"^3\s*/ 3$")
    wait_for_text(page, "#workers", "worker-")
    assert page.locator("#workers li:not(.free)").count() == 3
    wait_for_text(page, "#filter button[data-status=completed]", "20")
    wait_for_text(page, "#rows", "completed")
    page.locator("#rows td.what button").first.click()
    wait_for_text(page, "#detail-body", r'"noted": 19')


def test_attempts(make_dashboard, manager, open_page):  # issue: "detail with attempts and error"
    failures = iter(["first error", "second error"])

    @manager.register_handler("flaky", retries=2, backoff=0.05)
    def flaky(context):
        for text in failures:
            raise ValueError(text)
        return "third time lucky"

    page = open_page(make_dashboard().url)
    wait_until_live(page)
    manager.start_workers()
    manager.queue_task("flaky")
    wait_for_text(page, "#rows", "completed")
    page.locator("#rows td.what button").click()
    wait_for_text(page, "#detail-body", "third time lucky")
    rows = page.locator(".attempts li").all_inner_texts()
    assert [" ".join(row.split()) for row in rows] == ["1 failed first error", "2 failed second error", "3 completed"]


def test_history_survives_a_reload(dashboard, open_page):  # issue: "history charts that survive a page reload"
    page = open_page(dashboard.url)
    wait_until_live(page)
    page.wait_for_function("() => samples.length >= 3")
    before = page.evaluate("samples.map((sample) => sample.timestamp_epoch)")
    page.reload()
    page.wait_for_function("() => samples.length >= 3")
    after = page.evaluate("samples.map((sample) => sample.timestamp_epoch)")
    assert after[: len(before)] == before
    drawn = page.locator("#chart-machine path[fill=none]").first.get_attribute("d")
    assert drawn.count(",") >= 3


def test_chart_answers_to_pointer_and_keys(dashboard, open_page):
    page = open_page(dashboard.url)
    wait_until_live(page)
    page.wait_for_function("() => samples.length >= 2")
    chart = page.locator("#chart-machine")
    chart.focus()
    page.keyboard.press("End")
    assert re.search(r"CPU\s*[\d.]+ %", chart.locator(".tip").inner_text())
    page.keyboard.press("ArrowLeft")
    assert chart.locator(".cross").count() == 1
    assert re.fullmatch(r"Machine: CPU [\d.]+ %, Memory [\d.]+ %", chart.get_attribute("aria-label"))


# --- acting


def test_cancel_button(dashboard, manager, open_page):
    task = manager.queue_task("unwanted", "by nobody")
    page = open_page(dashboard.url)
    wait_until_live(page)
    page.get_by_role("button", name=f"Cancel task {task}").click()
    wait_for_text(page, "#toast", f"Task {task} is cancelled")
    wait_for_text(page, "#rows", "cancelled")
    assert manager.get_task_status(task)["status"] == "cancelled"


def test_retry_button(dashboard, manager, open_page):
    task = manager.queue_task("unlucky", "at first", 3, {"number": 1})
    set_status(manager, task, "failed", error="no luck")
    page = open_page(dashboard.url)
    wait_until_live(page)
    page.get_by_role("button", name=f"Retry task {task}").click()
    wait_for_text(page, "#toast", f"Task {task} is queued again as {task + 1}")
    page.wait_for_selector(f"tr[data-id='{task + 1}']")
    assert manager.get_task_status(task + 1)["context"] == {"number": 1}


def test_what_cannot_be_done_is_said(dashboard, manager, open_page):
    task = manager.queue_task("quick", "sooner than you")
    page = open_page(dashboard.url)
    page.excused = ["409"]
    wait_until_live(page)
    button = page.get_by_role("button", name=f"Cancel task {task}")
    button.wait_for()
    set_status(manager, task, "running")
    button.click()
    wait_for_text(page, "#toast", "only a task that is still queued can be cancelled")


def test_detail(dashboard, manager, open_page, screenshot):
    task = manager.queue_task("explain", "What happened?", 4, {"path": ["a", {"b": None}]})
    set_status(manager, task, "failed", error="Traceback: it broke\n  in line 2", started_at="2026-01-02 03:04:05")
    page = open_page(dashboard.url)
    wait_until_live(page)
    page.locator("#rows td.what button").click()
    page.wait_for_selector("dialog[open]")
    text = page.locator("#detail").inner_text()
    for part in ("explain", "Critical", "failed", "What happened?", "Traceback: it broke\n  in line 2", '"b": null'):
        assert part in text
    screenshot(page, "desktop-detail")
    page.locator("#detail").get_by_role("button", name=f"Retry task {task}").click()
    wait_for_text(page, "#toast", "queued again")
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0


def test_filter_and_search(dashboard, manager, open_page):
    furnish(manager)
    page = open_page(dashboard.url)
    wait_until_live(page)
    page.wait_for_function("() => document.querySelectorAll('#rows tr').length === 24")
    page.get_by_role("button", name="Failed").click()
    page.wait_for_function("() => document.querySelectorAll('#rows tr').length === 4")
    assert page.get_by_role("button", name="Failed").get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="All").click()
    page.get_by_role("searchbox").fill("BATCH 17")
    page.wait_for_function("() => document.querySelectorAll('#rows tr').length === 1")
    page.get_by_role("searchbox").fill("nothing like it")
    wait_for_text(page, "#rows-empty", "No task matches")


def test_older_tasks_on_demand(dashboard, manager, open_page):
    for number in range(40):
        manager.queue_task("many", f"number {number}")
    page = open_page(dashboard.url)
    wait_until_live(page)
    page.wait_for_function("() => document.querySelectorAll('#rows tr').length === 25")
    page.get_by_role("button", name="Show older tasks").click()
    page.wait_for_function("() => document.querySelectorAll('#rows tr').length === 40")
    assert page.get_by_role("button", name="Show older tasks").count() == 0


# --- hostile text


def test_text_of_tasks_stays_text(dashboard, manager, open_page, screenshot):  # openclaw §5.2 "as text, never HTML"
    task = manager.queue_task(HOSTILE, HOSTILE, context={HOSTILE: [HOSTILE]})
    set_status(manager, task, "failed", error=HOSTILE, result=f'["{HOSTILE.replace(chr(34), chr(92) + chr(34))}"]')
    page = open_page(dashboard.url)
    wait_until_live(page)
    page.wait_for_selector("#rows tr")
    assert page.locator("#rows td.what button").inner_text().startswith(HOSTILE)
    assert page.locator("#rows td.what p").inner_text() == HOSTILE
    page.locator("#rows td.what button").click()
    page.wait_for_selector("dialog[open]")
    assert page.locator("#detail-title").inner_text() == HOSTILE
    assert page.locator("#detail .description").inner_text() == HOSTILE
    assert page.locator("#detail pre.error").inner_text() == HOSTILE
    screenshot(page, "hostile")
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 1
    page.wait_for_timeout(300)
    assert page.evaluate("window.owned") is None


def test_names_of_pools_and_workers_stay_text(make_dashboard, open_page, tmp_path):
    with ConnectionPool(tmp_path / "a.db", 1, 2) as pool:
        server = make_dashboard(db_pools={HOSTILE: pool})
        page = open_page(server.url)
        wait_until_live(page)
        wait_for_text(page, "#pools", "img src=x")
        assert page.evaluate("window.owned") is None


# --- keyboard and screen readers


def test_everything_can_be_reached_by_keyboard(dashboard, manager, open_page):  # "keyboard-reachable"
    first = manager.queue_task("reach", "me")
    page = open_page(dashboard.url)
    wait_until_live(page)
    page.wait_for_selector("#rows tr")
    names = []
    for _ in range(30):
        page.keyboard.press("Tab")
        name = page.evaluate(
            "(() => { const at = document.activeElement;"
            " return at.getAttribute('aria-label') || at.placeholder || at.innerText || at.tagName })()"
        )
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        if name in names or outline == "none":
            break
        names.append(name.replace("\n", " "))
    expected = ["Skip to the tasks", "Machine", "Tasks finished", "Queue and", "Cache and", "All", "Queued", "Running"]
    expected += ["Completed", "Failed", "Cancelled", "Search type", f"reach#{first}", f"Cancel task {first}"]
    assert len(names) == len(expected)
    assert [name.startswith(start) for name, start in zip(names, expected)] == [True] * len(expected), names


def test_dialog_by_keyboard(dashboard, manager, open_page):
    task = manager.queue_task("open", "by key")
    page = open_page(dashboard.url)
    wait_until_live(page)
    button = page.locator(f"tr[data-id='{task}'] td.what button")
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "(() => { const at = document.activeElement;"
            " return at === document.body || document.getElementById('detail').contains(at) })()"
        )
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog[open]", state="detached")
    assert page.evaluate("document.activeElement.closest('tr')?.dataset.id") == str(task)


def test_focus_stays_while_rows_arrive(dashboard, manager, open_page):
    task = manager.queue_task("stay", "here")
    page = open_page(dashboard.url)
    wait_until_live(page)
    page.locator(f"tr[data-id='{task}'] td.what button").focus()
    manager.queue_task("another", "one")
    wait_for_text(page, "#rows", "another")
    assert page.evaluate("document.activeElement.closest('tr')?.dataset.id") == str(task)


def test_names_for_screen_readers(dashboard, manager, open_page):
    manager.queue_task("named", "thing")
    page = open_page(dashboard.url)
    wait_until_live(page)
    page.wait_for_selector("#rows tr")
    for button in page.get_by_role("button").all():
        assert button.inner_text().strip() or button.get_attribute("aria-label")
    assert page.get_by_role("status").first.inner_text() == "Live"
    assert page.get_by_role("columnheader").count() == 6
    assert page.get_by_role("heading", level=1).count() == 1
    assert page.locator("html").get_attribute("lang") == "en"


# --- the line


def restarted(server, make_dashboard):
    server.stop()
    return lambda: make_dashboard(port=server.port)


def test_it_reconnects_when_the_server_is_back(make_dashboard, manager, open_page):  # openclaw §5.2, issue §3
    server = make_dashboard()
    page = open_page(server.url)
    page.excused = AWAY
    wait_until_live(page)
    start_again = restarted(server, make_dashboard)
    wait_for_text(page, "#link", r"^Reconnecting in \d s$")
    lost = time.monotonic()
    start_again()
    wait_for_text(page, "#link", "^Live$")
    assert time.monotonic() - lost < 8
    # The new server has another action token; the page notices.
    task = manager.queue_task("after", "the restart")
    page.get_by_role("button", name=f"Cancel task {task}").click()
    wait_for_text(page, "#toast", f"Task {task} is cancelled")


def test_it_tries_again_every_five_seconds(make_dashboard, open_page):  # openclaw §5.2 "reconnects every 5 s"
    server = make_dashboard()
    page, sockets = open_page(clock=True), []
    page.excused = AWAY
    page.on("websocket", lambda line: sockets.append(line))
    page.goto(server.url)
    wait_until_live(page)
    server.stop()
    wait_for_text(page, "#link", "Reconnecting")
    for expected in (2, 3, 4):
        page.clock.run_for(4900)
        assert len(sockets) == expected - 1
        page.clock.run_for(200)
        page.wait_for_function("() => link.state === 'lost'")
        assert len(sockets) == expected


def pings_of(page):
    found = []
    page.on("websocket", lambda line: line.on("framesent", lambda frame: found.append(frame)))
    return found


def test_one_ping_every_thirty_seconds_however_often_it_reconnected(make_dashboard, open_page):  # openclaw §5.2, D10
    server = make_dashboard()
    page = open_page()
    page.clock.install()
    page.add_init_script(
        "window.timers = []; const real = setInterval; setInterval = (f, t) => (timers.push(t), real(f, t))"
    )
    page.excused = AWAY
    pings = pings_of(page)
    page.goto(server.url)
    wait_until_live(page)
    timers = page.evaluate("timers")
    for _ in range(3):
        server.stop()
        wait_for_text(page, "#link", "Reconnecting")
        server = make_dashboard(port=server.port)
        page.clock.run_for(5000)
        wait_for_text(page, "#link", "^Live$")
    assert page.evaluate("timers") == timers == [30000, 5000, 1000]
    pings.clear()
    page.clock.run_for(60_000)
    page.wait_for_timeout(200)
    assert pings == ["ping", "ping"]


def test_it_polls_while_disconnected(dashboard, manager, open_page):  # openclaw §5.2
    page, polls = open_page(clock=True), []
    page.excused = ["WebSocket"]
    page.on("request", lambda request: polls.append(request) if request.url.endswith("/api/system/stats") else None)
    page.route_web_socket("**/ws", lambda line: line.close())
    page.goto(dashboard.url)
    wait_for_text(page, "#link", "Reconnecting")
    assert polls == []
    manager.queue_task("seen", "by polling")
    for expected in (1, 2):
        with page.expect_response("**/api/system/stats"):
            page.clock.run_for(5000)
        assert len(polls) == expected
    wait_for_text(page, "#tile-queue .value", "^1$")
    wait_for_text(page, "#rows", "by polling")


def test_it_does_not_poll_while_connected(dashboard, open_page):  # openclaw §5.2 "while disconnected"
    page, polls = open_page(clock=True), []
    page.on("request", lambda request: polls.append(request) if request.url.endswith("/api/system/stats") else None)
    page.goto(dashboard.url)
    wait_until_live(page)
    page.clock.run_for(20_000)
    assert polls == []


def test_with_a_token(make_dashboard, open_page):
    server = make_dashboard(host="0.0.0.0")
    page = open_page(server.url)
    wait_until_live(page)
    assert "token" not in page.url
    page.reload()
    wait_until_live(page)
    stranger = open_page()
    stranger.excused = ["401"]
    assert stranger.goto(server.url.partition("?")[0]).status == 401


def test_what_cannot_be_read_is_said(dashboard, manager, open_page, screenshot):
    page = open_page(dashboard.url)
    page.excused = ["500", "503"]
    wait_until_live(page)
    manager.close()
    wait_for_text(page, "#banner", "tasks: .*closed")
    screenshot(page, "degraded")
    assert re.fullmatch(r"[\d.]+\s*%", page.locator("#tile-memory .value").inner_text())
