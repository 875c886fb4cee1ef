"""What a race prints and draws."""

from __future__ import annotations

import io
import re
from contextlib import suppress

import pytest
from PIL import Image, ImageSequence
from rich.console import Console

from lit_optim.cli import main
from lit_optim.errors import UsageError
from lit_optim.race import picture
from lit_optim.race.landscapes import LANDSCAPES
from lit_optim.race.report import race


@pytest.fixture
def run():
    def start(*lines, steps=20, **more):
        out = io.StringIO()
        paths = race(list(lines), Console(file=out, width=160), steps, **more)
        return paths, out.getvalue()

    return start


def test_table_has_the_best_first(run):
    paths, text = run("optimizer=sgd,adam,momentum", "optimizer.lr=1e-3", "on=quadratic")
    rows = [line.split() for line in text.splitlines()]
    order = [path.name for path in sorted(paths, key=lambda path: path.losses[-1])]
    assert [row[0] for row in rows[2:5]] == order
    best = min(paths, key=lambda path: path.losses[-1])
    assert rows[2][1:3] == ["0.001", f"{best.losses[-1]:.3g}"]
    assert "best of" not in text


def test_each_landscape_has_a_table(run):
    paths, text = run("optimizer=sgd,adam", "on=beale,saddle", steps=5)
    assert [path.landscape.name for path in paths] == ["beale", "beale", "saddle", "saddle"]
    assert text.index("beale: ") < text.index("saddle: ")
    assert "lr: the best of 13 from 0.0001 to 100" in text


def test_start_is_where_all_begin(run):
    paths, text = run("optimizer=sgd", start=(0.5, -0.25), steps=3)
    assert paths[0].points[0] == (0.5, -0.25)
    assert "3 steps from (0.5, -0.25)" in text


def test_notes_tell_of_matrices_and_evaluations(run):
    _, text = run("optimizer=muon,lbfgs,sgd", steps=3)
    assert "muon: the two coordinates are one matrix, of shape [1, 2]" in text
    assert re.search(r"lbfgs: \S+ evaluations of the loss per step", text)
    assert "sgd: " not in text


@pytest.mark.parametrize("ending", ["png", "svg", "gif"])
def test_picture(run, tmp_path, monkeypatch, ending):
    monkeypatch.setattr(picture, "FRAMES", 4)
    file = tmp_path / f"race.{ending}"
    run("optimizer=sgd,adam", "on=rosenbrock,saddle", steps=8, to=file)
    if ending == "svg":
        text = file.read_text("utf-8")
        assert text.startswith("<?xml")
        assert picture.COLORS[1] in text
        return
    image = Image.open(file)
    assert image.size[0] == round(picture.WIDTH * picture.DPI)
    assert image.mode == "P"
    if ending == "gif":
        frames = [frame.convert("RGB").tobytes() for frame in ImageSequence.Iterator(image)]
        assert len(frames) == 4
        assert len(set(frames)) == 4


def test_paths_have_their_colors(run, tmp_path):
    """Of a palette of 256 none may be lost to the many shades of the landscape."""
    file = tmp_path / "race.gif"
    run("optimizer=sgd,adam,momentum,nag", "on=rosenbrock", steps=60, to=file)
    frames = list(ImageSequence.Iterator(Image.open(file)))
    colors = {color for _, color in frames[-1].convert("RGB").getcolors(1 << 20)}
    for text in picture.COLORS[:4]:
        assert tuple(bytes.fromhex(text[1:])) in colors


def test_picture_is_the_same_each_time(run, tmp_path):
    for name in ("one.svg", "two.svg"):
        run("optimizer=sgd", steps=3, to=tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_mistakes(run, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"must end in \.gif, \.png, \.svg"):
        run("optimizer=sgd", to=tmp_path / "race.mp4")
    with pytest.raises(UsageError, match="no such directory"):
        run("optimizer=sgd", to=tmp_path / "nowhere" / "race.gif")
    monkeypatch.setattr("lit_optim.race.lines.MOST", 2)
    with pytest.raises(UsageError, match="at most 2 combinations"):
        run("optimizer.lr=1e-1,1e-2,1e-3")
    monkeypatch.setattr(picture, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs matplotlib"):
        run("optimizer=sgd", to=tmp_path / "race.gif")


def test_command(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(picture, "FRAMES", 3)
    file = tmp_path / "race.gif"
    main(["race", "--steps", "5", "optimizer=sgd", "--start=-1,0.5", "on=beale", "--to", str(file)])
    out = capsys.readouterr().out
    assert out.startswith("beale: ")
    assert "5 steps from (-1, 0.5)" in out
    assert file.stat().st_size > 1000


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["on=beel"], "on must be one of rosenbrock, quadratic, beale, .*, got 'beel'"),
        (["optimizer=adm"], "adam"),
        (["--steps", "0"], "--steps: must be a whole number > 0, got 0"),
        (["--start=1"], "--start: must be two numbers x,y, got 1"),
        (["--start=1,inf"], "--start: must be two numbers x,y, got 1,inf"),
        (["trainer=gpu"], "trainer=gpu has no effect on a race"),
    ],
)
def test_mistakes_on_the_command_line(capsys, argv, message):
    with pytest.raises(SystemExit) as end:
        main(["race", *argv])
    out, err = capsys.readouterr()
    assert end.value.code == 2
    assert out == ""
    assert re.search(message, err)
    assert err.count("\n") == 1


def test_help_lists_the_landscapes(capsys):
    with suppress(SystemExit):
        main(["race", "--help"])
    out = capsys.readouterr().out
    for name, landscape in LANDSCAPES.items():
        assert f"{name} " in out
        assert landscape.summary in out
