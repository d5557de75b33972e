"""The table of error codes is what the code raises: none is missing, none is told of that nothing gives."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import ironloom
from ironloom.errors import IronloomError
from ironloom.server import answers
from ironloom.server.error_codes import ANSWERS, BATCH_LINES, ErrorCode

SOURCE = Path(ironloom.__file__).parent
ROOMS = ("serve", "server")
PASSED_ON = frozenset(
    {
        ("serve/engines/programs/fields.py", "code"),  # invalid(): its callers and its default say which
        ("serve/gateway/translated.py", "text('code')"),  # the engine's own
        ("serve/http/connection.py", "code"),  # refusal(): its third argument
        ("server/answers.py", "code"),  # assigned above it
        ("server/answers.py", "error.code"),  # of the exceptions that have a status
    }
)
"""(file, expression) of the calls that hand on a code which is read elsewhere."""


def texts(node: ast.expr) -> list[str]:
    """The strings that an expression may be, where it says so itself."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    return [*texts(node.body), *texts(node.orelse)] if isinstance(node, ast.IfExp) else []


def name_of(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def codes_of_call(call: ast.Call, file: str) -> Iterator[tuple[str, int]]:
    """(code, status) that one call of RequestError or of what wraps it names; status 0 where the callee has it."""
    name = name_of(call)
    first = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else 0
    status = first if isinstance(first, int) else 0
    if name == "refusal" and file.startswith("serve/http/"):
        assert texts(call.args[2]), f"{file}:{call.lineno}: the code is not a text"
        yield from ((code, status) for code in texts(call.args[2]))
    if name in ("RequestError", "invalid"):
        for keyword in call.keywords:
            if keyword.arg == "code":
                found = texts(keyword.value)
                assert found or (file, ast.unparse(keyword.value)) in PASSED_ON, f"{file}:{call.lineno}: which code?"
                yield from ((code, 400 if name == "invalid" else status) for code in found)


def codes_of_assignment(node: ast.Assign | ast.FunctionDef) -> Iterator[str]:
    """The texts that a variable or a parameter named `code` is given."""
    if isinstance(node, ast.FunctionDef):
        for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
            if argument.arg == "code" and default is not None:
                yield from texts(default)
        return
    for target in node.targets:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            for one, value in zip(target.elts, node.value.elts, strict=True):
                if isinstance(one, ast.Name) and one.id == "code":
                    yield from texts(value)


def trees() -> Iterator[tuple[str, ast.Module]]:
    for room in ROOMS:
        for path in sorted((SOURCE / room).rglob("*.py")):
            yield path.relative_to(SOURCE).as_posix(), ast.parse(path.read_text())


def raised() -> dict[str, set[int]]:
    """Each code that an answer can carry in the source, with the statuses that stand beside it."""
    found: dict[str, set[int]] = {}
    for file, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                for code, status in codes_of_call(node, file):
                    found.setdefault(code, set()).update({status} - {0})
            elif isinstance(node, ast.Assign | ast.FunctionDef):
                for code in codes_of_assignment(node):
                    found.setdefault(code, set())
    for kind, status in answers._STATUS:
        found.setdefault(kind.code, set()).add(status)
    return found


def raised_in_batches() -> set[str]:
    """Each code that an error within a batch can carry in the source."""
    found: set[str] = set()
    for file, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and name_of(node) == "LineError":
                found.update(
                    code for keyword in node.keywords if keyword.arg == "code" for code in texts(keyword.value)
                )
            elif isinstance(node, ast.Dict) and file.startswith("server/batch"):
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "code":
                        found.update(texts(value))
    return found


def by_code(table: tuple[ErrorCode, ...]) -> dict[str, set[int]]:
    return {one.code: set(one.statuses) for one in table}


def test_every_code_of_an_answer_is_in_the_table_and_no_other() -> None:
    assert by_code(ANSWERS).keys() == raised().keys()


def test_the_statuses_of_a_code_are_those_that_it_is_raised_with() -> None:
    told = by_code(ANSWERS)
    assert {code: told[code] for code, statuses in raised().items() if statuses} == {
        code: statuses for code, statuses in raised().items() if statuses
    }


def test_every_code_within_a_batch_is_in_its_table_and_no_other() -> None:
    assert by_code(BATCH_LINES).keys() == raised_in_batches()


def test_the_tables_are_in_order_and_each_row_is_whole() -> None:
    for table in (ANSWERS, BATCH_LINES):
        codes = [one.code for one in table]
        assert codes == sorted(set(codes))
        assert all(one.meaning.endswith(".") and one.advice.endswith(".") for one in table)
    assert all(one.statuses == tuple(sorted(set(one.statuses))) and one.statuses for one in ANSWERS)


def test_an_exception_that_has_no_status_of_its_own_is_answered_with_500_and_its_code() -> None:
    class Odd(IronloomError):
        code = "odd"

    told = answers.as_request_error(Odd("it is odd"))
    assert (told.status, told.error_code) == (500, "odd")
