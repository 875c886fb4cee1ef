"""The settings that concern a sweep as a whole: no run has them."""

from __future__ import annotations

#: Groups of settings of the whole.
SWEEP_GROUPS = ("search", "tournament")
SWEEP_SETTINGS = (*SWEEP_GROUPS, "n_jobs")
#: As a part of a regular expression: the beginning of such a key.
OF_THE_SWEEP = rf"(?:{'|'.join(SWEEP_SETTINGS)})\b"


def is_of_sweep(key: str) -> bool:
    """Whether a key is a group of settings of the whole, or in one."""
    return key.partition(".")[0] in SWEEP_GROUPS


def run_choices(choices: object) -> dict[str, str]:
    """The choice of each group that describes a run.

    Args:
        choices: `hydra.runtime.choices`, a mapping.
    """
    pairs = dict(choices).items()  # type: ignore[call-overload]
    return {
        str(group): str(choice)
        for group, choice in pairs
        if choice and not str(group).startswith("hydra/") and group not in SWEEP_GROUPS
    }
