"""What a request may ask of the output's form, as a grammar: response_format, structured_outputs, tool_choice.

A JSON schema's keywords that the grammar compiler would pass over in silence are refused by name. The list follows
what vLLM refuses for the same compiler, xgrammar (vllm/v1/structured_output/backend_xgrammar.py), and what it was
seen to ignore.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ironloom.serve.engines.programs.fields import Fields, invalid, unsupported
from ironloom.serve.engines.programs.generation import Grammar, GrammarKind

_TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
_IGNORED = frozenset(
    {
        "not", "if", "then", "else", "multipleOf", "uniqueItems", "contains", "minContains", "maxContains",
        "patternProperties", "propertyNames", "dependentRequired", "dependentSchemas", "dependencies",
        "unevaluatedItems", "unevaluatedProperties",
    }
)  # fmt: skip
_FORMATS = frozenset(
    {
        "email", "date", "time", "date-time", "duration", "ipv4", "ipv6", "hostname", "uuid", "uri", "uri-reference",
        "uri-template", "json-pointer", "relative-json-pointer",
    }
)  # fmt: skip
"""Formats of texts that xgrammar knows."""
_SAYS_NOTHING = frozenset(
    {"$ref", "$defs", "definitions", "$schema", "$id", "$comment", "title", "description", "default", "examples",
     "deprecated", "readOnly", "writeOnly"}
)  # fmt: skip
"""What may stand beside a $ref: it constrains nothing."""
_SCHEMAS = ("additionalProperties", "items", "additionalItems", "unevaluatedItems")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_MAPS = ("properties", "$defs", "definitions")
_OLD_NAMES = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}


def schema_grammar(schema: Any, param: str) -> Grammar:
    """The grammar of a JSON schema. Raises RequestError naming the keyword that cannot be honoured."""
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise invalid(param, f"{param} is not JSON: {error}") from error
    if not isinstance(schema, dict | bool):
        raise invalid(param, f"{param} must be a JSON schema (an object)")
    try:
        _check(schema, param)
        return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema, ensure_ascii=False), param)
    except RecursionError as error:
        raise invalid(param, f"{param} is nested too deeply") from error


def _check(schema: Any, path: str) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise invalid(path, f"{path} must be a JSON schema (an object)")
    for keyword in schema.keys() & _IGNORED:
        raise unsupported(f"{path}.{keyword}", "the grammar cannot enforce this keyword of JSON schema")
    types = schema.get("type", [])
    for name in [types] if isinstance(types, str) else types if isinstance(types, list) else [types]:
        if name not in _TYPES:
            raise invalid(f"{path}.type", f"{path}.type is {name!r}; it must be one of {', '.join(sorted(_TYPES))}")
    if "format" in schema and schema["format"] not in _FORMATS:
        raise unsupported(f"{path}.format", f"the grammar knows no format {schema['format']!r}")
    if "pattern" in schema or "format" in schema:
        for keyword in schema.keys() & {"minLength", "maxLength"}:
            raise unsupported(f"{path}.{keyword}", "the grammar cannot enforce a length beside a pattern or a format")
    if "$ref" in schema:
        for keyword in sorted(schema.keys() - _SAYS_NOTHING):
            raise unsupported(f"{path}.{keyword}", "the grammar passes over what stands beside a $ref")
    if isinstance(schema.get("allOf"), list) and len(schema["allOf"]) > 1:
        raise unsupported(f"{path}.allOf", "the grammar cannot enforce several schemas at once")
    for keyword in _SCHEMAS:
        if keyword in schema:
            _check(schema[keyword], f"{path}.{keyword}")
    for keyword in _LISTS:
        if keyword in schema:
            if not isinstance(schema[keyword], list):
                raise invalid(f"{path}.{keyword}", f"{path}.{keyword} must be a list of schemas")
            for index, item in enumerate(schema[keyword]):
                _check(item, f"{path}.{keyword}[{index}]")
    for keyword in _MAPS:
        if keyword in schema:
            if not isinstance(schema[keyword], dict):
                raise invalid(f"{path}.{keyword}", f"{path}.{keyword} must be an object of schemas")
            for name, item in schema[keyword].items():
                _check(item, f"{path}.{keyword}.{name}")


def read_grammar(fields: Fields) -> Grammar | None:
    """The grammar that response_format or structured_outputs (or vLLM's older guided_…) asks for, or None."""
    found = [grammar for grammar in (_response_format(fields), *_structured_outputs(fields)) if grammar is not None]
    if len(found) > 1:
        names = " and ".join(grammar.param for grammar in found)
        raise invalid(found[1].param, f"{names} both say what the output must look like; only one may")
    return found[0] if found else None


def _response_format(fields: Fields) -> Grammar | None:
    wanted = fields.mapping("response_format")
    kind = wanted.get("type", "text" if not wanted else None)
    if kind == "text":
        return None
    if kind == "json_object":
        return Grammar(GrammarKind.JSON_SCHEMA, '{"type": "object"}', "response_format")
    if kind == "json_schema":
        described = wanted.get("json_schema")
        if not isinstance(described, dict) or "schema" not in described:
            raise invalid("response_format.json_schema.schema", "response_format.json_schema must have a schema")
        return schema_grammar(described["schema"], "response_format.json_schema.schema")
    message = f"response_format.type is {kind!r}; it must be text, json_object or json_schema"
    raise invalid("response_format.type", message)


def _structured_outputs(fields: Fields) -> list[Grammar]:
    found = []
    for old_name, name in _OLD_NAMES.items():
        if old_name in fields:
            found.append(_one(name, fields.take(old_name), old_name))
    wanted = fields.mapping("structured_outputs")
    for name, value in wanted.items():
        if value is not None:
            found.append(_one(name, value, f"structured_outputs.{name}"))
    return found


def _one(name: str, value: Any, param: str) -> Grammar:
    if name == "json":
        return schema_grammar(value, param)
    if name == "json_object" and value is True:
        return Grammar(GrammarKind.JSON_SCHEMA, '{"type": "object"}', param)
    if name == "choice":
        if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
            raise invalid(param, f"{param} must be a list of texts")
        return Grammar(GrammarKind.REGEX, "|".join(f"({re.escape(item)})" for item in value), param)
    if name in {"regex", "grammar"}:
        if not isinstance(value, str) or not value:
            raise invalid(param, f"{param} must be a text")
        return Grammar(GrammarKind.REGEX if name == "regex" else GrammarKind.EBNF, value, param)
    raise invalid(param, f"{param} is not known; structured_outputs takes json, json_object, regex, choice or grammar")


def call_grammar(tools: list[dict[str, Any]], name: str | None, *, parallel: bool) -> Grammar:
    """The grammar of tool_choice: a named function's arguments, or (`name` None) a list of calls, at least one.

    The same forms as vLLM's, so that they fit every model.
    """
    if name is not None:
        for index, tool in enumerate(tools):
            if tool["function"]["name"] == name:
                return schema_grammar(_parameters(tool), f"tools[{index}].function.parameters")
        raise invalid("tool_choice", f"tool_choice names {name!r}, which is not among tools")
    calls = []
    for index, tool in enumerate(tools):
        parameters = _parameters(tool)
        _check(parameters, f"tools[{index}].function.parameters")
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"enum": [tool["function"]["name"]]}, "parameters": parameters},
                "required": ["name", "parameters"],
                "additionalProperties": False,
            }
        )
    schema: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"anyOf": calls} if len(calls) > 1 else calls[0]}
    if not parallel:
        schema["maxItems"] = 1
    return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema, ensure_ascii=False), "tool_choice")


def _parameters(tool: Mapping[str, Any]) -> dict[str, Any]:
    return tool["function"].get("parameters") or {"type": "object", "properties": {}}
