"""``python -m upshift``."""

import sys

from upshift.cli import main

if __name__ == "__main__":
    sys.exit(main())
