"""The tables of the learning scripts, in Markdown, from the objects that they write."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SIDES = {"ppo": "ours", "trl": "TRL 1.12.0"}


def tables(found: Mapping[str, Any]) -> str:
    """Those of one script's object."""
    kinds = {"reward": _reward, "known_reward": _known_reward, "tax": _tax, "epochs": _epochs}
    return "\n".join([*kinds[found["script"]](found), ""])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def _shown(interval: Mapping[str, Any], digits: int = 3, *, sign: bool = False) -> str:
    """A mean and its interval, if it has one."""
    form = f"{{:{'+' if sign else ''}.{digits}f}}"
    mean = form.format(interval["value"])
    if interval["low"] is None:
        return f"{mean} (one run)"
    return f"{mean} ({form.format(interval['low'])} to {form.format(interval['high'])})"


def _minutes(seconds: Iterable[float]) -> str:
    return f"{sum(seconds) / 60:.1f}"


# ---- reward ---------------------------------------------------------------------------------------


def _reward(found: Mapping[str, Any]) -> list[str]:
    hh, curve, ranked = found["hh"], found["curve"], found["open_assistant"]
    floor = hh["bag of words"]["accuracy"]["value"]
    low = hh["reward model"]["accuracy"]["low"]
    said = "above" if low > floor else "not above"
    lines = [
        f"HH-harmless, {hh['pairs']} pairs, {hh['apart']} of which part before the last reply:",
        "",
    ]
    names = ("reward model", "linear probe", "bag of words", "shorter reply")
    lines += _table(
        ["", "pairs", "accuracy over pairs", "over folds", "min"],
        [
            [
                name,
                str(hh[name]["accuracy"]["n"]),
                _shown(hh[name]["accuracy"]),
                _shown(hh[name]["by_fold"]),
                _minutes(hh[name]["seconds"]) if "seconds" in hh[name] else "-",
            ]
            for name in names
        ],
    )
    lines += [f"The reward model's interval lies {said} the bag of words' {floor:.3f}.", ""]
    lines += _table(
        ["training pairs", "reward model", "linear probe"],
        [
            [str(row["train"])]
            + [_shown(row[name]["accuracy"]) if row[name] else "-" for name in names[:2]]
            for row in curve.values()
        ],
    )
    if "kwise" not in ranked:
        return lines
    lines += [f"Open-Assistant, {ranked['rankings']} rankings:", ""]
    how = {"kwise": "K-wise", "pairs": "expanded pairs"}
    return lines + _table(
        ["", "train rows", "held-out pairs", "accuracy", "log loss", "min"],
        [
            [
                name,
                str(ranked[key]["train"]),
                str(ranked[key]["accuracy"]["n"]),
                _shown(ranked[key]["accuracy"]),
                _shown(ranked[key]["log_loss"]),
                _minutes(ranked[key]["seconds"]),
            ]
            for key, name in how.items()
        ],
    )


# ---- known rewards --------------------------------------------------------------------------------


def _known_reward(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, one in found["rewards"].items():
        lines += [f"`{name}`, reached over the last updates:", ""]
        lines += _table(
            ["", "reward", "KL", "min"],
            [
                [
                    SIDES[side],
                    _shown(row["reward"]),
                    _shown(row["kl"], 2),
                    _minutes(row["seconds"]),
                ]
                for side, row in one["reached"].items()
            ],
        )
        if one["equal_kl"]:
            lines += _table(
                ["KL", "ours", "TRL 1.12.0", "difference", "runs"],
                [
                    [
                        f"{row['kl']:g}",
                        _shown(row["ours"]),
                        _shown(row["peer"]),
                        _shown(row["difference"], sign=True),
                        str(row["difference"]["n"]),
                    ]
                    for row in one["equal_kl"]
                ],
            )
        lines += [one["verdict"], ""]
        lines += _table(
            ["best of n", "KL at most", "reward"],
            [
                [str(row["n"]), f"{row['kl_bound']:.3f}", _shown(row | {"value": row["reward"]})]
                for row in one["best_of_n"]
            ],
        )
    return lines


# ---- tax ------------------------------------------------------------------------------------------


def _tax(found: Mapping[str, Any]) -> list[str]:
    before = found["before"]
    lines = [
        f"Before: perplexity {_shown(before['perplexity'], 1)}, BLiMP {_shown(before['blimp'])}.",
        "",
    ]
    lines += _table(
        ["", "reward", "KL", "nats per token", "BLiMP", "runs", "min"],
        [
            [
                name,
                _shown(arm["reward"]),
                _shown(arm["kl"], 2),
                _shown(arm["nats"], sign=True),
                _shown(arm["blimp"], sign=True),
                str(arm["reward"]["n"]),
                _minutes(arm["seconds"]),
            ]
            for name, arm in found["arms"].items()
        ],
    )
    lines += _table(
        ["run", "perplexity after", "nats per token", "BLiMP after", "change of BLiMP"],
        [
            [
                f"{name}, seed {seed}",
                _shown(after["perplexity"], 1),
                _shown(change["nats"], sign=True),
                _shown(after["blimp"]),
                _shown(change["blimp"], sign=True),
            ]
            for name, arm in found["arms"].items()
            for seed, (after, change) in enumerate(zip(arm["after"], arm["change"], strict=True))
        ],
    )
    return lines


# ---- epochs ---------------------------------------------------------------------------------------


def _epochs(found: Mapping[str, Any]) -> list[str]:
    judged = found["reward"]
    lines = _table(
        ["PPO's epochs", "approximate KL, nats a token", "clip fraction", "policy loss"],
        [
            [
                epochs,
                *(f"{one[name]:.4f}" for name in ("approx_kl", "clip_fraction", "policy_loss")),
            ]
            for epochs, one in found["ppo"].items()
        ],
    )
    lines += [f"A reward model on {judged['train']} pairs, {judged['held_out']} held out:", ""]
    names = ("train_accuracy", "accuracy", "log_loss")
    return lines + _table(
        ["epoch", "accuracy while training", "held-out accuracy", "held-out log loss"],
        [
            [str(number), *(f"{value:.3f}" for value in values)]
            for number, values in enumerate(zip(*(judged[name] for name in names), strict=True), 1)
        ],
    )
