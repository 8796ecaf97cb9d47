"""Model: what everything that is fitted, saved and loaded has in common; and encoders and tokenizers as interfaces.

A closed form fills in `solve`; a trained model fills in `build`, `batches` and `loss` (or `stages`) and leaves the loop
to the trainer. Where answers need more than the weights, `finish` makes it.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, get_args, get_origin

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int32
from safetensors import SafetensorError
from typing_extensions import TypeVar

from itemic import devices, threads
from itemic.data import Dataset, EvalSet, Interactions, Ragged, Table
from itemic.errors import ConfigError, DataError, ItemicError, LeakError, LoadError
from itemic.files import replacing
from itemic.options import ModelConfig, by_path, configured
from itemic.registry import Entry, find
from itemic.sealed import FORMAT, FORMAT_VERSION, check_seal, read_facts, read_ragged, seal_of, short, write_ragged
from itemic.version import VERSION

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from itemic.training import Stage


C = TypeVar("C", bound=ModelConfig)
M = TypeVar("M", default=None)
"""The type of `module`; None for a closed form."""


class Part:
    """A model that another one is made of, declared in its class by `part`."""

    def __init__(self, system: str, keep: bool, options: Mapping[str, Any]) -> None:
        self.system, self.keep, self.options = system, keep, dict(options)

    def __set_name__(self, owner: type, role: str) -> None:
        self.role, self.kind = role, owner.__annotations__.get(role)

    def __get__(self, model: "Model | None", owner: type) -> Any:
        if model is None:
            return self
        if self.role not in model.parts:
            model.parts[self.role] = find(self.system)(**self.options).to(model.device)
        return model.parts[self.role]

    def made(self, given: Any, owner: str) -> "Model":
        """The part as it was given: a model, the name of one, the folder of a saved one, or options of the default.

        Raises:
            ConfigError: it is none of these, or not of the kind that the model is made for.
        """
        kind: Any = get_origin(self.kind) or self.kind
        named = {Encoder: "encoder", LanguageModel: "encoder", Tokenizer: "tokenizer"}.get(kind, "system")
        if isinstance(given, Mapping):
            given = find(self.system, named)(**{**self.options, **given})
        elif isinstance(given, str | Path):
            given = load(given) if is_model(given) else find(str(given), named)()
        if not isinstance(given, kind if isinstance(kind, type) else Model):
            what = given.entry.name if isinstance(given, Model) else repr(given)
            wanted = getattr(kind, "__name__", "Model")
            one = f"an {wanted}" if wanted[0] in "AEIOU" else f"a {wanted}"
            raise ConfigError(f"{owner}: {self.role} cannot be {what}. Give {one}, its name or its saved folder.")
        return given


def part(system: str, *, keep: bool = True, **options: Any) -> Any:
    """Declares a part in the body of a Model: `behaviour: VectorRecommender = part("bpr", dim=32)`.

    Without another one given, as in `Mine(behaviour=fitted)`, it is the named system with these options. A part that is
    not fitted is fitted first, on the same train part; one that was fitted on another part of the data is refused. It
    is saved inside the model, under `parts/`, unless `keep` is false, as for teachers and warm starts.
    """
    return Part(system, keep, options)


class Model(Generic[C, M]):
    """Config, fitted state and a folder to keep them in.

    After `fit` or `load` a model has `weights` (what was solved or trained), `tables` (what `finish` made of it for
    answering), `vocabulary` (the words and values that it reads, as plain JSON), `catalogue` (item and user tables
    without events) and `histories` (what each known user did, for the doors: no method of a model reads it).
    """

    entry: ClassVar[Entry]
    Config: ClassVar[type[ModelConfig]]
    declared: ClassVar[dict[str, Part]] = {}
    """The parts it is made of, by role."""
    judges_itself: ClassVar[bool] = False
    """Whether it is validated without a validation part, by what it was fitted on: codes are, rankings never."""
    config: C

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.declared = cls.declared | {role: value for role, value in vars(cls).items() if isinstance(value, Part)}
        for base in getattr(cls, "__orig_bases__", ()):
            if isinstance(get_origin(base), type) and issubclass(get_origin(base), Model):
                configs = [a for a in get_args(base) if isinstance(a, type) and issubclass(a, ModelConfig)]
                if configs:
                    cls.Config = configs[0]

    def __init__(self, config: C | None = None, /, **options: Any) -> None:
        """A model that is not fitted yet; options are the fields of its Config, and its parts by their roles.

        Raises:
            ConfigError: an option does not exist or has a value it cannot have.
        """
        given = {role: options.pop(role) for role in self.declared if role in options}
        self.parts = {role: self.declared[role].made(value, self.entry.name) for role, value in given.items()}
        self._given = {role for role, model in self.parts.items() if model.is_fitted}
        if config is not None and options:
            raise TypeError("give a config or options, not both")
        self.config = config if config is not None else self.configured(options)
        self.weights: dict[str, np.ndarray] = {}
        self.tables: dict[str, np.ndarray] = {}
        self.shape: dict[str, Any] = {}
        self.vocabulary: dict[str, Any] = {}
        self.fitted_on: dict[str, Any] = {}
        self._catalogue: Dataset | None = None
        self.histories: Ragged | None = None
        self._module: Any = None
        self.device = devices.usual()
        """Where its network is trained and answers; `to` changes it."""

    @classmethod
    def configured(cls, options: Mapping[str, Any]) -> Any:
        """The Config with these options.

        Raises:
            ConfigError: names the option, its value or its nearest spelling.
        """
        return configured(cls.entry.name, cls.Config, options, cls.declared)

    @property
    def is_fitted(self) -> bool:
        return self._catalogue is not None

    @property
    def catalogue(self) -> Dataset:
        """The items and users the model knows, without events.

        Raises:
            ItemicError: the model is not fitted.
        """
        if self._catalogue is None:
            raise ItemicError(f"{self.entry.name} is not fitted. Call fit(train) or itemic.load(folder) first.")
        return self._catalogue

    @property
    def module(self) -> M:
        """The network of a trained model; after `load` it is built when first asked for."""
        if self._module is None:
            import torch

            self._module = self.build(self.catalogue)
            self._module.load_state_dict({name: torch.from_numpy(array) for name, array in self.weights.items()})
            self._module.to(devices.checked(self.device)).eval()
        return self._module

    def to(self, device: str) -> Self:
        """Moves the model and its parts to a device of torch, such as cpu or cuda: there they are trained and answer.

        Raises:
            ConfigError: torch finds no such device here.
        """
        if device != self.device:
            place = devices.checked(device)
            if self._module is not None:
                self._module.to(place)
            self.device = device
        for model in self.parts.values():
            model.to(device)
        return self

    def tensor(self, array: np.ndarray) -> "Tensor":
        """The array as a tensor where the network lies."""
        import torch

        return torch.from_numpy(array).to(self.device)

    def fit(
        self,
        train: Dataset,
        valid: EvalSet | None = None,
        *,
        folder: str | Path | None = None,
        resume: bool = False,
        watch: Callable[[dict[str, float]], None] | None = None,
        devices: int = 1,
        device: str | None = None,
    ) -> Self:
        """Learns from the interactions of `train`; `valid` is for models that stop early or choose by it.

        A trained model writes its log and checkpoints into `folder` when given one, and goes on from the newest
        checkpoint there with `resume`. `watch` is given the metrics of each validation; what it raises ends the fit.
        With `devices` it is trained by so many processes at once, which share the rows of each batch and end with the
        weights of one; a script then needs its `if __name__ == "__main__":`. `device` is where it is trained and will
        answer, as by `to`.

        Raises:
            ConfigError: there is nothing to resume or to share among devices, or no such device.
            DataError: `train` lacks a table or column that the model needs, or is empty; `valid` has nothing to find.
            TrainingDiverged: a loss term is nan or infinite.
        """
        self._check_needs(train)
        if valid is not None and len(valid.relevant.values) == 0:
            raise DataError(
                f"the validation part of {train.name} has nothing to be found. Raise its share, or fit without."
            )
        threads.count()  # decided before a library is loaded that would take all CPUs
        if device is not None:
            self.to(device)
        if devices > 1 and self.device != "cpu":
            raise ConfigError(f"several processes train on the CPU, not on {self.device}. Leave out devices.")
        start, self.fitted_on = time.perf_counter(), {}
        self.weights, self.tables, self.shape, self.vocabulary, self._module = {}, {}, {}, {}, None
        self._catalogue = train.catalogue
        for role in self.declared:
            self._fit_part(role, train, valid)
        self.survey(train)
        if type(self).build is Model.build:
            if resume:
                raise ConfigError(f"{self.entry.name} is solved in one step: there is nothing to resume.")
            if devices != 1:
                raise ConfigError(f"{self.entry.name} is solved in one step, on one device. Leave out devices.")
            self.weights = self.solve(train)
        else:
            from itemic.training import together

            place = Path(folder) if folder is not None else None
            together(devices, self._train, train, valid, place, resume, watch=watch)
        self.finish()
        self.histories = train.interactions.histories()
        trained, seconds = self.fitted_on, time.perf_counter() - start
        self.fitted_on = facts_of(train)
        self.fitted_on |= {"seconds": round(seconds + trained.pop("seconds_before", 0.0), 3), **trained}
        return self

    def _fit_part(self, role: str, train: Dataset, valid: EvalSet | None) -> None:
        """Fits a part of ours on the train part; checks that one given fitted saw nothing but it."""
        model, name = getattr(self, role), f"{self.entry.name}: its part {role}"
        if model.is_fitted and model.fitted_on["train_fingerprint"] == train.fingerprint:
            return
        if role not in self._given:
            model.fit(train, valid)
            return
        whole = train.origin["fingerprint"] if train.origin else train.fingerprint
        mend = f"Fit it on the same train part, or leave {role} out to have that done."
        if model.fitted_on["fingerprint"] == whole:
            raise LeakError(f"{name} was fitted on another part of {train.name}, so it may know what is tested. {mend}")
        if not model.catalogue.items.ids.array.equals(train.items.ids.array):
            raise DataError(f"{name} knows other items than {train.name} has. {mend}")

    def _train(
        self,
        train: Dataset,
        valid: EvalSet | None,
        folder: Path | None,
        resume: bool,
        watch: Callable[[dict[str, float]], None] | None = None,
    ) -> None:
        import torch

        from itemic.training import Hooks, Trainer

        if resume and folder is None:
            raise ConfigError(
                f"{self.entry.name}: to resume, give the folder of the run: fit(..., folder=, resume=True)."
            )
        threads.apply()
        place = devices.checked(self.device)
        seed = int(getattr(self.config, "seed", 0))

        def validate() -> dict[str, float]:
            self._take_weights()
            metrics = self.validate(valid)
            if watch is not None:
                watch(metrics)
            return metrics

        about = {"version of itemic": VERSION, "system": self.entry.name, "dataset": train.fingerprint}
        about |= {f"part {role}": model.fitted_on["train_fingerprint"] for role, model in self.parts.items()}
        about |= {
            "validation part": valid.label if valid is not None else None,
            **by_path(self.config.model_dump(mode="json")),
        }
        hooks = Hooks(self.on_epoch, self.on_step, validate if valid is not None or self.judges_itself else None)
        with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
            torch.manual_seed(seed)
            self._module = self.build(self.catalogue)
            self.prepare(train)
            self._module.to(place)
            trainer = Trainer(self._module, self.stages(train), hooks, seed=seed, folder=folder, about=about)
            at = trainer.fit(resume)
        self._module.eval()
        self._take_weights()
        curve = [line for line in at.history if any("@" in name for name in line)]
        self.fitted_on = {"epochs": at.epochs_run, "best_epoch": at.best_epoch, "curve": curve}
        self.fitted_on["seconds_before"] = trainer.seconds_before

    def _take_weights(self) -> None:
        """Makes `weights` the arrays of the module; on a CPU they share its memory."""
        self.weights = {name: value.numpy(force=True) for name, value in self._module.state_dict().items()}

    def survey(self, train: Dataset) -> None:
        """Puts into `shape` and `vocabulary` what `build` must know of the data: both are kept in the saved folder."""

    def build(self, catalogue: Dataset) -> M:
        """The network of a trained model, from sizes only: `load` calls it too, and sees no events."""
        raise TypeError(f"{type(self).__name__} defines no network")

    def prepare(self, train: Dataset) -> None:
        """Frozen state from the data, kept in buffers of the module: graphs, statistics, codes."""

    def stages(self, train: Dataset) -> "list[Stage]":
        """The training as a list of stages: one of `batches` and `loss` by default."""
        from itemic.training import Stage

        config: Any = self.config
        return [Stage(self.entry.name, config.training, lambda rng: self.batches(train, rng), self.loss)]

    def batches(self, train: Dataset, rng: "Generator") -> Iterable[Any]:
        """The batches of one epoch; every random draw comes from `rng`."""
        raise TypeError(f"{type(self).__name__} defines no batches")

    def loss(self, batch: Any) -> "dict[str, Tensor]":
        """The named terms whose sum is minimised."""
        raise TypeError(f"{type(self).__name__} defines no loss")

    def on_epoch(self, epoch: int) -> None:
        """Called before each epoch; may change parameters and buffers, nothing else."""

    def on_step(self, step: int) -> None:
        """Called after each step; may change parameters and buffers, nothing else."""

    def validate(self, valid: EvalSet | None) -> dict[str, float]:
        """Metrics of the model as it stands, by name; `valid` is None only for one that `judges_itself`."""
        raise TypeError(f"{type(self).__name__} defines no validation")

    def solve(self, train: Dataset) -> dict[str, np.ndarray]:
        """The fitted arrays by name, for a model with a closed form; they are saved and loaded as `weights`."""
        raise TypeError(f"{type(self).__name__} defines no way to be fitted")

    def finish(self) -> None:
        """Makes `tables`: what answering needs beyond the weights; run after fitting and before each validation."""

    def _check_needs(self, train: Dataset) -> None:
        name = self.entry.name
        if len(train.interactions) == 0 and self.entry.kind == "system":
            raise DataError(f"{name} cannot be fitted: {train.name} has no interactions in its train part.")
        for need in self.entry.needs:
            table, _, column = need.partition(".")
            there = train.interactions.columns if table == "interactions" else None
            if table in ("items", "users"):
                owner = train.items if table == "items" else train.users
                there = [*owner.names, *owner.roles]
            elif table != "interactions":
                there, column = train.extras, table
            if column and there is not None and column not in there:
                listed = ", ".join(there) or "none"
                raise DataError(f"{name} needs {need}; {train.name} has only: {listed}. Import it with the data.")

    def moved(self, data: Dataset) -> Self:
        """This model over other data, with the same weights, sizes and parts; what it answers with is still to be made.

        It is what `adopt` begins with, in models that keep nothing of a single item or user.
        """
        other: Any = type(self)(self.config, **{role: getattr(self, role).adopt(data) for role in self.declared})
        other.device = self.device
        other._catalogue, other.weights, other.shape = data.catalogue, self.weights, dict(self.shape)
        other.histories, other.fitted_on = data.interactions.histories(), facts_of(data)
        return other

    # Saving and loading -----------------------------------------------------------------------------------------

    def save(self, folder: str | Path, *, histories: bool = True) -> Path:
        """Writes all that is needed to answer a Query into a folder, replacing it in one step.

        Without `histories` the folder says nothing about single users, and a query by user id must bring its history.

        Raises:
            SaveError: the folder cannot be written; what was there before is unchanged.
        """
        from safetensors.numpy import save_file

        folder, catalogue = Path(folder), self.catalogue
        with replacing(folder) as new:
            for name, arrays in (("weights", self.weights), ("tables", self.tables)):
                if arrays:
                    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, new / f"{name}.safetensors")
            if self.vocabulary:
                (new / "vocabulary.json").write_text(json.dumps(self.vocabulary, ensure_ascii=False) + "\n")
            short(catalogue.items).write(new / "items.parquet")
            short(catalogue.users).write(new / "users.parquet")
            if histories and self.histories is not None:
                write_ragged(self.histories, new / "histories.parquet")
            kept = [role for role, declared in self.declared.items() if declared.keep]
            for role in kept:
                getattr(self, role).save(new / "parts" / role, histories=False)
            facts = {
                "format": FORMAT,
                "version": FORMAT_VERSION,
                "itemic": VERSION,
                "system": self.entry.name,
                "config": self.config.model_dump(mode="json", by_alias=True),
                "shape": self.shape,
                "fitted_on": self.fitted_on,
                "catalogue": {
                    "name": catalogue.name,
                    "repeats": catalogue.repeats,
                    "items": {"rows": catalogue.n_items, "roles": dict(catalogue.items.roles)},
                    "users": {"rows": catalogue.n_users, "roles": dict(catalogue.users.roles)},
                },
                "parts": {role: getattr(self, role).entry.name for role in kept},
                "files": {str(p.relative_to(new)): seal_of(p) for p in sorted(new.rglob("*")) if p.is_file()},
            }
            (new / "system.json").write_text(json.dumps(facts, indent=1) + "\n")
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The model saved in a folder; only data are read, no code of the folder is run.

        Raises:
            LoadError: the folder is missing, damaged, of another version, or holds another kind of model.
        """
        folder = Path(folder)
        facts = read_facts(folder)
        try:
            known = find(facts["system"])
        except ConfigError as error:
            raise LoadError(f"{folder} holds a model this itemic does not have: {error}") from None
        if not issubclass(known, cls):
            raise LoadError(f"{folder} holds {facts['system']}, which is not a {cls.__name__}.")
        for name, seal in facts["files"].items():
            check_seal(folder / name, seal)
        try:
            model = known(known.configured(facts["config"]))
            model._read(folder, facts)
        except LoadError:
            raise
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException, SafetensorError, ItemicError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise LoadError(f"{folder} is damaged: {reason}. Restore the folder whole or fit again.") from error
        return model

    def _read(self, folder: Path, facts: Mapping[str, Any]) -> None:
        from safetensors.numpy import load_file

        for name in ("weights", "tables"):
            path = folder / f"{name}.safetensors"
            setattr(self, name, load_file(path) if path.exists() else {})
        path = folder / "vocabulary.json"
        self.vocabulary = json.loads(path.read_text()) if path.exists() else {}
        self.parts = {role: Model.load(folder / "parts" / role) for role in facts.get("parts", {})}
        self.shape, self.fitted_on = facts["shape"], facts["fitted_on"]
        about = facts["catalogue"]
        items, users = (
            Table.read(folder / f"{what}s.parquet", what, about[f"{what}s"]["roles"]) for what in ("item", "user")
        )
        for what, table in (("items", items), ("users", users)):
            if len(table) != about[what]["rows"]:
                raise ValueError(f"{what}.parquet has {len(table):,} rows, system.json {about[what]['rows']:,}.")
        nothing = Interactions.none(len(users), len(items))
        self._catalogue = Dataset(items, users, nothing, name=about["name"], repeats=about["repeats"])
        path = folder / "histories.parquet"
        self.histories = read_ragged(path) if path.exists() else None


