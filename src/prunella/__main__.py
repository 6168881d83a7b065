"""``python -m prunella``: the command ``prunella``."""

import sys

from prunella.cli import main

sys.exit(main())
