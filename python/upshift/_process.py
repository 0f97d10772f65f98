"""What the native side has to know of the process: its forks and its end. Importing it is all there is to do."""

from __future__ import annotations

import atexit
import logging
import os

from upshift import _native

# Forked children must not touch what belongs to the parent; at exit, pending writes reach the disk first.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_native.before_fork,
        after_in_parent=_native.after_fork_parent,
        after_in_child=_native.after_fork_child,
    )
atexit.register(_native.shutdown)
# Quiet unless the application configures logging.
logging.getLogger("upshift").addHandler(logging.NullHandler())
