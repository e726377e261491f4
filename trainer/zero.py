"""What Adam keeps shared out over the processes by DeepSpeed: ZeRO stages 1 and 2.

DeepSpeed lays a group's weights out as one flat tensor and gives each process a part of it, with
its two moments; every process still has all weights, so passes are what they were and wait for
nobody. Gradients add up in each process until the step, which sums them, updates the own part and
sends it round. Loss, clipping and checkpoints stay the trainer's.
"""

import itertools
import math
import os
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainer import distributed
from trainer.config import TrainConfig
from trainer.errors import ModelError

_MOMENTS = ("exp_avg", "exp_avg_sq")
_BUCKET = 1 << 25  # numbers that go over the wire at once: 128 MB in fp32


def zero_wanted(config: TrainConfig) -> bool:
    """Whether there are other processes to share with, and ZeRO is to do it."""
    return bool(config.zero_stage) and distributed.size() > 1


class ZeroShares:
    """An AdamW over whole weights, from now on over this process's part of each of its groups."""

    def __init__(self, adam: torch.optim.AdamW, config: TrainConfig) -> None:
        self._adam, self._decays = adam, bool(config.weight_decay)
        self._groups: list[list[nn.Parameter]] = [list(g["params"]) for g in adam.param_groups]
        self._reached = [[False] * len(group) for group in self._groups]  # by a gradient, ever
        self._now = [False] * len(self._groups)  # groups that this step changes
        self._norms: list[float] = []
        self._engine = _engine(adam, list(itertools.chain(*self._groups)), config.zero_stage)
        self._zero = self._engine.optimizer
        self._parts: list[Tensor] = [group["params"][0] for group in adam.param_groups]
        for part in self._parts:
            moments = {name: torch.zeros_like(part) for name in _MOMENTS}
            adam.state[part] = {"step": torch.zeros((), device=part.device), **moments}
        self._zero._lazy_init_hp_params_optimizer_state()
        adam.register_step_pre_hook(self._before_group)
        self._leave_gradients()

    def _leave_gradients(self) -> None:
        """From now on backward passes leave gradients where they are, however many there are.

        As in a block of ``coalesce_grad_reduction``, but one whose end cannot come by itself.
        """
        self._zero._coalesce_grad_reduction = True

    def step(self, limit: float, reached: Sequence[bool]) -> list[float]:
        """One update; each group's norm, not finite if nothing was changed for that.

        ``reached`` says which parameters have a gradient; all processes have those of the same.
        """
        self._check(reached)
        self._limit, self._norms = limit, [0.0] * len(self._groups)
        self._zero.refresh_fp32_params()  # the model's weights are the ones, whoever changed them
        with self._engine.coalesce_grad_reduction():
            pass  # at its end gradients are summed, as means over processes
        self._engine.step()
        self._leave_gradients()
        return [math.nan] if self._zero.overflow else self._norms

    def _check(self, reached: Sequence[bool]) -> None:
        """ModelError where what DeepSpeed does, one step of a whole group, is not what AdamW does."""
        flags = iter(reached)
        for number, before in enumerate(self._reached):
            now = list(itertools.islice(flags, len(before)))
            self._now[number] = any(now)
            if not any(now):
                continue
            if (any(before) and now != before) or (self._decays and not all(now)):
                raise ModelError(
                    "Some weights of this model get no gradient, and ZeRO would move them with the"
                    " others. Set zero_stage to 0 (under accelerate, launch without DeepSpeed)."
                )
            self._reached[number] = now

    def _before_group(self, adam: torch.optim.Optimizer, *_: Any) -> None:
        """DeepSpeed is about to step a group: on the sum of its gradients, clipped, or not at all."""
        ((part,),) = (group["params"] for group in adam.param_groups)
        number = next(i for i, own in enumerate(self._parts) if own is part)
        if not self._now[number]:
            part.grad = None
            return
        part.grad.mul_(distributed.size())
        norm = math.sqrt(distributed.total(float(part.grad.norm()) ** 2))
        nn.utils.clip_grads_with_norm_([part], self._limit, torch.tensor(norm, device=part.device))
        self._norms[number] = norm

    def state(self) -> dict[str, Any]:
        """What AdamW's own state would be over whole weights; the first process, which writes, has
        the tensors. Asked together.
        """
        from deepspeed.utils import safe_get_full_optimizer_state

        state: dict[int, dict[str, Tensor]] = {}
        groups, first = self._adam.state_dict()["param_groups"], 0
        for group, part, own, reached in zip(
            groups, self._parts, self._groups, self._reached, strict=True
        ):
            group["params"] = list(range(first, first + len(own)))
            for number, parameter, has in zip(group["params"], own, reached, strict=True):
                if has:
                    tensors = {"step": self._adam.state[part]["step"].clone()}
                    for name in _MOMENTS:
                        tensors[name] = _for_main(safe_get_full_optimizer_state(parameter, name))
                    state[number] = tensors
            first += len(own)
        return {"state": state, "param_groups": groups}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from such a state; ModelError if not all weights of a group were stepped as often."""
        from deepspeed.utils import safe_set_full_optimizer_state

        numbers = itertools.count()
        for place, (own, part) in enumerate(zip(self._groups, self._parts, strict=True)):
            kept = [state["state"].get(next(numbers)) for _ in own]
            steps = {float(moments["step"]) for moments in kept if moments}
            if len(steps) > 1:
                raise ModelError(
                    "The checkpoint has weights that were stepped more often than others, which ZeRO"
                    " cannot keep. Set zero_stage to 0 (under accelerate, launch without DeepSpeed)."
                )
            self._adam.state[part]["step"].fill_(max(steps, default=0.0))
            self._reached[place] = [moments is not None for moments in kept]
            for parameter, moments in zip(own, kept, strict=True):
                for name in _MOMENTS if moments else ():
                    safe_set_full_optimizer_state(parameter, moments[name], name)


def _for_main(tensor: Tensor) -> Tensor:
    return tensor.cpu() if distributed.is_main() else torch.empty(0)


def _engine(adam: torch.optim.AdamW, parameters: list[nn.Parameter], stage: int) -> Any:
    """DeepSpeed's engine around the optimiser alone: no pass goes through it."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    warnings.filterwarnings("ignore", ".*all_gather_into_tensor", FutureWarning)  # its own way
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would be compiled: gloo it is
    settings = {
        "train_micro_batch_size_per_gpu": 1,  # counted by no one
        "gradient_clipping": 0.0,  # each group by itself, in _before_group
        "steps_per_print": 1 << 62,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": int(stage),
            "overlap_comm": False,
            "contiguous_gradients": False,
            "round_robin_gradients": False,
            "reduce_bucket_size": _BUCKET,
            "allgather_bucket_size": _BUCKET,
        },
    }
    engine, *_ = deepspeed.initialize(
        model=nn.ParameterList(parameters), optimizer=adam, config=settings
    )
    return engine
