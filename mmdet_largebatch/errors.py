"""The error that means: a setting is wrong, and its message says all there is to know."""


class SettingError(ValueError):
    """A setting that cannot be used.

    The message is one line that names the setting, its value and what would be right. The
    command-line tools print that line without a traceback; in Python it is a ``ValueError``.
    """
