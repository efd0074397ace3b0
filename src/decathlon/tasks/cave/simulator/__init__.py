"""The loop in time: traffic, radio links, tasks, and the planner that decides, as tensors over scenarios."""
