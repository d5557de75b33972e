"""Scripts and command lines come apart into simple commands as a shell takes them apart."""

from __future__ import annotations

import subprocess
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironloom.workload.manifests.lines import Word, lines_of, shell_words
from ironloom.workload.manifests.schema import Path

SCRIPT: Path = ("args", 0)


def words(script: str, *rest: str, env: dict[str, str | None] | None = None) -> list[list[str]]:
    """The commands of `bash -c SCRIPT REST…`."""
    argv = [Word("bash", ()), Word("-c", ()), Word(script, SCRIPT), *(Word(one, ("args", 1)) for one in rest)]
    return [[word.text for word in line.words] for line in lines_of(argv, env or {})]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        pytest.param("a b c", [["a", "b", "c"]], id="one command"),
        pytest.param("a; b && c || d | e & f", [["a"], ["b"], ["c"], ["d"], ["e"], ["f"]], id="chains"),
        pytest.param("a \\\n  --b \\\n  c\nd", [["a", "--b", "c"], ["d"]], id="lines that go on"),
        pytest.param("a 'b c' \"d e\" f\\ g", [["a", "b c", "d e", "f g"]], id="quotes"),
        pytest.param("a pre'fix'\"ed\"", [["a", "prefixed"]], id="quotes within a word"),
        pytest.param("a # b 'c\nd e#f", [["a"], ["d", "e#f"]], id="comments, and a hash within a word"),
        pytest.param("a 2>&1 >/dev/null b </x >>log 2>err", [["a", "b"]], id="redirections"),
        pytest.param("cat <<EOF > f\na 'b\nEOF\nc", [["cat"], ["c"]], id="a here-document is skipped"),
        pytest.param("cat <<-'END'\n\tx\n\tEND\nc", [["cat"], ["c"]], id="an indented here-document"),
        pytest.param("cat <<< text\nc", [["cat"], ["c"]], id="a here-string"),
        pytest.param("if a; then b; else c; fi", [["a"], ["b"], ["c"], ["fi"]], id="branches are all read"),
        pytest.param("(a b) && { c; }", [["a", "b"], ["c"], ["}"]], id="groups"),
        pytest.param("exec a b", [["a", "b"]], id="exec"),
        pytest.param("X=1 Y=2 a", [["a"]], id="variables before a command"),
        pytest.param('X=1\na $X ${X} ${Z:-3} "$X"', [["a", "1", "1", "3", "1"]], id="variables"),
        pytest.param("a ${X:-$Y}", [["a", "$Y"]], id="a default that is not known"),
        pytest.param("A='b c'\nx $A \"$A\"", [["x", "b", "c", "b c"]], id="a variable is split unless it is quoted"),
        pytest.param('A=(b "c d")\nA+=(e)\nx "${A[@]}"', [["x", "b", "c d", "e"]], id="an array"),
        pytest.param("A=b\nA+=' c'\nx $A", [["x", "b", "c"]], id="text that is added to"),
        pytest.param("export A=1\nx $A", [["export", "A=1"], ["x", "1"]], id="exported variables"),
        pytest.param("a $(b c) `d` $UNKNOWN", [["a", "$(b c)", "`d`", "$UNKNOWN"]], id="what only a shell could know"),
        pytest.param("x\na 'b", [["x"]], id="a quote that never ends"),
        pytest.param(
            'A=(b)\nif [ "$X" ]; then A+=(c); fi\nx "${A[@]}"',
            [["[", "$X", "]"], ["fi"], ["x", "b"]],
            id="what a condition adds is left out",
        ),
        pytest.param(
            "[ -n $X ] && A=b\n[ -n $X ] || A=c\nx $A", [["[", "-n", "$X", "]"]] * 2 + [["x", "b"]], id="set once"
        ),
        pytest.param("if a; then N=1; fi\nN=2\nx $N", [["a"], ["fi"], ["x", "2"]], id="set after a condition"),
        pytest.param("", [], id="nothing"),
        pytest.param("bash -c 'a b'", [["a", "b"]], id="a script within a script"),
        pytest.param("timeout -k 5 3600 numactl -N 0 env -u A B=1 a", [["a"]], id="wrappers"),
    ],
)
def test_a_script_comes_apart(script: str, expected: list[list[str]]) -> None:
    assert words(script) == expected


def test_arguments_after_the_script_are_its_own() -> None:
    assert words('exec a "$@"', "--", "b c", "d") == [["a", "b c", "d"]]
    assert words("a $0 $@", "x", "y") == [["a", "x", "y"]]
    assert words("a $*", "--", "b c") == [["a", "b c"]]


def test_variables_of_the_container_are_known() -> None:
    env: dict[str, str | None] = {"A": "b c", "S": None}
    assert words('x "$(A)"', env=env) == [["x", "b c"]]
    assert words("x $A $(A) $S", env=env) == [["x", "b", "c", "b", "c", "$S"]]


def test_a_plain_command_line_is_expanded_as_kubernetes_does() -> None:
    argv = [Word("a", ()), Word("$(A)/x", ()), Word("$$(A)", ()), Word("$(B)", ())]
    (line,) = lines_of(argv, {"A": "b c", "B": None})
    assert [word.text for word in line.words] == ["a", "b c/x", "$(A)", "$(B)"]


