"""What is asked of an edited model, and the metrics of its answers."""