class Encoder(Model[C, M]):
    """Content to vectors. What it was fitted on gives it sizes and names of columns; it knows no events."""

    @property
    def dim(self) -> int:
        """The width of its vectors."""
        raise TypeError(f"{type(self).__name__} has no width")

    def adopt(self, train: Dataset) -> Self:
        """What gives vectors of the same kind to the items of other data: this one, unless their columns matter."""
        return self

    def encode(self, content: Table) -> Float32[np.ndarray, "rows dim"]:
        """A vector for each row of a table of items; nan where a row has nothing that is read, never zeros.

        Raises:
            DataError: a column that it reads is missing.
        """
        raise TypeError(f"{type(self).__name__} encodes nothing")


class LanguageModel(Encoder[C, M]):
    """Text to states, log-probabilities and new text. What cuts text into pieces is its vocabulary."""

    def states(self, texts: Sequence[str]) -> Ragged:
        """The state of each piece of each text, float32 [pieces, dim], that of the mark of its beginning first.

        Raises:
            QueryError: a text is longer than the model reads.
        """
        raise TypeError(f"{type(self).__name__} has no states")

    def log_probs(self, texts: Sequence[str], given: Sequence[str] | None = None) -> Ragged:
        """The logarithm of the chance of each piece of each text after those before it, and last that of its end.

        With `given` each text is what goes on after another one, of which nothing is counted.

        Raises:
            QueryError: a text is longer than the model reads.
        """
        raise TypeError(f"{type(self).__name__} has no chances")

    def generate(self, prompts: Sequence[str], n_tokens: int = 64) -> list[str]:
        """What goes on after each prompt, up to so many pieces or the end.

        Raises:
            QueryError: a prompt leaves no room for so many.
        """
        raise TypeError(f"{type(self).__name__} writes nothing")

    def export(self, folder: str | Path) -> Path:
        """Writes it as other libraries open it, into a folder.

        Raises:
            SaveError: the folder cannot be written.
        """
        raise TypeError(f"{type(self).__name__} has no form that others open")


