"""Errors of the trainer, each with the exit code its process ends with.

    TrainerError            1   anything below, unspecialised
    |-- ConfigError         2   unknown key, wrong type, value out of range
    |-- DataError           3   empty or malformed rows; file, line and field are named
    |-- IntegrityError      4   a hash or a parent that does not match
    |-- ModelError          5   a model or tokenizer that cannot be used here
    |-- NumericError        6   NaN or infinite loss
    |-- DiskFull            7   no space left
    |-- FolderBusy          8   another process writes this run's folder
    |-- Stopped             9   asked to stop (SIGTERM); a checkpoint was written
    |-- ServerError        10   a generation server that is away, refuses, or answers nonsense
    `-- PeerLost           11   another process of the same run ended

Standard library only: the web side reads the codes.
"""


class TrainerError(Exception):
    """Base of all; ``exit_code`` is what the process ends with."""

    exit_code = 1


class ConfigError(TrainerError):
    exit_code = 2


class DataError(TrainerError):
    exit_code = 3


class IntegrityError(TrainerError):
    exit_code = 4


class ModelError(TrainerError):
    exit_code = 5


class NumericError(TrainerError):
    exit_code = 6


class DiskFull(TrainerError):
    exit_code = 7


class FolderBusy(TrainerError):
    exit_code = 8


class Stopped(TrainerError):
    exit_code = 9


class ServerError(TrainerError):
    exit_code = 10


class PeerLost(TrainerError):
    exit_code = 11
