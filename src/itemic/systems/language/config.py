"""The options of ILM."""

from typing import ClassVar, Literal

from pydantic import Field

from itemic.systems.base import SystemConfig
from itemic.training import TrainingConfig


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
    lm_head: bool = False
    """Whether there something is also added to the matrix that its words are said with: in a small model few numbers
    decide between all words, and what that matrix seldom says is hard to reach."""
    tasks: tuple[Literal["next", "next for user", "describe", "similar", "why", "dialogue", "reply"], ...] = ("next",)
    """What phase 2 learns to answer, a batch of one task after the other. From dialogues: `dialogue`, which title a
    recommender's turn names, and `reply`, that turn in its words."""
    write: Literal["soft", "text", "both"] = "both"
    """How items stand in prompts: as vectors, by their titles, or both."""
    places: int | None = Field(None, ge=1)
    """The newest places of each history that are learned from; None for all."""
    max_length: int = Field(20, ge=1)
    """The newest items of a history that are told. OpenP5: 20."""
    answer: Literal["titles", "geometry"] = "titles"
    """How lists are made: by the titles that the language model finds most likely, along the tree of all, or by
    how near items and users are after phase 1."""
    named_by: str | None = None
    """The column that lists are answered in instead of titles, such as one of codes; `id` for the ids themselves, as
    OpenP5 has numbers."""
    among: Literal["words", "titles"] = "words"
    """What the chance of each word of a title is measured against, in learning and in making lists: all words, as in
    the paper; or only those with which some title goes on, so that the chances of all titles come to 1. The latter
    is taught to choose, not to spell, and asks about no word that goes without saying."""
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
    reader_lr: float | None = Field(None, gt=0)
    """The peak step size of the reader in phase 2; None for that of `training`. Small matrices beside those of a
    language model learn by larger steps than a Q-Former stands."""
