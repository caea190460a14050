"""Commands that write a lake of made-up images: `synth` and `demo`."""

from __future__ import annotations

from pathlib import Path

from tests.cli.command_line import Command, keys


def test_synth_says_what_it_made(steel_batch: Command, tmp_path: Path) -> None:
    out = tmp_path / "lake"
    done = steel_batch("synth", "--out", out, "--num-images", 2, "--output", "json")
    assert keys(done.json) == {
        "out", "num_images", "num_defective", "num_masks", "bytes", "seconds",
    }  # fmt: skip
    assert done.json["num_images"] == 2
    assert len(list(out.rglob("*.jpg"))) == 2


def test_a_demo_never_deletes_what_is_not_a_demo(steel_batch: Command, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "thesis.tex").write_text("years of work")
    for out in (tmp_path, tmp_path / "thesis.tex"):
        done = steel_batch("demo", "--out", out)
        assert done.code == 2
        assert "name an empty --out" in done.err
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
