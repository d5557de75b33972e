"""The steps of a run, and what is done between them: evaluations, samples, checkpoints, the end.

Every rank goes through the same decisions with the same numbers; rank 0 tells.
"""

from __future__ import annotations

import json
import math
import platform
from dataclasses import dataclass, field
from typing import Any

import torch

from ironloom.train.checkpoint.checkpointer import NotSaved
from ironloom.train.loop import agree, folder
from ironloom.train.loop.bad_loss import BadLoss, Evidence
from ironloom.train.loop.best import losses_by_step, restored
from ironloom.train.loop.device_time import process_age_s
from ironloom.train.loop.ending import export_result
from ironloom.train.loop.evaluate import continuation, end_tokens, evaluation_loss, prompt_tokens
from ironloom.train.loop.meter import RunMeter, peak_flops_of, peak_memory_bytes
from ironloom.train.loop.notice import Notice
from ironloom.train.loop.profile import ProfileWindow, Trace
from ironloom.train.loop.profile_ask import Ask, Asked
from ironloom.train.loop.records import Kind, Records
from ironloom.train.loop.report import make_report, report_lines
from ironloom.train.loop.setup import Parts
from ironloom.train.loop.stalls import Stall
from ironloom.train.loop.steal import Steal
from ironloom.train.loop.verdicts import EarlyStop, LossJudge, Verdict
from ironloom.train.loop.watch import HangWatch
from ironloom.train.step.adamw import global_norm
from ironloom.train.step.meters import mfu, token_flops
from ironloom.train.step.schedule import rate_at
from ironloom.train.step.step import Outcome
from ironloom.units import format_duration
from ironloom.workload.training import Method, OnBadLoss
from ironloom.workload.training_settings import to_json


@dataclass(slots=True)
class _State:
    """What changes from step to step, beside the weights; goes into checkpoints."""

    step: int
    judge: LossJudge
    early: EarlyStop
    meter: RunMeter
    first_loss: float | None = None
    last_loss: float | None = None
    eval_losses: list[tuple[int, float]] = field(default_factory=list)
    num_skipped: int = 0
    saved_step: int = -1
    is_stopped_early: bool = False


def run_steps(parts: Parts, records: Records, watch: HangWatch, notice: Notice, *, before_s: float = 0.0) -> str:
    """All steps that are left, then the export. `done`, or `preempted` where the notice came. Raises BadLoss.

    `before_s`: rank-seconds of earlier attempts.
    """
    return _Loop(parts, records, watch, notice, before_s).run()


