"""Tables of fields from published descriptions: Kubernetes' OpenAPI, v2 or v3, and custom resource definitions.

What a live cluster serves under /openapi/v3 is read by `from_openapi`; scripts/make_manifest_schema makes the tables
that come with the package by the same code, and lays several versions over one another with `merge`.

A table is small because equal types are stored once: `types` is a list, and a type names others by their place in it.

    "string" | "integer" | "number" | "boolean" | "quantity" | "int-or-string" | "any"
    {"object": {field: type, …}}          no other field may be there; with
        "required": [field, …], and "required-since": {field: minor} of what only later versions require
        "since" and "until": {field: minor}     the first and the last minor version of Kubernetes that has it
    {"map": type}
    {"list": type}                        with "keys": {field: default or null, …}: no two entries have these in common,
        "soft": true                      where the API server takes such entries and one of them is lost,
        "min" and "max": number of entries
    {"enum": [text, …]}    {"integer": [low or null, high or null]}
    {"text": [pattern or null, least or null, most characters or null]}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ironloom.workload.manifests.schema import Schema

OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
WRITTEN_BY_SERVERS = ("status",)
"""Present in what `kubectl get -o yaml` prints, read by nobody here: anything goes."""
INT32 = (-(2**31), 2**31 - 1)
_NAMED: Mapping[str, str] = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": "quantity",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": "int-or-string",
    "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1": "any",
    "io.k8s.apimachinery.pkg.runtime.RawExtension": "any",
}
_REFUSED: Mapping[str, frozenset[str]] = {
    "PodSpec": frozenset({"containers", "initContainers", "volumes", "topologySpreadConstraints", "resourceClaims"}),
    "Container": frozenset({"volumeMounts", "volumeDevices"}),
    "ServiceSpec": frozenset({"ports"}),
}
"""Lists in Kubernetes' own types whose doubles the API server refuses, by its validation.go. Of other lists it takes
them, and the merge of a later apply keeps one. Of a custom resource it refuses them all."""
_META_FIELDS: Mapping[str, Any] = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}


def from_openapi(
    documents: Iterable[Mapping[str, Any]],
    *,
    source: str = "this cluster",
    enums: Mapping[tuple[str, str], Sequence[str]] | None = None,
) -> Schema:
    """The table of what an API server serves: the documents of /openapi/v3, one a group and version, or the one of
    /openapi/v2. `source` is what its messages call it.

    `enums` are the values of (definition, field) where the documents leave them out, as Kubernetes' published ones do.
    Documents without schemas, and parts of them that are none, are passed over.
    """
    definitions: dict[str, Any] = {}
    for document in documents:
        components = document.get("components")
        found = components.get("schemas") if isinstance(components, Mapping) else document.get("definitions")
        if isinstance(found, Mapping):
            definitions.update((name, made) for name, made in found.items() if isinstance(made, Mapping))
    types = _Types(definitions, enums or {})
    kinds: dict[str, int] = {}
    known: set[str] = set()
    for name, made in definitions.items():
        # Options of API calls carry every group's name; objects carry one.
        named = made.get("x-kubernetes-group-version-kind", [])
        if len(named) != 1:
            continue
        type_name = "/".join(part for part in (named[0]["group"], named[0]["version"], named[0]["kind"]) if part)
        known.add(type_name)
        if "metadata" in made.get("properties", ()) and not type_name.endswith("List"):
            kinds[type_name] = types.reference(name)
    return Schema(sources={"": source}, kinds=dict(sorted(kinds.items())), known=frozenset(known), types=types.types)


def from_crds(crds: Iterable[Mapping[str, Any]], meta: Mapping[str, Any], *, source: str) -> Schema:
    """The table of custom resource definitions. `meta` has the definitions of Kubernetes' OpenAPI that an object's
    metadata is made of, by name."""
    types = _Types(meta, {})
    kinds: dict[str, int] = {}
    groups: set[str] = set()
    for crd in crds:
        spec = crd["spec"]
        groups.add(spec["group"])
        for version in spec["versions"]:
            groups.add(f"{spec['group']}/{version['name']}")
            if not version.get("served", True):
                continue
            root = dict(version["schema"]["openAPIV3Schema"])
            below = {**_META_FIELDS, **root.get("properties", {}), "metadata": {"$ref": f"#/definitions/{OBJECT_META}"}}
            # A version that is kept to be read says nothing of its fields.
            is_bare = root.get("x-kubernetes-preserve-unknown-fields") and "properties" not in root
            kind = f"{spec['group']}/{version['name']}/{spec['names']['kind']}"
            kinds[kind] = types.place("any") if is_bare else types.type({**root, "properties": below}, is_root=True)
    return Schema(
        sources=dict.fromkeys(sorted(groups), source),
        kinds=dict(sorted(kinds.items())),
        known=frozenset(kinds),
        types=types.types,
    )


def merge(tables: Sequence[tuple[int | None, Schema]]) -> Schema:
    """Tables of several versions, oldest first, as one: a field or a kind that any of them has is there.

    With minor versions of Kubernetes the first and the last one that has a field or kind stand beside it, where they
    are not the first and the last of all. A field that two versions type differently has the newer's type, and any
    type where one of them takes any.
    """
    merged = _Merge(tables)
    kinds: dict[str, int] = {}
    spans: dict[str, tuple[int | None, int | None]] = {}
    for kind in sorted({kind for _, table in tables for kind in table.kinds}):
        having = [number for number, (_, table) in enumerate(tables) if kind in table.kinds]
        kinds[kind] = merged.type(tuple((number, tables[number][1].kinds[kind]) for number in having))
        spans[kind] = merged.span(having, range(len(tables)))
    sources: dict[str, str] = {}
    for _, table in tables:
        sources |= table.sources
    return Schema(
        sources=sources,
        kinds=kinds,
        known=frozenset(kind for _, table in tables for kind in table.known),
        types=merged.types,
        since={kind: first for kind, (first, _) in spans.items() if first is not None},
        until={kind: last for kind, (_, last) in spans.items() if last is not None},
    )


def join(tables: Iterable[Schema]) -> Schema:
    """Tables of different kinds as one."""
    types = _Types({}, {})
    sources: dict[str, str] = {}
    kinds: dict[str, int] = {}
    known: set[str] = set()
    since: dict[str, int] = {}
    until: dict[str, int] = {}
    for table in tables:
        moved: dict[int, int] = {}
        kinds |= {kind: _copy(table.types, place, types, moved) for kind, place in table.kinds.items()}
        known |= table.known
        sources |= table.sources
        since |= table.since
        until |= table.until
    return Schema(
        sources=sources,
        kinds=dict(sorted(kinds.items())),
        known=frozenset(known),
        types=types.types,
        since=since,
        until=until,
    )


def subset(table: Schema, kinds: Iterable[str]) -> Schema:
    """The table of these kinds alone; what is known stays known."""
    types = _Types({}, {})
    moved: dict[int, int] = {}
    return Schema(
        sources=table.sources,
        kinds={kind: _copy(table.types, table.kinds[kind], types, moved) for kind in sorted(kinds)},
        known=table.known,
        types=types.types,
    )


def as_object(table: Schema) -> dict[str, Any]:
    """The table as JSON has it; `schema.decode` reads it."""
    made: dict[str, Any] = {"sources": table.sources, "kinds": table.kinds, "known": sorted(table.known)}
    if table.since or table.until:
        made |= {"since": dict(sorted(table.since.items())), "until": dict(sorted(table.until.items()))}
    return {**made, "types": table.types}


class _Types:
    """Types by their text: the same type has the same place."""

    def __init__(self, definitions: Mapping[str, Any], enums: Mapping[tuple[str, str], Sequence[str]]) -> None:
        self._definitions = definitions
        self._enums = enums
        self._places: dict[str, int] = {}
        self._references: dict[str, int] = {}
        self._open: set[str] = set()
        self.types: list[Any] = []

    def place(self, made: Any) -> int:
        text = json.dumps(made, sort_keys=True)
        if text not in self._places:
            self._places[text] = len(self.types)
            self.types.append(made)
        return self._places[text]

    def reference(self, name: str) -> int:
        if name in self._references:
            return self._references[name]
        if name in _NAMED:
            return self.place(_NAMED[name])
        if name in self._open or name not in self._definitions:
            return self.place("any")  # a type that has itself inside: a CRD's own schema
        self._open.add(name)
        definition = self._definitions[name]
        self._references[name] = self.type(definition, name, is_root="x-kubernetes-group-version-kind" in definition)
        self._open.remove(name)
        return self._references[name]

    def type(self, schema: Mapping[str, Any], name: str = "", *, is_root: bool = False) -> int:
        """`name` is the definition's, where it has one."""
        schema = _alone(schema)
        if "$ref" in schema:
            return self.reference(schema["$ref"].rpartition("/")[2])
        if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
            return self.place("quantity" if "pattern" in schema else "int-or-string")
        if schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("x-kubernetes-embedded-resource"):
            return self.place("any")
        if "properties" in schema:
            return self._object(schema, name, is_root=is_root)
        below = schema.get("additionalProperties")
        if isinstance(below, Mapping):
            return self.place({"map": self.type(below)})
        match schema.get("type"):
            case "array":
                return self._list(schema)
            case "string":
                return self.place(_text(schema))
            case "integer":
                return self.place(_integer(schema))
            case "number" | "boolean" as kind:
                return self.place(kind)
        return self.place("any")

    def _object(self, schema: Mapping[str, Any], name: str, *, is_root: bool) -> int:
        fields: dict[str, int] = {}
        for field, below in sorted(schema["properties"].items()):
            if is_root and field in WRITTEN_BY_SERVERS:
                fields[field] = self.place("any")
            else:
                fields[field] = self._field(name, field, below)
        made: dict[str, Any] = {"object": fields}
        required = [
            field
            for field in schema.get("required", ())
            if not (is_root and field in WRITTEN_BY_SERVERS) and "default" not in schema["properties"].get(field, ())
        ]  # what has a default is filled in before it is missed
        if required:
            made["required"] = sorted(required)
        return self.place(made)

    def _field(self, name: str, field: str, schema: Mapping[str, Any]) -> int:
        allowed = self._enums.get((name, field))
        if allowed and schema.get("type") == "string":
            return self.place({"enum": ["", *allowed]})
        if allowed and schema.get("type") == "array":
            return self.place({"list": self.place({"enum": list(allowed)})})
        if schema.get("type") == "array" and name.startswith("io.k8s."):
            is_soft = field not in _REFUSED.get(name.rpartition(".")[2], ())
            return self._list(schema, is_soft=is_soft)
        bare = schema.get("type") == "object" and "properties" not in schema and "additionalProperties" not in schema
        if field == "metadata" and bare and OBJECT_META in self._definitions:
            return self.reference(OBJECT_META)
        return self.type(schema)

    def _list(self, schema: Mapping[str, Any], *, is_soft: bool = False) -> int:
        below = schema.get("items", {})
        made: dict[str, Any] = {"list": self.type(below)}
        keys = schema.get("x-kubernetes-list-map-keys")
        if keys and schema.get("x-kubernetes-list-type") == "map":
            made["keys"] = {key: self._default(below, key) for key in keys}
            if is_soft:
                made["soft"] = True
        for word, field in (("min", "minItems"), ("max", "maxItems")):
            if field in schema:
                made[word] = schema[field]
        return self.place(made)

    def _default(self, schema: Mapping[str, Any], key: str) -> Any:
        schema = _alone(schema)
        if "$ref" in schema:
            schema = self._definitions.get(schema["$ref"].rpartition("/")[2], {})
        default = schema.get("properties", {}).get(key, {}).get("default")
        # OpenAPI v2 has no defaults; of the keys in it a port's protocol is the one that has one.
        return "TCP" if default is None and key == "protocol" else default


