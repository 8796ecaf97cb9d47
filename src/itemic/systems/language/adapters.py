"""What of a language model is trained by a system made of it: nothing, small matrices beside its own, or all."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from itemic.encoders.talking import Talker
from itemic.errors import ConfigError
from itemic.nn.lowrank import low_rank_product


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
        from peft.tuners.lora import Linear as LoraLinear
        from transformers.pytorch_utils import Conv1D
    except ImportError:
        raise ConfigError("lora needs the package peft. Install it: pip install 'itemic[language]'") from None
    last, linear = network.get_output_embeddings(), (nn.Linear, Conv1D)
    layers = [name for name, one in network.named_modules() if isinstance(one, linear) and (head or one is not last)]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers), network)
    for one in network.modules():
        if isinstance(one, LoraLinear) and isinstance(one.base_layer, nn.Linear):
            one.forward = partial(_beside, one, one.forward)
    found = {
        name.replace(".", "_"): module
        for name, module in network.named_modules()
        if name.endswith(("lora_A", "lora_B"))
    }
    return nn.ModuleDict(found)


def _beside(layer: Any, usual: Callable[..., Tensor], x: Tensor) -> Tensor:
    """What peft's layer makes of x, in fewer passes where x has more rows than the matrix."""
    base = layer.base_layer
    if layer.merged or layer.disable_adapters or x.shape[:-1].numel() <= base.out_features:
        return usual(x)
    (name,) = layer.active_adapters
    down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
    made = low_rank_product(x, base.weight, down, up, layer.scaling[name])
    return made if base.bias is None else made + base.bias.to(made.dtype)
