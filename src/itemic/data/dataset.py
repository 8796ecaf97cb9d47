"""A catalogue and what happened in it, in memory and as a folder.

On disk: `manifest.json`, `items.parquet`, `users.parquet`, and one `.npy` file a column under `interactions/`, so that
opening a dataset maps files instead of reading them. A saved split is one more `.npy` file and a line of the manifest.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8

from itemic.data.dialogues import Dialogues
from itemic.data.interactions import COLUMNS, Interactions
from itemic.data.query import EvalSet, Query
from itemic.data.ragged import Ragged
from itemic.data.table import Table
from itemic.errors import DataError, did_you_mean, some
from itemic.files import replacing, write_text
from itemic.version import VERSION

FORMAT, FORMAT_VERSION = "itemic-dataset", 1
TRAIN, VALID, TEST, VALID_HISTORY, TEST_HISTORY, UNUSED = 0, 1, 2, 3, 4, 255
DECLARED = ("baskets", "dialogues", "queries", "judgements", "links", "regions")
"""Tables that a manifest may hold beside items, users and interactions; what nothing reads yet is kept as it is."""


@dataclass(frozen=True)
class Split:
    """Which part each interaction belongs to, and how that was decided."""

    part: UInt8[np.ndarray, " rows"]
    """TRAIN, VALID, TEST; VALID_HISTORY and TEST_HISTORY are known about a held-out user but not trained on; UNUSED."""
    how: Mapping[str, Any]
    """by, test, valid, seed, ...: enough to make the same split again."""

    @property
    def label(self) -> str:
        """How tables name it: 'time, test 10 %, valid 10 %'."""
        shares = [f"{name} {self.how[name]:.0%}".replace("%", " %") for name in ("test", "valid") if self.how.get(name)]
        seed = [f"seed {self.how['seed']}"] if self.how.get("seed") is not None else []
        return ", ".join([str(self.how["by"]), *shares, *seed])

    @property
    def mask_valid(self) -> bool:
        """Whether the validation part is history (masked) at test: it is where it came before the test part."""
        return bool(self.how.get("mask_valid", self.how["by"] in ("time", "last", "cold")))


@dataclass(frozen=True)
class Dataset:
    """Items, users and interactions in integer codes; external ids live in `items.ids` and `users.ids`.

    >>> data = Dataset.from_frame({"user": ["u", "u", "v"], "item": ["a", "b", "b"]})
    >>> data.n_users, data.n_items, data.interactions.histories().to_lists()
    (2, 2, [[0, 1], [1]])
    """

    items: Table
    users: Table
    interactions: Interactions
    name: str = "data"
    split: Split | None = None
    official: UInt8[np.ndarray, " rows"] | None = None
    """The split that came with the data, kept when another one is chosen."""
    repeats: bool = False
    """Whether taking the same item again counts as a new wish; then seen items are not masked."""
    ordered: bool = False
    """Whether rows without a time stand in the order in which they happened."""
    extras: Mapping[str, pa.Table] = field(default_factory=dict)
    """Declared tables by name, as they are kept on disk; `dialogues` reads the one of that name."""
    features: Mapping[str, "np.ndarray | Path"] = field(default_factory=dict)
    """Vectors of all items by name, as arrays or `.npy` files; `feature` opens one."""
    unknown: Mapping[str, Any] = field(default_factory=dict)
    """Parts of the manifest that this version does not know, kept when the dataset is written again."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """For a part of a dataset: name and fingerprint of the whole, the split, and which part this is."""
    path: Path | None = None

    @property
    def n_users(self) -> int:
        return len(self.users)

    @property
    def n_items(self) -> int:
        return len(self.items)

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        items: Any = None,
        users: Any = None,
        columns: Mapping[str, str] | None = None,
        test: Any = None,
        name: str = "data",
        repeats: bool = False,
    ) -> "Dataset":
        """The dataset of a table of interactions: a Polars, pandas or Arrow table, or a dict of columns.

        Columns are recognised by common names (user_id, movieId, timestamp, ...) unless `columns` names them, as in
        `columns={"user": "customer", "item": "sku"}`. `items` and `users` are tables with an id column and anything
        else; `test` is a second table of interactions to be held out.

        Raises:
            DataError: a column is missing or holds what it cannot; the message names row and column.
        """
        from itemic.data.importing import from_frame

        return from_frame(frame, items=items, users=users, columns=columns, test=test, name=name, repeats=repeats)

    @classmethod
    def from_dialogues(cls, frame: Any, *, items: Any = None, name: str = "data", repeats: bool = True) -> "Dataset":
        """The dataset of a table of turns: a Polars, pandas or Arrow table, or a dict of columns, a row a turn.

        Columns: `dialogue`; `role`, user or recommender; `text`; `items`, a list of the items that the turn names.
        There may be `starts` and `ends`, where in the text each stands; `liked` (1, 0, missing) and `recommended`, by
        default what a recommender names; `user`, by default each dialogue is one; `part`: train, valid or test.

        What is named becomes interactions of the user, but for what was not liked, so any system can be fitted. With
        `repeats` an item that was named may be recommended still.

        >>> turns = {"dialogue": [1, 1], "role": ["user", "recommender"], "text": ["Heat was good.", "See Ronin."]}
        >>> data = Dataset.from_dialogues({**turns, "items": [["heat"], ["ronin"]]})
        >>> data.interactions.histories().to_lists(), data.dialogues.cases().relevant.to_lists()
        ([[0, 1]], [[1]])

        Raises:
            DataError: a column is missing or holds what it cannot; the message names row and value.
        """
        from itemic.data.importing import from_dialogues

        return from_dialogues(frame, items=items, name=name, repeats=repeats)

    @classmethod
    def together(cls, sets: "Sequence[Dataset]", name: str | None = None) -> "Dataset":
        """Several datasets as one, with the users and items of all of them, none of them the same.

        Ids begin with the name of their dataset, which stands in the column `source` too; a table has the columns that
        any of them has, null where one lacks it, and rows have those that all have. Dialogues are those of all. Feature
        matrices and splits are not kept: split the whole, or put train parts together.

        >>> cups = {"item": [7, 8], "title": ["x", "y"]}
        >>> a = Dataset.from_frame({"user": [1, 1], "item": [7, 8]}, items=cups, name="a")
        >>> b = Dataset.from_frame({"user": [1], "item": [7]}, name="b")
        >>> both = Dataset.together([a, b])
        >>> both.items.ids.array.to_pylist(), both.items.column("title").to_pylist()
        (['a/7', 'a/8', 'b/7'], ['x', 'y', None])
        >>> both.interactions.histories().to_lists()
        [[0, 1], [2]]

        Raises:
            DataError: two have the same name, or a column holds other things in one than in another.
        """
        from itemic.data.together import together

        return together(sets, name)

    @classmethod
    def open(cls, folder: str | Path) -> "Dataset":
        """The dataset saved in a folder; interactions stay on disk and are mapped into memory.

        Raises:
            DataError: there is no dataset, or a file of it is missing or damaged.
        """
        folder = Path(folder)
        manifest = _manifest(folder)
        tables = manifest["tables"]
        log = tables["interactions"]
        try:
            items, users = (
                Table.read(folder / f"{what}s.parquet", what, tables[f"{what}s"].get("roles"))
                for what in ("item", "user")
            )
            columns = {name: _mapped(folder / "interactions" / f"{name}.npy") for name in log["columns"]}
            event_file = folder / "interactions" / "event_id.parquet"
            event_id = pq.read_table(event_file).column("event_id").combine_chunks() if event_file.exists() else None
            interactions = Interactions(
                **columns, n_users=len(users), n_items=len(items), kinds=tuple(log.get("kinds", ())), event_id=event_id
            )
            if any(len(column) != log["rows"] for column in columns.values()):
                raise ValueError(f"a column has not the {log['rows']:,} rows of the manifest")
            for what, n in (("user", len(users)), ("item", len(items))):
                codes = columns[what]
                if len(codes) and not (codes.min() >= 0 and codes.max() < n):
                    raise ValueError(f"interactions/{what}.npy holds codes that are not those of its {n:,} {what}s")
            split, official = manifest.get("split"), manifest.get("official")
            extras = {name: pq.read_table(folder / f"{name}.parquet") for name in DECLARED if name in tables}
            opened = cls(
                items,
                users,
                interactions,
                name=manifest["name"],
                split=Split(_mapped(folder / split["file"]), split["how"]) if split else None,
                official=_mapped(folder / official["file"]) if official else None,
                repeats=manifest.get("repeats", False),
                ordered=manifest.get("ordered", False),
                extras=extras,
                features={path.stem: path for path in sorted((folder / "features").glob("*.npy"))},
                unknown=_unknown(manifest),
                path=folder,
            )
            if "dialogues" in extras:
                _ = opened.dialogues  # read now, so that what is wrong with them is told at once
            return opened
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise DataError(f"{folder} is damaged: {reason}. Import the data again or restore the folder.") from error

    def save(self, folder: str | Path) -> "Dataset":
        """Writes the dataset as a folder, replacing what was there in one step, and returns it opened from there.

        Raises:
            SaveError: the folder cannot be written; what was there before is unchanged.
        """
        folder = Path(folder)
        with replacing(folder) as new:
            self._keep_unknown_files(folder, new)
            self.items.write(new / "items.parquet")
            self.users.write(new / "users.parquet")
            (new / "interactions").mkdir(exist_ok=True)
            for name, column in self.interactions.columns.items():
                np.save(new / "interactions" / f"{name}.npy", column)
            if self.interactions.event_id is not None:
                pq.write_table(
                    pa.table({"event_id": self.interactions.event_id}), new / "interactions/event_id.parquet"
                )
            for name, table in self.extras.items():
                pq.write_table(table, new / f"{name}.parquet", compression="zstd")
            for name, matrix in self.features.items():
                (new / "features").mkdir(exist_ok=True)
                path = new / "features" / f"{name}.npy"
                shutil.copy2(matrix, path) if isinstance(matrix, Path) else np.save(path, matrix)
            if self.split is not None:
                np.save(new / "split.npy", self.split.part)
            if self.official is not None:
                np.save(new / "official.npy", self.official)
            (new / "manifest.json").write_text(json.dumps(self._manifest(), indent=1) + "\n")
        return Dataset.open(folder)

    def save_split(self) -> None:
        """Writes only the split of a dataset that lives in a folder; the manifest is replaced last, in one step."""
        assert self.path is not None
        assert self.split is not None
        digest = hashlib.blake2b(self.split.part.tobytes(), digest_size=4).hexdigest()
        file = f"split-{digest}.npy"
        with replacing(self.path / "split.partial") as new:
            np.save(new / file, self.split.part)
            (new / file).replace(self.path / file)
        shutil.rmtree(self.path / "split.partial")
        write_text(self.path / "manifest.json", json.dumps(self._manifest(file), indent=1) + "\n")
        for old in self.path.glob("split*.npy"):
            if old.name != file:
                old.unlink()

    def _manifest(self, split_file: str = "split.npy") -> dict[str, Any]:
        log = self.interactions
        columns = [name for name in COLUMNS if name in log.columns]
        tables: dict[str, Any] = {
            "items": {"rows": self.n_items, "columns": self.items.names, "roles": dict(self.items.roles)},
            "users": {"rows": self.n_users, "columns": self.users.names, "roles": dict(self.users.roles)},
            "interactions": {"rows": len(log), "columns": columns, "kinds": list(log.kinds), "time": "ms since 1970"},
        }
        tables |= {name: {"rows": table.num_rows, "columns": table.column_names} for name, table in self.extras.items()}
        known = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "itemic": VERSION,
            "name": self.name,
            "repeats": self.repeats,
            "ordered": self.ordered,
            "tables": tables,
            "split": {"file": split_file, "how": dict(self.split.how)} if self.split else None,
            "official": {"file": "official.npy"} if self.official is not None else None,
        }
        unknown = dict(self.unknown)
        known["tables"] |= unknown.pop("tables", {})
        return known | unknown

    def _keep_unknown_files(self, old: Path, new: Path) -> None:
        """Copies files that a newer version or another tool put into the folder, such as features."""
        if not (old / "manifest.json").exists() or self.path is None or old.resolve() != self.path.resolve():
            return
        ours = {"items.parquet", "users.parquet", "interactions", "manifest.json", "official.npy", "cache"}
        ours |= {f"{name}.parquet" for name in DECLARED} | {path.name for path in old.glob("split*.npy")}
        for path in old.iterdir():
            if path.name not in ours:
                (shutil.copytree if path.is_dir() else shutil.copy2)(path, new / path.name)

    @property
    def catalogue(self) -> "Dataset":
        """The item and user tables without events: what a model is built from and keeps."""
        nothing = Interactions.none(self.n_users, self.n_items)
        return replace(self, interactions=nothing, split=None, official=None, extras={}, features={}, path=None)

    def with_features(self, name: str, matrix: Any, ids: Any = None) -> "Dataset":
        """The same with a vector for each item under a name: rows in the order of the items, or of these `ids`.

        A row that is nan, or of an item that `ids` leave out, is no vector. The folder has it after `save`.

        >>> data = Dataset.from_frame({"user": ["u", "u"], "item": ["a", "b"]})
        >>> data.with_features("clip", [[1, 2]], ids=["b"]).feature("clip").tolist()
        [[nan, nan], [1.0, 2.0]]

        Raises:
            DataError: it is no matrix of numbers, has too many or few rows, or rows of items that are not there.
        """
        matrix = np.asarray(matrix)
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise DataError(f"'{name}' cannot name a feature matrix. Use letters, digits, '-', '_' and '.'.")
        if ids is not None:
            codes = self.items.ids.codes(ids)
            unknown = np.flatnonzero(codes < 0)
            if len(unknown):
                shown = some(list(ids)[n] for n in unknown)
                raise DataError(
                    f"{len(unknown):,} of {len(codes):,} rows of feature matrix '{name}' are of items that {self.name} "
                    f"does not have: {shown}. Leave them out."
                )
            _check_matrix(matrix, name, len(codes), "ids")
            whole = np.full((self.n_items, matrix.shape[1]), np.nan, np.float32)
            whole[codes] = matrix
            matrix = whole
        _check_matrix(matrix, name, self.n_items, f"items of {self.name}")
        return replace(self, features={**self.features, name: matrix})

    def feature(self, name: str) -> np.ndarray:
        """The feature matrix of this name, a row an item; a file is mapped, not read.

        Raises:
            DataError: there is none, or it is damaged or of other items.
        """
        if name not in self.features:
            listed = ", ".join(self.features) or "none"
            place = self.path / "features" if self.path is not None else "its folder features"
            raise DataError(
                f"{self.name} has no feature matrix '{name}'.{did_you_mean(name, self.features)} Matrices: {listed}. "
                f"Write one to {place} as {name}.npy, a row an item."
            )
        found = self.features[name]
        try:
            matrix = _mapped(found) if isinstance(found, Path) else found
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise DataError(f"feature matrix '{name}' of {self.name} is damaged: {reason}. Make it again.") from error
        _check_matrix(matrix, name, self.n_items, f"items of {self.name}")
        return matrix

    @cached_property
    def dialogues(self) -> Dialogues:
        """What people said to a recommender and what it answered.

        Raises:
            DataError: there are no dialogues.
        """
        from itemic.data.turns import from_table

        if "dialogues" not in self.extras:
            raise DataError(
                f"{self.name} has no dialogues. Import some: itemic data import FOLDER. A part of a split has them if "
                "it was split by dialogues."
            )
        return from_table(self.extras["dialogues"], self.n_users, self.n_items)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of ids, interactions and dialogues: equal for equal data in the same order, on any machine."""
        sha = hashlib.blake2b(digest_size=16)
        sha.update((self.items.ids.digest() + self.users.ids.digest()).encode())
        for name in ("user", "item", "time", "rating", "weight"):
            column = self.interactions.columns.get(name)
            if column is None:
                sha.update(name.encode())
                continue
            for start in range(0, len(column), 1 << 22):
                sha.update(np.ascontiguousarray(column[start : start + (1 << 22)]).data)
        if "dialogues" in self.extras:
            sha.update(self.dialogues.digest().encode())
        return sha.hexdigest()

    def part(self, *parts: int) -> "Dataset":
        """The interactions of these parts of the split as a dataset of their own, with the same users and items.

        A split by dialogues keeps what was said up to the first turn of another part; of other splits none is kept,
        as dialogues tell what was held out.
        """
        if self.split is None:
            return self
        named = {TRAIN: "train", VALID: "valid", TEST: "test"}
        origin = {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "split": dict(self.split.how),
            "part": "+".join(named[p] for p in parts),
        }
        kept = self.interactions.select(np.isin(self.split.part, parts))
        extras = {}
        if self.split.how["by"] == "dialogues":
            from itemic.data.splits import divided
            from itemic.data.turns import to_table

            extras["dialogues"] = to_table(divided(self).until_held_out(*parts))
        return replace(self, interactions=kept, split=None, official=None, extras=extras, origin=origin)

    @cached_property
    def train(self) -> "Dataset":
        """What a model may be fitted on: the train part of the split, or everything where there is no split."""
        return self.part(TRAIN)

    @cached_property
    def valid(self) -> EvalSet:
        """The validation part as requests: the history is the train part."""
        return self._eval_set(VALID, [TRAIN, VALID_HISTORY])

    @cached_property
    def test(self) -> EvalSet:
        """The test part as requests: the history is the train part, and the validation part where that came before."""
        known = [TRAIN, TEST_HISTORY]
        return self._eval_set(TEST, [*known, VALID] if self.split and self.split.mask_valid else known)

    def _eval_set(self, target: int, known: list[int]) -> EvalSet:
        if self.split is None:
            raise DataError(f"{self.name} has no split. Make one: itemic data split {self.path or 'DIR'}")
        log, part = self.interactions, self.split.part
        unseen = np.bincount(log.item[part == TRAIN], minlength=self.n_items) == 0
        if self.split.how["by"] == "dialogues":
            from itemic.data.splits import divided

            return replace(divided(self).cases(target, self.repeats), label=self.split.label, unseen=unseen)
        wanted = log.select(part == target)
        user, item = wanted.distinct_pairs()
        asking = np.unique(user)
        relevant = Ragged.from_pairs(np.searchsorted(asking, user), item, len(asking))
        query = self.query_of(asking, known)
        trained = np.bincount(log.user[part == TRAIN], minlength=self.n_users)[asking] > 0
        query = replace(query, user=np.where(trained, asking, -1).astype(np.int32))
        skipped = self.n_users - len(asking)
        return EvalSet(query, relevant, n_skipped=skipped, label=self.split.label, users=asking, unseen=unseen)

    def query_of(self, users: np.ndarray, parts: list[int] | None = None) -> Query:
        """A request for each of these user codes, with what they did (in these parts of the split) as history."""
        log = self.interactions
        if parts is not None and self.split is not None:
            log = log.select(np.isin(self.split.part, parts))
        histories = log.histories()
        where = histories.positions(users)
        aligned: dict[str, Any] = {
            f"history_{name}": log.columns[name][where] for name in ("time", "kind", "weight") if name in log.columns
        }
        return Query(user=np.asarray(users, np.int32), history=histories.take(users), repeats=self.repeats, **aligned)


