"""The simple commands of a container's command line or script, each word with the place it was written at.

A script is read as a shell reads it as far as words go: quotes, comments, continued lines, `&&` and `;`, redirections,
here-documents, variables and arrays, `"$@"`. Nothing is run: what only a shell could know stays as it is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from ironloom.workload.manifests.schema import Path
from ironloom.workload.manifests.shell import MAX_SCRIPT, SHELLS, expand
from ironloom.workload.manifests.wrappers import num_wrapping

NONE: Mapping[str, Any] = MappingProxyType({})
MAX_WORDS = 10_000
"""Of one container; arrays and variables that multiply end here."""
MAX_CHARACTERS = 1_000_000
"""Of one script, variables written out."""
MAX_LINES = 2_000
MAX_VARIABLES = 1_000
"""Of one script; what is above them is not read."""
MAX_WRAPPERS = 16
MAX_NESTED = 3
"""Scripts within scripts: `sh -c "bash -c '…'"`."""

_BETWEEN = re.compile(
    r"(?P<space>[ \t\r]+|\\\r?\n)"
    r"|(?P<newline>\n)"
    r"|(?P<comment>#[^\n]*)"
    r"|(?P<here>[0-9]*<<-?(?!<))"
    r"|(?P<redirection>&>>?|[0-9]*(?:<<<|>>|>\||>&|<&|<>|[<>]))"
    r"|(?P<operator>&&|\|\|?|;;?|&|[()])"
)
"""What may stand where no word has begun."""
_PIECE = re.compile(
    r"(?P<single>'[^']*')"
    r"|(?P<double>\"(?:\\.|[^\"\\])*\")"
    r"|(?P<escape>\\.)"
    r"|(?P<variable>\$\{[^}]{0,1000}\}|\$[A-Za-z_][A-Za-z0-9_]*|\$[@*#?!$0-9-])"
    r"|(?P<substitution>\$\(|`)"
    r"|(?P<plain>[^\s'\"\\$`;&|()<>]+|\$)",
    re.DOTALL,
)
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_ASSIGNMENT = re.compile(rf"({_NAME})(\+?)=")
_BRACED = re.compile(rf"\$\{{({_NAME})(\[[@*]\])?(?::?([-=+?])(.*))?\}}", re.DOTALL)
_IN_DOUBLE = re.compile(rf"\\([\"\\$`\n])|\$\(({_NAME})\)|\$\{{[^}}]{{0,1000}}\}}|\${_NAME}", re.DOTALL)
_BRACKET = re.compile(r"'[^']*'|[()]")
_KEYWORDS = frozenset({"if", "then", "elif", "else", "do", "while", "until", "!", "{", "exec", "time", "command"})
_DECLARING = frozenset({"export", "declare", "local", "readonly", "typeset"})


class Word(msgspec.Struct, frozen=True):
    """One word of a command line, variables written out."""

    text: str
    path: Path
    """The entry of `command`, `args` or `env` that it stands in."""
    offset: int = 0
    """Characters into that entry's text."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A simple command."""

    words: tuple[Word, ...]
    env: Mapping[str, str] = NONE
    """What it runs with: the container's variables, and those of the script."""
    own: Mapping[str, str] = NONE
    """Of those what the command line or the script sets for it: exported, or written before the command."""


class _Value(msgspec.Struct, frozen=True):
    """A variable: text, or the words of an array."""

    text: str
    path: Path
    offset: int = 0
    words: tuple[Word, ...] | None = None

    def split(self) -> tuple[Word, ...]:
        if self.words is not None:
            return self.words
        return tuple(Word(found[0], self.path, self.offset + found.start()) for found in re.finditer(r"\S+", self.text))


class _Piece(NamedTuple):
    """A part of a word: as written, and with quotes and variables resolved."""

    raw: str
    text: str


class _Assignment(NamedTuple):
    """`NAME=value` as a word."""

    name: str
    value: _Value
    word: Word


def lines_of(
    words: Sequence[Word],
    env: Mapping[str, str | None],
    env_paths: Mapping[str, Path] = NONE,
    *,
    is_strict: bool = False,
) -> list[Line]:
    """The simple commands that a container runs: one for a plain command line, those of the script for `sh -c`.

    Wrappers such as `exec`, `env` or `numactl` are taken off. A script that ends within a quote is read up to the
    command that has it; with `is_strict` it raises ValueError, as does one that is too long.
    """
    known = {name: _Value(text, (*env_paths.get(name, ()), "value")) for name, text in env.items() if text is not None}
    values = {name: value.text for name, value in known.items()}
    plain = Line(words=tuple(words), env=values)
    return list(_lines(plain, known, MAX_NESTED, is_strict=is_strict))


