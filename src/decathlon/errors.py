"""Errors that a user can mend. Each is shown as one line, without a stack trace."""


class UserError(Exception):
    """Something the user typed or supplied is wrong; the message says what, and what would be right."""


class ConfigError(UserError):
    """A key, a value or a combination of them that no run can have."""


class DataError(UserError):
    """A data file is missing, corrupt or malformed."""
