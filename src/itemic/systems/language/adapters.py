"""What of a language model is trained by a system made of it: nothing, small matrices beside its own, or all."""

from typing import Literal

from torch import nn

from itemic.encoders.talking import Talker
from itemic.errors import ConfigError


def adapted(talker: Talker, what: Literal["none", "lora", "all"], rank: int, *, head: bool = False) -> nn.Module:
    """The parameters of the language model that are trained, as a module; the rest asks for no gradient.

    With `lora`, matrices of this rank are put beside those of its linear layers, neutral at first (Hu et al., 2022),
    by the package peft; beside that of the layer that gives logits only with `head`.

    Raises:
        ConfigError: peft is missing.
    """
    network = talker.network
    if what == "all":
        return network.requires_grad_(True)
    network.requires_grad_(False)
    if what == "none":
        return nn.Module()
    try:
        from peft import LoraConfig, inject_adapter_in_model
        from transformers.pytorch_utils import Conv1D
    except ImportError:
        raise ConfigError("lora needs the package peft. Install it: pip install 'itemic[language]'") from None
    last, linear = network.get_output_embeddings(), (nn.Linear, Conv1D)
    layers = [name for name, one in network.named_modules() if isinstance(one, linear) and (head or one is not last)]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers), network)
    found = {
        name.replace(".", "_"): module
        for name, module in network.named_modules()
        if name.endswith(("lora_A", "lora_B"))
    }
    return nn.ModuleDict(found)
