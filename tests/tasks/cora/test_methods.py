"""Baselines that put vectors or codes into prompts: where they land, and what they train."""

import torch

from decathlon.tasks.cora.decoder import answer_logits, last_hidden
from decathlon.tasks.cora.methods import Batch, BinLLMMethod, CoLLMMethod, PersonPromptMethod, Prompt4NRMethod, Sizes
from decathlon.tasks.cora.prompts import ITEM, USER
from tests.tasks.cora.common import llama, prompts

SIZES = Sizes(users=5, items=6, user_dim=8, item_dim=8)


def batch(slots: int) -> Batch:
    ids = prompts(2, 12)
    ids[0, 3 : 3 + slots], ids[0, 8 : 8 + slots] = USER, ITEM
    ids[1, 1 : 1 + slots], ids[1, 5 : 5 + slots] = USER, ITEM
    vectors = torch.randn(2, 8), torch.randn(2, 8)
    return Batch(torch.arange(2), ids, torch.tensor([12, 11]), torch.tensor([1, 4]), torch.tensor([5, 0]),
                 torch.tensor([0.0, 1.0]), vectors)  # fmt: skip


def test_vectors_stand_in_their_slots_and_nowhere_else() -> None:
    llm = llama()
    for method, slots in ((CoLLMMethod(), 1), (PersonPromptMethod(), 1), (Prompt4NRMethod(), 3)):
        torch.manual_seed(0)
        adapter, given = method.adapter(llm, SIZES), batch(slots)
        plain = llm.get_input_embeddings()(given.ids.clamp_min(0))
        put = adapter.embeds(given, plain)
        user, item = adapter.tokens(given)
        for row in range(2):
            assert torch.equal(put[row][given.ids[row] == USER], user[row])
            assert torch.equal(put[row][given.ids[row] == ITEM], item[row])
        assert torch.equal(put[given.ids >= 0], plain[given.ids >= 0])
    own = PersonPromptMethod().adapter(llm, SIZES)
    assert own.tokens.user.weight.shape == (5, 64) and own.tokens.item.weight.shape == (6, 64)


def test_gradients_reach_tokens_through_the_frozen_model() -> None:
    llm = llama()
    adapter, given = CoLLMMethod().adapter(llm, SIZES), batch(1)
    with adapter.applied(given):
        embeds = adapter.embeds(given, llm.get_input_embeddings()(given.ids.clamp_min(0)))
        last = last_hidden(llm, given.ids.clamp_min(0), given.lengths, embeds)
    answer_logits(llm, last, (3, 5)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in adapter.tokens.parameters())
    assert all(p.grad is None for p in llm.parameters())


def test_what_the_two_stages_train() -> None:
    for method, names in ((CoLLMMethod(), [("lora",), ("tokens",)]), (BinLLMMethod(), [("",), ("",)])):
        assert [stage.parts for stage in method.stages] == names
        assert [stage.prompt for stage in method.stages] == ["text", "identity"]
