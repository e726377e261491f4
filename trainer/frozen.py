"""Hidden states above the frozen blocks, kept from one epoch to the next, and on disk for other runs."""

import hashlib
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from trainer.config import RewardConfig
from trainer.padded import Padded
from trainer.stack import Stack

STATES = "states"
ABOVE = {
    "architectures", "bos_token_id", "eos_token_id", "id2label", "label2id", "num_labels",
    "pad_token_id", "problem_type", "use_cache",
}  # fmt: skip
"""What a config says of heads and of generating, on which no hidden state depends."""


class FrozenStates:
    """What a stack's frozen part gives, computed once for each row of tokens.

    Every row is run alone, so that what it gives depends neither on the batch it is in nor on
    whether it was kept: a run that goes on from a checkpoint gets the same numbers.
    """

    def __init__(self, stack: Stack, limit: int, folder: Path | None = None) -> None:
        """``limit`` is in bytes; what does not fit is read from ``folder``, or computed anew each
        time where there is none. Nothing is kept with 0 and no folder. Runs that freeze the same
        blocks of the same weights share a folder; others may use it too, they find nothing there.
        """
        self.stack, self.limit = stack, limit
        self.held = 0
        self.keeps = stack.splits and (limit > 0 or folder is not None)
        self._kept: dict[bytes, Tensor] = {}
        self._disk = folder / _fingerprint(stack) if self.keeps and folder is not None else None

    @classmethod
    def of(cls, stack: Stack, config: RewardConfig) -> "FrozenStates":
        """As the settings say; nothing is kept where passes are made in step, as none of them may
        be left out because of it.
        """
        if stack.in_step:
            return cls(stack, 0)
        folder = None if config.frozen_states is None else Path(config.frozen_states)
        return cls(stack, config.frozen_states_mb << 20, folder)

    def lower(self, batch: Padded) -> Tensor | None:
        """``Stack.lower`` of a batch that is padded on the right: [B, T, H], or None."""
        if not self.keeps:
            return self.stack.lower(batch)
        rows = [self._row(batch, i, int(n)) for i, n in enumerate(batch.mask.sum(1))]
        return pad_sequence(rows, batch_first=True)

    def _row(self, batch: Padded, row: int, length: int) -> Tensor:
        ids, mask, segments = (
            None if part is None else part[row : row + 1, :length] for part in batch
        )
        assert ids is not None and mask is not None
        key = _key(ids, segments)
        found = self._kept.get(key)
        if found is None:
            found = self._on_disk(key, Padded(ids, mask, segments))
            if self.held + found.nbytes <= self.limit:
                self._kept[key] = found
                self.held += found.nbytes
        return found

    def _on_disk(self, key: bytes, row: Padded) -> Tensor:
        """The states [T, H] of one row: read where they were written, else computed and written."""
        if self._disk is None:
            return self._computed(row)
        file = self._disk / key.hex()[:2] / f"{key.hex()}.safetensors"
        try:
            return load_file(file, device=str(self.stack.device))[STATES]
        except (FileNotFoundError, SafetensorError):  # not there, or cut short by a lost disk
            states = self._computed(row)
            _write(file, states)
            return states

    def _computed(self, row: Padded) -> Tensor:
        states = self.stack.lower(row)
        assert states is not None
        return states[0]


def _key(ids: Tensor, segments: Tensor | None) -> bytes:
    """Names a row by its tokens and how they are cut."""
    digest = hashlib.sha256(ids.cpu().numpy().tobytes())
    if segments is not None:
        digest.update(b"segments" + segments.cpu().numpy().tobytes())
    return digest.digest()


@torch.no_grad()
def _fingerprint(stack: Stack) -> str:
    """Names all that the states of a row depend on beside its tokens."""
    digest = hashlib.sha256()
    config = stack.backbone.config.to_diff_dict()
    shape = {k: v for k, v in config.items() if k not in ABOVE and not k.startswith("_")}
    how = (sorted(shape.items()), stack.frozen, stack.precision, stack.device.type)
    digest.update(repr((how, torch.__version__)).encode())
    for module in stack.shared_modules():
        for name, weight in module.state_dict().items():
            digest.update(name.encode())
            digest.update(weight.contiguous().view(torch.uint8).cpu().numpy())
    return digest.hexdigest()[:16]


def _write(file: Path, states: Tensor) -> None:
    """Beside, then renamed: whoever reads finds all of it or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        save_file({STATES: states.contiguous()}, beside)
        os.replace(beside, file)
    finally:
        beside.unlink(missing_ok=True)
