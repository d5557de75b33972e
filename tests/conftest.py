"""With IRONLOOM_REQUIRE_RINGS set, a test that skips has failed: who sets it says that what the tests need is there."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# How long a draw takes says more of the machine's load than of a test: a busy one must not fail it.
settings.register_profile("ironloom", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ironloom")


def _skipped(config: pytest.Config) -> int:
    """How many tests skipped; 0 where it does not matter, and in a worker, which counts nothing."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not os.environ.get("IRONLOOM_REQUIRE_RINGS"):
        return 0
    return len(reporter.stats.get("skipped", []))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skipped(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if number := _skipped(terminalreporter.config):
        terminalreporter.line(f"{number} skipped, and IRONLOOM_REQUIRE_RINGS wants every test of this run.", red=True)
