"""A recommender for the users and items of one's own log: how likely a user likes an item."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decathlon import trained
from decathlon.errors import ConfigError, DataError
from decathlon.language.fingerprint import fingerprint, tokenizer_fingerprint
from decathlon.tasks.cora.collaborative import of_state
from decathlon.tasks.cora.data import RecommendationData
from decathlon.tasks.cora.decoder import CATALOGUE
from decathlon.tasks.cora.decoder import of_state as decoder_of_state
from decathlon.tasks.cora.log import Log, choose
from decathlon.tasks.cora.methods import Adapter
from decathlon.tasks.cora.prompts import answers
from decathlon.tasks.cora.scoring import scores_of

log = logging.getLogger(__name__)
_LOG = ("users", "items", "labels", "times", "part", "user_count", "item_count", "titles", "user_ids", "item_ids")


class Trained:
    """What a job of task=cora has trained, or what it scores by without training.

    Args:
        data: with the models and, of a method that needs one, the language model. known: the job's log.
        adapter: of the language model. score: ``yes`` or ``yes_minus_no``.

    Attributes:
        users, items: number of each user and item in ``log``, by its id in the job's file.
        llm, tokenizer: of transformers, or None. adapter: what was trained of it.
    """

    def __init__(self, data: RecommendationData, known: Log, adapter: Adapter, how: str) -> None:
        self.data, self.log, self.adapter, self.how = data, known, adapter.eval(), how
        self.llm, self.tokenizer = data.llm, getattr(data, "tokenizer", None)
        self.users = _numbers(known.user_ids, known.user_count)
        self.items = _numbers(known.item_ids, known.item_count)

    def score(self, pairs: Sequence[tuple[Any, Any]], moments: Sequence[float] | Tensor | None = None) -> Tensor:
        """(n,) float64 of n pairs of ids (user, item), higher for likelier; NaN, and a warning, for unknown ids.

        Of a method with a language model: the logit of Yes (``score=yes``), or of Yes against No; its sigmoid was
        trained to be the chance of a like. Of the others: a dot product, a sum of means, a logistic regression's logit.

        Args:
            moments: the timestamp of each pair: only what the user has liked before is known. None: all of the log.
        """
        if moments is not None and len(moments) != len(pairs):
            raise ValueError(f"{len(pairs)} pairs and {len(moments)} moments: one for each")
        found = torch.full((len(pairs),), torch.nan, dtype=torch.float64)
        faults = [self._fault(user, item) for user, item in pairs]
        good = [place for place, fault in enumerate(faults) if not fault]
        odd = next((fault for fault in faults if fault), "")
        if odd:
            log.warning("%d of %d pairs are unknown, for instance %s", len(pairs) - len(good), len(pairs), odd)
        if good:
            users = torch.tensor([self.users[str(pairs[place][0])] for place in good])
            items = torch.tensor([self.items[str(pairs[place][1])] for place in good])
            when = None if moments is None else torch.as_tensor(moments, dtype=torch.float64)[good]
            found[good] = self._score(users, items, when)
        return found

    def _fault(self, user: Any, item: Any) -> str:
        if str(user) not in self.users:
            return f"user {user} is not in the job's log"
        return "" if str(item) in self.items else f"item {item} is not in the job's log"

    @torch.no_grad()
    def _score(self, users: Tensor, items: Tensor, moments: Tensor | None) -> Tensor:
        data = self.data
        data.ask(self.log.asked(users, items, moments), len(self.log) + torch.arange(len(users)))
        if not data.method.uses_llm:
            return data.alone(data.rows)
        kind = data.last_prompt
        frozen = data.frozen(self.adapter.first, cached=False) if kind == "text" else None
        found = torch.empty(len(users), dtype=torch.float64)
        for group in data.scored("test"):
            batch = data.batch(torch.tensor(group), kind, torch.device("cpu"), frozen)
            found[group] = scores_of(data.llm, self.adapter, batch, data.answers, self.how).double()
        return found

    def predict_rows(self, rows: list[trained.Row]) -> list[dict[str, Any] | str]:
        """Of rows with the columns ``user`` and ``item``: ``score``, from all that the user has liked in the log."""
        for name in ("user", "item") if rows else ():
            if name not in rows[0]:
                raise DataError(f"the table has no column {name}; its columns: {', '.join(rows[0])}")
        faults = [self._fault(row["user"], row["item"]) for row in rows]
        good = [(row["user"], row["item"]) for row, fault in zip(rows, faults) if not fault]
        scores = iter(self.score(good).tolist())
        found: list[dict[str, Any] | str] = []
        for fault in faults:
            value = math.nan if fault else next(scores)
            finite = {"score": value} if math.isfinite(value) else "its score is not finite: the training diverged"
            found.append(fault or finite)
        return found


def _numbers(names: list[str] | None, count: int) -> dict[str, int]:
    return {str(name): place for place, name in enumerate(names if names is not None else range(count))}


def keep(folder: Path, data: RecommendationData, adapter: Adapter) -> None:
    """Write what ``load`` reads. Of a language model from elsewhere what it is by content, not its weights."""
    known, used = data.log, data.models.get(data.method.collaborative)
    state: dict[str, Any] = {
        "log": {name: getattr(known, name) for name in _LOG} | {"words": list(known.words)},  # type: ignore[union-attr]
        "collaborative": None if used is None else dict(used.state_dict()), "adapter": dict(adapter.state_dict()),
        "model": None, "fingerprints": None,
    }  # fmt: skip
    if data.llm is not None and data.model_options["name"] == CATALOGUE:
        state["model"] = dict(data.llm.state_dict())
    elif data.llm is not None:
        state["fingerprints"] = [fingerprint(data.llm), tokenizer_fingerprint(data.tokenizer)]
    trained.save(folder, state)


def load(folder: Path, config: Mapping[str, Any]) -> Trained:
    """What ``Recommender.export`` has written; a language model that is not the catalogue's is found again by its name.

    Raises:
        ConfigError: the job is the control that scores no pairs. DataError: the language model is another one now.
    """
    state = trained.state_of(folder)
    data = RecommendationData(**{name: value for name, value in config["data"].items() if name != "_target_"})
    if data.method.permuted:
        name = config["method"]["name"]
        raise ConfigError(f"method={name} is a control: it gives each pair the vectors of another, and scores no pairs")
    kept = state["log"]
    known = data.log = Log(**{**kept, "words": tuple(kept["words"])})
    data.chosen = choose(known, seed=data.data_seed, **data.wanted)
    name = data.method.collaborative
    options = data.collaborative_options.get(name) or {}
    data.models = {name: of_state(known, name, options, state["collaborative"])} if name else {}
    adapter = Adapter()
    if data.method.uses_llm:
        if state["model"] is not None:
            data.llm, data.tokenizer = decoder_of_state(data.model_options["training"], state["model"])
            data.answers = answers(data.tokenizer)
        else:
            data.llm, data.tokenizer, data.answers = data.language_model()
            if [fingerprint(data.llm), tokenizer_fingerprint(data.tokenizer)] != state["fingerprints"]:
                raise DataError(
                    f"model={data.model_options['name']} is another one than in the job: its weights or its tokenizer "
                    "have changed since; what was trained does not belong to it"
                )
        adapter = data.method.adapter(data.llm, data.sizes)
        adapter.load_state_dict(state["adapter"])
        adapter.requires_grad_(False)
    return Trained(data, known, adapter, str(config["module"]["score"]))
