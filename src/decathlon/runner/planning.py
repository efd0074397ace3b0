"""Many jobs at once: what Hydra composes for one job serves all that differ from it in plain values only.

A sweep's jobs share few combinations of groups (task, dataset, method, …). One job of each combination is composed by
Hydra and resolved; the next ones set their values in that config and resolve again only what reads them. The result
equals ``Job.of`` of the composed config, to the last bit of the identity.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict

from decathlon.runner.compose import GROUPS, PATHS, Composer, resolve, settle
from decathlon.runner.job import Job, hash_of, probe_of
from decathlon.runner.keys import DESCRIPTIVE

Path = tuple[Any, ...]
_AXES = ("dataset", "method")
# Keys that `settle` and `probe_of` look at: a job that sets one is composed with it.
_COMPOSED = {*PATHS, *GROUPS, "debug", "smoke", "checkpoint.every_n_steps", "data.processes", "method.ignores"} | {
    f"{group}.{key}" for group in ("task", "dataset", "method") for key in DESCRIPTIVE
}


class Planner:
    """Jobs from lists of overrides.

    Args:
        compose: how one config is composed; Hydra's way by default.
    """

    def __init__(self, compose: Callable[[Sequence[str]], DictConfig] | None = None) -> None:
        self._compose = _Axes(compose or Composer(jobs_only=True))
        self._templates: dict[tuple[Any, ...], _Template | None] = {}

    def job(self, overrides: Sequence[str]) -> Job:
        """The job that ``run`` would make of these overrides."""
        parsed = [parse(override) for override in overrides]
        values = [override for override in parsed if _is_value(override)]
        key = tuple((o.type, o.key_or_group) if _is_value(o) else o.input_line for o in parsed)
        if key not in self._templates:
            cfg = self._compose(parsed)
            try:
                self._templates[key] = _Template(cfg, values)
            except _NotPlainError:
                self._templates[key] = None
        template = self._templates[key]
        return Job.of(self._compose.whole(parsed)) if template is None else template.job(values)


class _Axes:
    """Composes a dataset with a method from the two alone, where all that they change is their own part of the config.

    Of a table with five datasets and six methods ten configs are then composed, not thirty.
    """

    def __init__(self, compose: Callable[[Sequence[str]], DictConfig]) -> None:
        self._compose = compose
        self._first: dict[tuple[Any, ...], tuple[Sequence[Override], DictConfig]] = {}
        self._parts: dict[tuple[Any, ...], DictConfig | None] = {}

    def whole(self, parsed: Sequence[Override]) -> DictConfig:
        """Composed by Hydra."""
        return self._compose([override.input_line or "" for override in parsed])

    def __call__(self, parsed: Sequence[Override]) -> DictConfig:
        """Equal to :meth:`whole`."""
        chosen = _choices(parsed)
        rest = tuple(
            (o.type, o.key_or_group) if _is_value(o) else "" if o.key_or_group in chosen else o.input_line
            for o in parsed
        )
        if len(chosen) < len(_AXES) or rest not in self._first:
            cfg = self.whole(parsed)
            if len(chosen) == len(_AXES) and _are_set(cfg, parsed):
                self._first[rest] = (parsed, cfg.copy())
            return cfg
        first, base = self._first[rest]
        cfg = base.copy()
        with open_dict(cfg):
            for axis in _AXES:
                if chosen[axis].input_line != _choices(first)[axis].input_line:
                    part = self._part(rest, chosen[axis], first, base)
                    if part is None:
                        return self.whole(parsed)
                    cfg[axis] = part
            for override in parsed:
                if _is_value(override):
                    OmegaConf.update(cfg, override.key_or_group, override.value(), merge=True, force_add=True)
        return cfg

    def _part(
        self, rest: tuple[Any, ...], choice: Override, first: Sequence[Override], base: DictConfig
    ) -> DictConfig | None:
        """``cfg[dataset]`` or ``cfg[method]`` of a choice; None if the choice changes anything else."""
        axis = choice.key_or_group
        key = (rest, axis, choice.input_line)
        if key not in self._parts:
            parsed = [choice if override.key_or_group == axis else override for override in first]
            cfg = self.whole(parsed)
            before, after = (OmegaConf.to_container(one, resolve=False) for one in (base, cfg))
            assert isinstance(before, dict) and isinstance(after, dict)
            before.pop(axis), after.pop(axis)
            self._parts[key] = cfg[axis] if before == after and _are_set(cfg, parsed) else None
        return self._parts[key]


def _choices(parsed: Sequence[Override]) -> dict[str, Override]:
    return {o.key_or_group: o for o in parsed if o.key_or_group in _AXES and o.type == OverrideType.CHANGE}


@lru_cache(maxsize=4096)
def parse(override: str) -> Override:
    """One override as Hydra reads it; a sweep repeats few of them many times."""
    return OverridesParser.create().parse_overrides([override])[0]


def _is_value(override: Override) -> bool:
    """Whether an override only sets a plain value, which no step of the composition looks at."""
    key = override.key_or_group
    if override.is_delete() or override.package is not None or "/" in key or "@" in key:
        return False
    if key in _COMPOSED or key.startswith(("hydra.", "table.", "smoke.", "method.ignores", "debug.")):
        return False
    return _is_plain(override.value())


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    if isinstance(value, str):
        return "${" not in value and value != "???"
    return value is None or isinstance(value, (bool, int, float))


class _NotPlainError(Exception):
    """The values of this kind of job reach where they cannot be followed: each is composed by itself."""


class _Template:
    """A composed job whose values may be set anew."""

    def __init__(self, cfg: DictConfig, values: Sequence[Override]) -> None:
        keys = [override.key_or_group for override in values]
        if cfg.get("debug", False) or not _are_set(cfg, values):
            raise _NotPlainError
        if any(a != b and _related(a, b) for a in keys for b in keys):
            raise _NotPlainError
        for path in PATHS:
            read = references(str(cfg._get_node(path)._value()))  # type: ignore[union-attr]
            if read is None or any(_related(key, other) for key in keys for other in read):
                raise _NotPlainError
        settled = settle(cfg)
        with open_dict(settled):
            settled.pop("table", None)
        self._whole = _Version(settled)
        self._probe = _Version(probe_of(settled))
        self._ignored = tuple(settled.method.get("ignores") or [])
        self._base = {override.key_or_group: override.value() for override in values}

    def job(self, values: Sequence[Override]) -> Job:
        wanted = {override.key_or_group: override.value() for override in values}
        counted = {key: value for key, value in wanted.items() if not self._is_ignored(key)}
        config = self._whole.with_values(wanted, self._base)
        return Job(config, hash_of(self._probe.with_values(counted, self._base)))

    def _is_ignored(self, key: str) -> bool:
        return any(key == ignored or key.startswith(f"{ignored}.") for ignored in self._ignored)


class _Version:
    """A settled config, resolved, and for each of its interpolations the keys that it reads."""

    def __init__(self, cfg: DictConfig) -> None:
        self._cfg, self._plain = cfg, resolve(cfg)
        self._reads: dict[Path, set[str] | None] = {}
        self._links: dict[str, str] = {}  # of nodes that are `${key}` and nothing else: their names, and the key
        self._collect(OmegaConf.to_container(cfg, resolve=False), ())
        self._affected: dict[frozenset[str], dict[Path, str | None]] = {}
        self._now: dict[str, Any] = {}
        OmegaConf.set_struct(cfg, False)

    def with_values(self, wanted: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
        """The plain config with the values ``wanted``; ``base`` are those that it was composed with."""
        changed = frozenset(key for key, value in wanted.items() if not _same(base[key], value))
        if changed not in self._affected:
            self._set(wanted)
            self._affected[changed] = self._find_affected(changed)
        affected = self._affected[changed]
        copies = {path: wanted[key] for path, key in affected.items() if key and not isinstance(wanted[key], list)}
        if len(copies) < len(affected):
            self._set(wanted)
        whole = dict(self._plain)
        copied = {(): whole}
        for path in affected:
            place = whole
            for depth, part in enumerate(path[:-1], start=1):
                here = path[:depth]
                if here not in copied:
                    copied[here] = place[part] = dict(place[part])
                place = copied[here]
            place[path[-1]] = copies[path] if path in copies else self._resolved(path)
        return whole

    def _set(self, wanted: dict[str, Any]) -> None:
        for key, value in wanted.items():
            if key not in self._now or not _same(self._now[key], value):
                OmegaConf.update(self._cfg, key, value, merge=True, force_add=True)
                self._now[key] = value

    def _resolved(self, path: Path) -> Any:
        node: Any = self._cfg
        for part in path[:-1]:
            node = node._get_node(part)
        value = node[path[-1]]
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
        return value

    def _collect(self, node: Any, path: Path) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                self._collect(value, (*path, key))
        elif "${" in str(node):
            texts = _texts(node)
            reads = [references(text) for text in texts]
            self._reads[path] = None if None in reads else set().union(*(r for r in reads if r is not None))
            if isinstance(node, str) and re.fullmatch(_READS_KEY, node):
                self._links[".".join(map(str, path))] = node[2:-1]

    def _find_affected(self, changed: frozenset[str]) -> dict[Path, str | None]:
        """The changed keys themselves, and all that reads them, at once or through others.

        Beside each the changed key whose value it has as it is; None where it has to be resolved.
        """
        found: dict[Path, str] = {path: ".".join(map(str, path)) for path, read in self._reads.items() if read is None}
        names = [*changed, *found.values()]
        rest = {path: read for path, read in self._reads.items() if read is not None}
        while names:
            new = {path for path, read in rest.items() if any(_related(a, b) for a in names for b in read)}
            names = [".".join(map(str, path)) for path in new]
            found.update(zip(new, names))
            rest = {path: read for path, read in rest.items() if path not in new}
        for key in changed:
            path = self._path_of(key)
            found[path] = key
        return {path: self._followed(name, changed) for path, name in found.items()}

    def _followed(self, name: str, changed: frozenset[str]) -> str | None:
        """The changed key that ``name`` is a mere link to, or to a link to it; resolving each anew takes long."""
        for _ in range(len(self._links) + 1):  # links in a circle are left to be resolved, and to be refused
            if name in changed:
                return name
            if name not in self._links:
                return None
            name = self._links[name]
        return None

    def _path_of(self, key: str) -> Path:
        """A dotted key as a path: whole numbers may be keys too."""
        path: list[Any] = []
        node: Any = self._cfg
        for part in key.split("."):
            keys = list(node.keys())
            path.append(next(k for k in keys if str(k) == part))
            node = node._get_node(path[-1])
        return tuple(path)


def _texts(node: Any) -> list[str]:
    if isinstance(node, list):
        return [text for item in node for text in _texts(item)]
    if isinstance(node, dict):
        return [text for item in node.values() for text in _texts(item)]
    return [node] if isinstance(node, str) and "${" in node else []


_KEY = r"[A-Za-z_][\w/-]*(?:\.[\w/-]+)*"
_READS_KEY = rf"\$\{{{_KEY}\}}"
_READS_OR_ELSE = rf"\$\{{oc\.(?:select|env):\s*{_KEY}\s*(?:,\s*(?:{_READS_KEY}|[^${{}}]*))?\}}"


def references(text: str) -> set[str] | None:
    """The keys that a text's interpolations may read: too many rather than too few.

    None for anything but ``${key}``, ``${oc.select:key,default}`` and ``${oc.env:NAME,default}``.
    """
    known = [*re.findall(_READS_OR_ELSE, text), *re.findall(_READS_KEY, text)]
    if "${" in re.sub(_READS_KEY, "", re.sub(_READS_OR_ELSE, "", text)):
        return None
    return {key for interpolation in known for key in re.findall(_KEY, interpolation)} - {"oc.select", "oc.env"}


def _are_set(cfg: DictConfig, parsed: Sequence[Override]) -> bool:
    return all(_is_set(cfg, o.key_or_group, o.value()) for o in parsed if _is_value(o))


def _is_set(cfg: DictConfig, key: str, value: Any) -> bool:
    """Whether ``key=value`` has set exactly this key: not what an interpolation points to, and no group's choice."""
    node: Any = cfg
    for part in key.split("."):
        names = {str(name): name for name in node} if isinstance(node, DictConfig) else {}
        if part not in names:
            return False
        node = node._get_node(names[part])
        if node is None or node._is_interpolation():
            return False
    return _same(OmegaConf.to_container(node) if OmegaConf.is_config(node) else node._value(), value)


def _related(a: str, b: str) -> bool:
    """Whether one key is the other or lies inside it."""
    return a == b or a.startswith(b + ".") or b.startswith(a + ".")


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and repr(a) == repr(b)


def value_of(config: dict[str, Any], key: str) -> Any:
    """The value of a dotted key in a plain config; None if there is none."""
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, dict):
            return None
        node = node.get(part, next((value for name, value in node.items() if str(name) == part), None))
    return node