def _alone(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A reference that stands in an allOf, to have a default beside it, as the reference."""
    parts = schema.get("allOf")
    if isinstance(parts, list) and len(parts) == 1 and "$ref" in parts[0] and "properties" not in schema:
        return {"$ref": parts[0]["$ref"]}
    return schema


def _text(schema: Mapping[str, Any]) -> Any:
    if "enum" in schema:
        return {"enum": list(schema["enum"])}
    limits = [schema.get("pattern"), schema.get("minLength"), schema.get("maxLength")]
    return "string" if limits == [None, None, None] else {"text": limits}


def _integer(schema: Mapping[str, Any]) -> Any:
    low, high = INT32 if schema.get("format") == "int32" else (None, None)
    low, high = schema.get("minimum", low), schema.get("maximum", high)
    return "integer" if low is None and high is None else {"integer": [low, high]}


def _copy(types: Sequence[Any], place: int, into: _Types, moved: dict[int, int]) -> int:
    if place in moved:
        return moved[place]
    made = types[place]
    if isinstance(made, dict):
        made = dict(made)
        for word in ("map", "list"):
            if word in made:
                made[word] = _copy(types, made[word], into, moved)
        if "object" in made:
            made["object"] = {field: _copy(types, below, into, moved) for field, below in made["object"].items()}
    moved[place] = into.place(made)
    return moved[place]


Versions = tuple[tuple[int, int], ...]
"""(number of the table, place in it) of one type in each version that has it."""


class _Merge:
    def __init__(self, tables: Sequence[tuple[int | None, Schema]]) -> None:
        self._minors = [minor for minor, _ in tables]
        self._tables = [table for _, table in tables]
        self._done: dict[Versions, int] = {}
        self._types = _Types({}, {})

    @property
    def types(self) -> list[Any]:
        return self._types.types

    def span(self, having: Sequence[int], among: Sequence[int]) -> tuple[int | None, int | None]:
        """The first and last minor version of those that have it; None where the first or last of all does."""
        first = None if having[0] == among[0] else self._minors[having[0]]
        last = None if having[-1] == among[-1] else self._minors[having[-1]]
        return first, last

    def type(self, versions: Versions) -> int:
        if versions not in self._done:
            self._done[versions] = self._types.place(self._made(versions))
        return self._done[versions]

    def _made(self, versions: Versions) -> Any:
        made = [self._tables[number].types[place] for number, place in versions]
        newest = made[-1]
        if "any" in made:
            return "any"
        if all(isinstance(one, dict) and "object" in one for one in made):
            return self._object(versions, made)
        for word in ("list", "map"):
            if all(isinstance(one, dict) and word in one for one in made):
                below = self.type(tuple((number, one[word]) for (number, _), one in zip(versions, made, strict=True)))
                return {**newest, word: below}
        if isinstance(newest, dict):
            for word in ("list", "map", "object"):
                if word in newest:  # it was of another type before
                    return (
                        self._object(versions[-1:], made[-1:])
                        if word == "object"
                        else {**newest, word: self.type(((versions[-1][0], newest[word]),))}
                    )
        if all(isinstance(one, dict) and "enum" in one for one in made):
            return {"enum": list(dict.fromkeys(value for one in made for value in one["enum"]))}
        return newest

    def _object(self, versions: Versions, made: Sequence[Any]) -> Any:
        fields: dict[str, int] = {}
        since: dict[str, int] = {}
        until: dict[str, int] = {}
        numbers = [number for number, _ in versions]
        for field in sorted({field for one in made for field in one["object"]}):
            having = tuple(
                (number, one["object"][field])
                for number, one in zip(numbers, made, strict=True)
                if field in one["object"]
            )
            fields[field] = self.type(having)
            first, last = self.span([number for number, _ in having], numbers)
            if first is not None:
                since[field] = first
            if last is not None:
                until[field] = last
        merged: dict[str, Any] = {"object": fields}
        required = set.intersection(*(set(one.get("required", ())) for one in made))
        if required:
            merged["required"] = sorted(required)
        later = self._later(numbers, made, required)
        if later:
            merged["required-since"] = later
        return {**merged, **({"since": since} if since else {}), **({"until": until} if until else {})}

    def _later(self, numbers: Sequence[int], made: Sequence[Any], required: set[str]) -> dict[str, int]:
        """The minor version from which on each field is required that is required in the newest, and not in all."""
        later: dict[str, int] = {}
        for field in sorted(set(made[-1].get("required", ())) - required):
            missing = [
                number for number, one in zip(numbers, made, strict=True) if field not in one.get("required", ())
            ]
            minor = self._minors[min(number for number in numbers if number > missing[-1])]
            if minor is not None:
                later[field] = minor
        return later


def enums_of_go(text: str) -> Iterator[tuple[tuple[str, str], list[str]]]:
    """The allowed values in Kubernetes' generated OpenAPI source, which its published documents leave out:
    ((definition, field), values)."""
    definition, field = "", ""
    for line in text.splitlines():
        if line.startswith("func schema_"):
            _, _, name = line.partition("_api_")
            definition = "io.k8s.api." + name.partition("(")[0].replace("_", ".")
        elif line.startswith('\t\t\t\t\t"') and line.endswith('": {'):
            field = line.strip().removesuffix('": {').removeprefix('"')
        elif "Enum:" in line and "interface{}{" in line:
            values = json.loads("[" + line.partition("interface{}{")[2].rstrip().removesuffix("},") + "]")
            yield (definition, field), values
