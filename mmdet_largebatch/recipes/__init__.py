"""Carry a recipe to another global batch, by rules with sources."""

from .carry import carry_recipe
from .change import Change
from .config_file import recipe_text

__all__ = ['Change', 'carry_recipe', 'recipe_text']
