"""The command that a container runs, found in its command, its arguments, or a shell script between them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

SHELLS = frozenset({"sh", "bash", "dash", "ash", "zsh"})
MAX_SCRIPT = 100_000
"""Characters of a shell script that are looked at."""
MAX_EXPANDED = 1_000_000
"""Characters of a text with its variables written out: more is a text that multiplies, and stays as it is."""
_KUBERNETES_VARIABLE = re.compile(r"\$\$|\$\(([A-Za-z_.-][A-Za-z0-9_.-]*)\)")
_SHELL_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?::?([-+?=])([^}]*))?\})")
_PIECE = re.compile(r"'[^']*'|\"(?:\\.|[^\"\\])*\"|\\.|(?:^|(?<=[\s;&|(]))#[^\n]*|[^'\"\\#]+|.", re.DOTALL)
"""A script in pieces: quoted text, an escape, a comment, anything else."""
_DUPLICATION = re.compile(r"(?<=\s)[0-9]?>&[0-9]")
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)


def expand(text: str, env: Mapping[str, str]) -> str:
    """`$(NAME)` as Kubernetes writes it; an unknown name stays as it is, `$$` is a dollar."""
    if "$" not in text:
        return text
    named = _KUBERNETES_VARIABLE.findall(text)
    if sum(len(env[name]) for name in named if name in env) > MAX_EXPANDED:
        return text

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return env.get(match[1], match[0])

    return _KUBERNETES_VARIABLE.sub(value, text)


def commands(argv: Sequence[str], env: Mapping[str, str]) -> list[tuple[list[str], dict[str, str]]]:
    """The simple commands of a container, each with the environment it sets itself.

    One for a plain `argv`; those of the script for `sh -c SCRIPT`. Raises ValueError for a script with an open quote.
    """
    words = [expand(word, env) for word in argv]
    if not words or words[0].rpartition("/")[2] not in SHELLS:
        return [(words, {})]
    for number, word in enumerate(words[1:], start=1):
        if word.startswith("-") and "c" in word.lstrip("-") and not word.startswith("--"):
            script = words[number + 1] if number + 1 < len(words) else ""
            return _of_script(script, env)
    return [(words, {})]


def _of_script(script: str, env: Mapping[str, str]) -> list[tuple[list[str], dict[str, str]]]:
    if len(script) > MAX_SCRIPT:
        raise ValueError(f"the script has {len(script)} characters, at most {MAX_SCRIPT} are read")
    lines = _without_comments(_DUPLICATION.sub(" ", script.replace("\\\n", " ")))
    lexer = shlex.shlex(lines, posix=True, punctuation_chars=";&|()<>\n")
    lexer.whitespace = " \t\r"
    lexer.whitespace_split = True
    lexer.commenters = ""
    known = dict(env)
    found: list[tuple[list[str], dict[str, str]]] = []
    exported: dict[str, str] = {}
    words: list[str] = []
    own: dict[str, str] = {}
    to_file = False
    for token in [*lexer, ";"]:
        if to_file or (set(token) & {"<", ">"} and not token.strip("<>&|")):
            to_file = not to_file  # A redirection, and then its file: neither is an argument.
            continue
        if not token.strip(";&|()\n"):
            if words == ["export"]:
                exported |= own
            elif words:
                found.append((words, exported | own))
            if words in ([], ["export"]):
                known |= own  # NAME=value alone sets it for what follows.
            words, own = [], {}
            continue
        if words in (["export"], []):
            match = _ASSIGNMENT.fullmatch(token)
            if match is not None:
                own[match[1]] = _expand_shell(match[2], known)
                continue
        words.append(_expand_shell(token, known))
    return found


def _without_comments(script: str) -> str:
    return "".join(piece for piece in _PIECE.findall(script) if not piece.startswith("#") or len(piece) == 1)


def _expand_shell(text: str, env: Mapping[str, str]) -> str:
    """`$NAME`, `${NAME}` and `${NAME:-default}`; what a shell alone could say stays as it is."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name in env and not (env[name] == "" and match[3]):
            return env[name]
        return match[4] if match[3] == "-" else match[0]

    return _SHELL_VARIABLE.sub(value, text)
