"""Signals that end a job: SIGTERM, and what clusters send before they take a machine away (SIGUSR1, SIGUSR2)."""

import logging
import os
import signal
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from decathlon.runner.checkpoint import LastCheckpoint
from decathlon.runner.exact import inexact

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
GRACE = 20.0
"""Seconds that a step may take until the process ends without a checkpoint of it: clusters kill after 30."""


class EndOnSignal(Callback):
    """A signal ends the process after the step at hand, with a checkpoint from which the next attempt goes on.

    At once, and from the checkpoint before: in a test, whose finished cases are files already; a second signal; a step
    longer than ``GRACE``; a task that cannot resume inside an epoch; several processes, which would have to agree on a
    step. Nothing is lost then but the steps since that checkpoint.
    What had handled a signal before, such as submitit's requeueing, is called in the end; else the process dies of it.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.signal(number, self._receive if trainer.world_size == 1 else signal.SIG_DFL)
                # Lightning's own handler of SIGTERM waits for a batch to end, in a test for ever.
                self._before.setdefault(number, signal.SIG_DFL if number == signal.SIGTERM else before)

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if self.received is None:
            return
        why = inexact(trainer)
        keeper = next(callback for callback in trainer.checkpoint_callbacks if isinstance(callback, LastCheckpoint))
        if why is None and not keeper.is_between_batches(trainer):
            return  # after the next batch, or at the end of the epoch
        if why is None:
            keeper.save(trainer)
            log.info("ended by %s; the checkpoint is of step %d", self._name(), trainer.global_step)
        else:
            log.info("ended by %s; %s, so that the last epoch's end is where it goes on", self._name(), why)
        self._end()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.received is not None and trainer.current_epoch > 0:  # the last checkpoint is that of the epoch before
            log.info("ended by %s after epoch %d", self._name(), trainer.current_epoch)
            self._end()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.received is not None:
            self._end()
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                default = signal.SIG_DFL if number == signal.SIGTERM or before == self._receive else before
                signal.signal(number, self._before.get(number, default))

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, signal.SIG_DFL)
        timer = threading.Timer(GRACE, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()

    def _name(self) -> str:
        assert self.received is not None
        return signal.Signals(self.received).name

    def _end(self) -> None:
        """Hand the signal to whom it would have reached; die of it if that is nobody."""
        number = self.received
        assert number is not None
        signal.signal(number, self._before.get(number) or signal.SIG_DFL)
        os.kill(os.getpid(), number)
