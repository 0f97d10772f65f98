"""A worker process for the fault tests: runs tasks that append their number to a ledger, until it is killed."""

from __future__ import annotations

import os
import sys
import time

from upshift.tasks import BackgroundTaskManager


def main() -> None:
    database, ledger = sys.argv[1:3]
    manager = BackgroundTaskManager(database, 3, 1, False, shared=True)
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @manager.register_handler("append")
    def append(context):
        os.write(file, b"%d\n" % context["i"])
        time.sleep(context["seconds"])
        return context["i"]

    manager.start_workers()
    print("ready", flush=True)
    time.sleep(600)


main()
