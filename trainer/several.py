"""``python -m trainer.several COUNT STAGE --config FILE``: a stage on several processes of this machine.

torchrun starts them and says who is who; COUNT is a number or ``gpu``, one for each. What this adds: it
dies with the process that LABELAPP_PARENT_PID names, and it ends with the stage's own exit code.
"""

import os
import signal
import sys
from collections.abc import Sequence

from trainer.errors import Stopped, TrainerError
from trainer.stage_io import PARENT_VARIABLE, die_with_parent


def main(argv: Sequence[str]) -> int:
    """Run the stage; the exit code of the process that ended first with one."""
    count, *stage = argv
    try:
        die_with_parent()
    except TrainerError as error:
        print(f"{stage[0]}: {error}", file=sys.stderr)
        return error.exit_code
    os.environ.pop(PARENT_VARIABLE, None)  # the processes' parent is this one
    os.environ.setdefault("OMP_NUM_THREADS", str(_threads(count)))  # else torchrun says 1
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    try:
        torchrun(["--standalone", f"--nproc-per-node={count}", "-m", "trainer", *stage])
    except ChildFailedError as failed:
        _, first = failed.get_first_failure()
        return _ended_as(first.exitcode)
    except SignalException:  # passed on to all, who have written a checkpoint
        return Stopped.exit_code
    return 0


def _threads(count: str) -> int:
    """Threads of each process, so that together they have the machine's."""
    return max(1, (os.cpu_count() or 1) // int(count)) if count.isdecimal() else 1


def _ended_as(code: int) -> int:
    """The code; where it is a signal's, this process ends by that signal too."""
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
