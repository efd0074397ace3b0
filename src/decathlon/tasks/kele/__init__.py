"""Knowledge editing: KELE and the family it stands on, for any causal language model of transformers.

Needs torch and transformers only.
"""

from decathlon.tasks.kele.edit import Edit
from decathlon.tasks.kele.editors.kele import Kele
from decathlon.tasks.kele.editors.rome import Rome
from decathlon.tasks.kele.update import Update

__all__ = ["Edit", "Kele", "Rome", "Update"]