KNOWN_KEYS = {"format", "version", "itemic", "name", "repeats", "ordered", "tables", "split", "official"}


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.exists():
        reason = "it holds no manifest.json" if folder.is_dir() else "there is no such folder"
        raise DataError(f"{folder} is not a dataset: {reason}. Make one: itemic data import FILE --out {folder}")
    try:
        manifest = json.loads(path.read_text())
        fmt, version = manifest["format"], manifest["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read as a manifest: {error}. Import the data again.") from error
    if fmt != FORMAT:
        raise DataError(f"{path} is of the format {fmt!r}, not {FORMAT!r}. Import its source with itemic data import.")
    if version > FORMAT_VERSION:
        raise DataError(
            f"{folder} has format version {version}; this itemic reads up to {FORMAT_VERSION}. Upgrade itemic."
        )
    return manifest


def _unknown(manifest: dict[str, Any]) -> dict[str, Any]:
    tables = {k: v for k, v in manifest["tables"].items() if k not in {"items", "users", "interactions", *DECLARED}}
    return {k: v for k, v in manifest.items() if k not in KNOWN_KEYS} | ({"tables": tables} if tables else {})


def _check_matrix(matrix: np.ndarray, name: str, n: int, what: str) -> None:
    if matrix.ndim != 2 or not np.issubdtype(matrix.dtype, np.number) or np.iscomplexobj(matrix):
        shape = " x ".join(f"{size:,}" for size in matrix.shape)
        raise DataError(f"feature matrix '{name}' is {shape} of {matrix.dtype}, not a row of numbers an item. Mend it.")
    if len(matrix) != n:
        raise DataError(
            f"feature matrix '{name}' has {len(matrix):,} rows for {n:,} {what}. Make it again, one row for each, or "
            "name the items of its rows: with_features(..., ids=)."
        )


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError):
        raise ValueError(f"{path.name} is cut short or no column of numbers") from None
