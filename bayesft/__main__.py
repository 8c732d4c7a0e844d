"""`python -m bayesft`: the command `bayesft`."""

import sys

from bayesft.command import main

if __name__ == "__main__":
    sys.exit(main())
