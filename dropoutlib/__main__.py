"""The command line: `python -m dropoutlib check --help`."""

import sys

from dropoutlib.frameworks.command import main

sys.exit(main())
