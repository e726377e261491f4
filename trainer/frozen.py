"""Hidden states above the frozen blocks, kept from one epoch to the next."""

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from trainer.stack import Padded, Stack


class FrozenStates:
    """What a stack's frozen part gives, computed once for each row of tokens.

    Every row is run alone, so that what it gives depends neither on the batch it is in nor on
    whether it was kept: a run that goes on from a checkpoint gets the same numbers.
    """

    def __init__(self, stack: Stack, limit: int) -> None:
        """``limit`` is in bytes; what does not fit is computed anew each time. 0 keeps nothing."""
        self.stack, self.limit = stack, limit
        self.held = 0
        self._kept: dict[tuple[bytes, bytes], Tensor] = {}

    def lower(self, batch: Padded) -> Tensor | None:
        """``Stack.lower`` of a batch that is padded on the right: [B, T, H], or None."""
        if self.limit == 0 or not self.stack.splits:
            return self.stack.lower(batch)
        rows = [self._row(batch, i, int(n)) for i, n in enumerate(batch.mask.sum(1))]
        return pad_sequence(rows, batch_first=True)

    def _row(self, batch: Padded, row: int, length: int) -> Tensor:
        ids, mask, segments = (
            None if part is None else part[row : row + 1, :length] for part in batch
        )
        assert ids is not None and mask is not None
        numbers = b"" if segments is None else segments.cpu().numpy().tobytes()
        key = (ids.cpu().numpy().tobytes(), numbers)
        found = self._kept.get(key)
        if found is None:
            states = self.stack.lower(Padded(ids, mask, segments))
            assert states is not None
            found = states[0]
            if self.held + found.nbytes <= self.limit:
                self._kept[key] = found
                self.held += found.nbytes
        return found
