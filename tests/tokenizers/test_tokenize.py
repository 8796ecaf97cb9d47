"""The command itemic tokenize."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from itemic.cli import main
from itemic.model import load


def run(*args, code=0):
    done = CliRunner().invoke(main, ["tokenize", *map(str, args)])
    assert done.exit_code == code, f"{done.stdout}\n{done.stderr}\n{done.exception!r}"
    return done


def cloud(n, dim=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


@pytest.fixture
def data(shop, tmp_path):
    """A function that saves items with these vectors as a dataset."""
    return lambda name, x: shop(x).save(tmp_path / name).path


def test_it_writes_the_tokenizer_its_codes_and_what_they_are_worth(data, tmp_path):
    place, out = data("shop", cloud(60)), tmp_path / "codes"
    options = ("--with", "rqkmeans", "--levels", 2, "--size", 16, "--set", "vectors=test-vectors")
    said = run(place, *options, "--out", out).stdout.splitlines()
    assert said[0].split() == ["level", "codes", "used", "entropy", "largest", "prefixes", "most", "unexplained"]
    assert len(said) == 1 + 3 + 2 + 1
    assert "all codes are unique" in said
    model = load(out)
    assert model.sizes == (16, 16, 16)
    table = pq.read_table(out / "codes.parquet")
    assert table["id"].to_pylist() == [f"i{n}" for n in range(60)]
    assert table["codes"].to_pylist() == model.codes.tolist()
    assert json.loads((out / "diagnostics.json").read_text())["levels"][0]["size"] == 16
    assert "<title>Codes of shop</title>" in (out / "diagnostics.html").read_text()


def test_a_fitted_one_gives_new_items_codes_and_says_how_they_drift(data, tmp_path):
    x, first, second = cloud(80), tmp_path / "first", tmp_path / "second"
    run(data("old", x[:60]), "--size", 16, "--set", "vectors=test-vectors", "--out", first)
    said = json.loads(run(data("new", x), "--with", first, "--out", second, "--json").stdout)
    assert said["drift"]["added"] == 20
    assert (load(second).codes[:60] == load(first).codes).all()
    message = run(data("new", x), "--with", first, "--size", 8, "--out", second, code=1).stderr
    assert message.endswith("first is fitted: size cannot be set. Leave them out, or fit anew.\n")
    message = run(data("old", x[:50]), "--with", first, "--out", second, code=1).stderr
    assert "Give data that hold all items of" in message


def test_the_hints_of_fitting_lead_from_vectors_to_codes_to_a_system(data, tmp_path):
    place, out = data("shop", cloud(60)), tmp_path / "codes"
    run(place, "--with", "rq-kmeans", "--size", 16, "--set", "vectors=test-vectors", "--out", out)
    for name, hint in (
        ("test-vectors", f"itemic tokenize {place} --set vectors="),
        ("rqkmeans", f"itemic tokenize {place} --with "),
    ):
        options = ["--set", "size=16", "--set", "vectors=test-vectors"] if name == "rqkmeans" else []
        done = CliRunner().invoke(main, ["fit", name, str(place), *options, "--out", str(tmp_path / name)])
        assert done.exit_code == 0, done.stderr
        assert hint in done.stdout
    again = run(place, "--size", 16, "--set", f"vectors={tmp_path / 'test-vectors'}", "--out", tmp_path / "more")
    assert "all codes are unique" in again.stdout
    assert (load(tmp_path / "more").codes == load(out).codes).all()


def test_a_tokenizer_that_does_not_exist_is_one_line(data, tmp_path):
    message = run(data("shop", cloud(20)), "--with", "rqkmean", "--out", tmp_path / "codes", code=1).stderr
    assert message == (
        "error: there is no tokenizer 'rqkmean'. Did you mean 'rqkmeans'? "
        "Tokenizers: fsq, hkmeans, pq, rqkmeans, rqvae.\n"
    )
    assert not (tmp_path / "codes").exists()
