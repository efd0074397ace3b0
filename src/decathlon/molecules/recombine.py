"""New molecules from old: RDKit's BRICS rules cut molecules into fragments and say which ends may be joined."""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from rdkit import Chem, rdBase
from rdkit.Chem import BRICS

from decathlon.molecules.parallel import map_chunks
from decathlon.molecules.parsing import Status, parse

LARGEST_SOURCE = 80  # heavy atoms; peptides and the like would yield one fragment many times over
_END = re.compile(r"\[(\d+)\*\]")  # an open end of BRICS type 1..16, as in [16*]c1ccccc1
_OPEN = "[{}*:{}]"


def fragments(smiles: list[str]) -> list[str]:
    """BRICS leaves of each molecule, with their open ends, as canonical SMILES: one space-joined string each."""
    found = []
    with rdBase.BlockLogs():
        for text in smiles:
            mol, status = parse(text)
            if mol is None or status != Status.PARSED or mol.GetNumHeavyAtoms() > LARGEST_SOURCE:
                found.append("")
                continue
            parts = Chem.MolToSmiles(BRICS.BreakBRICSBonds(mol)).split(".")
            found.append(" ".join(part for part in parts if _END.search(part)))
    return found


def _partners() -> dict[int, set[int]]:
    """For each BRICS end the ends it may be joined to."""
    partners: dict[int, set[int]] = defaultdict(set)
    for group in BRICS.reactionDefs:
        for one, other, _ in group:
            a, b = int(re.sub(r"\D", "", one)), int(re.sub(r"\D", "", other))
            partners[a].add(b)
            partners[b].add(a)
    return partners


class Recombiner:
    """Draws plans for molecules: a core fragment and a fragment for each of its open ends, and so on.

    A fragment is drawn with a probability proportional to how often it occurs in the originals.

    Args:
        counts: fragments (SMILES with ends such as ``[16*]``) and how often each occurs.
        rng: source of randomness.
        most: fragments per molecule.
    """

    def __init__(self, counts: Counter[str], rng: random.Random, most: int = 5) -> None:
        self.rng = rng
        self.most = most
        partners = _partners()
        usable = sorted(text for text in counts if 1 <= len(_END.findall(text)) <= 3)
        self.ends = {text: [int(end) for end in _END.findall(text)] for text in usable}
        self._cores = self._table(usable, counts)
        self._caps = {}
        self._links = {}
        for end, others in sorted(partners.items()):
            fitting = [text for text in usable if others.intersection(self.ends[text])]
            self._caps[end] = self._table([t for t in fitting if len(self.ends[t]) == 1], counts)
            self._links[end] = self._table([t for t in fitting if len(self.ends[t]) == 2], counts)
        self._partners = partners

    @staticmethod
    def _table(texts: list[str], counts: Counter[str]) -> tuple[list[str], list[float]]:
        total, cumulative = 0.0, []
        for text in texts:
            total += counts[text]
            cumulative.append(total)
        return texts, cumulative

    def _draw(self, table: tuple[list[str], list[float]]) -> str:
        return self.rng.choices(table[0], cum_weights=table[1])[0]

    def plan(self) -> str | None:
        """A molecule as SMILES of its fragments, with equal atom-map numbers on ends to be joined.

        None where an end has no partner.
        """
        pieces: list[str] = []
        joints = 0
        queue: list[tuple[str, int, int]] = [(self._draw(self._cores), 0, 0)]  # fragment, joint and end it hangs on
        while queue:
            text, joint, end = queue.pop(0)
            mine = list(self.ends[text])
            entry = -1
            if joint:
                entry = self.rng.choice([i for i, other in enumerate(mine) if other in self._partners[end]])
            numbers = []
            for i, other in enumerate(mine):
                if i == entry:
                    numbers.append(joint)
                    continue
                joints += 1
                numbers.append(joints)
                room = self.most - len(pieces) - len(queue) - (len(mine) - i)
                links = self._links[other]
                if room > 0 and links[0] and self.rng.random() < 0.3:
                    table = links
                else:
                    table = self._caps[other]
                if not table[0]:
                    return None
                queue.append((self._draw(table), joints, other))
            at = iter(zip(mine, numbers))
            pieces.append(_END.sub(lambda _: _OPEN.format(*next(at)), text))  # noqa: B023
        return ".".join(pieces)


def assemble(plans: list[str], smallest: int = 10, largest: int = 50) -> list[str]:
    """Canonical SMILES of planned molecules; empty where the result is no valid molecule of the wanted size."""
    made = []
    with rdBase.BlockLogs():
        for plan in plans:
            made.append(_joined(plan, smallest, largest))
    return made


def _joined(plan: str, smallest: int, largest: int) -> str:
    parts = Chem.MolFromSmiles(plan)
    if parts is None:
        return ""
    try:
        mol = Chem.molzip(parts)
        if Chem.SanitizeMol(mol, catchErrors=True) != Chem.SANITIZE_NONE:
            return ""
    except (RuntimeError, ValueError):
        return ""
    if not smallest <= mol.GetNumHeavyAtoms() <= largest:
        return ""
    smiles = Chem.MolToSmiles(mol)
    return "" if "*" in smiles or "." in smiles else smiles


def recombine(originals: Sequence[str], count: int, seed: int = 0, processes: int | None = None) -> list[str]:
    """``count`` different molecules made of BRICS fragments of ``originals``, none of which is an original.

    The result depends on the arguments alone, not on ``processes``.

    Args:
        originals: canonical SMILES, sorted.
    """
    cut = [line for part in map_chunks(fragments, originals, processes, "cutting molecules") for line in part]
    counts = Counter(text for line in cut for text in line.split())
    recombiner = Recombiner(counts, random.Random(seed))
    taken = set(originals)
    made: list[str] = []
    while len(made) < count:
        wanted = max(1000, int(1.5 * (count - len(made))))
        plans = [plan for plan in (recombiner.plan() for _ in range(wanted)) if plan]
        for part in map_chunks(assemble, plans, processes, "making molecules"):
            for smiles in part:
                if smiles and smiles not in taken:
                    taken.add(smiles)
                    made.append(smiles)
    return made[:count]