class _Loop:
    def __init__(self, parts: Parts, records: Records, watch: HangWatch, notice: Notice, before_s: float) -> None:
        self.parts, self.records, self.watch, self.notice = parts, records, watch, notice
        settings = parts.training.watch
        self.state = _State(
            step=0,
            judge=LossJudge(settings),
            early=EarlyStop(settings.early_stop_patience),
            meter=RunMeter(
                num_ranks=parts.ranks.world,
                before_s=before_s,
                age_s=process_age_s(),
                device=parts.device,
                on_stall=self._stalled,
            ),
        )
        num_trained = sum(p.numel() for p in parts.model.parameters() if p.requires_grad)
        self._flops = token_flops(
            parts.model.config,
            parts.training.data.seq_len,
            num_adapter_parameters=0 if parts.training.method is Method.FULL else num_trained,
        )
        self._peak_flops = peak_flops_of(parts.device)
        self._steal = Steal()
        logs = folder.logs_of(parts.output)
        is_gpu = parts.device.type == "cuda"
        self._profile = ProfileWindow(settings.profile_steps, logs, rank=parts.ranks.rank, is_gpu=is_gpu)
        self._asked = Asked(logs) if parts.ranks.is_first else None
        self._profile_id = ""
        parts.marks.append(self._mark)
        self._is_judged_at_once = (
            parts.device.type == "cpu" or settings.on_bad_loss is OnBadLoss.SKIP or settings.spike_factor > 0
        )
        self._untold: tuple[Outcome, float] | None = None
        """The last step and its learning rate, where that was not told."""
        if parts.extra:
            self._restore(parts.extra)
        self._first_step = self._judged_step = self.state.step

    def run(self) -> str:
        self.state.meter.listen()
        try:
            return self._run()
        finally:
            self.state.meter.close()

    def _run(self) -> str:
        parts, state = self.parts, self.state
        self._tell(
            Kind.STARTED,
            step=state.step,
            num_ranks=parts.ranks.world,
            num_steps=parts.num_steps,
            device=_device_name(parts.device),
            settings=to_json(parts.training),
        )
        self._note_what_changed()
        if state.step == 0 and not state.eval_losses:
            self._evaluate()
        ending = self._steps()
        self._tell_last_step()
        if ending == "preempted":
            self._save(is_last=True)
            self._tell(Kind.PREEMPTED, step=state.step)
            return ending
        if (trace := self._profile.end_step(state.step, is_last=True)) is not None:  # it ended early, in the window
            self._tell_profile(trace)
        if not state.eval_losses or state.eval_losses[-1][0] != state.step:
            self._evaluate()
        self._save(is_last=True)
        self._end()
        return ending

    def _steps(self) -> str:
        parts, state = self.parts, self.state
        every = parts.training.checkpoint.every_steps
        eval_every = parts.training.watch.eval_every_steps
        while state.step < parts.num_steps and not state.is_stopped_early:
            ask = self._ask()
            is_given, num_asked = agree.most([int(self.notice.is_given), ask.num_steps])
            if is_given:
                return "preempted"
            if num_asked:
                self._profile.ask(state.step + 1, num_asked)
                self._profile_id = ask.id
            self._one_step()
            self._told_of_save(wait=False)
            if state.step >= parts.num_steps:
                break
            is_due = bool(every) and state.step % every == 0
            if eval_every and state.step % eval_every == 0 and self._evaluate():
                is_due = is_due or parts.training.watch.exports_best
            if is_due:
                self._save()
        return "done"

    def _one_step(self) -> None:
        parts, state = self.parts, self.state
        number = state.step + 1
        rate = rate_at(state.step, parts.num_steps, parts.training.optimizer)
        self.watch.begin_step(number)
        if self._profile.begin_step(number):
            state.meter.mark("profile")
        state.meter.begin_step()
        self.watch.enter("data")
        batches: list[Any] = [next(parts.loader) for _ in range(parts.loader.num_micro_batches)]
        state.meter.mark("data")
        self.watch.enter("forward")
        verdict, reason = Verdict.GO_ON, ""

        def is_kept(outcome: Outcome) -> bool:
            nonlocal verdict, reason
            parts.checkpointer.before_update()
            state.meter.mark("checkpoint")
            if not self._is_judged_at_once:
                self.watch.enter("optimizer")
                return True
            norm = 0.0
            if parts.training.watch.on_bad_loss is OnBadLoss.SKIP:  # after the update nothing could be skipped
                norm = float(global_norm([gradient for _, gradient, _ in parts.optimizer.trained()]))
            judged = state.judge.judge(float(outcome.loss), norm)
            verdict, reason = judged.verdict, judged.reason
            self.watch.enter("optimizer")
            return verdict is Verdict.GO_ON

        outcome = parts.step(batches, rate, is_kept=is_kept)
        loss = norm = math.nan
        is_told = number % parts.training.watch.log_every_steps == 0 or number in (1, parts.num_steps)
        every = parts.training.checkpoint.every_steps
        # Before a checkpoint the loss is looked at: one of bad weights would be of no use.
        is_looked_at = self._is_judged_at_once or is_told or bool(every and number % every == 0)
        if is_looked_at:
            loss, norm = float(outcome.loss), _norm(outcome)
            if not self._is_judged_at_once:
                judged = state.judge.judge(loss, norm)
                verdict, reason = judged.verdict, judged.reason
            elif verdict is Verdict.GO_ON and not math.isfinite(norm):
                verdict, reason = Verdict.STOP, f"the gradient's norm is {norm} (the loss is {loss:.4g})"
        num_tokens = parts.training.global_batch_size * parts.training.data.seq_len
        state.meter.end_step(num_tokens, is_usual=not self._profile.is_open)
        if (trace := self._profile.end_step(number, is_last=number == parts.num_steps)) is not None:
            self._tell_profile(trace)
        if verdict is Verdict.STOP:
            raise self._bad_loss(number, loss, outcome, reason)
        if is_looked_at:
            self._judged_step = number
        state.step = number
        if verdict is Verdict.SKIP:
            state.num_skipped += 1
            self._tell(Kind.SKIPPED, step=number, loss=loss, message=f"step {number} is skipped: {reason}")
        elif math.isfinite(loss):
            state.first_loss = loss if state.first_loss is None else state.first_loss
            state.last_loss = loss
        self._untold = None
        if verdict is Verdict.GO_ON:
            if is_told:
                self._tell_step(loss, norm, rate)
            else:
                self._untold = outcome, rate

    def _tell_last_step(self) -> None:
        """The step at which a run ends before its time is told, whatever `log_every_steps` says."""
        if self._untold is None:
            return
        outcome, rate = self._untold
        loss, norm = float(outcome.loss), _norm(outcome)
        if math.isfinite(loss):
            self.state.last_loss = loss
        self._tell_step(loss, norm, rate, is_last=True)
        self._untold = None

    def _note_what_changed(self) -> None:
        """Since the checkpoint that it goes on from: what changes the meaning of a step, and is not refused."""
        parts, step = self.parts, self.state.step
        if not parts.extra:
            return
        if step >= parts.num_steps:
            self._note(
                f"Nothing is left to train: the checkpoint is of step {step}, and num_steps is {parts.num_steps}."
            )
        elif self.state.is_stopped_early:
            patience = parts.training.watch.early_stop_patience
            self._note(
                f"Nothing is left to train: the run ended early at step {step}, by "
                f"watch.early_stop_patience={patience}."
            )
        if self._has_other_held_out():
            self._note(f"The held-out rows are others than up to step {step}: the best evaluation is looked for anew.")
        then, now = parts.extra.get("global_batch_size"), parts.training.global_batch_size
        if then and then != now:
            self._note(
                f"global_batch_size was {then} up to step {step} and is {now} from there on: the data go on where they "
                "were, and losses and rates of the two parts are of other batches."
            )

    def _ask(self) -> Ask:
        """The profile that rank 0 is asked for; of no steps where there is none."""
        found = self._asked.take() if self._asked is not None and not self._profile.is_open else None
        if isinstance(found, str):
            self._note(found)
        return found if isinstance(found, Ask) else Ask(0)

    def _tell_profile(self, trace: Trace) -> None:
        """Once every rank has written its own."""
        with self.watch.patiently("profile"):
            agree.wait_for_all()
        self.state.meter.mark("profile")
        paths = [str(trace.of_rank(rank)) for rank in range(self.parts.ranks.world)]
        beside = ", those of the other ranks beside it" if len(paths) > 1 else ""
        self._tell(
            Kind.PROFILED,
            step=trace.last_step,
            first_step=trace.first_step,
            last_step=trace.last_step,
            paths=paths,
            request=self._profile_id,
            message=f"The profile of steps {trace.first_step} to {trace.last_step} is in {trace.path}{beside}.",
        )
        self._profile_id = ""

    def _stalled(self, number: int, stall: Stall) -> None:
        took, usual, in_part = (format_duration(one) for one in (stall.took_s, stall.usual_s, stall.part_s))
        step = self._first_step + number
        self._tell(
            Kind.STALLED,
            step=step,
            **stall.facts(),
            message=f"step {step} took {took}, where {usual} is usual: {in_part} of it {stall.part}",
        )

    def _tell_step(self, loss: float, norm: float, rate: float, *, is_last: bool = False) -> None:
        parts, meter, state = self.parts, self.state.meter, self.state
        parts_s = meter.take_parts_s(is_last=is_last or state.step == parts.num_steps)
        left_s = meter.remaining_s(parts.num_steps - state.step)
        per_gpu = meter.tokens_per_s / parts.ranks.world
        self._tell(
            Kind.STEP,
            step=state.step,
            num_steps=parts.num_steps,
            loss=loss,
            grad_norm=norm,
            learning_rate=rate,
            tokens=meter.num_tokens,
            tokens_per_s=round(meter.tokens_per_s, 1),
            mfu=_mfu(per_gpu, self._flops.torchtitan, self._peak_flops),
            mfu_causal=_mfu(per_gpu, self._flops.causal, self._peak_flops),
            step_s=round(sum(parts_s.values()), 6),
            parts_s=parts_s,
            num_stalls=meter.stalls.number,
            stall_s=round(meter.stalls.lost_s, 3),
            peak_memory_bytes=peak_memory_bytes(parts.device),
            steal_fraction=self._steal.fraction(),
            device_s=round(meter.rank_s, 1),
            remaining_s=None if left_s is None else round(left_s, 1),
            remaining_device_s=None if left_s is None else round(left_s * parts.ranks.world, 1),
        )

    def _bad_loss(self, number: int, loss: float, outcome: Outcome, reason: str) -> BadLoss:
        num_sequences = (number - self._judged_step) * self.parts.training.global_batch_size
        evidence = Evidence(
            step=number,
            last_step_before=self._judged_step,
            loss=repr(loss),
            grad_norm=None if outcome.grad_norm is None else repr(float(outcome.grad_norm)),
            recent_losses=self.state.judge.recent,
            first_sequence=self.parts.loader.consumed_sequences - num_sequences,
            num_sequences=num_sequences,
        )
        logs = folder.logs_of(self.parts.output)
        if self.parts.ranks.is_first:
            evidence.write(logs)
        return BadLoss(evidence.told(logs, reason=reason, saved_step=self.state.saved_step), number)

    def _evaluate(self) -> bool:
        """Whether it was the best so far."""
        parts, state = self.parts, self.state
        is_best = False
        if parts.held_out is not None:
            with self.watch.patiently("evaluation"), state.meter.part("evaluation"):
                loss = evaluation_loss(
                    parts.model, parts.held_out(), parts.device, num_chunks=parts.training.compute.loss_chunks
                )
            state.eval_losses.append((state.step, loss))
            self._tell(Kind.EVALUATED, step=state.step, loss=loss)
            is_over = bool(state.step) and state.early.look(loss, state.step)
            is_best = bool(state.step) and state.early.best_step == state.step
            if is_over and state.step < parts.num_steps:
                state.is_stopped_early = True
                self._note(
                    f"Ended early at step {state.step}: the best evaluation loss is {state.early.best:.4f} at step "
                    f"{state.early.best_step}."
                )
        with self.watch.patiently("evaluation"):
            ends = end_tokens(parts.tokenizer, parts.config)
            for prompt in parts.training.watch.sample_prompts:
                tokens = continuation(parts.model, prompt_tokens(parts.tokenizer, prompt), ends, parts.device)
                self._tell(Kind.SAMPLED, step=state.step, prompt=prompt, text=parts.tokenizer.decode(tokens).strip())
        return is_best

    def _save(self, *, is_last: bool = False) -> None:
        """A checkpoint of now, unless there is one; at the end it is waited for."""
        parts, state = self.parts, self.state
        with self.watch.patiently("checkpoint"), state.meter.part("checkpoint"):
            if state.saved_step != state.step:
                self._told_of_save(wait=True)
                losses = losses_by_step(state.eval_losses) if parts.training.watch.exports_best else {}
                parts.checkpointer.save(state.step, parts.model, parts.optimizer, self._extra(), losses=losses)
                state.saved_step = state.step
            self._told_of_save(wait=is_last)

    def _told_of_save(self, *, wait: bool) -> None:
        """What came of the last save, where it is known. Without room on the disk the run goes on, and says so."""
        checkpointer = self.parts.checkpointer
        outcome = checkpointer.wait() if wait else checkpointer.poll()
        if isinstance(outcome, NotSaved):
            self._note(f"No checkpoint of step {outcome.step}: {outcome.reason}.")
        elif outcome is not None:
            self._tell(
                Kind.CHECKPOINTED, step=outcome.step, num_bytes=outcome.num_bytes, write_s=round(outcome.write_s, 3)
            )

    def _end(self) -> None:
        parts, state = self.parts, self.state
        with self.watch.patiently("ending"):
            parts.checkpointer.close()
            exported = export_result(parts, state.step, state.eval_losses, self._note)
            agree.wait_for_all()
        memory = agree.largest(float(peak_memory_bytes(parts.device)))
        if not parts.ranks.is_first:
            return
        self._tell(Kind.EXPORTED, path=str(parts.output), step=exported.step, eval_loss=exported.eval_loss)
        report = make_report(
            parts.training,
            num_ranks=parts.ranks.world,
            device=_device_name(parts.device),
            num_steps=state.step,
            num_tokens=state.meter.num_tokens,
            first_loss=state.first_loss,
            last_loss=state.last_loss,
            eval_losses=state.eval_losses,
            best_eval_step=state.early.best_step,
            exported=exported,
            rank_s=state.meter.rank_s,
            tokens_per_s=state.meter.tokens_per_s,
            peak_memory_bytes=int(memory),
            parts_s=state.meter.totals_s(),
            num_stalls=state.meter.stalls.number,
            stall_s=state.meter.stalls.lost_s,
            num_skipped=state.num_skipped,
            num_attempts=parts.ranks.attempt,
            stopped_early=state.is_stopped_early,
            versions={"torch": torch.__version__, "python": platform.python_version()},
        )
        (parts.output / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        self._tell(Kind.DONE, step=state.step, report=report)
        print("\n".join(report_lines(report)), flush=True)

    # Checkpoints.

    def _extra(self) -> dict[str, Any]:
        state = self.state
        return {
            "step": state.step,
            "global_batch_size": self.parts.training.global_batch_size,
            "loader": self.parts.loader.state(),
            "held_out": list(self.parts.held_out_keys),
            "judge": state.judge.state(),
            "early_stop": state.early.state(),
            "num_tokens": state.meter.num_tokens,
            "meter": state.meter.state(),
            "first_loss": state.first_loss,
            "last_loss": state.last_loss,
            "eval_losses": state.eval_losses,
            "num_skipped": state.num_skipped,
        }

    def _restore(self, extra: dict[str, Any]) -> None:
        state = self.state
        state.step = state.saved_step = int(extra["step"])
        state.judge.restore(extra.get("judge") or {})
        state.meter.num_tokens = int(extra.get("num_tokens") or 0)
        state.meter.restore(extra.get("meter") or {})
        state.first_loss, state.last_loss = extra.get("first_loss"), extra.get("last_loss")
        if not self._has_other_held_out():
            state.early.restore(extra.get("early_stop") or {})
            state.is_stopped_early = state.early.is_over  # a kill before the export: it has ended all the same
            state.eval_losses = restored(extra.get("eval_losses") or [])
        state.num_skipped = int(extra.get("num_skipped") or 0)

    def _has_other_held_out(self) -> bool:
        """Whether it is evaluated on other rows than up to the checkpoint: their losses say nothing of each other."""
        then = self.parts.extra.get("held_out")
        return then is not None and then != list(self.parts.held_out_keys)

    # Telling.

    def _tell(self, kind: Kind, **facts: Any) -> None:
        if self.parts.ranks.is_first:
            self.records.write(kind, **facts)

    def _note(self, message: str) -> None:
        self._tell(Kind.NOTE, message=message)

    def _mark(self, part: str) -> None:
        self.state.meter.mark(part)
        if part == "forward":
            self.watch.enter("backward")
        elif part == "backward":
            self.watch.enter("forward")


def _mfu(tokens_per_s: float, flops_per_token: float, peak_flops: float | None) -> float | None:
    return round(mfu(tokens_per_s, flops_per_token, peak_flops), 4) if peak_flops else None


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _norm(outcome: Outcome) -> float:
    return math.nan if outcome.grad_norm is None else float(outcome.grad_norm)
