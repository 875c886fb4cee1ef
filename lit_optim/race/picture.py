"""Draw a race, as a picture or an animation: paths over each landscape, and loss curves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path as FilePath
from typing import Any

from lit_optim.errors import UsageError, suggest
from lit_optim.race.landscapes import Landscape
from lit_optim.race.paths import Path

ENDINGS = (".gif", ".png", ".svg")
#: Safe for color-blind readers (Okabe & Ito); with more paths they repeat in dashes.
COLORS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a3ea1", "#222222")
DASHES = ("-", "--", ":", "-.")
#: Text and lines of transparent pictures; the background of an animation, and its text.
INK, CARD, INK_ON_CARD = "#808890", "#f6f7f9", "#3a4048"
#: The lines between the levels of a landscape.
CONTOUR = "#8898a8"
#: Grid points in each direction of a landscape, and contour levels.
GRID, LEVELS = 220, 18
#: Frames of an animation; milliseconds for each, and for the last.
FRAMES, PAUSE, LAST = 72, 70, 2500
#: In inches: the height of a row of panels and of a line of the legend, and the width. COLUMNS is
#: the number of columns in the legend.
ROW, LEGEND, COLUMNS, WIDTH = 3.3, 0.22, 3, 9.0
#: Pixels an inch.
DPI = 96
#: Losses are drawn no lower than this share of the first one.
SMALLEST = 1e-8

Report = Callable[[], None]


def check_picture(path: FilePath) -> None:
    """Check that a file can be written as a picture.

    Raises:
        UsageError: the suffix is unknown, matplotlib is missing, or the directory does not exist.
    """
    if path.suffix not in ENDINGS:
        near = suggest(path.suffix, ENDINGS)
        raise UsageError(f"--to {path} must end in {', '.join(ENDINGS)}{near}")
    if find_spec("matplotlib") is None:
        raise UsageError(f"--to {path} needs matplotlib: pip install matplotlib")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--to {path}: no such directory: {path.parent}")


@dataclass
class Line:
    """The artists of one path: its trail, its head and its loss curve."""

    path: Path
    trail: Any
    head: Any
    loss: Any

    def show(self, steps: int) -> None:
        """Show only the first steps."""
        xs, ys = zip(*self.path.points[: steps + 1], strict=True)
        self.trail.set_data(xs, ys)
        self.head.set_data(xs[-1:], ys[-1:])
        losses = _heights(self.path)[: steps + 1]
        self.loss.set_data(range(len(losses)), losses)


def write_picture(paths: Sequence[Path], file: FilePath, report: Report | None = None) -> None:
    """Draw paths into a file, one row for each landscape.

    Args:
        paths: on one or several landscapes.
        file: a .png or .svg with a transparent background, or a .gif.
        report: called after each frame of an animation.
    """
    if file.suffix == ".gif":
        _animate(paths, file, report)
        return
    figure, lines = draw_race(paths, INK)
    for line in lines:
        line.show(len(line.path.points))
    save(figure, file)


def save(figure: Any, file: FilePath) -> None:
    """Write a figure: an .svg without the date, or a .png with 256 colors."""
    from matplotlib import rc_context

    if file.suffix == ".svg":
        with rc_context({"svg.hashsalt": "lit-optim", "svg.fonttype": "path"}):
            figure.savefig(file, transparent=True, metadata={"Date": None})
        return
    _image(figure).quantize(256, method=2).save(file, optimize=True)


def _image(figure: Any) -> Any:
    from PIL import Image

    figure.set_facecolor("none")
    figure.canvas.draw()
    return Image.fromarray(_pixels(figure).copy())


def _pixels(figure: Any) -> Any:
    import numpy as np

    return np.asarray(figure.canvas.buffer_rgba())


def draw_race(paths: Sequence[Path], ink: str) -> tuple[Any, list[Line]]:
    """Set up a figure with a row for each landscape; the paths are not shown yet."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    landscapes = list({path.landscape.name: path.landscape for path in paths}.values())
    entries = max(sum(path.landscape is landscape for path in paths) for landscape in landscapes)
    legend = LEGEND * -(-entries // COLUMNS)
    height = len(landscapes) * (ROW + legend)
    figure = Figure(figsize=(WIDTH, height), layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        2 * len(landscapes),
        2,
        width_ratios=(1.25, 1),
        height_ratios=(ROW, legend) * len(landscapes),
    )
    lines = []
    for row, landscape in enumerate(landscapes):
        plane, losses = (figure.add_subplot(grid[2 * row, column]) for column in (0, 1))
        below = figure.add_subplot(grid[2 * row + 1, :])
        below.axis("off")
        own = [path for path in paths if path.landscape is landscape]
        draw_landscape(plane, landscape, ink)
        plane.set_title(f"{landscape.name}: {landscape.summary}", color=ink, fontsize=9)
        style_axes(losses, ink)
        losses.set_yscale("log")
        losses.set(xlabel="step", xlim=(0, max(len(path.points) for path in own) - 1))
        losses.set_title("loss above the minimum", color=ink, fontsize=9)
        heights = [height for path in own for height in _heights(path)]
        losses.set_ylim(min(heights) / 2, 20 * _heights(own[0])[0])
        lines += [
            _draw_path(plane, losses, path, *style_of(place)) for place, path in enumerate(own)
        ]
        below.legend(
            handles=[line.loss for line in lines[-len(own) :]],
            fontsize=8,
            labelcolor=ink,
            loc="center",
            ncols=min(COLUMNS, len(own)),
            frameon=False,
            borderaxespad=0.0,
        )
    return figure, lines


def style_of(place: int) -> tuple[str, str]:
    """The color and the dashes of one path of several."""
    return COLORS[place % len(COLORS)], DASHES[place // len(COLORS) % len(DASHES)]


def draw_landscape(axes: Any, landscape: Landscape, ink: str) -> None:
    """Draw contours of the loss on an opaque background, and mark every minimum."""
    import numpy as np

    (left, right), (bottom, top) = landscape.window
    x, y = np.meshgrid(np.linspace(left, right, GRID), np.linspace(bottom, top, GRID))
    height = landscape.value(x, y) - landscape.least
    low = max(height.min(), 1e-3 * height.max())
    levels = np.geomspace(low, height.max(), LEVELS)
    shades = [_shade(k / LEVELS) for k in range(LEVELS)]
    floor = min(0.0, height.min())
    filled = axes.contourf(x, y, height, [floor, *levels], colors=shades)
    drawn = axes.contour(x, y, height, levels, colors=CONTOUR, linewidths=0.4, alpha=0.7)
    for contours in (filled, drawn):
        contours.set_rasterized(True)  # as paths they would make an .svg huge
    style_axes(axes, ink)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    for place, (a, b) in enumerate(landscape.minima):
        deepest = landscape.value(a, b) - landscape.least < 1e-6
        size = 11 if deepest or not place else 7
        axes.plot(a, b, "*", color="#ffffff", markeredgecolor="#202428", markersize=size, zorder=5)


def _shade(height: float) -> str:
    """A light blue gray in the valleys, a darker one on the hills."""
    low, high = (0xF4, 0xF7, 0xFA), (0xB4, 0xC2, 0xD0)
    return "#" + "".join(
        f"{round(a + (b - a) * height):02x}" for a, b in zip(low, high, strict=True)
    )


def style_axes(axes: Any, ink: str) -> None:
    """Make axes legible on light and dark pages."""
    axes.patch.set_alpha(0.0)
    axes.tick_params(colors=ink, labelsize=8)
    axes.xaxis.label.set(color=ink, fontsize=8)
    axes.yaxis.label.set(color=ink, fontsize=8)
    for spine in axes.spines.values():
        spine.set_color(ink)


def draw_trail(axes: Any, path: Path, color: str, dashes: str) -> Any:
    """Draw a path over its landscape, with a light border."""
    from matplotlib.patheffects import Normal, Stroke

    xs, ys = zip(*path.points, strict=True)
    border = [Stroke(linewidth=2.8, foreground="#ffffffd0"), Normal()]
    [line] = axes.plot(
        xs, ys, color=color, linestyle=dashes, linewidth=1.5, path_effects=border, zorder=3
    )
    return line


def _draw_path(plane: Any, losses: Any, path: Path, color: str, dashes: str) -> Line:
    start = path.points[0]
    plane.plot(*start, "o", color="#202428", markersize=5, zorder=4)
    trail = draw_trail(plane, path, color, dashes)
    [head] = plane.plot([], [], "o", color=color, markeredgecolor="white", markersize=7, zorder=6)
    [loss] = losses.plot([], [], color=color, linestyle=dashes, linewidth=1.5, label=label_of(path))
    return Line(path, trail, head, loss)


def label_of(path: Path) -> str:
    """The legend entry of a path, such as "adam, lr 0.3 (best of 13 lrs)"."""
    lr = "its own step size" if path.lr is None else f"lr {path.lr:g}"
    best = f" (best of {path.tried} lrs)" if path.tried > 1 else ""
    return f"{path.name}, {lr}{best}" + (", diverged" if path.has_diverged else "")


def _heights(path: Path) -> list[float]:
    """The losses above the global minimum, bounded below for a logarithmic axis."""
    least = path.landscape.least
    smallest = SMALLEST * max(path.losses[0] - least, 1e-12)
    return [max(loss - least, smallest) if loss == loss else float("nan") for loss in path.losses]


def _animate(paths: Sequence[Path], file: FilePath, report: Report | None) -> None:
    from PIL import Image

    figure, lines = draw_race(paths, INK_ON_CARD)
    figure.set_facecolor(CARD)
    palette = _make_palette([line.trail.get_color() for line in lines])
    pictures: list[Any] = []
    for pixels in _frames(figure, lines):
        picture = Image.fromarray(pixels).convert("RGB")
        pictures.append(picture.quantize(palette=palette, dither=Image.Dither.NONE))
        if report is not None:
            report()
    pauses = [PAUSE] * (len(pictures) - 1) + [LAST]
    pictures[0].save(
        file, save_all=True, append_images=pictures[1:], duration=pauses, loop=0, optimize=True
    )


def _make_palette(colors: Sequence[str]) -> Any:
    """256 colors for all frames: tints of each path's color, and those of the background.

    A palette computed from a frame would drop the colors of thin lines.
    """
    from matplotlib.colors import to_rgb
    from PIL import Image

    shades = [_shade(k / LEVELS) for k in range(LEVELS)]
    mixed = [(shade, CONTOUR, part) for shade in shades for part in (0.0, 0.25, 0.5)]
    mixed += [(INK_ON_CARD, CARD, k / 7) for k in range(8)] + [("#202428", "#ffffff", 0.0)]
    several = list(dict.fromkeys(colors))
    parts = 6 if len(several) > 4 else 12
    mixed += [(color, "#ffffff", k / parts) for color in several for k in range(parts)]
    rgb = [
        tuple(round(255 * (x + (y - x) * part)) for x, y in zip(to_rgb(a), to_rgb(b), strict=True))
        for a, b, part in mixed
    ]
    entries = list(dict.fromkeys([*rgb, (255, 255, 255)]))[:256]
    entries += [entries[-1]] * (256 - len(entries))
    palette = Image.new("P", (1, 1))
    palette.putpalette([channel for entry in entries for channel in entry])
    return palette


def _frames(figure: Any, lines: Sequence[Line]) -> Iterator[Any]:
    """The pixels of each frame. The static part is drawn once."""
    moving = [artist for line in lines for artist in (line.trail, line.loss)]
    moving += [line.head for line in lines]  # above every trail
    for artist in moving:
        artist.set_animated(True)
    figure.canvas.draw()
    still = figure.canvas.copy_from_bbox(figure.bbox)
    steps = max(len(line.path.points) for line in lines) - 1
    # few steps per frame at first, where most of the movement is
    shown = sorted({round(steps * (k / (FRAMES - 1)) ** 1.7) for k in range(FRAMES)})
    for step in shown:
        figure.canvas.restore_region(still)
        for line in lines:
            line.show(step)
        for artist in moving:
            artist.axes.draw_artist(artist)
        yield _pixels(figure).copy()
    for artist in moving:
        artist.set_animated(False)