def shell_words(word: Word) -> tuple[Word, ...]:
    """The words that a shell reads in a text: `--a 'b c'` is two, the second without its quotes."""
    line = next(_Script(word, {}, ()).lines(), None)
    return line.words if line is not None else ()


def _lines(line: Line, known: Mapping[str, _Value], depth: int, *, is_strict: bool) -> Iterator[Line]:
    words, assigned = _unwrapped(line.words)
    env = {**line.env, **assigned} if assigned else line.env
    own = {**line.own, **assigned} if assigned else line.own
    if not words:
        return
    if depth and words[0].text.rpartition("/")[2] in SHELLS:
        script, rest = _script(words)
        if script is not None:
            inherited = {name: known.get(name) or _Value(text, ()) for name, text in env.items()}
            for inner in _Script(script, inherited, rest, exported=own).lines(is_strict=is_strict):
                yield from _lines(inner, inherited, depth - 1, is_strict=is_strict)
            return
    is_script = depth < MAX_NESTED  # whose own `$(…)` runs a command; what Kubernetes writes out was read as a variable
    yield Line(words=words if is_script else expanded(words, env), env=env, own=own)


def _unwrapped(words: tuple[Word, ...]) -> tuple[tuple[Word, ...], dict[str, str]]:
    """The command that wrappers start, and the variables that they set for it."""
    assigned: dict[str, str] = {}
    for _ in range(MAX_WRAPPERS):
        number = num_wrapping([word.text for word in words]) if words else 0
        if not number:
            break
        for word in words[:number]:
            name, equals, value = word.text.partition("=")
            if equals and name.isidentifier():
                assigned[name] = value
        words = words[number:]
    return words, assigned


def expanded(words: Sequence[Word], env: Mapping[str, str]) -> tuple[Word, ...]:
    """Words with `$(NAME)` written out, as Kubernetes does, up to so many characters in all."""
    made = []
    length = 0
    for word in words:
        if "$" in word.text and length < MAX_CHARACTERS:
            text = expand(word.text, env)
            length += len(text)
            made.append(replace(word, text=text))
        else:
            made.append(word)
    return tuple(made)


def _script(words: Sequence[Word]) -> tuple[Word | None, Sequence[Word]]:
    """The script of `sh -c SCRIPT $0 $1…`, and the words from $0 on; None for a shell that reads a file."""
    number, is_command = 1, False
    while number < len(words) and words[number].text[:1] in ("-", "+"):
        text = words[number].text
        if not text.startswith("--"):
            is_command = is_command or "c" in text
            number += text.endswith("o")  # -o pipefail
        number += 1
    if is_command and number < len(words):
        return words[number], words[number + 1 :]
    return None, ()


