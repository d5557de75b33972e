"""What the demo measures: one streamed answer, a small load, the memory of a process."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ironloom.cli.client import Client
from ironloom.errors import DaemonError

_TOPICS = (
    "the sea", "a lighthouse", "winter", "bicycles", "the moon", "bread", "a library", "rivers", "chess", "rain",
    "mountains", "a clock", "honey", "trains", "the desert", "music",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One streamed answer."""

    text: str
    num_tokens: int
    """Completion tokens, as the engine counted them."""
    ttft_s: float
    """From sending the request to the first token here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What a small load saw."""

    num_streams: int
    num_requests: int
    num_tokens: int
    took_s: float
    ttft_p50_s: float

    @property
    def tokens_per_s(self) -> float:
        """Completion tokens of all streams together, by the wall clock."""
        return self.num_tokens / self.took_s


def ask(client: Client, model: str, question: str, max_tokens: int) -> Answer:
    """Ask, streaming. Raises DaemonError when no token comes."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began_s = time.perf_counter()
    first_s: float | None = None
    pieces: list[str] = []
    num_tokens = 0
    for event in client.sse("/v1/chat/completions", body):
        if event is None:
            continue
        for choice in event.get("choices", []):
            if text := (choice.get("delta") or {}).get("content"):
                first_s = first_s or time.perf_counter()
                pieces.append(text)
        if usage := event.get("usage"):
            num_tokens = usage["completion_tokens"]
    if first_s is None:
        raise DaemonError(f"{model} answered without a token.", hint=f"`ironloom logs {model}` shows what it wrote.")
    return Answer(text="".join(pieces), num_tokens=num_tokens, ttft_s=first_s - began_s)


def load(client: Client, model: str, *, num_streams: int, num_requests: int, max_tokens: int) -> Load:
    """Keep `num_streams` requests in flight until all are answered. Each question is another one, so that no answer
    comes out of the prefix cache."""

    def one(index: int) -> Answer:
        topic = _TOPICS[index % len(_TOPICS)]
        return ask(client, model, f"Write {index + 3} sentences about {topic}.", max_tokens)

    began_s = time.perf_counter()
    pool = ThreadPoolExecutor(num_streams)
    try:
        answers = list(pool.map(one, range(num_requests)))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # when interrupted, nobody waits for the questions left
    return Load(
        num_streams=num_streams,
        num_requests=num_requests,
        num_tokens=sum(answer.num_tokens for answer in answers),
        took_s=time.perf_counter() - began_s,
        ttft_p50_s=statistics.median(answer.ttft_s for answer in answers),
    )


def ask_openai(url: str, model: str, question: str, max_tokens: int) -> str:
    """The same question through OpenAI's own client. Raises ImportError when it is not installed."""
    from openai import OpenAI

    with OpenAI(base_url=url, api_key="none") as client:
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question}],
            max_tokens=max_tokens,
            temperature=0,
        )
    return answer.choices[0].message.content or ""


def memory_bytes(pid: int) -> int | None:
    """Memory of a process and its children: each one's share of what it has in RAM (PSS); None where it is not told.

    Source: /proc/PID/smaps_rollup, https://docs.kernel.org/filesystems/proc.html
    """
    total = 0
    for process in (pid, *_children(pid)):
        try:
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            if process == pid:
                return None
            continue
        total += sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))
    return total


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in map(int, path.read_text().split()):
                found += [child, *_children(child)]
        except OSError:
            continue  # it has just ended
    return found
