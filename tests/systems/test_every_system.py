"""What every registered system must show, whatever it is."""

import json
import shutil

import numpy as np
import pytest
from quick_options import quick

from itemic.data import Query, Ragged
from itemic.data.simulated import planted_groups
from itemic.errors import ConfigError, DataError, ItemicError, LoadError, QueryError
from itemic.evaluation import evaluate
from itemic.model import Model, load
from itemic.registry import entries, find

NAMES = list(entries())
PERSONAL = [name for name in NAMES if name not in ("popularity", "repeatlast")]


@pytest.fixture(scope="module")
def planted():
    return planted_groups(n_users=200, n_items=400, n_groups=4, loyalty=0.7, seed=0)


@pytest.fixture(scope="module")
def fitted(planted):
    train, _ = planted
    return {name: quick(name).fit(train) for name in NAMES}


@pytest.mark.parametrize("name", PERSONAL)
def test_it_finds_the_planted_groups(name, planted, fitted):
    _, test = planted
    popular = evaluate(fitted["popularity"], test, "recall@20")["recall@20"]
    assert evaluate(fitted[name], test, "recall@20")["recall@20"] > 2 * popular


@pytest.mark.parametrize("name", NAMES)
def test_it_never_ranks_a_seen_or_excluded_item_nor_one_twice(name, planted, fitted):
    _, test = planted
    exclude = Ragged.from_lists([[int(row[0])] for row in test.relevant])
    query = Query(user=test.query.user, history=test.query.history, exclude=exclude)
    items = fitted[name].rank(query, 50).items
    for row in range(len(items)):
        listed = items[row][items[row] >= 0]
        assert not set(listed) & {*test.query.history[row], *exclude[row]}
        assert len(set(listed)) == len(listed)


