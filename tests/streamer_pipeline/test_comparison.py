"""Score cards side by side: what was written is read again, and the command says what it cannot compare."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from streamer_pipeline.cli import app
from streamer_pipeline.evaluation.comparison import compared_rows, measured, read_cards
from streamer_pipeline.evaluation.report import read_json, write_json
from streamer_pipeline.evaluation.rows import ROWS
from streamer_pipeline.evaluation.scorecard import Aim, Row, ScoreCard, percent_row
from streamer_pipeline.evaluation.statistics import Score, rate
from typer.testing import CliRunner

ROWS_OF_ITS_OWN = (
    percent_row("answers.text", "right by its words", low=0.95),
    Row("sight.blank", "with blank video", "%", 1, Aim(by_chance=True)),
)


def card(num_right: int, psnr: float = 33.0) -> ScoreCard:
    agent = {"answers.text": rate([True] * num_right + [False] * (10 - num_right)), "cost.passes": Score(4.0, n=9)}
    agent["sight.blank"] = Score(0.2, 0.1, 0.4, 10)
    scenarios = {"agent": {"color": {"text": rate([True])}}}
    return ScoreCard(
        (*ROWS_OF_ITS_OWN, *ROWS),
        {"agent": agent, "ceiling": {"media.psnr": Score(psnr, n=3)}},
        0.25,
        scenarios,
        [],
        {"seed": 0},
    )


@pytest.fixture
def cards(tmp_path):
    """Score cards of two runs, each in a folder of its own, as `wan-streamer eval --out` writes them."""
    paths = []
    for name, stored in {"mine": card(7, 31.5), "theirs": card(9)}.items():
        (tmp_path / name).mkdir()
        paths.append(tmp_path / name / "score.json")
        write_json(stored, paths[-1])
    return paths


def compare(*arguments: object):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def test_a_card_that_was_written_is_read_again(tmp_path):
    write_json(card(7), tmp_path / "score.json")
    read = read_json(tmp_path / "score.json")
    assert replace(read, rows=()) == replace(card(7), rows=()) and read.measured_rows() == card(7).measured_rows()


def test_cards_stand_side_by_side(tmp_path, cards):
    result = compare(*cards, "--out", tmp_path / "compared")
    assert result.exit_code == 0, result.output
    assert all(word in result.output for word in ("mine", "theirs", "70.0 %", "90.0 %", "31.5 dB"))
    lines = (tmp_path / "compared" / "comparison.md").read_text().splitlines()
    assert lines[0] == "| measure | aim | mine | theirs |"
    assert "| picture through the VAE, PSNR |  | 31.5 dB (n = 3) | 33.0 dB (n = 3) |" in lines
    assert any(
        line.startswith("| with blank video | 25.0 % by chance | 20.0 % (10.0 % to 40.0 %, n = 10)") for line in lines
    )
    with Image.open(tmp_path / "compared" / "comparison.png") as picture:
        assert min(picture.size) > 100


def test_the_agent_comes_before_the_recordings_through_the_vaes(cards):
    mine = read_cards(cards)["mine"]
    values = {row.key: measured(mine, row).value for row in compared_rows({"mine": mine})}
    assert values == {"answers.text": 0.7, "sight.blank": 0.2, "cost.passes": 4.0, "media.psnr": 31.5}


def test_columns_are_named_by_what_differs(tmp_path, cards):
    assert list(read_cards(cards)) == ["mine", "theirs"]
    other = Path(cards[1].rename(tmp_path / "best.json"))
    assert list(read_cards([cards[0], other])) == ["score", "best"]


def test_what_cannot_be_compared_is_said_in_one_line(tmp_path, cards):
    (tmp_path / "other.json").write_text('{"rows": []}')
    for arguments, message in {
        (cards[0],): "at least two score cards; got 1",
        (cards[0], cards[0]): "the same score card is given twice",
        (cards[0], tmp_path / "none.json"): "No such file",
        (cards[0], tmp_path / "other.json"): "other.json is not a score card",
    }.items():
        result = compare(*arguments)
        assert result.exit_code == 1 and message in result.stderr and "Traceback" not in result.output
