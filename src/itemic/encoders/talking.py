"""How a pretrained language model reads and speaks: prompts of words and vectors, what it says of answers, new text.

It runs through transformers, decoders and encoder-decoders alike; no code of a folder is run.
"""

import inspect
from collections.abc import Callable, Iterator
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from itemic.devices import moved
from itemic.encoders.pretrained import SAFE
from itemic.errors import ConfigError, some
from itemic.nn.attention import attend
from itemic.nn.decoding import Step, lineage
from itemic.nn.products import usual_products
from itemic.nn.splice import splice
from itemic.nn.text import Texts

SOFT = -1
"""Stands among the words of a prompt where a vector is to be put."""


class Prompts(NamedTuple):
    """Prompts side by side, padded at their beginnings: all end at the same place."""

    vectors: Float[Tensor, "batch n dim"]
    real: Bool[Tensor, "batch n"]


class Talker:
    """A language model of transformers. Not a module: whoever trains it, or adapters in it, names what is trained."""

    def __init__(self, network: nn.Module, begin: int, end: int) -> None:
        """`end` is the word that ends a text; `begin` the one with which the decoder of an encoder-decoder begins."""
        self.network: Any = network.eval()
        _use_own_attention(self.network)
        self.begin, self.end = begin, end
        self.is_paired = bool(self.network.config.is_encoder_decoder)
        known = inspect.signature(network.forward).parameters
        self._placed, self._kept = "position_ids" in known, "logits_to_keep" in known

    def read(self, words: Int64[Tensor, "*batch"]) -> Float[Tensor, "*batch dim"]:
        """The vectors of words, as the first layer is given them: some models stretch those of their table."""
        return self.network.get_input_embeddings()(words)

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return self.network.get_input_embeddings().weight.device

    @property
    def n_words(self) -> int:
        return self.network.get_input_embeddings().weight.shape[0]

    @property
    def dim(self) -> int:
        return self.network.get_input_embeddings().weight.shape[1]

    @property
    def longest(self) -> int | None:
        """How many places there are for words; None for as many as you like."""
        return getattr(self.network.config, "max_position_embeddings", None)

    def prompts(
        self, token: Int64[Tensor, " tokens"], bounds: Int64[Tensor, " bounds"], vectors: Float[Tensor, "soft dim"]
    ) -> Prompts:
        """The prompts of these words, packed; SOFT where the vectors go, in their order."""
        token, bounds, vectors = moved((token, bounds, vectors), self.device)
        soft, lengths = token == SOFT, bounds.diff()
        x = splice(self.read(token.masked_fill(soft, 0)), soft, vectors)
        n = int(lengths.max())
        real = torch.arange(n, device=self.device) >= n - lengths[:, None]
        return Prompts(x.new_zeros(len(lengths), n, x.shape[1]).masked_scatter(real[..., None], x), real)

    def told(self, prompts: Prompts, answers: Texts) -> Float[Tensor, "batch n words"]:
        """Logits of each word of the answers, which end with `end`, given what comes before it."""
        before = answers.token[:, :-1]
        if self.is_paired:
            first = torch.full_like(answers.token[:, :1], self.begin)
            return self.network(
                inputs_embeds=prompts.vectors,
                attention_mask=prompts.real.long(),
                decoder_input_ids=torch.cat([first, before], 1),
            ).logits
        x = torch.cat([prompts.vectors, self.read(before)], 1)
        real = torch.cat([prompts.real, answers.real[:, :-1]], 1)
        n = answers.token.shape[1]
        return self.network(inputs_embeds=x, **self._seen(real, x.shape[1], n)).logits[:, -n:]

    def each_chance(self, prompts: Prompts, answers: Texts) -> Float[Tensor, "batch n"]:
        """The logarithm of the chance of each word of the answers, given what comes before it; 0 at padding."""
        shares = self.told(prompts, answers).float().log_softmax(-1)
        return shares.gather(2, answers.token[..., None])[..., 0].masked_fill(~answers.real, 0.0)

    def chances(self, prompts: Prompts, answers: Texts) -> Float[Tensor, " batch"]:
        """The logarithm of the chance of each answer."""
        return self.each_chance(prompts, answers).sum(1)

    def step(self, prompts: Prompts) -> Step:
        """What the model says next after these prompts, for a search along the tree of answers."""
        kinds = set(getattr(self.network.config, "layer_types", None) or ())
        along = self._placed and not self.is_paired and kinds <= {"full_attention", "sliding_attention"}
        return self._along(prompts) if along else self._by_rows(prompts)

    def _along(self, prompts: Prompts) -> Step:
        """Beams stand side by side behind their prompt and share it: each sees the prompt and its forebears. With
        twenty beams after 200 words this takes a tenth of the time of a copy of the prompt for each beam."""
        from transformers import DynamicCache

        cache, length, allow = DynamicCache(), prompts.real.sum(1, keepdim=True), None
        places = [(prompts.real.cumsum(1) - 1).clamp(min=0)]

        def step(code: Tensor | None, parent: Tensor | None) -> Tensor:
            nonlocal allow
            if code is None or parent is None:
                said = {"inputs_embeds": prompts.vectors, **self._seen(prompts.real, prompts.real.shape[1], 1)}
            else:
                allow = lineage(allow, parent)
                places.append((length + len(places) - 1).expand_as(code))
                sees = torch.cat([prompts.real[:, None].expand(-1, code.shape[1], -1), allow], 2)
                said = {"input_ids": code, "position_ids": places[-1]}
                said["attention_mask"] = self._masks(sees, places[-1], torch.cat(places, 1))
            logits = self.network(past_key_values=cache, use_cache=True, **said).logits
            return (logits[:, -1:] if code is None else logits).float().log_softmax(-1)

        return step

    def _masks(
        self, sees: Bool[Tensor, "batch n all"], place: Int64[Tensor, "batch n"], places: Int64[Tensor, "batch all"]
    ) -> Any:
        """What each of n words sees, as the layers of the model take it: some look back a window of words only."""
        config, kinds = self.network.config, getattr(self.network.config, "layer_types", None) or ()
        window = getattr(config, "sliding_window", None)
        near = sees if window is None else sees & (place[..., None] - places[:, None] < window)
        whole, near = sees[:, None], near[:, None]
        if config._attn_implementation == "eager":
            seen = whole.new_zeros((), dtype=torch.float32)
            whole, near = (seen.where(x, torch.finfo().min) for x in (whole, near))
        if "sliding_attention" in kinds:
            return {"full_attention": whole, "sliding_attention": near}
        return whole if kinds else near

    def _by_rows(self, prompts: Prompts) -> Step:
        """Each beam is a row of its own, with what the model keeps of its prompt."""
        say, width = self._saying(prompts), 1
        queries = torch.arange(len(prompts.real), device=self.device)

        def step(code: Tensor | None, parent: Tensor | None) -> Tensor:
            nonlocal width
            if code is None or parent is None:
                return say(None, None).float().log_softmax(-1)[:, None]
            rows, width = (queries[:, None] * width + parent).flatten(), code.shape[1]
            return say(code.flatten(), rows).float().log_softmax(-1).unflatten(0, (-1, width))

        return step

    def speak(
        self, prompts: Prompts, limit: int, choose: Callable[[Float[Tensor, "batch words"]], Int64[Tensor, " batch"]]
    ) -> Iterator[Int64[Tensor, " batch"]]:
        """Word after word of new text for each prompt, at most so many, until all have ended; `choose` takes a word of
        the logits of all. What has ended goes on with `end`."""
        say = self._saying(prompts)
        word, done = choose(say(None, None)), prompts.real.new_zeros(len(prompts.real))
        for n in range(limit):
            word = word.masked_fill(done, self.end)
            done |= word == self.end
            if done.all():
                return
            yield word.cpu()
            if n + 1 < limit:
                word = choose(say(word, None))

    def _saying(
        self, prompts: Prompts
    ) -> Callable[[Int64[Tensor, " rows"] | None, Int64[Tensor, " rows"] | None], Float[Tensor, "rows words"]]:
        """Logits of the next word of each row, given the last one, and of the rows of the call before those that go
        on; neither at first."""
        cache: Any = None
        real, heard = prompts.real, None

        def say(word: Tensor | None, rows: Tensor | None) -> Tensor:
            nonlocal cache, real, heard
            if rows is not None:
                cache.batch_select_indices(rows)
                real = real[rows]
                heard = None if heard is None else heard[rows]
            if self.is_paired:
                if heard is None:
                    reader = self.network.get_encoder()
                    heard = reader(inputs_embeds=prompts.vectors, attention_mask=real.long()).last_hidden_state
                last = real.new_full((len(real),), self.begin, dtype=torch.int64) if word is None else word
                made = self.network(
                    encoder_outputs=(heard,),
                    attention_mask=real.long(),
                    decoder_input_ids=last[:, None],
                    past_key_values=cache,
                    use_cache=True,
                )
            elif word is None:
                made = self.network(inputs_embeds=prompts.vectors, use_cache=True, **self._seen(real, real.shape[1], 1))
            else:
                real = torch.cat([real, real.new_ones(len(real), 1)], 1)
                made = self.network(
                    input_ids=word[:, None], past_key_values=cache, use_cache=True, **self._seen(real, 1, 1)
                )
            cache = made.past_key_values
            return made.logits[:, -1]

        return say

    def _seen(self, real: Bool[Tensor, "batch all"], n: int, wanted: int) -> dict[str, Any]:
        """What to say of the newest n words beside the words: which are real, where they stand, whose logits count."""
        said: dict[str, Any] = {"attention_mask": real.long()}
        if self._placed:
            said["position_ids"] = (real.cumsum(1) - 1).clamp(min=0)[:, -n:]
        if self._kept:
            said["logits_to_keep"] = wanted
        return said


