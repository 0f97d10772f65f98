"""Settings of the whole suite: Hypothesis profiles, and what a skipped test means in CI."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# HYPOTHESIS_PROFILE chooses; `slow` is for hunting, `ci` repeats the same examples on every run.
settings.register_profile("fast", max_examples=100, deadline=None)
settings.register_profile("slow", max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", max_examples=300, deadline=None, derandomize=True, print_blob=True)

IN_CI = os.environ.get("CI", "").lower() in ("1", "true")
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if IN_CI else "fast"))

# A shell that runs the suite in the background has it ignore Ctrl-C, and so would every process that a test interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A skip whose reason starts like this is one that no installation on this machine could avoid.
UNAVOIDABLE = "platform:"


def _fail_if_avoidable(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not IN_CI or report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if not reason.startswith(UNAVOIDABLE):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {reason}\n(reasons starting with {UNAVOIDABLE!r} are accepted)"


@pytest.hookimpl(hookwrapper=True, trylast=True)
def pytest_runtest_makereport(item: pytest.Item):
    outcome = yield
    _fail_if_avoidable(outcome.get_result())


@pytest.hookimpl(hookwrapper=True, trylast=True)
def pytest_make_collect_report(collector: pytest.Collector):
    outcome = yield
    _fail_if_avoidable(outcome.get_result())