class Tokenizer(Model[C, M]):
    """Vectors to codes: fitted on the vectors of its part `vectors`, it gives each item of the catalogue its codes.

    `codes` are told apart where they can be; `encode` gives those that are nearest, whoever else has them.
    """

    vectors: Encoder

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many codes there are at each level, those that tell items apart among them."""
        raise TypeError(f"{type(self).__name__} has no sizes")

    @property
    def codes(self) -> Int32[np.ndarray, "items levels"]:
        """The codes of each item; -1 for one without a vector."""
        return self.tables["codes"]

    def encode(self, vectors: Float32[np.ndarray, "rows dim"]) -> Int32[np.ndarray, "rows coded"]:
        """The nearest codes of each vector, without what tells items apart; -1 where the vector is nan."""
        raise TypeError(f"{type(self).__name__} encodes nothing")

    def add_items(self, items: Table) -> Self:
        """Gives new items codes; those of all others stay as they are.

        Raises:
            DataError: an id is known already, or a column is missing.
        """
        raise TypeError(f"{type(self).__name__} takes no new items")

    def adopt(self, train: Dataset) -> Self:
        """A tokenizer of the items of other data, with codes that mean the same; nothing is learned.

        Raises:
            DataError: there is nothing that the part `vectors` reads.
        """
        raise TypeError(f"{type(self).__name__} takes no other items")


def facts_of(train: Dataset) -> dict[str, Any]:
    """What `fitted_on` says of the data: by it a model is known to have seen nothing that it is tested on."""
    whole = train.origin or {"name": train.name, "fingerprint": train.fingerprint, "split": None, "part": "all"}
    return {**whole, "train_fingerprint": train.fingerprint, "interactions": len(train.interactions)}


def load(folder: str | Path) -> Any:
    """The model saved in a folder, of whatever kind it is.

    Raises:
        LoadError: the folder is missing, damaged, of another version, or of a system this package does not have.
    """
    return Model.load(folder)


def is_model(folder: str | Path) -> bool:
    """Whether a folder looks like a saved model."""
    return (Path(folder) / "system.json").is_file()
