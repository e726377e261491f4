"""``python -m bench.learning.scorer NAME``: a known reward for another interpreter.

Reads a JSON list of texts a line and writes a JSON list of scores a line.
"""

import json
import sys
from typing import TextIO

from trainer.known_rewards import KNOWN_REWARDS


def serve(name: str, source: TextIO, sink: TextIO) -> None:
    """Answer until the source ends."""
    for line in source:
        print(json.dumps(KNOWN_REWARDS[name](json.loads(line))), file=sink, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], sys.stdin, sys.stdout)
