"""From overrides to a finished job: configs, identity, execution, sweeps. Knows no paper."""
