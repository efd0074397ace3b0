"""Keys of a job's config that say nothing of its result."""

# Where and how a job runs, and what is shown of it: none of it can change its result.
NOT_IDENTITY = (
    "data_dir",
    "results_dir",
    "force",
    "threads",
    "trainer",
    "logger",
    "table",
    "report",
    "smoke",
    "experiment",
)

# What a task, a dataset or a method says of itself.
DESCRIPTIVE = ("title", "paper", "embedded", "methods", "threads", "undefined", "trained", "own")
