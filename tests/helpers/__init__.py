"""Modules that the tests share; some are run as processes, `python -m helpers.NAME`."""
