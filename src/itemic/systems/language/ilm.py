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
from dataclasses import replace
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int32, Int64
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from itemic.data import Dataset, EvalSet, Query, Ragged, Ranking, Table
from itemic.data.dialogues import Dialogues
from itemic.devices import moved
from itemic.encoders.fields import settled, written
from itemic.encoders.lm import PretrainedLM
from itemic.encoders.talking import Prompts, Talker
from itemic.encoders.vocabulary import Vocabulary
from itemic.errors import DataError
from itemic.model import part
from itemic.nn.decoding import END, Found, Trie, beam_search, chances_among
from itemic.nn.products import fast_products
from itemic.nn.splice import norm_ratio
from itemic.nn.text import Texts, side_by_side
from itemic.nn.topk import top_k
from itemic.progress import report
from itemic.registry import system
from itemic.systems.base import VectorRecommender
from itemic.systems.content import added
from itemic.systems.generative.base import CodeRecommender
from itemic.systems.histories import PopularToSilent
from itemic.systems.language.adapters import adapted
from itemic.systems.language.alignment import best_pairs, paired_vectors
from itemic.systems.language.asking import Asked, Asking, titles_of, told_apart, until_end
from itemic.systems.language.config import Config
from itemic.systems.language.dialogue import with_taste
from itemic.systems.language.exercises import OF_DIALOGUES, REPLY, Examples, Exercises
from itemic.systems.language.facts import Facts
from itemic.systems.language.lessons import ItemRows, Lessons, PairRows
from itemic.systems.language.prompts import TEMPLATES
from itemic.systems.language.qformer import QFormer
from itemic.systems.language.reader import Entities, Network, Reader, TwoLayers, directions, scale_of, scaled
from itemic.training import Stage, autocast

READ = 4096
"""Items that the Q-Former reads at a time in answering."""
SCORED = 64
"""Candidates scored at a time."""
ASKED = 16
"""Requests answered at a time: the beams of all of them are read at once."""
COMPARED = 256
"""Items by whose words it is seen whether the reader collapsed."""
COLLAPSED = 2.0
"""Where words of items differ in fewer directions than this, they tell no item from most others."""
TITLES, GEOMETRY = 2, 1
"""After which phase lists are made: the titles that are said, or how near items are to users."""


