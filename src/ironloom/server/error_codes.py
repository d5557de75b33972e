"""Every code that an error of HTTP can carry: the rows of docs/reference/errors.md.

The codes are written where the errors are raised; tests/server/test_error_codes.py holds these tables against them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One code, with the statuses that it comes with."""

    code: str
    statuses: tuple[int, ...]
    """Empty for an error within a batch, which is told in an answer of status 200."""
    meaning: str
    advice: str


ANSWERS = (
    ErrorCode("bad_engine_answer", (502,), "The engine's answer is not what its API says.", "See `ironloom logs`."),
    ErrorCode(
        "bad_http",
        (400, 417, 501, 505),
        "The request is not HTTP/1.1 as it is spoken here; the message says what is wrong.",
        "Mend the client, or the proxy between.",
    ),
    ErrorCode("bad_request", (400,), "The request cannot be taken; the message says why.", "Mend what it says."),
    ErrorCode(
        "bad_tool_call",
        (502,),
        "The model called a tool with arguments that are no JSON object.",
        "Ask again, or force the arguments with a schema.",
    ),
    ErrorCode("batch_not_found", (404,), "No batch has this id, or not for this key.", "`GET /v1/batches` lists them."),
    ErrorCode(
        "body_too_large", (413,), "The body is larger than the limit in the message.", "Send less, or in several."
    ),
    ErrorCode(
        "cannot_park",
        (501,),
        "The engine was asked to park, and cannot.",
        "Send the service to zero: `ironloom scale NAME 0`.",
    ),
    ErrorCode("capacity", (409,), "This machine cannot hold what was applied.", "Apply less, or free some."),
    ErrorCode(
        "context_length_exceeded",
        (400,),
        "Prompt and answer together are longer than the model's context.",
        "Shorten the prompt, or ask for fewer tokens.",
    ),
    ErrorCode("disk_full", (507,), "The disk has no room, and nothing was changed.", "Free some; then send it again."),
    ErrorCode(
        "engine_failed",
        (502,),
        "The engine broke off, also after another try where none of the answer was out.",
        "Send it again; `ironloom describe NAME` shows why.",
    ),
    ErrorCode("file_not_found", (404,), "No file has this id, or not for this key.", "`GET /v1/files` lists them."),
    ErrorCode("head_too_large", (431,), "The request's head is too large, or has too many headers.", "Send less."),
    ErrorCode(
        "host_not_allowed",
        (403,),
        "The daemon listens on loopback, and Host is not a name of it.",
        "Use http://127.0.0.1, or `ironloom up --allow-host NAME`.",
    ),
    ErrorCode(
        "insufficient_scope",
        (403,),
        "The key is good for models only, and this is the control API.",
        "`ironloom key create --scope control NAME` makes one that is.",
    ),
    ErrorCode("internal_error", (500,), "A fault of Ironloom's own.", "The daemon's log has it; please report it."),
    ErrorCode(
        "invalid_api_key",
        (401,),
        "The key is unknown or was revoked (on loopback: one that begins with `il-`).",
        "`ironloom key list` shows the keys.",
    ),
    ErrorCode("invalid_grammar", (400,), "The schema, regex or grammar cannot be used.", "Mend what the message says."),
    ErrorCode("invalid_json", (400,), "The body is not a JSON object in UTF-8.", "Mend the body."),
    ErrorCode("invalid_multipart", (400,), "The form of an upload cannot be read.", "Send it as multipart/form-data."),
    ErrorCode("invalid_type", (400,), "The body is JSON, and not an object.", "Send an object."),
    ErrorCode(
        "invalid_value",
        (400,),
        "`param` has a value that it cannot have.",
        "The message says what it may be.",
    ),
    ErrorCode("key_not_found", (404,), "No key has this id.", "`ironloom key list` shows the keys."),
    ErrorCode(
        "kv_cache_full",
        (503,),
        "The engine has no room left to remember the prompts that it works on.",
        "Start it with a larger `--kv-cache-bytes`, or send less at once.",
    ),
    ErrorCode("manifest_invalid", (400,), "A manifest has faults, each with its place.", "Mend them, apply again."),
    ErrorCode("method", (405,), "An engine, asked directly, does not take this method.", "Use one of the message's."),
    ErrorCode(
        "method_not_allowed", (405,), "The path is there and does not take this method.", "Use one that it takes."
    ),
    ErrorCode("missing_api_key", (401,), "A key is needed and none was sent.", "`ironloom key create NAME` makes one."),
    ErrorCode("model_corrupt", (400,), "A file of the model is damaged.", "`ironloom models pull --refresh MODEL`."),
    ErrorCode(
        "model_not_found",
        (400, 404),
        "404: no service has this name, or not for this key. 400: what was applied names a model that is not there.",
        "`GET /v1/models` lists the names; for a model, check its name.",
    ),
    ErrorCode("model_refused", (400,), "The model is there, and will not be used.", "The message says why."),
    ErrorCode(
        "name_taken",
        (409,),
        "A service has the name that a run is to have, or a run a service's.",
        "Give it another metadata.name.",
    ),
    ErrorCode("no_chat_template", (400,), "The model has no chat template.", "Use `/v1/completions`, or a chat model."),
    ErrorCode("no_embeddings", (400,), "The model generates text and makes no embeddings.", "Serve one that does."),
    ErrorCode("no_training", (400,), "The daemon's backend trains nothing.", "Apply it to one on a machine."),
    ErrorCode("not_found", (404,), "There is nothing at this path.", "`GET /openapi.json` lists the API."),
    ErrorCode("not_leader", (503,), "Another gateway of this cluster decides.", "Ask that one: `--context` finds it."),
    ErrorCode(
        "origin_not_allowed",
        (403,),
        "A web page of another origin asked.",
        "`ironloom up --allow-origin URL` lets its pages call models.",
    ),
    ErrorCode(
        "overloaded", (503,), "Too many connections or large bodies at once.", "Wait for Retry-After, try again."
    ),
    ErrorCode("parked", (503,), "The engine was parked while it had the request.", "Send it again: it is woken."),
    ErrorCode(
        "queue_full",
        (429,),
        "As many requests as may wait for the service already do.",
        "Wait for Retry-After; allow more replicas.",
    ),
    ErrorCode("request_timeout", (408,), "The request did not come whole in time.", "Send it faster, or again."),
    ErrorCode("run_deleting", (409,), "The training run is being deleted.", "Apply it again once it is gone."),
    ErrorCode("run_not_found", (404,), "No training run has this name.", "`ironloom get runs` lists them."),
    ErrorCode(
        "run_not_running",
        (409,),
        "The training run does not step now, so that there is nothing to profile.",
        "`ironloom get runs` shows its state.",
    ),
    ErrorCode("service_deleting", (409,), "The service is being deleted.", "Apply it again once it is gone."),
    ErrorCode("service_not_found", (404,), "No service has this name.", "`ironloom get` lists them."),
    ErrorCode("shutting_down", (503,), "The daemon is stopping.", "Send it again once it is back."),
    ErrorCode(
        "start_failed",
        (503,),
        "No replica of the service could be started; the message has the engine's reason.",
        "`ironloom describe NAME`; mend what it says.",
    ),
    ErrorCode("state_error", (500,), "The state file cannot be used; nothing was changed.", "See the daemon's log."),
    ErrorCode(
        "timeout",
        (504,),
        "The service's timeout passed, waiting for a replica included.",
        "Set `timeout` in its manifest, or wait until it is ready.",
    ),
    ErrorCode(
        "unknown_parameter", (400,), "`param` is no parameter that is known.", "Leave it out; check its spelling."
    ),
    ErrorCode("unsupported_encoding", (415,), "The body is compressed.", "Send it without Content-Encoding."),
    ErrorCode("unsupported_media_type", (415,), "The body's Content-Type is another one.", "Send the one it names."),
    ErrorCode(
        "unsupported_parameter",
        (400,),
        "`param` is known and cannot be honoured here.",
        "Leave it out, or use another engine.",
    ),
    ErrorCode("usage", (400,), "A value of the request to the control API is wrong.", "Mend what the message says."),
)
"""Codes of answers, by name."""

