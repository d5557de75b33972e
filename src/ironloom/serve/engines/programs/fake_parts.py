"""What the fake engine's program needs imported: the modules a launcher preloads for it."""

from __future__ import annotations

import asyncio
import json

from ironloom.serve.http import server

__all__ = ["asyncio", "json", "server"]
