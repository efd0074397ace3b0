"""Commands that make jobs again: what in a job differs from the defaults, written as overrides."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from decathlon.errors import UserError
from decathlon.runner.compose import Composer
from decathlon.runner.job import Job
from decathlon.runner.knobs import GROUPS, flat, text
from decathlon.runner.messages import explain
from decathlon.runner.records import Found


class Commands:
    """Commands that make jobs again, for one job or for many.

    The command is composed and has the job's identity. Of many jobs of one task, dataset and method that differ from
    the defaults in the same keys only the first is composed; the others take its keys with their own values.
    """

    def __init__(self) -> None:
        self._compose: Composer | None = None
        self._bases: dict[tuple[Any, ...], Job] = {}
        self._recipes: dict[tuple[Any, ...], tuple[list[str] | None, list[str]]] = {}

    def of(self, job: Found) -> tuple[dict[str, str], list[str], str]:
        """What differs from the defaults of the job's task, dataset and method, and the command that makes it again.

        Returns:
            The differing settings, the command's words (none where the configs of today do not lead to this job), and
            one line where that is so.
        """
        try:
            return self._of(job)
        except (HydraException, OmegaConfBaseException) as error:
            said = explain(error, [f"{group}={getattr(job, group)}" for group in GROUPS])
            return {}, [], f"no command of today makes this job: {said}"
        except (UserError, AssertionError, KeyError) as error:
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            return {}, [], f"no command of today makes this job: {said}"

    def _of(self, job: Found) -> tuple[dict[str, str], list[str], str]:
        if not job.config:
            return {}, [], "its settings cannot be read, so no command is known that makes it again"
        wanted = flat(job.config)
        words = [f"{group}={getattr(job, group)}" for group in GROUPS]
        if wanted.get("debug") is True:
            words.append("+debug=true")
        base = self._job(words)
        differ = frozenset(_differing(wanted, flat(base.config)))
        kind = (*words, differ)
        if kind not in self._recipes:
            self._recipes[kind] = self._recipe(job, wanted, words)
        keys, shown = self._recipes[kind]
        changed = {key: _shown(_wanted(key, wanted)) for key in shown}
        if keys is None:
            return changed, [], "the configs have changed since: no command of today makes this job with its id"
        return changed, ["run", *words, *(_word(key, wanted) for key in keys)], ""

    def _job(self, words: list[str], keys: Sequence[str] = ()) -> Job:
        key = (*words, *keys)
        if key not in self._bases:
            self._compose = self._compose or Composer(jobs_only=True)
            self._bases[key] = Job.of(self._compose.with_keys(words, keys))
        return self._bases[key]

    def _recipe(self, job: Found, wanted: dict[str, Any], words: list[str]) -> tuple[list[str] | None, list[str]]:
        """The keys to set, with their signs, so that the job has its identity (None: there are none); the bare keys."""
        set_keys: list[str] = []
        changed: list[str] = []
        for _ in range(5):
            composed = self._job(words, [_word(key, wanted) for key in set_keys])
            if composed.identity == job.identity:
                return set_keys, changed
            now = flat(composed.config)
            keys = [key for key in _differing(wanted, now) if key not in changed]
            if not keys:
                break
            least = min(key.count(".") for key in keys)  # what lies deeper is mostly an interpolation of it
            for key in [key for key in keys if key.count(".") == least]:
                changed.append(key)
                set_keys.append(key if key in now else f"++{key}")
        return None, changed


def _differing(wanted: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The keys of which the values differ; as in the identity, null is the same as a key that is not there."""
    return [key for key in {**wanted, **now} if wanted.get(key) != now.get(key)]


def _wanted(key: str, wanted: dict[str, Any]) -> Any:
    """The value that a key is to have: a mapping where it has parts, null where it is not there."""
    parts = {name.removeprefix(f"{key}."): value for name, value in wanted.items() if name.startswith(f"{key}.")}
    if not parts:
        return wanted.get(key)
    return {first: _wanted(first, parts) for first in dict.fromkeys(name.partition(".")[0] for name in parts)}


def _shown(value: Any) -> str:
    return "(none)" if value is None else text(value)


def _word(key: str, wanted: dict[str, Any]) -> str:
    """An override of a key that may begin with its sign."""
    return f"{key}={override(_wanted(key.removeprefix('++'), wanted))}"


def override(value: Any) -> str:
    """A value in Hydra's grammar, quoted where it must be."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{override(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(override, value)) + "]"
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z_/.][\w./-]*", value) and value.lower() not in (
            "null",
            "true",
            "false",
            "nan",
            "inf",
        )
        if plain:
            return value
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return (
        {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else repr(value)
    )


def shell(words: Sequence[str]) -> str:
    """A command as a shell reads it."""
    return " ".join(shlex.quote(word) if re.search(r"[^\w@%+=:,./~-]", word) else word for word in words)