def test_words_know_their_place() -> None:
    script = "set -e\nN=8\nARGS='--x 1 --y=2'\nrun --nodes $N \\\n   $ARGS \"--z\" 3\n"
    argv = [Word("sh", ()), Word("-ec", ()), Word(script, SCRIPT)]
    last = lines_of(argv, {})[-1]
    placed = {word.text: script[word.offset :] for word in last.words}
    for text in ("run", "--nodes", "--x", "1", "--y=2", "3"):
        assert placed[text].startswith(text), text
    assert placed["--z"].startswith('"--z"')
    assert placed["8"].startswith("8"), "a variable's value stands where it was set"
    assert {word.path for word in last.words} == {SCRIPT}


def test_a_variable_of_the_container_stands_in_its_env() -> None:
    argv = [Word("sh", ()), Word("-c", ()), Word("run $ARGS", SCRIPT)]
    (line,) = lines_of(argv, {"ARGS": "--a --b"}, {"ARGS": ("env", 3)})
    assert [(word.text, word.path, word.offset) for word in line.words[1:]] == [
        ("--a", ("env", 3, "value"), 0),
        ("--b", ("env", 3, "value"), 4),
    ]


def test_variables_that_multiply_end_somewhere() -> None:
    doubling = "A=xxxxxxxxxx\n" + "A=$A$A\n" * 200 + "run $A"
    arrays = "A=(x x)\n" + 'A=("${A[@]}" "${A[@]}")\n' * 200 + 'run "${A[@]}"'
    begin = time.monotonic()
    for script in (doubling, arrays):
        assert sum(len(line) for line in words(script)) < 100_000
    assert time.monotonic() - begin < 5


SAFE = st.text(alphabet="ab1-=_./ \t\n'\"\\$;&|#", max_size=60)


@given(SAFE)
@settings(max_examples=300, deadline=None)
def test_any_script_is_read(script: str) -> None:
    for line in lines_of([Word("sh", ()), Word("-c", ()), Word(script, SCRIPT)], {}):
        assert line.words


@given(st.lists(st.text(alphabet="abc'\" $\\#;|&()\n", min_size=1, max_size=8), min_size=1, max_size=5))
@settings(max_examples=200, deadline=None)
def test_what_is_quoted_is_one_word(texts: list[str]) -> None:
    quoted = " ".join("'" + text.replace("'", "'\\''") + "'" for text in texts)
    assert [word.text for word in shell_words(Word(f"run {quoted}", ()))] == ["run", *texts]


@pytest.mark.parametrize(
    "script",
    [
        "printf '%s\\n' a 'b c' \"d $X e\" f\\ g ${Y:-h} $X \"$X\"",
        'printf \'%s\\n\' --a="$X" --b=\'{"k": 1}\' --c="{\\"k\\": 1}"',
        "printf '%s\\n' a\\\n  b 'c\nd' # e",
    ],
)
def test_words_are_those_of_a_real_shell(script: str) -> None:
    ran = subprocess.run(["sh", "-c", script], env={"X": "1 2"}, capture_output=True, text=True, check=True)
    (line,) = lines_of([Word("sh", ()), Word("-c", ()), Word(script, SCRIPT)], {"X": "1 2"})
    assert "".join(f"{word.text}\n" for word in line.words[2:]) == ran.stdout


@pytest.mark.parametrize(
    "script",
    [
        "'" * 50_000,
        '"' + '\\"' * 40_000,
        "# " * 40_000,
        "${" * 40_000,
        "$(" * 40_000,
        "`" * 40_000,
        ">" * 90_000,
        "<<A " * 20_000,
        "a" * 200_000,
        "exec " * 20_000,
        "".join(f"a{number}=1\n" for number in range(9_000)),
        "".join(f"a{number}=1;b;" for number in range(8_000)),
        "a=(" * 30_000,
    ],
    ids=lambda script: script[:6],
)
def test_a_hostile_script_takes_no_time(script: str) -> None:
    begin = time.process_time()
    lines_of([Word("sh", ()), Word("-c", ()), Word(script, SCRIPT)], {})
    assert time.process_time() - begin < 1


def test_a_strict_reader_is_told_what_cannot_be_read() -> None:
    for script in ("a 'b", "a" * 200_000):
        with pytest.raises(ValueError, match="script"):
            lines_of([Word("sh", ()), Word("-c", ()), Word(script, SCRIPT)], {}, is_strict=True)


def test_what_a_script_sets_for_its_command_is_apart() -> None:
    argv = [Word("env", ()), Word("W=1", ()), Word("sh", ()), Word("-c", ())]
    script = "A=1\nexport B=2 C=3\nD=4 env E=5 run"
    last = lines_of([*argv, Word(script, SCRIPT)], {"Z": "0"})[-1]
    assert dict(last.own) == {"W": "1", "B": "2", "C": "3", "D": "4", "E": "5"}
    assert {**last.env} == {"Z": "0", "A": "1", **last.own}
