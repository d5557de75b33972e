"""A model's and its optimizers' tensors under one flat name each, and back.

    model.NAME                parameters that are trained, and persistent buffers
    optimizer.NAME.KIND       the optimizer's tensors for that parameter: exp_avg, exp_avg_sq, step

Tensors are the ones in use, not copies: a checkpoint is read into them. Frozen parameters are not the run's own (the
base of an adapter); they come from the model that the run started from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from ironloom.errors import CheckpointError

_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
MODEL = "model."
_SCALARS = (bool, int, float, str, type(None))


def plain_name(name: str) -> str:
    """A parameter's name without what torch.compile, activation checkpointing and DDP put into it."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name.removeprefix("module.")


def model_tensors(model: torch.nn.Module, *, with_frozen: bool = False) -> dict[str, torch.Tensor]:
    """The model's parameters and persistent buffers by plain name, as its state dict has them (the fp32 forms where it
    computes in another type); of tied ones the first."""
    every = {plain_name(name) for name, _ in model.named_parameters(remove_duplicate=False)}
    taken = {plain_name(name) for name, p in model.named_parameters() if p.requires_grad or with_frozen}
    state = {plain_name(name): tensor for name, tensor in model.state_dict().items()}
    return {
        name: tensor.detach()
        for name, tensor in state.items()
        if isinstance(tensor, torch.Tensor) and (name in taken or name not in every)
    }


@torch.no_grad()
def settle(model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Gives the model what was read into `model_tensors`, where those are not the parameters themselves."""
    names = {plain_name(name): name for name, _ in model.named_parameters()}
    own = {plain_name(name): parameter for name, parameter in model.named_parameters()}
    others = {
        names[name]: tensor for name, tensor in tensors.items() if name in own and tensor.dtype != own[name].dtype
    }
    if others:
        model.load_state_dict(others, strict=False)


def tensors_of(model: torch.nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, torch.Tensor]:
    """All tensors of the state by name. Optimizers that have made no step have their state laid out first.

    Raises CheckpointError for an optimizer of another model.
    """
    state = {f"{MODEL}{name}": tensor for name, tensor in model_tensors(model).items()}
    names = {id(parameter): plain_name(name) for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        lay_out_state(optimizer)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) not in names:
                    raise CheckpointError(
                        f"the optimizer has a parameter of shape {list(parameter.shape)} that the model has not",
                        hint="make the optimizer of the model's parameters, after the model is sharded",
                    )
                for kind, value in optimizer.state.get(parameter, {}).items():
                    if isinstance(value, torch.Tensor):
                        state[f"optimizer.{names[id(parameter)]}.{kind}"] = value.detach()
    return state


def plain_values_of(optimizer: Optimizer) -> dict[str, Any]:
    """What of an optimizer is no tensor, as JSON: its groups' settings, and counters that are plain numbers."""
    groups = []
    for group in optimizer.param_groups:
        values = {key: value for key, value in group.items() if key != "params"}
        groups.append({key: _plain(value) for key, value in values.items() if _is_plain(value)})
    numbers = [
        {kind: value for kind, value in optimizer.state.get(parameter, {}).items() if isinstance(value, _SCALARS)}
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    return {"groups": groups, "numbers": numbers if any(numbers) else []}


def restore_plain_values(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Gives an optimizer its settings and counters back."""
    for group, values in zip(optimizer.param_groups, saved["groups"], strict=True):
        for key, value in values.items():
            now = group.get(key)
            if isinstance(now, torch.Tensor):
                now.fill_(value)
            else:
                group[key] = tuple(value) if isinstance(now, tuple) else value
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter, numbers in zip(parameters, saved["numbers"], strict=False):
        optimizer.state[parameter].update(numbers)


def lay_out_state(optimizer: Optimizer) -> None:
    """Makes an optimizer's tensors as its first step does, and changes nothing: a step of rate 0 over gradients of 0,
    after which its counters are 0 again."""
    if optimizer.state:
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    gradients = [parameter.grad for parameter in parameters]
    rates = [group.get("lr") for group in optimizer.param_groups]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = torch.zeros_like(rate) if isinstance(rate, torch.Tensor) else 0.0
    optimizer.step()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    for state in optimizer.state.values():
        step = state.get("step")
        if isinstance(step, torch.Tensor):
            step.zero_()
        elif step is not None:
            state["step"] = 0


def _is_plain(value: object) -> bool:
    if isinstance(value, torch.Tensor):
        return value.numel() == 1
    if isinstance(value, (tuple, list)):
        return all(isinstance(part, _SCALARS) for part in value)
    return isinstance(value, _SCALARS)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) else value
