"""OpenAI's /v1/files and /v1/batches: a thin Starlette layer over FileStore and Batches."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ironloom.serve.gateway.keys import Key, KeyRing, Scope
from ironloom.server.answers import bad_value, int_query, json_answer, json_body
from ironloom.server.batch_rows import ENDPOINTS
from ironloom.server.batches import Batches
from ironloom.server.files import PURPOSES, FileStore, Page
from ironloom.server.multipart import parse_form
from ironloom.server.operations import Door, Endpoint, Operation, Parameter, Schema, routes
from ironloom.server.security import Guard
from ironloom.units import parse_duration_s

MIN_WINDOW_S = 60.0
MAX_WINDOW_S = 30 * 86_400.0
MIN_EXPIRY_S = 3600
MAX_EXPIRY_S = 30 * 86_400
MAX_METADATA = 16


class ExpiresAfter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a file is forgotten."""

    anchor: str
    """`created_at`."""
    seconds: int
    """From 3600 to 2592000, as OpenAI has it."""


class BatchBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A batch to make."""

    input_file_id: str
    endpoint: str
    """/v1/chat/completions, /v1/completions or /v1/embeddings."""
    completion_window: str = "24h"
    """How long it may take: from 60s to 30d. OpenAI knows 24h only."""
    metadata: dict[str, str] | None = None
    output_expires_after: ExpiresAfter | None = None


_FILE: Schema = {
    "type": "object",
    "required": ["id", "object", "bytes", "created_at", "filename", "purpose"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "file"},
        "bytes": {"type": "integer"},
        "created_at": {"type": "integer"},
        "expires_at": {"type": "integer"},
        "filename": {"type": "string"},
        "purpose": {"enum": [*PURPOSES, "batch_output"]},
        "status": {"const": "processed"},
    },
}
_BATCH: Schema = {
    "type": "object",
    "required": ["id", "object", "endpoint", "status", "input_file_id", "created_at", "request_counts"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "batch"},
        "endpoint": {"enum": list(ENDPOINTS)},
        "status": {"type": "string"},
        "input_file_id": {"type": "string"},
        "output_file_id": {"type": ["string", "null"]},
        "error_file_id": {"type": ["string", "null"]},
        "created_at": {"type": "integer"},
        "request_counts": {"type": "object"},
        "usage": {"type": "object"},
        "errors": {"type": ["object", "null"]},
    },
}
_UPLOAD: Schema = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "contentMediaType": "application/octet-stream"},
        "purpose": {"enum": list(PURPOSES)},
        "expires_after[anchor]": {"const": "created_at"},
        "expires_after[seconds]": {"type": "integer", "minimum": MIN_EXPIRY_S, "maximum": MAX_EXPIRY_S},
    },
}
_AFTER = Parameter(name="after", description="Those behind this id.", schema={"type": "string"})


def _list_of(item: Schema) -> Schema:
    return {
        "type": "object",
        "required": ["object", "data", "has_more"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": item},
            "has_more": {"type": "boolean"},
        },
    }


def _limit(high: int) -> Parameter:
    schema = {"type": "integer", "minimum": 1, "maximum": high}
    return Parameter(name="limit", description="At most so many.", schema=schema)


def _operation(method: str, path: str, name: str, summary: str, **rest: Any) -> Operation:
    return Operation(
        method=method, path="/v1" + path, id=name, summary=summary, tag="files", door=Door.INFERENCE, **rest
    )


UPLOAD = _operation(
    "POST",
    "/files",
    "createFile",
    "Upload a file",
    body=_UPLOAD,
    body_type="multipart/form-data",
    answer=_FILE,
    errors=(400, 413, 415),
)
LIST_FILES = _operation(
    "GET",
    "/files",
    "listFiles",
    "The files, newest first",
    query=(
        Parameter(name="purpose", description="Of this purpose only.", schema={"type": "string"}),
        _limit(10_000),
        Parameter(name="order", description="By creation.", schema={"enum": ["asc", "desc"]}),
        _AFTER,
    ),
    answer=_list_of(_FILE),
    errors=(400,),
)
GET_FILE = _operation("GET", "/files/{id}", "getFile", "One file", answer=_FILE, errors=(404,))
GET_CONTENT = _operation(
    "GET",
    "/files/{id}/content",
    "getFileContent",
    "A file's bytes",
    answer={"type": "string"},
    answer_type="application/octet-stream",
    errors=(404,),
)
DELETE_FILE = _operation(
    "DELETE",
    "/files/{id}",
    "deleteFile",
    "Forget a file",
    answer={"type": "object", "properties": {"id": {"type": "string"}, "deleted": {"type": "boolean"}}},
    errors=(404,),
)
CREATE_BATCH = _operation(
    "POST", "/batches", "createBatch", "Run a file of requests", body=BatchBody, answer=_BATCH, errors=(400, 404, 415)
)
LIST_BATCHES = _operation(
    "GET",
    "/batches",
    "listBatches",
    "The batches, newest first",
    query=(_limit(100), _AFTER),
    answer=_list_of(_BATCH),
    errors=(400,),
)
GET_BATCH = _operation("GET", "/batches/{id}", "getBatch", "One batch", answer=_BATCH, errors=(404,))
CANCEL_BATCH = _operation(
    "POST", "/batches/{id}/cancel", "cancelBatch", "End a batch; what is done stays", answer=_BATCH, errors=(404,)
)
OPERATIONS = (
    UPLOAD,
    LIST_FILES,
    GET_FILE,
    GET_CONTENT,
    DELETE_FILE,
    CREATE_BATCH,
    LIST_BATCHES,
    GET_BATCH,
    CANCEL_BATCH,
)


class FilesApi:
    """The endpoints, bound to what they ask."""

    def __init__(self, files: FileStore, batches: Batches, ring: KeyRing, guard: Guard) -> None:
        self._files = files
        self._batches = batches
        self._ring = ring
        self._guard = guard

    def routes(self) -> list[Route]:
        """The routes, under /v1 and, as KServe's Hugging Face server has them, under /openai/v1."""
        bound: tuple[tuple[Operation, Endpoint], ...] = (
            (UPLOAD, self.upload),
            (LIST_FILES, self.list_files),
            (GET_FILE, self.get_file),
            (GET_CONTENT, self.get_content),
            (DELETE_FILE, self.delete_file),
            (CREATE_BATCH, self.create_batch),
            (LIST_BATCHES, self.list_batches),
            (GET_BATCH, self.get_batch),
            (CANCEL_BATCH, self.cancel_batch),
        )
        return [*routes(bound), *routes(bound, prefix="/openai")]

    def _key(self, request: Request) -> Key | None:
        return self._guard.inference_key(dict(request.headers.raw), self._ring)

    def _owner(self, request: Request) -> str | None:
        """The key that files and batches must belong to; None sees all."""
        key = self._key(request)
        return None if key is None or key.scope is Scope.CONTROL or not self._guard.keys_required else key.id

    async def upload(self, request: Request) -> Response:
        key = self._key(request)
        fields = parse_form(request.headers.get("content-type", ""), await request.body())
        content = next((part for part in fields if part.name == "file"), None)
        if content is None or content.filename is None:
            raise bad_value("file", "file is missing: the form must have a field `file` with a file name")
        texts = {part.name: part.data.decode("utf-8", "replace") for part in fields if part is not content}
        if unknown := sorted(texts.keys() - {"purpose", "expires_after[anchor]", "expires_after[seconds]"}):
            raise bad_value(unknown[0], f"{unknown[0][:100]!r} is not a field of an upload")
        purpose = texts.get("purpose", "")
        if purpose not in PURPOSES:
            raise bad_value("purpose", f"purpose is {purpose[:100]!r}; it must be one of {', '.join(PURPOSES)}")
        file = await self._files.add(
            content.data,
            filename=content.filename or "file",
            purpose=purpose,
            key_id=key.id if key else "",
            expires_after_s=_form_expiry(texts),
        )
        return json_answer(file.view())

    async def list_files(self, request: Request) -> Response:
        order = request.query_params.get("order", "desc")
        if order not in {"asc", "desc"}:
            raise bad_value("order", f"order is {order[:40]!r}; it must be asc or desc")
        page = Page(
            limit=int_query(request, "limit", 10_000, low=1, high=10_000),
            after=request.query_params.get("after"),
            newest_first=order == "desc",
        )
        found, more = await self._files.page(
            page, owner=self._owner(request), purpose=request.query_params.get("purpose")
        )
        return json_answer(_list_answer([file.view() for file in found], more=more))

    async def get_file(self, request: Request) -> Response:
        return json_answer((await self._files.get(request.path_params["id"], owner=self._owner(request))).view())

    async def get_content(self, request: Request) -> Response:
        file = await self._files.get(request.path_params["id"], owner=self._owner(request))
        return StreamingResponse(
            self._files.parts(file.id),
            media_type="application/octet-stream",
            headers={"content-disposition": "attachment", "x-content-type-options": "nosniff"},
        )

    async def delete_file(self, request: Request) -> Response:
        file_id = request.path_params["id"]
        await self._files.delete(file_id, owner=self._owner(request))
        return json_answer({"id": file_id, "object": "file", "deleted": True})

    async def create_batch(self, request: Request) -> Response:
        key = self._key(request)
        body = await json_body(request, BatchBody)
        if body.endpoint not in ENDPOINTS:
            raise bad_value(
                "endpoint", f"endpoint is {body.endpoint[:100]!r}; it must be one of {', '.join(ENDPOINTS)}"
            )
        metadata = body.metadata or {}
        if len(metadata) > MAX_METADATA or any(len(name) > 64 or len(text) > 512 for name, text in metadata.items()):
            raise bad_value(
                "metadata", f"metadata may have {MAX_METADATA} keys of 64 characters with 512 characters each"
            )
        expiry = body.output_expires_after
        file = await self._files.get(body.input_file_id, owner=self._owner(request))
        if file.purpose != "batch":
            raise bad_value("input_file_id", f"the file's purpose is {file.purpose}; it must be batch")
        return json_answer(
            await self._batches.create(
                input_file_id=file.id,
                endpoint=body.endpoint,
                window_s=_window_s(body.completion_window),
                completion_window=body.completion_window,
                metadata=metadata,
                key_id=key.id if key else "",
                output_expires_after_s=None if expiry is None else _expiry_s(expiry, "output_expires_after"),
            )
        )

    async def list_batches(self, request: Request) -> Response:
        page = Page(limit=int_query(request, "limit", 20, low=1, high=100), after=request.query_params.get("after"))
        found, more = await self._batches.page(page, owner=self._owner(request))
        return json_answer(_list_answer(found, more=more))

    async def get_batch(self, request: Request) -> Response:
        return json_answer(await self._batches.get(request.path_params["id"], owner=self._owner(request)))

    async def cancel_batch(self, request: Request) -> Response:
        return json_answer(await self._batches.cancel(request.path_params["id"], owner=self._owner(request)))