def _use_own_attention(network: Any) -> None:
    """Makes a model that calls attention by name call ours where that is faster: forth and back in bfloat16 on a CPU it
    takes three quarters of the time."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attention(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **how: Any) -> Any:
        trains = q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad
        plain = how.get("position_bias") is None and q.shape[1] == k.shape[1] and how.get("scaling") is not None
        if trains and plain and mask is not None and mask.dtype == torch.bool:
            q = q * (how["scaling"] * sqrt(q.shape[-1]))
            return attend(q, k, v, mask, dropout=how.get("dropout", 0.0)).transpose(1, 2).contiguous(), None
        with usual_products():
            return sdpa_attention_forward(module, q, k, v, mask, **how)

    if network.config._attn_implementation == "sdpa":
        AttentionInterface.register("itemic", attention)
        AttentionMaskInterface.register("itemic", sdpa_mask)
        network.set_attn_implementation("itemic")


def talker_of(folder: Path) -> Talker:
    """The language model in a folder of transformers, with its safetensors.

    Raises:
        ConfigError: transformers cannot read it, or it has no word that ends texts.
    """
    try:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
    except ImportError:
        raise ConfigError(
            "language models need the package transformers. Install it: pip install 'itemic[language]'"
        ) from None
    try:
        facts = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        kind = AutoModelForSeq2SeqLM if facts.is_encoder_decoder else AutoModelForCausalLM
        opened: Any = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **SAFE)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ConfigError(f"transformers cannot read {folder}: {reason}. Name another folder.") from error
    network, found = opened
    if found["missing_keys"]:
        raise ConfigError(f"{folder} lacks the weights {some(sorted(found['missing_keys']))}. Restore the folder.")
    end = network.generation_config.eos_token_id or facts.eos_token_id
    end = end[0] if isinstance(end, list) else end
    if end is None:
        raise ConfigError(f"{folder} names no word that ends a text (eos_token_id). Name it in its config.json.")
    begin = getattr(facts, "decoder_start_token_id", None)
    return Talker(network, end if begin is None else begin, end)
