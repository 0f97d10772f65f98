"""``import upshift.auto``, before anything else: serves what ``UPSHIFT_INSTALL`` names, child processes included.

The variable holds system and module names separated by commas; unset means everything this version serves, empty means
nothing. Raises :class:`upshift.exceptions.CompatError` if one of the modules is already imported.
"""

import os

from upshift import compat
from upshift.compat import environment

__all__: list[str] = []

_paths = environment.install_from()
if _paths is None:
    _paths = compat.install()
if _paths:
    os.environ.update(environment.for_children(_paths))
