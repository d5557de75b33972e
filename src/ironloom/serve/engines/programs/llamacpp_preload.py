"""What a launcher imports before it forks llama.cpp replicas. Importing starts no threads."""

from __future__ import annotations

import httptools
import jinja2.ext
import jinja2.meta
import jinja2.sandbox
import msgspec
import uvloop
import xllamacpp

from ironloom.serve.engines.programs import llamacpp_generator, llamacpp_server
from ironloom.serve.http import server

__all__ = ["httptools", "jinja2", "llamacpp_generator", "llamacpp_server", "msgspec", "server", "uvloop", "xllamacpp"]
