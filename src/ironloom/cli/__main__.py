"""`python -m ironloom.cli`: the command line, without the script that an installation writes."""

from __future__ import annotations

import sys

from ironloom.cli.main import main

sys.exit(main())
