"""`ironloom chat`: a conversation with a service, streamed; or one question, from -m or stdin."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import click

from ironloom.cli import settings
from ironloom.cli.client import Client
from ironloom.cli.names import SERVICE_NAME
from ironloom.cli.output import say
from ironloom.cli.progress import Line
from ironloom.errors import DaemonError, UsageError

MAX_TOKENS = 512
"""A page of text. A small model may never find its end, and 512 tokens of it are seconds on a laptop."""
TEMPERATURE = 0.6
"""Below OpenAI's default of 1, at which a small model rambles."""
_HELP = """/system TEXT   set the system prompt, and begin anew; without TEXT, show it
/max N         answers of at most N tokens; without N, show it
/reset         begin anew
/quit          leave (Ctrl-D does too); Ctrl-C stops an answer
/help          this"""
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


@dataclass(slots=True)
class Conversation:
    """What was said so far, and what is asked of the model beside it."""

    model: str
    system: str = ""
    max_tokens: int = MAX_TOKENS
    temperature: float = TEMPERATURE
    turns: list[dict[str, str]] = field(default_factory=list)

    def request(self) -> dict[str, Any]:
        """The body of the next chat completion."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return {
            "model": self.model,
            "messages": [*system, *self.turns],
            "stream": True,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
        }


@click.command()
@click.argument("name", type=SERVICE_NAME, required=False)
@click.option("-m", "--message", metavar="TEXT", help="Ask this, print the answer, and leave.")
@click.option("--system", default="", metavar="TEXT", help="The system prompt.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=MAX_TOKENS, show_default=True, metavar="N",
              help="The longest answer, in tokens; /max in the conversation.")  # fmt: skip
@click.option("--temperature", type=click.FloatRange(0, 2), default=TEMPERATURE, show_default=True, metavar="T",
              help="0 is the same answer each time; more is more varied.")  # fmt: skip
def chat(name: str | None, message: str | None, system: str, max_tokens: int, temperature: float) -> None:
    """Talk with a service. NAME may be left out when there is only one.

    Without a terminal on stdin, what comes from there is asked, and the answer alone goes to stdout.
    """
    client = Client()
    conversation = Conversation(name or _only_service(client), system, max_tokens, temperature)
    if message is None and sys.stdin.isatty():
        _converse(client, conversation)
        return
    question = message if message is not None else sys.stdin.read().strip()
    if not question:
        raise UsageError("There is nothing to ask: stdin is empty.", hint="-m TEXT asks a question.")
    conversation.turns.append({"role": "user", "content": question})
    if _answer(client, conversation).cut_off:
        say(_cut_off(conversation, "--max-tokens N"))


def _only_service(client: Client) -> str:
    services = client.services()
    if len(services) == 1:
        return services[0].name
    if not services:
        raise UsageError("There is no service to talk with.", hint="`ironloom serve MODEL` makes one.")
    names = ", ".join(view.name for view in services)
    raise UsageError(f"There are {len(services)} services: {names}.", hint="`ironloom chat NAME` chooses one.")


def _converse(client: Client, conversation: Conversation) -> None:
    client.service(conversation.model)  # a name that is wrong is told before the first question
    say(f"You talk with {conversation.model}. /help shows the commands.")
    with _line_editing():
        while True:
            try:
                text = input("> ").strip()
            except EOFError:
                say()
                return
            if text.startswith("/"):
                if _command(text, conversation):
                    return
            elif text:
                conversation.turns.append({"role": "user", "content": text})
                try:
                    said = _answer(client, conversation)
                except KeyboardInterrupt:
                    conversation.turns.pop()
                    say("\n(stopped; this question is forgotten)")
                except (DaemonError, UsageError) as error:
                    conversation.turns.pop()
                    say(error.render())
                else:
                    conversation.turns.append({"role": "assistant", "content": said.text})
                    if said.cut_off:
                        say(_cut_off(conversation, "/max N"))


def _command(text: str, conversation: Conversation) -> bool:
    """Obey a /command; True when it leaves."""
    word, _, rest = text.partition(" ")
    if word in ("/quit", "/exit", "/bye"):
        return True
    if word == "/reset":
        conversation.turns.clear()
        say("Begun anew.")
    elif word == "/system" and rest.strip():
        conversation.system = rest.strip()
        conversation.turns.clear()
        say("The system prompt is set; begun anew.")
    elif word == "/system":
        say(conversation.system or "There is no system prompt.")
    elif word == "/max":
        _set_max(rest.strip(), conversation)
    elif word == "/help":
        say(_HELP)
    else:
        say(f"There is no command {word}.\n{_HELP}")
    return False


def _set_max(text: str, conversation: Conversation) -> None:
    if text:
        if not (text.isascii() and text.isdigit() and int(text[:10]) > 0):
            say(f"/max is {text!r}, and must be a number of tokens of at least 1.")
            return
        conversation.max_tokens = int(text[:10])
    say(f"An answer has at most {conversation.max_tokens} tokens.")


def _cut_off(conversation: Conversation, how: str) -> str:
    return f"(cut off: an answer has at most {conversation.max_tokens} tokens; {how} sets another number)"


@dataclass(frozen=True, slots=True)
class Said:
    """An answer."""

    text: str
    cut_off: bool
    """It reached its longest, not its end."""


def _answer(client: Client, conversation: Conversation) -> Said:
    """Ask, and print the answer as it comes. Reasoning goes to stderr, dimmed, and is not part of the answer."""
    said: list[str] = []
    thinking = cut_off = False
    with Line(f"Waiting for {conversation.model}") as line:
        for choice in _choices(client, conversation):
            if choice is None:
                line.show("it is starting")
                continue
            cut_off = choice.get("finish_reason") == "length"
            delta = choice.get("delta") or {}
            if not said and not thinking:
                line.clear()
            if thought := delta.get("reasoning_content") or delta.get("reasoning"):
                thinking = True
                _write(sys.stderr, f"{_DIM}{thought}{_PLAIN}" if sys.stderr.isatty() else thought)
            if text := delta.get("content"):
                if thinking and not said:
                    _write(sys.stderr, "\n\n")
                said.append(text)
                _write(sys.stdout, text)
    _write(sys.stdout, "\n")
    return Said("".join(said), cut_off)


def _choices(client: Client, conversation: Conversation) -> Iterator[dict[str, Any] | None]:
    for event in client.sse("/v1/chat/completions", conversation.request()):
        if event is None:
            yield None
        else:
            yield from event.get("choices", [])


def _write(stream: Any, text: str) -> None:
    stream.write(text)
    stream.flush()


@contextmanager
def _line_editing() -> Iterator[None]:
    """Arrow keys and the history of questions, kept from one conversation to the next in the state folder."""
    try:
        import readline
    except ImportError:  # a Python built without it: plain input
        yield
        return
    file = settings.state_dir() / "chat_history"
    # A history that cannot be read or kept stops no conversation.
    with suppress(OSError):
        readline.read_history_file(file)
    try:
        yield
    finally:
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file.touch(mode=0o600)
            readline.set_history_length(1000)
            readline.write_history_file(file)