class _Script:
    """A shell script, read once from its beginning to its end."""

    def __init__(
        self, word: Word, known: Mapping[str, _Value], rest: Sequence[Word], exported: Mapping[str, str] = NONE
    ) -> None:
        self._length = len(word.text)
        self._text = word.text[:MAX_SCRIPT]
        self._path = word.path
        self._base = word.offset
        self._known = dict(known)
        self._exported = dict(exported)
        self._num_lines = 0
        self._num_conditions = 0
        """Conditions that have begun and not ended."""
        self._follows = False
        """The command before it says whether this one runs: `&&`, `||`."""
        self._rest = tuple(rest[1:])
        self._known |= {str(number): _Value(one.text, one.path, one.offset) for number, one in enumerate(rest[:10])}
        self._at = 0
        self._num_words = 0
        self._num_characters = 0
        self._here: list[str] = []
        self._is_open = False
        """A quote began and never ended, or variables multiply: what follows means nothing."""

    def lines(self, *, is_strict: bool = False) -> Iterator[Line]:
        """Its simple commands, in their order, whatever a condition before them says."""
        if is_strict and self._length > MAX_SCRIPT:
            raise ValueError(f"the script has {self._length} characters, at most {MAX_SCRIPT} are read")
        words: list[Word] = []
        own: dict[str, _Value] = {}
        skips_next = False
        while self._at < len(self._text):
            between = _BETWEEN.match(self._text, self._at)
            if between is not None:
                self._at = between.end()
                match between.lastgroup:
                    case "here":
                        self._here.append(self._delimiter())
                    case "redirection":
                        skips_next = True
                    case "newline" | "operator":
                        yield from self._line(words, own)
                        words, own, skips_next = [], {}, False
                        self._follows = between[0] in ("&&", "||")
                        if between.lastgroup == "newline":
                            self._skip_here()
                continue
            made = self._next()
            if self._is_open:
                break
            self._spend(1, 0)
            if skips_next:
                skips_next = False
            elif isinstance(made, _Assignment):
                if not words:
                    own[made.name] = made.value
                elif words[0].text in _DECLARING:
                    self._set(made.name, made.value)
                    if words[0].text == "export" and made.name in self._known:
                        self._exported[made.name] = self._known[made.name].text
                if words:
                    words.append(made.word)
            elif words or len(made) != 1 or not self._is_keyword(made[0].text):
                words += made
        if not self._is_open:
            yield from self._line(words, own)
        elif is_strict:
            raise ValueError("a quote begins in the script and does not end, or its variables multiply without end")

    def _line(self, words: list[Word], own: dict[str, _Value]) -> Iterator[Line]:
        if words:
            self._num_lines += 1
            env = {name: value.text for name, value in {**self._known, **own}.items()}
            prefix = {name: value.text for name, value in own.items()}
            yield Line(words=tuple(words[:MAX_WORDS]), env=env, own={**self._exported, **prefix})
            if self._num_lines == MAX_LINES:
                self._is_open, self._at = True, len(self._text)
        else:
            for name, value in own.items():
                self._set(name, value)  # NAME=value alone sets it for what follows

    def _set(self, name: str, value: _Value) -> None:
        """Set a variable. What a condition may set counts where nothing else is known: the run that is read is the one
        without the exceptions (`if [ "$DEBUG" ]; then ARGS+=(…)`)."""
        is_known = name in self._known
        if not (is_known and (self._num_conditions or self._follows)) and (
            is_known or len(self._known) < MAX_VARIABLES
        ):
            self._known[name] = value

    def _is_keyword(self, text: str) -> bool:
        """Whether the first word of a command is one of the shell's, which a command may follow."""
        if text in ("if", "case"):
            self._num_conditions += 1
        elif text in ("fi", "esac"):
            self._num_conditions = max(0, self._num_conditions - 1)
        return text in _KEYWORDS

    def _next(self) -> Sequence[Word] | _Assignment:
        """The next word, those of a variable that stands alone, or an assignment."""
        assigned = _ASSIGNMENT.match(self._text, self._at)
        return self._assignment(assigned) if assigned is not None else self._words()

    def _words(self) -> Sequence[Word]:
        begin = self._at
        pieces = self._pieces()
        if len(pieces) == 1:
            words = self._words_of(pieces[0].raw)
            if words is not None:
                self._spend(len(words), sum(len(word.text) for word in words))
                return words
        return (self._at_word(begin, "".join(piece.text for piece in pieces)),)

    def _assignment(self, assigned: re.Match[str]) -> _Assignment:
        name, is_added = assigned[1], bool(assigned[2])
        self._at = start = assigned.end()
        words: tuple[Word, ...] | None = None
        if self._text.startswith("(", start):
            self._at += 1
            words = tuple(self._array())
            text = " ".join(word.text for word in words)
        else:
            text = "".join(piece.text for piece in self._pieces())
        is_quoted = self._text[start : start + 1] in ("'", '"')
        value = _Value(text, self._path, self._base + start + is_quoted, words)
        before = self._known.get(name)
        if is_added and before is not None and len(before.text) + len(text) < MAX_CHARACTERS:
            if words is not None or before.words is not None:
                value = replace(value, words=(*before.split(), *value.split())[:MAX_WORDS])
            else:
                value = replace(value, text=before.text + text, words=(*before.split(), *value.split())[:MAX_WORDS])
        return _Assignment(name, value, self._at_word(assigned.start(), f"{name}={text}"))

    def _array(self) -> Iterator[Word]:
        """The words up to the bracket that closes."""
        while self._at < len(self._text):
            between = _BETWEEN.match(self._text, self._at)
            if between is not None:
                self._at = between.end()
                if between[0] == ")":
                    return
                continue
            self._spend(1, 0)
            made = self._words()
            if self._is_open:
                return
            yield from made

    def _at_word(self, begin: int, text: str) -> Word:
        return Word(text, self._path, self._base + begin)

    def _pieces(self) -> list[_Piece]:
        """The pieces of one word."""
        pieces: list[_Piece] = []
        while self._at < len(self._text):
            found = _PIECE.match(self._text, self._at)
            if found is None:
                if self._text[self._at] in "'\"\\":
                    self._is_open, self._at = True, len(self._text)
                break
            self._at = found.end()
            raw = found[0]
            match found.lastgroup:
                case "single":
                    text = raw[1:-1]
                case "double":
                    text = _IN_DOUBLE.sub(self._in_double, raw[1:-1])
                case "escape":
                    text = "" if raw[1] == "\n" else raw[1:]
                case "variable":
                    text = self._value(raw)
                case "substitution":
                    text = self._substitution(found.start())
                    raw = self._text[found.start() : self._at]
                case _:
                    text = raw
            pieces.append(_Piece(raw, text))
            self._spend(0, len(text))
        return pieces

    def _spend(self, num_words: int, num_characters: int) -> None:
        """Count what was made; a script whose variables multiply makes more than anyone wrote."""
        self._num_words += num_words
        self._num_characters += num_characters
        if self._num_words > MAX_WORDS or self._num_characters > MAX_CHARACTERS:
            self._is_open, self._at = True, len(self._text)

    def _words_of(self, raw: str) -> Sequence[Word] | None:
        """What a variable that stands alone is split into; None where it is one word or not known."""
        is_quoted = raw.startswith('"')
        raw = raw[1:-1] if is_quoted else raw
        if raw in ("$@", "${@}") or (raw in ("$*", "${*}") and not is_quoted):
            return self._rest
        braced = _BRACED.fullmatch(raw)
        name = braced[1] if braced is not None else raw[1:] if raw.startswith("$") else ""
        if name.startswith("(") and name.endswith(")"):
            name = name[1:-1]
        value = self._known.get(name)
        if value is None or (braced is not None and braced[3]):
            return None
        if is_quoted and (braced is None or braced[2] != "[@]"):
            return None
        return value.split()

    def _in_double(self, found: re.Match[str]) -> str:
        if found[1]:
            return "" if found[1] == "\n" else found[1]
        if found[2]:
            value = self._known.get(found[2])
            return value.text if value is not None else found[0]
        return self._value(found[0])

    def _value(self, raw: str) -> str:
        """`$NAME`, `${NAME}`, `${NAME:-default}`; what is not known stays as it is."""
        braced = _BRACED.fullmatch(raw)
        name = braced[1] if braced is not None else raw[1:]
        value = self._known.get(name)
        if value is not None and (value.text or braced is None or not braced[3]):
            if braced is not None and braced[3] == "+":
                return braced[4]
            return value.text
        if braced is not None and braced[3] in ("-", "="):
            return _IN_DOUBLE.sub(lambda found: self._value(found[0]) if found[0][0] == "$" else found[0], braced[4])
        return "" if braced is not None and braced[3] == "+" else raw

    def _substitution(self, begin: int) -> str:
        """`$(…)` or `` `…` `` as it is; `$(NAME)` of the container's environment is Kubernetes' own way to write it."""
        if self._text[begin] == "`":
            end = self._text.find("`", begin + 1)
            self._at = end + 1 if end >= 0 else len(self._text)
            self._is_open = end < 0
            return self._text[begin : self._at]
        depth, at = 1, begin + 2
        while depth and (found := _BRACKET.search(self._text, at)) is not None:
            depth += {"(": 1, ")": -1}.get(found[0], 0)
            at = found.end()
        if depth:
            self._is_open, at = True, len(self._text)
        self._at = at
        value = self._known.get(self._text[begin + 2 : at - 1])
        return value.text if value is not None else self._text[begin:at]

    def _delimiter(self) -> str:
        """The word that ends the here-document which begins."""
        while self._text.startswith((" ", "\t"), self._at):
            self._at += 1
        return "".join(piece.raw for piece in self._pieces()).strip("'\"").replace("\\", "")

    def _skip_here(self) -> None:
        """Go on after the bodies of the here-documents that the line above began."""
        for delimiter in self._here:
            end = re.compile(rf"^[ \t]*{re.escape(delimiter)}[ \t\r]*$", re.MULTILINE).search(self._text, self._at)
            self._at = end.end() if end is not None else len(self._text)
        self._here.clear()
