"""`python -m bitwright` is `bitwright`."""

import sys

from bitwright.cli import main

if __name__ == "__main__":
    sys.exit(main())
