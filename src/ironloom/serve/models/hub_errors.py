"""Errors of huggingface_hub, told in our words."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from ironloom.errors import DiskFull, ModelError, ModelNotFound, ModelRefused
from ironloom.serve.models.source import ModelSource

T = TypeVar("T")
_NETWORK_MODULES = ("httpx", "httpx2", "httpcore", "httpcore2", "hf_xet", "requests")
_SYSTEM_ERROR = re.compile(r"\[Errno (?P<number>-?\d+)\] (?P<words>.+)")
"""An OSError as text. The numbers of getaddrinfo are below zero on Linux."""


class TryAgain(Exception):
    """The hub answered 429 or 5xx: worth another try."""

    def __init__(self, error: ModelError, wait_s: float | None) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait_s = wait_s


def translated(call: Callable[[], T], source: ModelSource, at: str) -> T:
    """Run a call of huggingface_hub; `at` names the hub in messages.

    Raises ModelNotFound, ModelRefused, DiskFull, ModelError, or TryAgain.
    """
    from huggingface_hub import errors

    try:
        return call()
    except errors.GatedRepoError as error:
        raise ModelRefused(
            f"{source.repo} is gated: its owner grants access by account",
            hint="accept its terms on its page, then set HF_TOKEN to a token of that account",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelNotFound(f'{source.repo} has no revision "{source.revision}"') from error
    except errors.RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"{at} has no model {source.repo}, or it is private", hint="check the name; for a private one set HF_TOKEN"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise ModelRefused(
                f"{at} refused access to {source.repo} (status {status})", hint="check HF_TOKEN, or unset it"
            ) from error
        failure = ModelError(f"{at} answered {source.repo} with status {status}", hint="try again later")
        if status == 429 or status >= 500:
            raise TryAgain(failure, retry_after_s(error.response.headers)) from error
        raise failure from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull(f"the disk filled up while {source.uri} was fetched", hint="free some, try again") from error
        raise _unreachable(error, source, at) from error
    except Exception as error:
        if not is_network_error(error):
            raise
        raise _unreachable(error, source, at) from error


def is_network_error(error: BaseException) -> bool:
    """True for what the hub's HTTP libraries raise when a connection fails (their names change with its versions)."""
    return type(error).__module__.partition(".")[0] in _NETWORK_MODULES


def _unreachable(error: Exception, source: ModelSource, at: str) -> ModelError:
    reason = _plain(str(error).splitlines()[0]) if str(error) else type(error).__name__
    return ModelError(
        f"{source.repo} could not be fetched from {at}: {reason}",
        hint="what was fetched is kept; try again, or set HF_ENDPOINT to a mirror",
    )


def _plain(said: str) -> str:
    """What the system says, without the number before it. Below zero it is the name that has no address."""
    found = _SYSTEM_ERROR.fullmatch(said)
    if found is None:
        return said
    words = f"{found['words'][:1].lower()}{found['words'][1:]}"
    return f"its name has no address, or there is no network ({words})" if found["number"].startswith("-") else words


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After header; None when there is none, or it is a date."""
    try:
        return max(0.0, float(headers.get("retry-after", "")))
    except ValueError:
        return None
