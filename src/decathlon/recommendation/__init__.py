"""Who took what: interactions, splits, samplers, all-item ranking, propagation on their graph. Knows no task."""