@pytest.mark.parametrize("name", NAMES)
def test_it_answers_a_batch_as_one_by_one(name, planted, fitted):
    _, test = planted
    batch = fitted[name].rank(test.query.take(np.arange(20)), 10)
    for row in range(20):
        alone = fitted[name].rank(test.query.take(np.array([row])), 10)
        np.testing.assert_array_equal(batch.items[row], alone.items[0])
        np.testing.assert_allclose(batch.scores[row], alone.scores[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_it_survives_save_and_load_bit_for_bit(name, planted, fitted, tmp_path):
    _, test = planted
    fitted[name].save(tmp_path / "model")
    again = load(tmp_path / "model")
    before, after = fitted[name].rank(test.query, 20), again.rank(test.query, 20)
    np.testing.assert_array_equal(before.items, after.items)
    np.testing.assert_array_equal(before.scores, after.scores)
    assert again.config == fitted[name].config
    assert again.fitted_on == fitted[name].fitted_on
    assert sorted(path.suffix for path in (tmp_path / "model").iterdir()).count(".safetensors") >= 1


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_is_its_parameters_its_vocabulary_and_its_histories(name, planted, fitted, tmp_path):
    folder = fitted[name].save(tmp_path / "model")
    arrays = sum(a.nbytes for a in (*fitted[name].weights.values(), *fitted[name].tables.values()))
    plain = ("items.parquet", "users.parquet", "histories.parquet", "vocabulary.json")
    tables = sum((folder / f).stat().st_size for f in plain if (folder / f).exists())
    total = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())  # its parts are models themselves
    assert total <= 1.02 * (arrays + tables) + 4096  # system.json and the headers of small files


@pytest.mark.parametrize("name", NAMES)
def test_fitting_twice_gives_the_same_model(name, planted, fitted):
    train, _ = planted
    again = quick(name).fit(train)
    for key, array in fitted[name].weights.items():
        np.testing.assert_array_equal(array, again.weights[key])


@pytest.mark.parametrize("name", NAMES)
def test_scores_of_candidates_are_those_of_the_ranking(name, planted, fitted):
    _, test = planted
    query = test.query.take(np.arange(5))
    ranking = fitted[name].rank(query, 10)
    candidates = Ragged.from_lists(ranking.items.tolist())
    given = Query(user=query.user, history=query.history, candidates=candidates)
    np.testing.assert_allclose(np.stack(list(fitted[name].score(given))), ranking.scores, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(fitted[name].rank(given, 10).items, ranking.items)


@pytest.mark.parametrize("name", NAMES)
def test_shared_candidates_limit_the_ranking(name, planted, fitted):
    _, test = planted
    allowed = np.arange(0, 400, 7, dtype=np.int32)
    query = Query(user=test.query.user, history=test.query.history, candidates=allowed)
    items = fitted[name].rank(query, 60).items
    assert np.isin(items[items >= 0], allowed).all()
    assert (items[:, -1] == -1).all()  # 58 candidates cannot fill 60 places


@pytest.mark.parametrize("name", PERSONAL)
def test_it_answers_a_history_of_somebody_never_seen(name, planted, fitted):
    train, _ = planted
    group_of_item = np.arange(400) % 4
    found = []
    for group in range(4):
        likes = train.interactions.histories()
        typical = next(row for row in likes if (group_of_item[row] == group).mean() > 0.6)
        ranking = fitted[name].rank(Query(history=Ragged.from_lists([typical[:8].tolist()])), 10)
        found.append((group_of_item[ranking.items[0]] == group).mean())
    assert np.mean(found) > 0.5


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_refused_with_the_nearest(name):
    option = next(iter(find(name).Config.model_fields), "k")
    with pytest.raises(ConfigError, match=f"{name} has no option '{option}x'"):
        find(name)(**{option + "x": 1})


@pytest.mark.parametrize("name", NAMES)
def test_it_refuses_to_be_fitted_on_nothing(name, planted):
    train, _ = planted
    with pytest.raises(DataError, match="has no interactions"):
        find(name)().fit(train.catalogue)


def test_a_model_that_is_not_fitted_says_so():
    with pytest.raises(ItemicError, match=r"ease is not fitted. Call fit\(train\) or itemic.load"):
        find("ease")().rank(Query(history=Ragged.from_lists([[0]])), 1)


def test_a_k_beyond_the_catalogue_is_refused(fitted):
    with pytest.raises(QueryError, match="k is 401; the catalogue has 400 items. Ask for 1 to 400."):
        fitted["ease"].rank(Query(history=Ragged.from_lists([[0]])), 401)


def test_a_query_without_what_the_model_answers_names_those_that_do(fitted):
    with pytest.raises(
        QueryError, match="ease answers queries with a history; this one has basket. Use one of: .*popularity"
    ):
        fitted["ease"].rank(Query(basket=Ragged.from_lists([[0]])), 5)


@pytest.fixture
def saved(fitted, tmp_path):
    return fitted["ease"].save(tmp_path / "ease")


def changed(folder, **facts):
    path = folder / "system.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def test_a_flipped_byte_is_found(saved):
    path = saved / "weights.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    with pytest.raises(LoadError, match="ease is damaged: weights.safetensors is not what was saved"):
        load(saved)


def test_a_short_or_missing_file_is_found(saved):
    path = saved / "items.parquet"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(LoadError, match=r"items.parquet has [\d,]+ bytes, not [\d,]+. Restore the folder whole"):
        load(saved)
    path.unlink()
    with pytest.raises(LoadError, match="items.parquet is missing"):
        load(saved)


def test_a_later_version_a_foreign_system_and_a_foreign_folder_are_refused(saved, tmp_path):
    changed(saved, version=99)
    with pytest.raises(LoadError, match="has format version 99; this itemic reads 1. Upgrade itemic."):
        load(saved)
    changed(saved, version=1, system="eaze")
    with pytest.raises(LoadError, match="holds a model this itemic does not have: .*Did you mean 'ease'"):
        load(saved)
    (saved / "system.json").write_text("{")
    with pytest.raises(LoadError, match="damaged: system.json cannot be read"):
        load(saved)
    with pytest.raises(LoadError, match="is not a saved model: there is no such folder"):
        load(tmp_path / "nowhere")


def test_a_failed_save_leaves_the_previous_folder(fitted, saved, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("itemic.model.write_ragged", full)
    with pytest.raises(ItemicError, match="cannot write .*ease: No space left on device. Free the place"):
        fitted["popularity"].save(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == ["ease"]


def test_a_model_saved_without_histories_cannot_look_up_users(fitted, tmp_path):
    fitted["ease"].save(tmp_path / "private", histories=False)
    private = load(tmp_path / "private")
    assert private.histories is None
    with pytest.raises(QueryError, match="saved without histories"):
        private.ask(users=[0])
    shutil.rmtree(tmp_path / "private")


def test_loading_as_another_kind_is_refused(saved):
    class Other(Model):
        pass

    with pytest.raises(LoadError, match="holds ease, which is not a Other"):
        Other.load(saved)
