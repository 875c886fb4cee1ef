"""Draws performance profiles."""

from __future__ import annotations

from typing import Any

from lit_optim.errors import printable
from lit_optim.results.axes import LONGEST_LABEL, format_number, tag
from lit_optim.results.data import Profile
from lit_optim.results.legends import add_legend
from lit_optim.results.looks import COLORS, GRAY, Look, style_of
from lit_optim.results.profile import MEASURES, share_within


def draw_profile(axes: Any, profile: Profile, look: Look) -> None:
    """Draw the profile of each contestant as a line of steps."""
    from matplotlib.ticker import PercentFormatter

    for place, name in reversed(list(enumerate(profile.contestants))):
        style, ratios = style_of(place), profile.ratios[name]
        jumps = sorted({1.0, profile.tau, *(one for one in ratios if one <= profile.tau)})
        [line] = axes.plot(
            jumps,
            [share_within(ratios, one) for one in jumps],
            color=style.color,
            linestyle=style.dashes,
            drawstyle="steps-post",
            marker=style.marker if style.is_shown else None,
            markevery=(0.0, 0.25),
            clip_on=False,
            zorder=3 if style.is_shown else 2,
        )
        tag(line, f"row-{place}")
    axes.set_xlim(1, profile.tau)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(f"{MEASURES[profile.measure]} to the target ÷ those of the fastest")
    axes.xaxis.set_major_formatter(lambda x, _: format_number(x))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylabel("tasks")
    axes.grid(axis="y")


def draw_profile_figure(profile: Profile, look: Look, height: float) -> Any:
    """Return a figure of the profile, with a legend where the look has one.

    Args:
        profile: of at least one contestant.
        look: of the figure.
        height: as a share of its width.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    width = look.width / 72
    figure = Figure(figsize=(width, height * width), layout="constrained")
    figure.patch.set_alpha(1.0 if look.has_legend else 0.0)
    axes = figure.subplots()
    axes.patch.set_alpha(0.0)
    draw_profile(axes, profile, look)
    if look.has_legend:
        shown = profile.contestants[: len(COLORS)]
        handles = [
            Line2D(
                [],
                [],
                color=style_of(place).color,
                linestyle=style_of(place).dashes,
                marker=style_of(place).marker,
                label=f"{printable(name, LONGEST_LABEL)} {profile.scores[name]:.2f}",
            )
            for place, name in enumerate(shown)
        ]
        if others := len(profile.contestants) - len(shown):
            handles.append(Line2D([], [], color=GRAY, label=f"{others} others"))
        add_legend(figure, handles)
    return figure
