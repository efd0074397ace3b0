"""How atoms and bonds of a molecular graph are numbered (the "strategies for pre-training GNNs" family)."""

ELEMENTS = 118  # element index = atomic number - 1
MASKED_ATOM = 118
UNKNOWN_ATOM = 119  # the dummy atom *
ATOM_ROWS = 120
CHIRAL_TAGS = 3  # unspecified, clockwise, counter-clockwise
BOND_TYPES = 6  # single, double, triple, aromatic, self loop, masked
SELF_LOOP = 4
BOND_DIRECTIONS = 3  # none, up, down
BOND_KINDS = BOND_TYPES * BOND_DIRECTIONS  # kind = 3 * type + direction
