"""Knowledge editing: KELE and the family it stands on, for GPT-2, GPT-J, GPT-NeoX, LLaMA, Mistral, Qwen2, Qwen3, Phi-3.

Needs torch and transformers only.
"""

from decathlon.tasks.kele.edit import Edit
from decathlon.tasks.kele.editors.alphaedit import AlphaEdit
from decathlon.tasks.kele.editors.base import Editor
from decathlon.tasks.kele.editors.emmet import Emmet
from decathlon.tasks.kele.editors.finetune import FineTune, FineTuneL
from decathlon.tasks.kele.editors.kele import Kele
from decathlon.tasks.kele.editors.mello import Mello
from decathlon.tasks.kele.editors.memit import Memit
from decathlon.tasks.kele.editors.none import NoEdit
from decathlon.tasks.kele.editors.pmet import Pmet
from decathlon.tasks.kele.editors.rome import Rome
from decathlon.tasks.kele.editors.statistics import Moments
from decathlon.tasks.kele.update import Update

__all__ = [
    "AlphaEdit",
    "Edit",
    "Editor",
    "Emmet",
    "FineTune",
    "FineTuneL",
    "Kele",
    "Mello",
    "Memit",
    "Moments",
    "NoEdit",
    "Pmet",
    "Rome",
    "Update",
]
