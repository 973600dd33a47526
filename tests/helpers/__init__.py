"""Modules that the tests share; a test imports `helpers.NAME`."""
