"""HOTA, IDF1 and MOTA against TrackEval 1.3.0, the authors' program: `record_trackeval.py` made the file."""

import json
from pathlib import Path

import numpy as np
import pytest

from headway.track.clear import clear_scores, clear_sums
from headway.track.evaluate import evaluate_tracks, score_tracks
from headway.track.hota import hota_scores, hota_sums
from headway.track.identity import identity_scores, identity_sums
from headway.track.pairing import pair_up
from headway.track.tracks import Tracks

GOLDEN = json.loads((Path(__file__).parent / "trackeval" / "videos.json").read_text(encoding="utf-8"))
VIDEOS = GOLDEN["videos"]
CLEAR = {
    "MOTA": "MOTA", "MOTP": "MOTP", "IDSW": "IDSW", "Frag": "Frag", "MT": "MT", "PT": "PT", "ML": "ML", "FP": "CLR_FP",
    "FN": "CLR_FN",
}  # fmt: skip


def tracks_of(rows):
    return Tracks.of_rows((frame, track, x, y, x + w, y + h, 1, 0) for frame, track, x, y, w, h in rows)


def near(values):
    return pytest.approx(np.array(values), abs=1e-6)


@pytest.mark.parametrize("name", VIDEOS)
def test_every_figure_is_trackevals(name):
    video = VIDEOS[name]
    theirs, paired = video["trackeval"], pair_up(tracks_of(video["truth"]), tracks_of(video["found"]))
    for key, values in hota_scores(hota_sums(paired)).items():
        assert values == near(theirs["hota"][key]), key
    for key, value in identity_scores(identity_sums(paired)).items():
        assert value == near(theirs["identity"][key]), key
    for key, value in clear_scores(clear_sums(paired)).items():
        assert value == near(theirs["clear"][CLEAR[key]]), key


def test_all_videos_together_are_trackevals():
    truth, found = ({name: tracks_of(video[key]) for name, video in VIDEOS.items()} for key in ("truth", "found"))
    summary = score_tracks(truth, found, ("object",)).summary
    theirs = GOLDEN["all"]
    for key in ("HOTA", "DetA", "AssA", "DetRe", "DetPr", "AssRe", "AssPr", "LocA"):
        assert summary[key] == near(np.mean(theirs["hota"][key])), key
    for key in ("IDF1", "IDR", "IDP"):
        assert summary[key] == near(theirs["identity"][key]), key
    for key, other in CLEAR.items():
        assert summary[key] == near(theirs["clear"][other]), key


def test_files_give_the_same(tmp_path):
    """Through MOTChallenge's text, which also holds a box that must not count."""
    video = VIDEOS["usual"]
    for key, end in (("truth", ",1,1,1.0"), ("found", ",0.9,-1,-1,-1")):
        lines = [",".join(map(str, row)) + end for row in video[key]]
        extra = ["3,99,10,10,50,50,0,1,0.2"] if key == "truth" else []
        (tmp_path / f"{key}.txt").write_text("\n".join(lines + extra) + "\n")
    summary = evaluate_tracks(tmp_path / "truth.txt", tmp_path / "found.txt").summary
    assert summary["HOTA"] == near(np.mean(video["trackeval"]["hota"]["HOTA"]))
    assert summary["IDF1"] == near(video["trackeval"]["identity"]["IDF1"])
    assert summary["MOTA"] == near(video["trackeval"]["clear"]["MOTA"])


def test_the_videos_hold_what_is_hard():
    clear = {name: video["trackeval"]["clear"] for name, video in VIDEOS.items()}
    assert clear["switching"]["IDSW"] > 5
    assert clear["crowded"]["CLR_FP"] > 30
    assert clear["coarse"]["MOTA"] < 0  # more wrong boxes than right ones
    assert clear["nothing there"]["CLR_TP"] == clear["nothing found"]["CLR_TP"] == 0
