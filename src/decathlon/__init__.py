"""Ten papers behind one runner; each paper's method is a package of ``decathlon.tasks``."""

from typing import Any

__version__ = "0.1.0"


def load(job: Any) -> Any:
    """What a finished job has trained, as an object with an API of its own (docs/use.md).

    Args:
        job: its folder, the part ``trained`` of it, or its id (or the beginning of it) in ``results``, or in the folder
            that ``DECATHLON_RESULTS`` names.

    Raises:
        UserError: in one line, there is no such job, or it keeps nothing that was trained.
    """
    import os
    from pathlib import Path

    from decathlon import trained

    path = Path(job).expanduser()
    if not path.is_dir():
        from decathlon.runner import records

        path = records.find(str(job), os.environ.get("DECATHLON_RESULTS", "results")).folder
    return trained.load(path)
