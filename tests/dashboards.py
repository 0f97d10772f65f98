"""Makes dashboards and what they show; the `conftest.py` of a folder wraps them as fixtures."""

from __future__ import annotations

import contextlib


@contextlib.contextmanager
def managers(folder):
    """A function that makes task managers, all closed at the end."""
    from upshift.tasks import BackgroundTaskManager

    opened = []

    def make(path=None, **options):
        manager = BackgroundTaskManager(path or folder / "background_tasks.db", **options)
        opened.append(manager)
        return manager

    yield make
    for manager in opened:
        manager.close()


@contextlib.contextmanager
def dashboards():
    """A function that makes dashboards on a free port, started unless told otherwise; all stopped at the end."""
    from upshift.dashboard import DashboardServer

    opened = []

    def make(manager, start=True, **options):
        server = DashboardServer(options.pop("port", 0), task_manager=manager, **options)
        opened.append(server)
        if start:
            server.start(block=False)
        return server

    yield make
    for server in opened:
        server.stop()
