"""The OpenAPI 3.1 description of the whole HTTP surface, and the reference page made from it.

The control API, files and batches are described from the tables that their routes are made of; the inference paths,
which the gateway serves itself, from the table here. Their bodies are described by what the gateway or every engine
reads of them; engines read more, and say by name what they cannot honour.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import msgspec

from ironloom import __version__
from ironloom.server import api, files_api
from ironloom.server.operations import Door, Operation, Schema

_SERVICE_NAME: Schema = {"type": "string", "description": "The service's name: the model id that /v1/models lists."}
_STREAM: Schema = {"type": "boolean", "description": "Answer as server-sent events."}
_TEXT_OR_PARTS: Schema = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}],
}


def _object(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    schema: Schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = list(required)
    return schema


_MESSAGES: Schema = {
    "type": "array",
    "minItems": 1,
    "items": _object(("role",), role={"type": "string"}, content={"anyOf": [_TEXT_OR_PARTS, {"type": "null"}]}),
}
_USAGE = _object(
    (),
    prompt_tokens={"type": "integer"},
    completion_tokens={"type": "integer"},
    total_tokens={"type": "integer"},
)
_OPENAI_ANSWER = _object((), id={"type": "string"}, object={"type": "string"}, usage=_USAGE)
_TEXTS_OR_TOKENS: Schema = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
    ]
}
_TEMPERATURE: Schema = {"type": "number", "minimum": 0, "maximum": 2}
_TOP_P: Schema = {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
_TOKENS: Schema = {"type": "integer", "minimum": 1}
_INFERENCE_ERRORS = (400, 404, 413, 429, 502, 503, 504)


def _inference(path: str, name: str, summary: str, body: Schema, answer: Schema, **rest: Any) -> Operation:
    return Operation(
        method="POST",
        path=path,
        id=name,
        summary=summary,
        tag="inference",
        door=Door.INFERENCE,
        body=body,
        answer=answer,
        errors=_INFERENCE_ERRORS,
        **rest,
    )


GATEWAY_OPERATIONS: tuple[Operation, ...] = (
    Operation(
        method="GET",
        path="/v1/models",
        id="listModels",
        summary="Every service, also those at zero",
        tag="inference",
        door=Door.INFERENCE,
        answer=_object(("object", "data"), object={"const": "list"}, data={"type": "array", "items": _OPENAI_ANSWER}),
    ),
    Operation(
        method="GET",
        path="/v1/models/{model}",
        id="getModel",
        summary="One service as a model",
        tag="inference",
        door=Door.INFERENCE,
        answer=_object(("id",), id={"type": "string"}),
        errors=(404,),
    ),
    _inference(
        "/v1/chat/completions",
        "createChatCompletion",
        "OpenAI's chat completions",
        _object(
            ("model", "messages"),
            model=_SERVICE_NAME,
            messages=_MESSAGES,
            stream=_STREAM,
            max_completion_tokens=_TOKENS,
            temperature=_TEMPERATURE,
            top_p=_TOP_P,
            tools={"type": "array", "items": {"type": "object"}},
        ),
        _OPENAI_ANSWER,
    ),
    _inference(
        "/v1/completions",
        "createCompletion",
        "OpenAI's text completions",
        _object(
            ("model", "prompt"),
            model=_SERVICE_NAME,
            prompt=_TEXTS_OR_TOKENS,
            stream=_STREAM,
            max_tokens=_TOKENS,
            temperature=_TEMPERATURE,
            top_p=_TOP_P,
        ),
        _OPENAI_ANSWER,
    ),
    _inference(
        "/v1/embeddings",
        "createEmbedding",
        "OpenAI's embeddings",
        _object(
            ("model", "input"),
            model=_SERVICE_NAME,
            input=_TEXTS_OR_TOKENS,
            encoding_format={"enum": ["float", "base64"]},
            dimensions={"type": "integer", "minimum": 1},
        ),
        _OPENAI_ANSWER,
    ),
    _inference(
        "/v1/responses",
        "createResponse",
        "OpenAI's responses, the stateless subset",
        _object(
            ("model", "input"),
            model=_SERVICE_NAME,
            input=_TEXT_OR_PARTS,
            instructions={"type": ["string", "null"]},
            stream=_STREAM,
            store={"type": "boolean", "description": "Answers are never stored; `true` is refused with 400."},
            max_output_tokens=_TOKENS,
            temperature=_TEMPERATURE,
            top_p=_TOP_P,
            tools={"type": "array", "items": {"type": "object"}},
        ),
        _OPENAI_ANSWER,
    ),
    _inference(
        "/v1/messages",
        "createMessage",
        "Anthropic's messages",
        _object(
            ("model", "messages", "max_tokens"),
            model=_SERVICE_NAME,
            messages=_MESSAGES,
            max_tokens=_TOKENS,
            system=_TEXT_OR_PARTS,
            stream=_STREAM,
            temperature={"type": "number", "minimum": 0, "maximum": 1},
            top_p=_TOP_P,
            stop_sequences={"type": "array", "items": {"type": "string"}},
            tools={"type": "array", "items": {"type": "object"}},
        ),
        _object(("id", "type"), id={"type": "string"}, type={"const": "message"}),
    ),
    _inference(
        "/v1/messages/count_tokens",
        "countMessageTokens",
        "Tokens that a message's prompt has",
        _object(("model", "messages"), model=_SERVICE_NAME, messages=_MESSAGES, system=_TEXT_OR_PARTS),
        _object(("input_tokens",), input_tokens={"type": "integer"}),
    ),
    _inference(
        "/tokenize",
        "tokenize",
        "Token ids of a text or a chat, as vLLM has it",
        _object(("model",), model=_SERVICE_NAME, prompt={"type": "string"}, messages=_MESSAGES),
        _object((), tokens={"type": "array", "items": {"type": "integer"}}, count={"type": "integer"}),
    ),
    _inference(
        "/detokenize",
        "detokenize",
        "The text of token ids, as vLLM has it",
        _object(("model", "tokens"), model=_SERVICE_NAME, tokens={"type": "array", "items": {"type": "integer"}}),
        _object((), prompt={"type": "string"}),
    ),
)
_PROBES: tuple[Operation, ...] = tuple(
    Operation(
        method="GET",
        path=path,
        id=name,
        summary=summary,
        tag="probes",
        door=door,
        answer={"type": "string"},
        answer_type="text/plain",
    )
    for path, name, summary, door in (
        ("/healthz", "getHealth", "200 while the daemon runs", Door.OPEN),
        ("/readyz", "getReadiness", "200 once it takes requests, 503 before and while it ends", Door.OPEN),
        ("/metrics", "getMetrics", "Prometheus metrics", Door.INFERENCE),
    )
)
OPERATIONS: tuple[Operation, ...] = (*GATEWAY_OPERATIONS, *files_api.OPERATIONS, *api.OPERATIONS, *_PROBES)

_ERROR_TEXT = {
    400: "The request is wrong; the error names the parameter",
    401: "A key is needed, or this one is not valid",
    403: "Host, Origin or the key's scope does not reach here",
    404: "There is no such thing",
    409: "It cannot be done as things are now",
    413: "The body is too large",
    415: "The content type is not the one that is needed",
    429: "Too many requests wait; Retry-After says when to come back",
    502: "The engine failed",
    503: "No replica can be had; Retry-After says when to come back",
    504: "It took longer than the service's timeout",
}
_ERROR_SCHEMA: Schema = _object(
    ("error",),
    error=_object(
        ("message", "type", "param", "code", "source"),
        message={"type": "string"},
        type={"type": "string"},
        param={"type": ["string", "null"]},
        code={"type": ["string", "null"]},
        source={"enum": ["client", "gateway", "engine"]},
        hint={"type": ["string", "null"]},
    ),
)


@cache
def description() -> dict[str, Any]:
    """The description as plain data."""
    paths: dict[str, dict[str, Any]] = {}
    types = [kind for operation in OPERATIONS for kind in (operation.body, operation.answer) if _is_type(kind)]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    by_type = {id(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    for operation in OPERATIONS:
        entry = _describe(operation, lambda kind: by_type[id(kind)] if _is_type(kind) else kind)
        paths.setdefault(operation.path, {})[operation.method.lower()] = entry
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Ironloom",
            "version": __version__,
            "description": "Inference (OpenAI's and Anthropic's APIs), batches, and the control of services.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"bearer": []}, {"apiKey": []}],
        "paths": paths,
        "components": {
            "schemas": {**components, "Error": _ERROR_SCHEMA},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "Needed off loopback."},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same key."},
            },
        },
    }


@cache
def description_json() -> bytes:
    """The description as JSON, served at /openapi.json."""
    return msgspec.json.encode(description())


def _is_type(kind: object) -> bool:
    return kind is not None and not isinstance(kind, dict)


def _describe(operation: Operation, schema_of: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": _parameters(operation),
        "responses": _responses(operation, schema_of),
    }
    if operation.body is not None:
        entry["requestBody"] = {
            "required": True,
            "content": {operation.body_type: {"schema": schema_of(operation.body)}},
        }
    if operation.door is Door.OPEN:
        entry["security"] = []
    return entry


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"\{(\w+)\}", operation.path)
    ]
    in_query = [
        {"name": query.name, "in": "query", "description": query.description, "schema": query.schema}
        for query in operation.query
    ]
    return [*in_path, *in_query]


def _responses(operation: Operation, schema_of: Any) -> dict[str, Any]:
    content = {operation.answer_type: {"schema": schema_of(operation.answer)}}
    if (
        operation.door is Door.INFERENCE
        and isinstance(operation.body, dict)
        and "stream" in operation.body["properties"]
    ):
        content["text/event-stream"] = {"schema": {"type": "string"}}
    responses: dict[str, Any] = {"200": {"description": "Done", "content": content}}
    for status in error_statuses(operation):
        responses[str(status)] = {
            "description": _ERROR_TEXT[status],
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
    return responses


def error_statuses(operation: Operation) -> list[int]:
    """Every status of an error that an operation can have."""
    implied = {Door.OPEN: (), Door.INFERENCE: (401, 403), Door.CONTROL: (401, 403)}[operation.door]
    with_body = (415,) if operation.body is not None and operation.tag == "control" else ()
    return sorted({*operation.errors, *implied, *with_body})


def reference_markdown() -> str:
    """docs/reference/http-api.md, whole."""
    lines = [
        "# HTTP API",
        "",
        "One port serves everything below. The description for programs is at `/openapi.json` (OpenAPI 3.1).",
        "",
        "On loopback no key is needed. Off loopback every call needs one: `Authorization: Bearer il-…`, `x-api-key` or",
        "`api-key`. Inference needs a key of any scope; control needs one of scope `control`.",
        "",
        'Every error has the shape `{"error": {message, type, param, code, source, hint}}`; `source` says who failed:',
        "`client`, `gateway` or `engine`. `/v1/messages` answers errors in Anthropic's shape.",
        "The paths under `/v1` are served under `/openai/v1` too.",
        "",
    ]
    titles = {
        "inference": "Inference",
        "files": "Files and batches",
        "control": "Control",
        "probes": "Probes and metrics",
    }
    for tag, title in titles.items():
        lines += [f"## {title}", "", "| call | does | body | answer | errors |", "|---|---|---|---|---|"]
        for operation in OPERATIONS:
            if operation.tag == tag:
                lines.append(
                    f"| `{operation.method} {_signature(operation)}` | {operation.summary} | {_name(operation.body)} | "
                    f"{_name(operation.answer)} | {', '.join(map(str, error_statuses(operation))) or 'none'} |"
                )
        lines.append("")
    lines += ["## Types", ""]
    for name, schema in sorted(description()["components"]["schemas"].items()):
        lines += [f"### {name}", "", *_fields(schema), ""]
    return "\n".join(lines).rstrip() + "\n"


def _signature(operation: Operation) -> str:
    query = "&".join(f"{parameter.name}=" for parameter in operation.query)
    return f"{operation.path}?{query}" if query else operation.path


def _name(kind: Any) -> str:
    if kind is None:
        return "none"
    if isinstance(kind, dict):
        names = kind.get("required") or list(kind.get("properties", {}))
        return ", ".join(f"`{name}`" for name in names) or str(kind.get("type", "any"))
    if (inner := getattr(kind, "__args__", None)) is not None:
        return f"list of {_name(inner[0])}"
    return f"[{kind.__name__}](#{kind.__name__.lower()})"


def _fields(schema: Schema) -> list[str]:
    rows = [schema["description"], ""] if "description" in schema else []
    rows += ["| field | type | default |", "|---|---|---|"]
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        default = "required" if name in required else f"`{msgspec.json.encode(field.get('default')).decode()}`"
        rows.append(f"| `{name}` | {_type_name(field)} | {default} |")
    return rows


def _type_name(schema: Schema) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type_name(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type_name(schema.get('items', {}))}"
    return " or ".join(kind) if isinstance(kind, list) else str(kind)
