"""Edits and the questions about them: the embedded world's, MQuAKE's, CounterFact's."""

from decathlon.tasks.kele.data.datamodule import EditCases

__all__ = ["EditCases"]
