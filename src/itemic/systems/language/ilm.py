"""ILM: vectors of who took what, put between the words of a language model that stays as it is.

Choose it when people are to be answered in sentences: it ranks, describes and explains items by their names, knows what
goes together from interactions, and reads a user or an item it has no words for. A small network, the Q-Former, turns
the vectors of its part `behaviour` into a few words of the language model's own space; first it learns beside texts
what these vectors mean (`phase1`), then how to speak of them (`training`). Where lists are all you need, `sasrec` is
better and a thousand times faster; `answer="geometry"` ranks by what phase 1 learned, without the language model.
Paper: Yang et al., arXiv:2406.02844. Published set-ups and numbers: recipes/ilm/.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int32, Int64
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from itemic.data import Dataset, EvalSet, Query, Ragged, Table
from itemic.encoders.fields import settled, written
from itemic.encoders.lm import PretrainedLM
from itemic.encoders.talking import Prompts, Talker
from itemic.encoders.vocabulary import Vocabulary
from itemic.errors import DataError
from itemic.model import part
from itemic.nn.decoding import END, Found, Trie, beam_search
from itemic.nn.products import fast_products
from itemic.nn.splice import norm_ratio
from itemic.nn.text import Texts, side_by_side
from itemic.nn.topk import top_k
from itemic.registry import system
from itemic.systems.base import SystemConfig, VectorRecommender
from itemic.systems.content import added
from itemic.systems.generative.base import CodeRecommender
from itemic.systems.histories import PopularToSilent, cut
from itemic.systems.language.adapters import adapted
from itemic.systems.language.alignment import best_pairs, paired_vectors
from itemic.systems.language.asking import Asked, Asking, titles_of, told_apart, until_end
from itemic.systems.language.facts import Facts
from itemic.systems.language.lessons import ItemRows, Lessons, PairRows
from itemic.systems.language.prompts import TEMPLATES
from itemic.systems.language.qformer import QFormer
from itemic.systems.language.reader import Entities, Network, Reader, TwoLayers, scale_of, scaled
from itemic.training import Stage, TrainingConfig, autocast, shuffled

READ = 4096
"""Items that the Q-Former reads at a time in answering."""
SCORED = 64
"""Candidates scored at a time."""
ASKED = 16
"""Requests answered at a time: the beams of all of them are read at once."""
ABOUT_ITEMS = ("describe", "similar")
"""The tasks that are about an item alone."""
TITLES, GEOMETRY = 2, 1
"""After which phase lists are made: the titles that are said, or how near items are to users."""


class Config(SystemConfig):
    tune: ClassVar = {"training.lr": "1e-4..1e-3:log", "n_queries": "4,8"}

    reader: Literal["qformer", "mlp", "none"] = "qformer"
    """What turns vectors into words of the language model: the Q-Former; two layers, without phase 1, as in CoLLM; or
    nothing, so that users and items are only what is written of them."""
    n_queries: int = Field(8, ge=1)
    """Words that each user or item becomes. Beyond 8 is waste where one vector is all that is known."""
    dim: int = Field(128, ge=2)
    """Width of the Q-Former. BLIP-2: 768; a CPU takes 128."""
    layers: int = Field(4, ge=1)
    """Its blocks. The paper: 8."""
    heads: int = Field(4, ge=1)
    """Averages taken by each of its attentions."""
    every: int = Field(2, ge=1)
    """Queries look at the vectors in each `every`-th block. BLIP-2: 2."""
    pieces: int = Field(1, ge=1)
    """Parts into which a vector is cut, each looked at on its own. With 1 the queries all see the same."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Chance to fall away, for values and weights of attention. BLIP-2: 0.1."""
    aligned: tuple[Literal["text", "items", "users"], ...] = ("text", "users")
    """What phase 1 learns: texts of items, items taken one after the other, users with what they took. None for no
    phase 1."""
    fields: tuple[str, ...] = ()
    """The item columns that phase 1 reads, in this order; none for the first three by role."""
    text_tokens: int = Field(48, ge=2)
    """Words of an item's text that are read in phase 1. BLIP-2: 32."""
    vocabulary: int = Field(4096, ge=10)
    """Pieces of words that phase 1 tells apart, at most."""
    phase1: TrainingConfig = TrainingConfig(
        lr=5e-4,
        weight_decay=0.05,
        batch_size=256,
        epochs=100,
        optimizer="adamw",
        warmup=100,
        eval_every=100,
        clip=1.0,
        precision="bfloat16",
    )
    """How phase 1 is trained; an epoch shows each text once, and as many batches of pairs."""
    lm_trainable: Literal["none", "lora", "all"] = "none"
    """What of the language model is trained in phase 2. The paper: nothing."""
    rank: int = Field(8, ge=1)
    """Under lm_trainable="lora": the rank of what is added to its matrices."""
    tasks: tuple[Literal["next", "next for user", "describe", "similar", "why"], ...] = ("next",)
    """What phase 2 learns to answer, a batch of one task after the other."""
    write: Literal["soft", "text", "both"] = "both"
    """How items stand in prompts: as vectors, by their titles, or both."""
    places: int | None = Field(None, ge=1)
    """The newest places of each history that are learned from; None for all."""
    max_length: int = Field(20, ge=1)
    """The newest items of a history that are told. OpenP5: 20."""
    answer: Literal["titles", "geometry"] = "titles"
    """How lists are made: by the titles that the language model finds most likely, along the tree of all, or by
    how near items and users are after phase 1."""
    unseen: bool = False
    """Whether requests are put in words that training never used."""
    beam: int = Field(20, ge=1)
    """Beginnings of titles that are followed, or as many as items are asked for if that is more."""
    validated: int = Field(500, ge=1)
    """Requests of the validation part, at most, by which training is judged."""
    seed: int = 0
    """Where first weights, the order of examples, dropout and templates come from."""
    training: TrainingConfig = TrainingConfig(
        lr=1e-4,
        batch_size=32,
        epochs=1,
        optimizer="adamw",
        warmup=100,
        clip=1.0,
        metric="ndcg@10",
        precision="bfloat16",
    )
    """How phase 2 is trained."""