@system(
    "ilm",
    family="language",
    needs=["interactions", "items"],
    answers=["history", "dialogue"],
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
    _facts: Facts | None = None
    _n_short = 0
    """How many requests were too long since the count began."""

    def survey(self, train: Dataset) -> None:
        config, fields = self.config, settled(self.config.fields, train)
        if not train.items.roles.get("title"):
            raise DataError(f"ilm names items by their titles; {train.name} has none. Name the column when importing.")
        missing = [task for task in config.tasks if task in OF_DIALOGUES and "dialogues" not in train.extras]
        if missing:
            raise DataError(
                f"ilm learns the task '{missing[0]}' from dialogues; {train.name} has none. Import some, or leave the "
                "task out."
            )
        if config.named_by not in (None, "id", *train.items.names):
            columns = ", ".join(train.items.names)
            raise DataError(f"{train.name} has no column '{config.named_by}' to name items by. There are: {columns}.")
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
            adapters = adapted(self._own_talker, config.lm_trainable, config.rank, head=config.lm_head)
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
        answers, titles = titles_of(train.items, self.lm, config.named_by)
        vectors = np.asarray(self.behaviour.item_vectors(), np.float32)
        has = np.isfinite(vectors.sum(1)) & (log.item_counts() > 0)
        self.tables |= {"answers": answers, "title": titles.values, "title_bounds": titles.offsets, "has": has}
        if self.asking.n_queries and not has.all():
            about = f"{(~has).sum():,} of {train.n_items:,} items have no vector by {self.behaviour.entry.name}"
            report(f"{about}: the language model reads their titles", 1, 1)
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
        has_dialogues = set(OF_DIALOGUES) & set(config.tasks)
        self._exercises = Exercises(
            self.asking,
            answers,
            train.items,
            self.shape["fields"],
            self._known,
            self._histories,
            config.places,
            lambda: self.facts,
            train.dialogues.cases(repeats=train.repeats) if has_dialogues else None,
        )

    # Training ---------------------------------------------------------------------------------------------------

    def stages(self, train: Dataset) -> list[Stage]:
        config, stages = self.config, []
        if config.reader == "qformer" and config.aligned:
            batches = lambda rng: self._lessons.batches(config.phase1.batch_size, rng)  # noqa: E731
            stages.append(Stage("phase 1", config.phase1, batches, self.aligned, ("reader",)))
        trained = ["reader"] * (config.reader != "none") + ["adapters"] * (config.lm_trainable != "none")
        if config.answer == "titles" and trained:
            paces = {} if config.reader_lr is None else {"reader": config.reader_lr / config.training.lr}
            how = config.training, self.examples, self.answered, trained, self._begin
            stages.append(Stage("phase 2", *how, paces=paces))
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
            words = torch.linspace(0, self.talker.n_words - 1, READ).long()
            some, words = moved((some, words), self.talker.device)
            words = self.talker.read(words)
            ratio = norm_ratio(module.soft(some, some[:0]).flatten(0, 1), words)
            for weight in module.reader.adaptor.parameters():
                weight.mul_(ratio)

    def examples(self, rng: Generator) -> Iterator[Examples]:
        """Batches in random order, each of one task, put in one of the ways to ask for it."""
        return self._exercises.batches(self.config.tasks, self.config.training.batch_size, rng)

    def answered(self, batch: Examples) -> dict[str, Float[Tensor, ""]]:
        """Phase 2: the mean of -log of the chance of each word of the answers, each answer counting the same; where
        chances are among titles, of each title."""
        asked, answers = self._exercises.of(batch)
        named = self._exercises.named(batch) if self.config.among == "titles" else None
        if named is not None:
            told = self.talker.told(self._prompts(asked), self._until_alone(answers, named))
            return {batch.task: -chances_among(told, self._trie_of(None), named.to(self.device)).mean()}
        wanted = moved(_texts(answers), self.device)
        told = self.talker.told(self._prompts(asked), wanted)
        each = cross_entropy(told.flatten(0, 1).float(), wanted.token.flatten(), reduction="none")
        each = (each.view_as(wanted.real) * wanted.real).sum(1) / wanted.real.sum(1)
        return {batch.task: each.mean()}

    def _until_alone(self, answers: Ragged, items: Int64[Tensor, " n"]) -> Texts:
        """Of the words that name these items those that tell them from all others."""
        needed = self._trie_of(None).codes_until_alone(items.to(self.device)).clamp(min=1).numpy(force=True)
        return moved(_texts(answers.keep(answers.places < needed[answers.row_of_value])), self.device)

    def validate(self, valid: EvalSet | None) -> dict[str, float]:
        """By some of the requests: each asks the language model for a list."""
        assert valid is not None
        n = min(len(valid), self.config.validated)
        rows = np.sort(np.random.default_rng(self.config.seed).choice(len(valid), n, replace=False))
        return super().validate(EvalSet(valid.query.take(rows), valid.relevant.take(rows)))

    def finish(self) -> None:
        super().finish()
        reader, phase = self.module.reader, int(self.module.phase)
        if reader is not None and phase == TITLES:
            with torch.no_grad():
                known = np.flatnonzero(self.tables["has"])
                some = np.random.default_rng(0).choice(known, min(len(known), COMPARED), replace=False)
                items = self.asking.vectors[torch.from_numpy(some)].to(self.device)
                n = directions(self.module.soft(items, items[:0]).flatten(1))
            if n < COLLAPSED:
                about = f"the words that {len(items):,} items become differ in {n:.2f} directions"
                report(f"{about}: the reader collapsed. Lower reader_lr", 1, 1)
        if isinstance(reader, Reader):
            with torch.no_grad(), fast_products():
                vectors = self.asking.vectors.to(self.device)
                parts = scaled(vectors, self.module.item_scale).split(READ)
                made = [paired_vectors(reader.states(vectors), reader.heads) for vectors in parts]
            self.tables["pair"] = torch.cat(made).numpy(force=True)

    # Asking -----------------------------------------------------------------------------------------------------

    @property
    def talker(self) -> Talker:
        """The language model: as its part has it, or with what was trained of it."""
        _ = self.module
        return self.lm.talker if self._own_talker is None else self._own_talker

    def to(self, device: str) -> Self:
        super().to(device)
        if self._own_talker is not None:
            self._own_talker.network.to(device)
        return self

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
            longest = max(tables["answers"].shape[1], REPLY if "reply" in config.tasks else 0)
            how |= {"max_length": config.max_length, "longest_answer": longest}
            self._asking = tables["answers"], Asking(self.lm, titles, vectors, tables["has"], self._vectors_of, **how)
        return self._asking[1]

    def _asked(
        self,
        task: str,
        histories: Ragged | None,
        talk: Dialogues | None = None,
        items: Int[np.ndarray, " n"] | None = None,
    ) -> Asked:
        """Requests put in the way in which they are answered."""
        return self.asking.ask(task, self._way(task), histories=histories, talk=talk, items=items)

    def _way(self, task: str) -> int:
        return len(TEMPLATES[task]) - 1 if self.config.unseen else 0

    @property
    def facts(self) -> Facts:
        """What can be said of the items without the language model."""
        if self._facts is None or len(self._facts.titles) != self.catalogue.n_items:
            items = self.catalogue.items
            self._facts = Facts.of(items, told_apart(items), self.asking.vectors.numpy())
        return self._facts

    def _vectors_of(self, histories: Ragged) -> Float32[np.ndarray, "histories width"]:
        """The vector of whoever has each of these histories, by the items that the part `behaviour` knows."""
        known = histories.keep(self.tables["has"][histories.values])
        return np.asarray(self.behaviour.query_vectors(Query(history=known)), np.float32)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        with ExitStack() as stack:
            for one in (torch.no_grad(), fast_products(), autocast(self.config.training, self.talker.device.type)):
                stack.enter_context(one)
            yield

    # Answering --------------------------------------------------------------------------------------------------

    def rank(self, query: Query, k: int = 10) -> Ranking:
        """As of any recommender; `reasons` also says of how many requests not all could be told."""
        self._n_short = 0
        query = with_taste(query)
        ranking = super().rank(query, k)
        return replace(ranking, reasons=(*ranking.reasons, *self._left_out(query)))

    def score(self, query: Query) -> Ragged:
        return super().score(with_taste(query))

    def told(self, query: Query) -> Bool[np.ndarray, " queries"]:
        talk = self._heard(query)
        return super().told(query) | (False if talk is None else talk.lengths > 0)

    def _heard(self, query: Query) -> Dialogues | None:
        """What was said, if that is read: by a model that learned from dialogues and answers in titles."""
        reads = "dialogue" in self.config.tasks and self.module.phase == TITLES
        return query.dialogue if reads else None

    def _left_out(self, query: Query) -> Iterator[str]:
        if self._n_short:
            yield (
                f"{self._n_short:,} of {len(query):,} requests are longer than the language model reads: the oldest of "
                "what they tell is left out"
            )
        if (
            self.module.phase == TITLES
            and self.asking.n_queries
            and self.config.write != "text"
            and query.history is not None
        ):
            bare = int((~self.tables["has"][np.unique(query.history.values)]).sum())
            if bare:
                yield f"{bare:,} items of what they tell have no vector: the language model reads their titles"

    def item_codes(self) -> Int32[np.ndarray, "items words"]:
        return self.tables["answers"]

    def search(self, query: Query, trie: Trie, k: int, forbidden: Ragged) -> Found:
        assert query.history is not None
        if self.module.phase == GEOMETRY:
            near = np.where(trie.place.numpy(force=True) >= 0, self._nearness(query), np.float32(-np.inf))
            items, scores = top_k(near, k, exclude=(forbidden.values, forbidden.offsets))
            return Found(torch.from_numpy(items).long(), torch.from_numpy(scores))
        items, scores = torch.full((len(query), k), -1), torch.full((len(query), k), -torch.inf)
        among = self._trie_of(None) if self.config.among == "titles" else None
        by_length = np.argsort(query.history.lengths, kind="stable")
        with self._answering():
            for start in range(0, len(query), ASKED):
                rows = by_length[start : start + ASKED]
                asked = self._requests(query.take(rows))
                self._n_short += int(asked.short.sum())
                prompts = self._prompts(asked)
                barred = forbidden.take(rows)
                arrays = torch.from_numpy(barred.values), torch.from_numpy(barred.offsets)
                width = max(k, self.config.beam)
                found = beam_search(self.talker.step(prompts), trie, len(rows), width, k, arrays, among)
                items[torch.from_numpy(rows)], scores[torch.from_numpy(rows)] = moved(found, "cpu")
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
                prompts = self._prompts(self._requests(query.take(asking)))
                each = Prompts(prompts.vectors[at], prompts.real[at])
                answers = until_end(codes[some])
                if self.config.among == "titles":
                    named = torch.from_numpy(query.candidates.values[some].astype(np.int64))
                    told = self.talker.told(each, self._until_alone(answers, named))
                    found = chances_among(told, self._trie_of(None), named.to(self.device))
                else:
                    found = self.talker.chances(each, moved(_texts(answers), self.device))
                scores[some] = found.numpy(force=True)
        return scores

    def _requests(self, query: Query) -> Asked:
        assert query.history is not None
        talk = self._heard(query)
        return self._asked("next" if talk is None else "dialogue", query.history, talk)

    def _nearness(self, query: Query) -> Float32[np.ndarray, "queries items"]:
        """The nearest pair of what each user and each item become; -inf for items without a vector."""
        reader, scale = self.module.reader, self.module.user_scale
        assert isinstance(reader, Reader)
        assert query.history is not None
        with torch.no_grad(), fast_products():
            users = scaled(self.tensor(self._vectors_of(query.history)), scale)
            told = paired_vectors(reader.states(users), reader.heads)
            scores = best_pairs(told, self.tensor(self.tables["pair"])).numpy(force=True)
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
        with self._answering():
            for start in range(0, n, ASKED):
                rows = np.arange(start, min(start + ASKED, n))
                about = None if codes is None else codes[rows]
                whose = None if histories is None else histories.take(rows)
                prompts = self._prompts(self._asked(task, whose, items=about))
                words = list(self.talker.speak(prompts, limit, lambda logits: logits.argmax(1)))
                found += self.lm.texts_of(np.stack(words, 1) if words else np.empty((len(rows), 0), np.int64))
        return [text.strip() for text in found]

    @property
    def speaks(self) -> bool:
        """Whether it learned to say what a recommender says."""
        return "reply" in self.config.tasks and int(self.module.phase) == TITLES

    def reply(self, talk: Dialogues, history: Ragged, item: int, *, limit: int = REPLY) -> Iterator[str]:
        """What the language model says to the last turn of a dialogue, recommending an item, piece after piece."""
        with torch.no_grad(), fast_products():
            prompts = self._prompts(self._asked("reply", history, talk, np.array([item])))
        words = self.talker.speak(prompts, limit, lambda logits: logits.argmax(1))
        said, told = [], ""
        while True:
            with torch.no_grad(), fast_products():  # not around a yield: they would hold for whoever reads, too
                word = next(words, None)
            if word is None:
                return
            said.append(int(word))
            text = self.lm.texts_of(np.array([said]))[0]
            if not text.endswith("\ufffd"):  # a letter of which some bytes are still to come
                yield text[len(told) :]
                told = text

    def encode_items(self, items: Table) -> None:
        """New items are named by their titles; they have no vectors until the model is fitted again."""
        super().encode_items(items)
        tables, (new, titles) = self.tables, titles_of(items, self.lm, self.config.named_by)
        n = max(tables["answers"].shape[1], new.shape[1])
        answers = [np.pad(x, ((0, 0), (0, n - x.shape[1])), constant_values=END) for x in (tables["answers"], new)]
        bounds = np.append(tables["title_bounds"], tables["title_bounds"][-1] + titles.offsets[1:])
        tables = tables | {"title_bounds": bounds, "answers": np.concatenate(answers)}
        self.tables = added(tables, title=titles.values, has=np.zeros(len(items), bool))
        if "pair" in tables:
            self.tables["pair"] = np.pad(tables["pair"], ((0, len(items)), (0, 0), (0, 0)))


def _texts(rows: Ragged) -> Texts:
    return side_by_side(torch.from_numpy(rows.values), torch.from_numpy(rows.offsets))
