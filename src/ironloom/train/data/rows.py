"""The rows of a source: JSON lines, Parquet, text, or a dataset of the Hugging Face hub.

pyarrow and datasets (the extra `train`) are imported where a source needs them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ironloom.errors import DataError
from ironloom.units import MIB
from ironloom.workload.training import Data, Source

SUFFIXES = (".jsonl", ".parquet", ".txt")
HUB = "hf://"
_TEXT_PART_BYTES = MIB
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_ROLES = {"human": "user", "gpt": "assistant"}
_TOOL_ROLES = ("tool", "function", "ipython")


@dataclass(frozen=True, slots=True)
class Row:
    """A text or a conversation: one of the two is there."""

    where: str
    """File and line, or file and row, for messages about it."""
    text: str | None = None
    messages: tuple[dict[str, Any], ...] | None = None
    tools: tuple[dict[str, Any], ...] = ()
    """Functions that the conversation may call, as the chat template gets them."""


def source_files(source: Source) -> list[Path]:
    """The files of a local source, by name. Raises DataError where there are none that can be read."""
    path = Path(source.uri).expanduser()
    allowed = ", ".join(SUFFIXES)
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise DataError(f"{path} is no data that can be read; allowed are {allowed}, or {HUB}owner/name")
        return [path]
    if not path.is_dir():
        raise DataError(
            f"there is no file or folder {source.uri} to train on", hint=f"a dataset of the hub is {HUB}owner/name"
        )
    files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    if not files:
        raise DataError(f"{path} holds no file to train on; allowed are {allowed}")
    return files


def is_saved_dataset(source: Source) -> bool:
    """A folder that `Dataset.save_to_disk` of datasets wrote."""
    path = Path(source.uri).expanduser()
    return (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file()


def read_rows(source: Source, data: Data) -> Iterator[Row]:
    """The rows of a source, in their order. Raises DataError for the first one that is no row."""
    if source.uri.startswith(HUB) or is_saved_dataset(source):
        dataset = open_dataset(source)
        for number, record in enumerate(dataset):
            yield _row(record, data, f"{source.uri}, row {number}")
        return
    for file in source_files(source):
        yield from _file_rows(file, data)


def open_dataset(source: Source) -> Any:
    """A dataset of the hub, or one saved in a folder, by the library datasets. Raises DataError."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{source.uri} is read by the library datasets, which is not installed",
            hint="pip install 'ironloom[train]'",
        ) from error
    datasets.disable_progress_bars()
    try:
        if not source.uri.startswith(HUB):
            found = datasets.load_from_disk(source.uri)
            if isinstance(found, datasets.DatasetDict):
                if source.split not in found:
                    raise DataError(f'{source.uri} has no split "{source.split}"; it has {", ".join(found)}')
                return found[source.split]
            return found
        name, _, revision = source.uri.removeprefix(HUB).partition(":")
        return datasets.load_dataset(name, source.subset or None, split=source.split, revision=revision or None)
    except DataError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{source.uri} cannot be read: {reason}", hint="name the subset or the split, or fetch its files first"
        ) from error


def _file_rows(file: Path, data: Data) -> Iterator[Row]:
    match file.suffix:
        case ".jsonl":
            yield from _json_lines(file, data)
        case ".parquet":
            yield from _parquet(file, data)
        case _:
            yield from _text_parts(file)


def _json_lines(file: Path, data: Data) -> Iterator[Row]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = _decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise DataError(
                    f"{file}:{number}: the line is no JSON object ({error})", hint="each line is one object"
                ) from error
            yield _row(record, data, f"{file}:{number}")


def _parquet(file: Path, data: Data) -> Iterator[Row]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            f"{file} is read by pyarrow, which is not installed", hint="pip install 'ironloom[train]'"
        ) from error
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as parquet:
            columns = [c for c in parquet.schema_arrow.names if c in (data.text_field, data.messages_field, "tools")]
            if not {data.text_field, data.messages_field} & set(columns):
                raise _no_field(str(file), parquet.schema_arrow.names, data)
            for batch in parquet.iter_batches(batch_size=1024, columns=columns):
                for record in batch.to_pylist():
                    yield _row(record, data, f"{file}, row {number}")
                    number += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file} is no Parquet file that can be read ({error})") from error


def _text_parts(file: Path) -> Iterator[Row]:
    """A text file is one row; one beyond 1 MiB comes in parts that end where a line does."""
    with file.open("rb") as lines:
        number = 1
        while part := lines.readlines(_TEXT_PART_BYTES):
            try:
                text = b"".join(part).decode()
            except UnicodeDecodeError as error:
                raise DataError(f"{file}:{number}: the text is no UTF-8 ({error.reason})") from error
            yield Row(f"{file}:{number}", text=text)
            number += len(part)


def _row(record: dict[str, Any], data: Data, where: str) -> Row:
    messages = record.get(data.messages_field)
    if messages is not None:
        return Row(where, messages=_messages(messages, data, where), tools=_tools(record.get("tools"), where))
    if data.text_field not in record:
        raise _no_field(where, list(record), data)
    text = record[data.text_field]
    if text is not None and not isinstance(text, str):
        raise DataError(f'{where}: "{data.text_field}" is {type(text).__name__}; a string is wanted')
    return Row(where, text=text or "")


def _no_field(where: str, fields: list[str], data: Data) -> DataError:
    return DataError(
        f'{where}: there is no field "{data.text_field}" (text) and none "{data.messages_field}" (a conversation); '
        f"there are {', '.join(fields) or 'none'}",
        hint="data.text_field names the field of the text, data.messages_field that of the conversation",
    )


def _messages(value: Any, data: Data, where: str) -> tuple[dict[str, Any], ...]:
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise DataError(f'{where}: "{data.messages_field}" is no list of messages')
    return tuple(_message(message, data, where) for message in value)


def _message(message: dict[str, Any], data: Data, where: str) -> dict[str, Any]:
    """A message as chat templates take it: without the nulls that columns bring, ShareGPT's keys by OpenAI's names."""
    known = {key: value for key, value in message.items() if value is not None}
    if "role" not in known and "from" in known:
        known["role"] = _ROLES.get(str(known["from"]), known["from"])
        known["content"] = known.get("value", "")
        del known["from"]
        known.pop("value", None)
    if not isinstance(known.get("role"), str):
        raise DataError(f'{where}: a message of "{data.messages_field}" has no role; {{"role", "content"}} is wanted')
    if not _is_content(content := known.get("content", ""), known["role"]):
        raise DataError(
            f'{where}: the content of a message of "{data.messages_field}" is {_kind(content)}; '
            'a string, or a list of parts such as {"type": "text", "text": …}, is wanted'
        )
    return known


def _is_content(value: Any, role: str) -> bool:
    """Text or parts of one; what a tool answered may be an object, which templates write as JSON."""
    if isinstance(value, list):
        return all(isinstance(part, dict) and isinstance(part.get("text"), str | None) for part in value)
    return isinstance(value, str) or (role in _TOOL_ROLES and isinstance(value, dict))


def _kind(value: Any) -> str:
    return "a list of other things" if isinstance(value, list) else type(value).__name__


def _tools(value: Any, where: str) -> tuple[dict[str, Any], ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except msgspec.DecodeError as error:
            raise DataError(f'{where}: "tools" is no JSON ({error})') from error
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise DataError(f'{where}: "tools" is no list of functions')
    return tuple(value)
