"""A reward model that scores a policy in training by its answers to held-out prompts.

InstructGPT chooses the SFT checkpoint so (appendix C.1): it overfits in validation loss after one
epoch, yet the score goes on rising. The prompts and the noise of the answers are always the same.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer import distributed
from trainer.config import SFTConfig
from trainer.data import Check, Prompt, read_snapshot
from trainer.errors import ConfigError
from trainer.generate import Generated, generate
from trainer.mixture import shares, taken_first
from trainer.models import LanguageModel
from trainer.reading import Reader, load_scorer, score_ids
from trainer.records import DemonstrationRow, PromptRow
from trainer.sampler import sampler_of
from trainer.text import Codec

OTHER_TOKENIZER = (
    "The reward model that chose the weights has another tokenizer: answers were encoded again"
    " for it."
)


class Judge:
    """A reward model and the prompts whose answers it scores; ``notes`` for the manifest."""

    def __init__(
        self, config: SFTConfig, folder: str, codec: Codec, positions: int | None = None
    ) -> None:
        self.config, self.codec = config, codec
        with torch.random.fork_rng(devices=[]):  # a head is drawn, then overwritten
            self.model = load_scorer(folder, config.precision)
        self.reader = Reader(codec, Codec.load(folder), self.model.stack.positions)
        self.prompts = held_out_prompts(config, codec, positions)
        self.notes = () if self.reader.reads_tokens else (OTHER_TOKENIZER,)

    def look(self, policy: LanguageModel, check: Check) -> dict[str, float]:
        """Mean score of the policy's answers, how many ended, and their length in tokens.

        ``check`` is called before every token and every batch of scores, and may raise.
        """
        config = self.config
        mine = distributed.own([len(prompt.ids) for prompt in self.prompts])
        sampler = sampler_of(policy)
        with distributed.together():
            drawn = generate(
                sampler,
                prompts=[self.prompts[i].ids for i in mine],
                keys=[f"valid/{self.prompts[i].id}" for i in mine],
                codec_end_ids=self.codec.end_ids,
                pad_id=self.codec.pad_id,
                seed=config.seed,
                temperature=config.temperature,
                max_new_tokens=config.eval_new_tokens,
                batch=config.generate_batch,
                stopped=self.codec.stopped if self.codec.stop is not None else None,
                each_step=check,
            )
        answers = distributed.whole(drawn, mine)
        count = len(answers)
        return {
            "valid_reward": float(self.scores(answers, check).mean()),
            "valid_end_rate": sum(answer.finished for answer in answers) / count,
            "valid_response_length": sum(len(answer.token_ids) for answer in answers) / count,
        }

    def scores(self, answers: Sequence[Generated], check: Check) -> Tensor:
        """[N] the reward model's scores of one answer to each prompt."""
        ids = [self._read(*pair) for pair in zip(self.prompts, answers, strict=True)]
        pad_id = self.reader.reward.pad_id
        return score_ids(self.model, ids, pad_id, self.config.micro_tokens, check)

    def _read(self, prompt: Prompt, answer: Generated) -> list[int]:
        """Prompt and answer in the reward model's own tokens."""
        return self.reader.ids(
            prompt.row.prompt, prompt.ids, answer.token_ids, finished=answer.finished
        )


def held_out_prompts(config: SFTConfig, codec: Codec, positions: int | None) -> list[Prompt]:
    """The first ``eval_prompts`` distinct prompts of the valid split that leave room to answer.

    Of a mixture each set gives its share. ConfigError if there is none.
    """
    room = min(config.max_tokens, positions or config.max_tokens) - config.eval_new_tokens
    lists = []
    for source in config.sources:
        rows = read_snapshot(source.demonstrations, "demonstrations", DemonstrationRow)
        distinct = {row.prompt_id: row for row in rows if row.split == "valid"}
        prompts = [_prompt(row, codec) for row in distinct.values()]
        lists.append([prompt for prompt in prompts if len(prompt.ids) <= room])
    counts = shares(config.eval_prompts, [source.weight for source in config.sources])
    found = taken_first(lists, counts)
    if not found:
        raise ConfigError(
            f"The reward model has nothing to choose by: of the valid demonstrations none has a"
            f" prompt of at most {room} tokens, or eval_prompts ({config.eval_prompts}) is too few."
            f" Leave reward out, or lower eval_new_tokens ({config.eval_new_tokens})."
        )
    return found


def _prompt(row: DemonstrationRow, codec: Codec) -> Prompt:
    plain = PromptRow(row.prompt_id, row.prompt, row.split, row.kind, row.use_case)
    return Prompt(row.prompt_id, codec.encode_prompt(row.prompt), plain)
