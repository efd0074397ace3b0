"""torchrun for the workers of one job. Why they ended is said in one line, and only where no worker has said it."""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def main(arguments: Sequence[str], said: Path) -> int:
    """Run torchrun; the status to exit with.

    Args:
        said: the file in which a worker says what was wrong.
    """
    if "LOGLEVEL" not in os.environ:  # torchrun's own, which shows its report of a page
        logging.disable(logging.ERROR)
    try:
        run.main(list(arguments))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = int(failure.exitcode)
        if not said.exists():
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
            print(f"process {rank} of the job ended {how}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[2:], Path(sys.argv[1])))
