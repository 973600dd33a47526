"""Rules that scale the LR of an optimizer to another global batch."""

from typing import NamedTuple

from ..checks import check, check_choice

# Power of `new batch / old batch` in the factor of the LR.
SCALE_EXPONENTS = {'linear': 1.0, 'sqrt': 0.5}


class ScaleRule(NamedTuple):
    """A rule for the LR of an optimizer.

    Args:
        name (str): ``'linear'`` or ``'sqrt'``.
        source (str): Paper or program that has the rule.
    """

    name: str
    source: str


GOYAL = 'Goyal et al. 2017, arXiv 1706.02677'
MALLADI = "Malladi et al. 2022, arXiv 2205.10287; timm's train.py"
# By class name of the optimizer. Detectors with AdamW disagree: D-FINE and DEIM scale linearly.
SCALE_RULES = {
    'SGD': ScaleRule('linear', GOYAL),
    'LARS': ScaleRule('linear', 'Chen et al. 2020 (SimCLR), arXiv 2002.05709'),
    'LAMB': ScaleRule('sqrt', "You et al. 2020, arXiv 1904.00962; timm's train.py"),
    'Adam': ScaleRule('sqrt', MALLADI),
    'AdamW': ScaleRule('sqrt', MALLADI),
}


def scale_rule_of(setting: str, optimizer: str) -> ScaleRule:
    """Return the rule of an optimizer.

    Args:
        setting (str): The setting that holds the name, for the message.
        optimizer (str): Class name of the optimizer.

    Returns:
        ScaleRule: The rule.

    Raises:
        SettingError: If no rule is known for it.
    """
    known = ', '.join(SCALE_RULES)
    wanted = f'one whose LR has a rule ({known}), or the LR set by hand'
    check(optimizer in SCALE_RULES, setting, optimizer, wanted)
    return SCALE_RULES[optimizer]


def scale_factor(rule: str, new_batch: float, base_batch: float) -> float:
    """Return the factor of the LR for another global batch.

    Args:
        rule (str): ``'linear'`` or ``'sqrt'``.
        new_batch (float): Images of an update.
        base_batch (float): Images of an update that the LR is meant for.

    Returns:
        float: ``new_batch / base_batch``, or its square root.

    Raises:
        SettingError: If the rule is another word.

    Example:
        >>> scale_factor('linear', 128, 16), scale_factor('sqrt', 64, 16)
        (8.0, 2.0)
    """
    check_choice('scale_rule', rule, tuple(SCALE_EXPONENTS))
    return (new_batch / base_batch) ** SCALE_EXPONENTS[rule]
