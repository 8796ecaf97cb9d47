"""What is trained of a language model."""

import pytest
import torch

from itemic.encoders.talking import Talker
from itemic.systems.language.adapters import adapted


def network():
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 8, "vocab_size": 40}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "attention_bias": True}
    return Qwen3ForCausalLM(Qwen3Config(**sizes, **heads))


@pytest.mark.parametrize("n", [3, 50])
def test_lora_says_and_learns_what_pefts_own_layers_do(n):
    from peft.tuners.lora import Linear

    one = network()
    adapters = adapted(Talker(one, 0, 0), "lora", 4, head=True)
    for name, weight in adapters.named_parameters():
        torch.nn.init.normal_(weight, std=0.2, generator=torch.Generator().manual_seed(len(name)))
    words = torch.randint(40, (2, n), generator=torch.Generator().manual_seed(1))

    def made():
        one.zero_grad()
        logits = one(input_ids=words).logits
        logits.logsumexp(-1).square().sum().backward()
        return logits.detach(), [weight.grad.clone() for weight in adapters.parameters()]

    ours, gradients = made()
    layers = [layer for layer in one.modules() if isinstance(layer, Linear)]
    for layer in layers:
        del layer.forward
    theirs, wanted = made()
    assert len(layers) == 15
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    for got, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
