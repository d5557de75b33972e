"""The one exception tree.

    IronloomError                 base: one sentence, a hint, a stable code
      UsageError                  a flag, an argument or a setting is wrong
      ManifestError               a manifest cannot be read or means nothing; knows file, line, column, path
      ModelError                  a model cannot be had
        ModelNotFound             nothing of that name where it was looked for
        ModelRefused              it is there, and will not be used (pickles alone, unknown shape)
        ModelCorrupt              its bytes are not what they should be
        DiskFull                  it does not fit on the disk
      CapacityError               this machine or fleet cannot hold what was asked for
      EngineError                 an engine process did not do its part
        EngineUnavailable         the engine is not installed, or cannot run this model
        EngineStartTimeout        it was not ready before its deadline
        EngineExited              it ended by itself; carries its last lines
      StateError                  the state folder is held, damaged or of a newer version
      DaemonError                 the daemon is not there, or answered with an error
      ClusterError                a Kubernetes cluster cannot be reached, or refuses
      RequestError                an HTTP request that is answered with an OpenAI-shaped error

Expected outcomes (a replica that does not fit, a service at zero) are values, not exceptions.
"""

from __future__ import annotations

from typing import ClassVar

_OPENERS = frozenset(
    {"a", "an", "another", "each", "it", "its", "no", "one", "only", "the", "there", "these", "this", "two"}
)
"""Words that begin a sentence of ours; any other first word may be a name, which keeps its spelling."""


def as_sentence(text: str) -> str:
    """A message as a sentence: a capital where its first word is ours, a full stop where its last line has no end."""
    first = text.partition(" ")[0]
    if first in _OPENERS:
        text = text[0].upper() + text[1:]
    is_whole = not text or "\n" in text
    return f"{text}." if not is_whole and not text.endswith((".", "?", "!", ":", "…", ".)")) else text


def with_hint(text: str, hint: str | None) -> str:
    """A text and what to do next below it."""
    if not hint:
        return text
    return f"{text}\n\nhint: {hint if hint.endswith(('.', '?', '!', '…')) else f'{hint}.'}"


class IronloomError(Exception):
    """One sentence for a person, a hint of what to do next, and a code that programs can rely on."""

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1
    is_final: bool = False
    """The same again ends the same: only another manifest, file or machine changes it."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message

    def render(self) -> str:
        """The text a person sees: the sentence, a blank line, `hint: …`."""
        return with_hint(as_sentence(self.message), self.hint)


class UsageError(IronloomError):
    """A flag, an argument, an environment variable or a setting is wrong."""

    code = "usage"
    exit_status = 2
    is_final = True


class ManifestError(IronloomError):
    """A manifest cannot be read, or says something that its kind does not have."""

    code = "manifest_invalid"
    exit_status = 2
    is_final = True

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        file: str = "<stdin>",
        line: int = 0,
        column: int = 0,
        path: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.file = file
        self.line = line
        self.column = column
        self.path = path

    def render(self) -> str:
        where = ":".join(str(part) for part in (self.file, self.line, self.column) if part)
        return with_hint(f"{where}: " + self.message, self.hint)


class ModelError(IronloomError):
    """A model cannot be had."""

    code = "model_error"


class ModelNotFound(ModelError):
    """Nothing of that name was found where it was looked for."""

    code = "model_not_found"
    is_final = True


class ModelRefused(ModelError):
    """The model is there, and will not be used: the message says why."""

    code = "model_refused"
    is_final = True


class ModelCorrupt(ModelError):
    """A file of the model is not what its size, checksum or header says."""

    code = "model_corrupt"
    is_final = True


class DiskFull(ModelError):
    """The disk has no room for it; the message has both numbers."""

    code = "disk_full"


class DataError(IronloomError):
    """Rows to train on cannot be had or used; the message has the file, the row and what is allowed."""

    code = "data_invalid"
    exit_status = 2
    is_final = True


class CheckpointError(IronloomError):
    """A training checkpoint cannot be written, is damaged, or belongs to another model."""

    code = "checkpoint_error"


class CapacityError(IronloomError):
    """This machine or fleet cannot hold what was asked for; the message has the numbers."""

    code = "capacity"


class EngineError(IronloomError):
    """An engine process did not do its part."""

    code = "engine_error"


class EngineUnavailable(EngineError):
    """No engine here can run this model: not installed, or not made for it."""

    code = "engine_unavailable"
    is_final = True


class EngineStartTimeout(EngineError):
    """The engine was not ready before its deadline; the message ends in its last lines."""

    code = "engine_start_timeout"


class EngineExited(EngineError):
    """The engine ended by itself; the message has its exit status and its last lines."""

    code = "engine_exited"


class StateError(IronloomError):
    """The state folder is held by another daemon, damaged, or written by a newer version."""

    code = "state_error"


class DaemonError(IronloomError):
    """The daemon is not there, or answered with an error."""

    code = "daemon_error"


class ClusterError(IronloomError):
    """A Kubernetes cluster cannot be reached, or refuses.

    `status` and `reason` are the API server's, where it answered: 403, `Forbidden`. The exit status is that of an input
    that cannot be read.
    """

    code = "cluster_error"
    exit_status = 2

    def __init__(self, message: str, *, hint: str | None = None, status: int = 0, reason: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.reason = reason


class RequestError(IronloomError):
    """A request that is answered with an OpenAI-shaped error body.

    `source` says who failed: `client`, `gateway` or `engine`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",  # noqa: A002 (OpenAI's own name)
        code: str | None = None,
        param: str | None = None,
        source: str = "client",
        retry_after_s: float | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.type = type
        self.error_code = code
        self.param = param
        self.source = source
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, object]:
        """The error as OpenAI's clients read it: `{"error": {message, type, param, code, source}}`."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.error_code,
                "source": self.source,
            }
        }
