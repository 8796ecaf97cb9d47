import torch

from itemic.nn.corrupt import mask_words


def test_words_are_hidden_whole_in_the_published_shares_and_the_first_token_never():
    torch.manual_seed(0)
    token, word = torch.full((60_001,), 5), torch.cat([torch.tensor([-1]), torch.arange(30_000).repeat_interleave(2)])
    made, hidden = mask_words(token, word, mask=1, n_tokens=1000)
    assert not hidden[0]
    assert (hidden[1::2] == hidden[2::2]).all()
    assert abs(hidden.float().mean().item() - 0.15) < 0.01
    assert (made[~hidden] == 5).all()
    masked, kept = (made[hidden] == 1).float().mean().item(), (made[hidden] == 5).float().mean().item()
    assert abs(masked - 0.8) < 0.01
    assert abs(kept - 0.1) < 0.01


def test_a_text_of_the_first_token_alone_stays_as_it_is():
    made, hidden = mask_words(torch.tensor([7]), torch.tensor([-1]), mask=1, n_tokens=10, share=1.0)
    assert made.tolist() == [7]
    assert not hidden.any()
