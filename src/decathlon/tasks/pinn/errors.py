"""What goes wrong in training, as exceptions that a loop can catch."""


class NotFiniteError(ValueError, FloatingPointError):
    """A loss, a gradient, a weight or an update is NaN or infinite.

    It is raised before any state changes: ``.grad`` and the state of operators, weightings and M-ConFIG's momenta
    are as they were, so that a loop may catch it, leave out the batch and go on.
    """