class Examples(NamedTuple):
    """A batch of phase 2: a task, one of the ways to ask for it, and users with places in their histories; where the
    task is about an item alone, items in place of users."""

    task: str
    template: int
    row: Int64[Tensor, " batch"]
    place: Int64[Tensor, " batch"]


@system(
    "ilm",
    family="language",
    needs=["interactions", "items"],
    answers=["history"],
    gives=["ranking", "text"],
    cold_items=True,
    paper="arXiv:2406.02844",
)
class ILM(PopularToSilent[Config, Network], CodeRecommender[Config, Network]):
    behaviour: VectorRecommender = part("ials", dim=64)
    lm: PretrainedLM = part("lm")
    _own_talker: Talker | None = None
    _asking: "tuple[np.ndarray, Asking] | None" = None
    """The table of answers, and what was made for it."""

    def survey(self, train: Dataset) -> None:
        config, fields = self.config, settled(self.config.fields, train)
        if not train.items.roles.get("title"):
            raise DataError(f"ilm names items by their titles; {train.name} has none. Name the column when importing.")
        self._texts = written(train.items, fields, "{name}: {text}")
        texts = self._texts.drop_null().to_pylist()
        if not texts:
            raise DataError(
                f"no item of {train.name} has a text in {', '.join(fields)}. Name others: --set fields=[NAME]."
            )
        cutter = Vocabulary.trained(texts, config.vocabulary)
        self.vocabulary = json.loads(cutter.description)
        width = np.asarray(self.behaviour.item_vectors()).shape[1]
        self.shape = {"fields": fields, "words": len(cutter) + 1, "width": width, "lm": self.lm.dim}

    def build(self, catalogue: Dataset) -> Network:
        config, shape, adapters = self.config, self.shape, nn.Module()
        if config.lm_trainable != "none":
            self._own_talker = self.lm.handed_over()  # it is changed: nobody else may speak through it
            adapters = adapted(self._own_talker, config.lm_trainable, config.rank)
        reader = None
        if config.reader == "mlp":
            reader = TwoLayers(shape["width"], config.n_queries, shape["lm"])
        elif config.reader == "qformer":
            sizes = {"layers": config.layers, "heads": config.heads, "n_queries": config.n_queries}
            sizes |= {"entity": config.dim, "every": config.every, "n_places": config.text_tokens}
            qformer = QFormer(shape["words"], config.dim, **sizes, dropout=config.dropout)
            reader = Reader(qformer, Entities(shape["width"], config.pieces, config.dim), shape["lm"])
        return Network(reader, adapters, shape["width"])

    def prepare(self, train: Dataset) -> None:
        super().prepare(train)
        log, config, module = train.interactions, self.config, self.module
        self._histories = log.histories()
        answers, titles = titles_of(train.items, self.lm)
        vectors = np.asarray(self.behaviour.item_vectors(), np.float32)
        has = np.isfinite(vectors.sum(1)) & (log.item_counts() > 0)
        self.tables |= {"answers": answers, "title": titles.values, "title_bounds": titles.offsets, "has": has}
        items, users = self.asking.vectors, torch.zeros(train.n_users, vectors.shape[1])
        somebody = np.flatnonzero(self._histories.lengths)
        users[somebody] = torch.from_numpy(self._vectors_of(self._histories.take(somebody)))
        module.item_scale.copy_(scale_of(items[has]))
        module.user_scale.copy_(scale_of(users[somebody]))
        self._known = torch.from_numpy(np.flatnonzero(has & self._texts.is_valid().to_numpy(zero_copy_only=False)))
        if not len(self._known):
            raise DataError(f"no item of {train.name} has both a text and interactions. Add some of either.")
        if config.reader == "qformer" and config.aligned:
            words = self._texts, Vocabulary(json.dumps(self.vocabulary)), config.text_tokens
            vectors = scaled(items, module.item_scale), scaled(users, module.user_scale)
            self._lessons = Lessons(*words, self._histories, *vectors, has, config.aligned)
        if {*ABOUT_ITEMS, "why"} & set(config.tasks):
            self._facts = Facts.of(train.items, told_apart(train.items), items.numpy())

    # Training ---------------------------------------------------------------------------------------------------

    def stages(self, train: Dataset) -> list[Stage]:
        config, stages = self.config, []
        if config.reader == "qformer" and config.aligned:
            batches = lambda rng: self._lessons.batches(config.phase1.batch_size, rng)  # noqa: E731
            stages.append(Stage("phase 1", config.phase1, batches, self.aligned, ("reader",)))
        trained = ["reader"] * (config.reader != "none") + ["adapters"] * (config.lm_trainable != "none")
        if config.answer == "titles" and trained:
            stages.append(Stage("phase 2", config.training, self.examples, self.answered, trained, self._begin))
        elif config.answer == "titles":
            self.module.phase.fill_(TITLES)
        return stages

    def aligned(self, batch: ItemRows | PairRows) -> dict[str, Float[Tensor, ""]]:
        """Phase 1: what items mean in words, and who goes with what."""
        assert isinstance(self.module.reader, Reader)
        return self._lessons.losses(self.module.reader, batch)

    @torch.no_grad()
    def _begin(self) -> None:
        """Phase 2 begins: what the reader makes becomes as long as the words of the language model are."""
        module = self.module
        module.phase.fill_(TITLES)
        if module.reader is not None:
            some = self.asking.vectors[torch.from_numpy(np.flatnonzero(self.tables["has"])[:READ])]
            words = self.talker.read(torch.linspace(0, self.talker.n_words - 1, READ).long())
            ratio = norm_ratio(module.soft(some, some[:0]).flatten(0, 1), words)
            for weight in module.reader.adaptor.parameters():
                weight.mul_(ratio)

    def examples(self, rng: Generator) -> Iterator[Examples]:
        """Batches in random order, each of one task, put in one of the ways to ask for it."""
        size, batches = self.config.training.batch_size, []
        for task in self.config.tasks:
            rows, places = self._places_of(task)
            batches += [(task, rows[some], places[some]) for some in shuffled(len(rows), size, rng)]
        for n in torch.randperm(len(batches), generator=rng).tolist():
            task, rows, places = batches[n]
            yield Examples(task, int(torch.randint(len(TEMPLATES[task]) - 1, (), generator=rng)), rows, places)

    def _places_of(self, task: str) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
        """What there is to learn a task from: users and places in their histories, or items (and 0)."""
        if task in ABOUT_ITEMS:
            return self._known, torch.zeros_like(self._known)
        histories = self._histories
        row, longest = histories.row_of_value, int(histories.lengths.max())
        place = histories.places
        known = np.flatnonzero(place >= np.maximum(1, histories.lengths - (self.config.places or longest))[row])
        return torch.from_numpy(row[known]), torch.from_numpy(place[known])

    def answered(self, batch: Examples) -> dict[str, Float[Tensor, ""]]:
        """Phase 2: the mean of -log of the chance of each word of the answers, each answer counting the same."""
        task, row, place = batch.task, batch.row.numpy(), batch.place.numpy()
        if task in ABOUT_ITEMS:
            asked, answers = self.asking.ask(task, batch.template, items=row), self._answers_about(task, row, None)
        else:
            before, item = cut(self._histories, row, place)
            asked = self._asked(task, before, batch.template, item if task == "why" else None)
            is_item = task != "why"
            answers = until_end(self.tables["answers"][item]) if is_item else self._answers_about(task, item, before)
        wanted = _texts(answers)
        told = self.talker.told(self._prompts(asked), wanted)
        each = cross_entropy(told.flatten(0, 1).float(), wanted.token.flatten(), reduction="none")
        each = (each.view_as(wanted.real) * wanted.real).sum(1) / wanted.real.sum(1)
        return {task: each.mean()}

    def _answers_about(self, task: str, items: Int[np.ndarray, " n"], histories: Ragged | None) -> Ragged:
        """What is to be said of each item, in words of the language model."""
        if task == "describe":
            said = written(self.catalogue.items.take(items), self.shape["fields"], "{text}").to_pylist()
        else:
            said = self._facts.similar(items) if histories is None else self._facts.why(items, histories)
        return self.lm.ended([f" {text}" for text in said])

    def validate(self, valid: EvalSet | None) -> dict[str, float]:
        """By some of the requests: each asks the language model for a list."""
        assert valid is not None
        n = min(len(valid), self.config.validated)
        rows = np.sort(np.random.default_rng(self.config.seed).choice(len(valid), n, replace=False))
        return super().validate(EvalSet(valid.query.take(rows), valid.relevant.take(rows)))

    def finish(self) -> None:
        super().finish()
        reader = self.module.reader
        if isinstance(reader, Reader):
            with torch.no_grad(), fast_products():
                parts = scaled(self.asking.vectors, self.module.item_scale).split(READ)
                made = [paired_vectors(reader.states(vectors), reader.heads) for vectors in parts]
            self.tables["pair"] = torch.cat(made).numpy()

    # Asking -----------------------------------------------------------------------------------------------------

    @property
    def talker(self) -> Talker:
        """The language model: as its part has it, or with what was trained of it."""
        _ = self.module
        return self.lm.talker if self._own_talker is None else self._own_talker

    def _prompts(self, asked: Asked) -> Prompts:
        return self.asking.prompts(asked, self.module, self.talker)

    @property
    def asking(self) -> Asking:
        """What writes requests about the items there are."""
        tables, config = self.tables, self.config
        if self._asking is None or self._asking[0] is not tables["answers"]:
            known = np.flatnonzero(tables["has"])
            vectors = np.zeros((len(tables["has"]), self.shape["width"]), np.float32)
            vectors[known] = self.behaviour.item_vectors()[known]
            titles = Ragged(tables["title"], tables["title_bounds"])
            how = {"n_queries": config.n_queries if config.reader != "none" else 0, "write": config.write}
            how |= {"max_length": config.max_length, "longest_answer": tables["answers"].shape[1]}
            self._asking = tables["answers"], Asking(self.lm, titles, vectors, tables["has"], **how)
        return self._asking[1]

    def _asked(
        self, task: str, histories: Ragged, template: int | None = None, items: Int[np.ndarray, " n"] | None = None
    ) -> Asked:
        """Requests of whoever has these histories."""
        if template is None:
            template = len(TEMPLATES[task]) - 1 if self.config.unseen else 0
        users = self._vectors_of(histories)
        return self.asking.ask(task, template, histories=histories, users=users, items=items)

    def _vectors_of(self, histories: Ragged) -> Float32[np.ndarray, "histories width"]:
        """The vector of whoever has each of these histories, by the items that the part `behaviour` knows."""
        known = histories.keep(self.tables["has"][histories.values])
        return np.asarray(self.behaviour.query_vectors(Query(history=known)), np.float32)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        with ExitStack() as stack:
            for one in (torch.no_grad(), fast_products(), autocast(self.config.training)):
                stack.enter_context(one)
            yield

    # Answering --------------------------------------------------------------------------------------------------

    def item_codes(self) -> Int32[np.ndarray, "items words"]:
        return self.tables["answers"]

    def search(self, query: Query, trie: Trie, k: int, forbidden: Ragged) -> Found:
        assert query.history is not None
        if self.module.phase == GEOMETRY:
            near = np.where(trie.place.numpy() >= 0, self._nearness(query), np.float32(-np.inf))
            items, scores = top_k(near, k, exclude=(forbidden.values, forbidden.offsets))
            return Found(torch.from_numpy(items).long(), torch.from_numpy(scores))
        items, scores = torch.full((len(query), k), -1), torch.full((len(query), k), -torch.inf)
        by_length = np.argsort(query.history.lengths, kind="stable")
        with self._answering():
            for start in range(0, len(query), ASKED):
                rows = by_length[start : start + ASKED]
                prompts = self._prompts(self._asked("next", query.history.take(rows)))
                barred = forbidden.take(rows)
                arrays = torch.from_numpy(barred.values), torch.from_numpy(barred.offsets)
                width = max(k, self.config.beam)
                found = beam_search(self.talker.step(prompts), trie, len(rows), width, k, arrays)
                items[torch.from_numpy(rows)], scores[torch.from_numpy(rows)] = found
        return Found(items, scores)

    def score_codes(self, query: Query, codes: Int32[np.ndarray, "n words"]) -> Float32[np.ndarray, " n"]:
        assert isinstance(query.candidates, Ragged)
        assert query.history is not None
        scores, row = np.empty(len(codes), np.float32), query.candidates.row_of_value
        if self.module.phase == GEOMETRY:
            return self._nearness(query)[row, query.candidates.values]
        with self._answering():
            for start in range(0, len(codes), SCORED):
                some = slice(start, start + SCORED)
                asking, at = np.unique(row[some], return_inverse=True)
                prompts = self._prompts(self._asked("next", query.history.take(asking)))
                each = Prompts(prompts.vectors[at], prompts.real[at])
                scores[some] = self.talker.chances(each, _texts(until_end(codes[some]))).numpy()
        return scores

    def _nearness(self, query: Query) -> Float32[np.ndarray, "queries items"]:
        """The nearest pair of what each user and each item become; -inf for items without a vector."""
        reader, scale = self.module.reader, self.module.user_scale
        assert isinstance(reader, Reader)
        assert query.history is not None
        with torch.no_grad(), fast_products():
            users = scaled(torch.from_numpy(self._vectors_of(query.history)), scale)
            told = paired_vectors(reader.states(users), reader.heads)
            scores = best_pairs(told, torch.from_numpy(self.tables["pair"])).numpy()
        return np.where(self.tables["has"], scores, np.float32(-np.inf))

    def tell(
        self,
        task: str,
        items: "Sequence[int] | np.ndarray | None" = None,
        histories: Ragged | None = None,
        *,
        limit: int = 48,
    ) -> list[str]:
        """What the language model says of each item, to each history, or of both, by a task of `tasks`: at most so many
        words, each the likeliest one."""
        codes = None if items is None else np.asarray(items, np.int64)
        n, found = len(histories) if histories is not None else len(codes) if codes is not None else 0, []
        template = len(TEMPLATES[task]) - 1 if self.config.unseen else 0
        with self._answering():
            for start in range(0, n, ASKED):
                rows = np.arange(start, min(start + ASKED, n))
                about = None if codes is None else codes[rows]
                if histories is None:
                    asked = self.asking.ask(task, template, items=about)
                else:
                    asked = self._asked(task, histories.take(rows), template, about)
                prompts = self._prompts(asked)
                words = list(self.talker.speak(prompts, limit, lambda logits: logits.argmax(1)))
                found += self.lm.texts_of(np.stack(words, 1) if words else np.empty((len(rows), 0), np.int64))
        return [text.strip() for text in found]

    def encode_items(self, items: Table) -> None:
        """New items are named by their titles; they have no vectors until the model is fitted again."""
        super().encode_items(items)
        tables, (new, titles) = self.tables, titles_of(items, self.lm)
        n = max(tables["answers"].shape[1], new.shape[1])
        answers = [np.pad(x, ((0, 0), (0, n - x.shape[1])), constant_values=END) for x in (tables["answers"], new)]
        bounds = np.append(tables["title_bounds"], tables["title_bounds"][-1] + titles.offsets[1:])
        tables = tables | {"title_bounds": bounds, "answers": np.concatenate(answers)}
        self.tables = added(tables, title=titles.values, has=np.zeros(len(items), bool))
        if "pair" in tables:
            self.tables["pair"] = np.pad(tables["pair"], ((0, len(items)), (0, 0), (0, 0)))


def _texts(rows: Ragged) -> Texts:
    return side_by_side(torch.from_numpy(rows.values), torch.from_numpy(rows.offsets))
