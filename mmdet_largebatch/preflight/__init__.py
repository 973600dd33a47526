"""Check data and config once, before anything is built."""

from .check import check_data

__all__ = ['check_data']