BATCH_LINES = (
    ErrorCode("batch_cancelled", (), "The batch was cancelled before this request was run.", "Submit it again."),
    ErrorCode("batch_expired", (), "The batch's time ended before this request was run.", "Submit it again."),
    ErrorCode("duplicate_custom_id", (), "Two lines have one custom_id.", "Give each its own."),
    ErrorCode("empty_file", (), "The input file has no requests.", "Send one a line."),
    ErrorCode("engine_error", (), "The engine's answer to the request was not JSON.", "Run it again."),
    ErrorCode("file_not_found", (), "The input file was deleted.", "Upload it again."),
    ErrorCode("invalid_custom_id", (), "A custom_id is too short or too long.", "The message has the limits."),
    ErrorCode("invalid_json_line", (), "A line is not JSON.", "Write each request on one line."),
    ErrorCode("invalid_method", (), "A method is not POST.", "Write POST."),
    ErrorCode("invalid_request", (), "A line is JSON, and no request of a batch.", "Mend what the message says."),
    ErrorCode("invalid_value", (), "A body asks for a stream.", "Leave `stream` out."),
    ErrorCode("mismatched_endpoint", (), "A line's url is not the batch's endpoint.", "Use one for the whole file."),
    ErrorCode("model_not_found", (), "A line names a model that is not there.", "`GET /v1/models` lists the names."),
    ErrorCode("too_many_requests", (), "The file has more requests than a batch may.", "Split it."),
)
"""Codes that stand in a batch's `errors` and in the lines of its files, by name."""