def _list_answer(data: list[dict[str, Any]], *, more: bool) -> dict[str, Any]:
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, "has_more": more, **ends}


def _window_s(text: str) -> float:
    try:
        window_s = parse_duration_s(text)
    except ValueError:
        window_s = 0.0
    if not MIN_WINDOW_S <= window_s <= MAX_WINDOW_S:
        raise bad_value(
            "completion_window",
            f"completion_window is {text[:40]!r}; it must be a duration from 60s to 30d, such as 24h",
        )
    return window_s


def _form_expiry(texts: dict[str, str]) -> float | None:
    seconds = texts.get("expires_after[seconds]")
    if seconds is None:
        return None
    if not (seconds.isascii() and seconds.isdigit() and len(seconds) < 10):
        raise bad_value(
            "expires_after[seconds]", f"expires_after[seconds] is {seconds[:40]!r}; it must be a whole number"
        )
    anchor = texts.get("expires_after[anchor]", "created_at")
    return _expiry_s(ExpiresAfter(anchor=anchor, seconds=int(seconds)), "expires_after")


def _expiry_s(expiry: ExpiresAfter, name: str) -> float:
    if expiry.anchor != "created_at":
        raise bad_value(f"{name}.anchor", f"{name}.anchor is {expiry.anchor[:40]!r}; it must be created_at")
    if not MIN_EXPIRY_S <= expiry.seconds <= MAX_EXPIRY_S:
        raise bad_value(
            f"{name}.seconds", f"{name}.seconds is {expiry.seconds}; it must be from {MIN_EXPIRY_S} to {MAX_EXPIRY_S}"
        )
    return float(expiry.seconds)
