"""The method: starts as the frozen model, equals merged weights and static LoRA at its limit, and leaves no trace."""

import math

import pytest
import torch
from torch.nn import functional as F

from decathlon.errors import UserError
from decathlon.language import decoder_of
from decathlon.language.decoder import FAMILIES
from decathlon.language.fingerprint import fingerprint
from decathlon.language.prefix import block_input, from_block
from decathlon.tasks.cora import CoRA
from tests.tasks.cora.common import ITEM, USER, cora, llama, pairs, prompts

GENERATORS = ["qformer", "mlp", "linear"]


@pytest.mark.parametrize("generator", GENERATORS)
def test_starts_as_the_frozen_model(generator: str) -> None:
    llm = llama()
    made, ids = cora(llm, trained=False, generator=generator), prompts(3)
    with made.personalised(*pairs(3)):
        assert torch.equal(llm(ids).logits, llm(ids).logits)
        inside = llm(ids).logits
    torch.testing.assert_close(inside, llm(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("modules", [("q", "k", "v", "o"), ("gate", "up", "down"), ("v",)])
@pytest.mark.parametrize("family", FAMILIES)
def test_merging_writes_what_the_batch_computes(family: str, modules: tuple[str, ...]) -> None:
    llm = llama(family)
    modules = tuple(kind for kind in modules if kind in decoder_of(llm).kinds)
    made, (users, items), ids = cora(llm, modules=modules), pairs(3), prompts(3)
    plain = llm(ids).logits
    with made.personalised(users, items):
        batched = llm(ids).logits
    assert float((batched - plain).norm() / plain.norm()) > 1e-3
    for row in range(3):
        alone = made.merged(users[row], items[row])(ids[row : row + 1]).logits[0]
        assert float((batched[row] - alone).norm() / alone.norm()) < 1e-4
    assert torch.equal(llm(ids).logits, plain)


def test_merging_in_bfloat16() -> None:
    llm = llama().bfloat16()
    made, (users, items), ids = cora(llm), pairs(2), prompts(2)
    with made.personalised(users, items):
        batched = llm(ids).logits.float()
    alone = torch.cat([made.merged(users[row], items[row])(ids[row : row + 1]).logits for row in range(2)]).float()
    assert float((batched - alone).norm() / alone.norm()) < 2e-2


def test_a_head_width_of_its_own_gets_a_generator_head_of_its_own() -> None:
    from transformers import AutoModelForCausalLM, Qwen3Config

    config = Qwen3Config(
        vocab_size=512, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=32, intermediate_size=96, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    llm = AutoModelForCausalLM.from_config(config).eval()
    made, (users, items), ids = cora(llm, modules=("q", "v", "o", "down")), pairs(2), prompts(2)
    assert set(made.heads) == {"64", "128", "96"}
    with made.personalised(users, items):
        batched = llm(ids).logits
    alone = made.merged(users[1], items[1])(ids[1:]).logits
    torch.testing.assert_close(batched[1:], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_does_not_depend_on_its_batch_or_its_padding(side: str) -> None:
    llm = llama()
    made, (users, items) = cora(llm), pairs(4)
    rows = [prompts(1, length, seed=length)[0] for length in (4, 9, 6, 7)]
    alone = []
    for row, ids in enumerate(rows):
        with made.personalised(users[row : row + 1], items[row : row + 1]):
            alone.append(llm(ids[None]).logits[0, -1])
    order = [2, 0, 3, 1]
    width = max(map(len, rows))
    ids, mask = torch.zeros(4, width, dtype=torch.long), torch.zeros(4, width, dtype=torch.long)
    for place, row in enumerate(order):
        columns = slice(0, len(rows[row])) if side == "right" else slice(width - len(rows[row]), width)
        ids[place, columns], mask[place, columns] = rows[row], 1
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    with made.personalised(users[order], items[order]):
        logits = llm(ids, attention_mask=mask, position_ids=positions).logits
    for place, row in enumerate(order):
        last = -1 if side == "left" else len(rows[row]) - 1
        torch.testing.assert_close(logits[place, last], alone[row], atol=1e-4, rtol=0)


class Constant(torch.nn.Module):
    """The same features for every pair."""

    width = 16

    def forward(self, c: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(c), self.width)


def test_with_a_constant_generator_it_is_static_lora() -> None:
    peft = pytest.importorskip("peft")
    llm, twin, ids = llama(), llama(), prompts(3)
    made = cora(llm, modules=("q", "k", "v", "o"))
    made.generator = Constant()
    options = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
    other = peft.get_peft_model(twin, peft.LoraConfig(**options))
    first = made.weights(*pairs(1))[64][0].detach()
    for name, module in other.named_modules():
        if hasattr(module, "lora_A") and name.endswith("_proj"):
            kind, layer = name.rsplit(".", 1)[1][0], int(name.split("layers.")[1].split(".")[0])
            module.lora_A["default"].weight.data = first.T.clone()
            module.lora_B["default"].weight.data = made.outputs[f"{kind}_{layer}"].detach().T.clone()
    expected = other(ids).logits
    with made.personalised(*pairs(3)):
        got = llm(ids).logits
        got.square().mean().backward()
    expected.square().mean().backward()
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    for name, module in other.named_modules():
        if hasattr(module, "lora_A") and name.endswith("_proj"):
            kind, layer = name.rsplit(".", 1)[1][0], int(name.split("layers.")[1].split(".")[0])
            mine, theirs = made.outputs[f"{kind}_{layer}"].grad, module.lora_B["default"].weight.grad.T
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("generator", GENERATORS)
def test_weights_have_norm_one_whatever_the_scale_of_the_last_layer(generator: str) -> None:
    made = cora(llama(), generator=generator)
    before = made.weights(*pairs(5))[64]
    torch.testing.assert_close(before.flatten(1).norm(dim=1), torch.ones(5), atol=1e-5, rtol=0)
    with torch.no_grad():
        for parameter in made.heads.parameters():
            parameter.mul_(7.0)
    torch.testing.assert_close(made.weights(*pairs(5))[64], before, atol=1e-6, rtol=1e-5)


def test_the_flat_vector_is_read_row_by_row() -> None:
    made, (users, items) = cora(llama(), generator="linear"), pairs(1)
    flat = F.normalize(made.heads["64"](torch.cat([users, items], 1)), dim=1)[0]
    assert torch.equal(made.weights(users, items)[64][0], flat.view(64, 4))


def test_the_first_step_moves_the_outputs_alone() -> None:
    llm = llama()
    made, ids, given = cora(llm, trained=False), prompts(4), pairs(4)
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-2, weight_decay=0.0)

    def step() -> None:
        optimizer.zero_grad()
        with made.personalised(*given):
            F.cross_entropy(llm(ids).logits[:, -1], ids[:, 0]).backward()

    step()
    trained = [p for p in [*made.generator.parameters(), *made.heads.parameters()] if p.requires_grad]
    assert all(p.grad is None or not p.grad.any() for p in trained)
    assert all(p.grad.any() for p in made.outputs.values())
    optimizer.step()
    step()
    assert all(p.grad.any() for p in made.heads.parameters())
    moved = [p.grad is not None and bool(p.grad.any()) for p in made.generator.parameters() if p.requires_grad]
    assert sum(moved) > 0.8 * len(moved)  # biases of keys cancel in a softmax


def test_attention_over_one_key_is_an_affine_map() -> None:
    made = cora(llama())
    attention, c = made.generator.blocks[0].pair, torch.randn(3, USER + ITEM)
    torch.manual_seed(0)
    queries = torch.randn(3, 4, USER + ITEM)

    def split(x: torch.Tensor) -> torch.Tensor:
        return x.view(3, -1, 4, (USER + ITEM) // 4).transpose(1, 2)

    q, k, v = split(attention.query(queries)), split(attention.key(c[:, None])), split(attention.value(c[:, None]))
    full = (q @ k.transpose(2, 3) / 2.0).softmax(-1) @ v
    expected = attention.output(full.transpose(1, 2).reshape(3, 4, -1))
    torch.testing.assert_close(attention(c, 4).expand(3, 4, -1), expected, atol=1e-6, rtol=0)


def test_the_order_of_the_queries_and_of_pooling_does_not_matter() -> None:
    made, given = cora(llama()), pairs(3)
    before = made.weights(*given)[64]
    x = made.generator.norm(made.generator.queries)
    for block in made.generator.blocks:
        x = block(x, made.pairs(*given))
    late = F.normalize(made.heads["64"](x).mean(1), dim=1).view(3, 64, 4)
    torch.testing.assert_close(late, before, atol=1e-5, rtol=0)
    with torch.no_grad():
        made.generator.queries.copy_(made.generator.queries[:, [2, 0, 3, 1]].clone())
    torch.testing.assert_close(made.weights(*given)[64], before, atol=1e-6, rtol=0)


def test_all_increments_of_a_pair_share_one_subspace() -> None:
    made = cora(llama(), rank=3)
    changes = made.increments(made.weights(*pairs(1)))
    stacked = torch.cat([(one.first[0] @ one.second).double() for one in changes.values()], dim=1)
    for one in changes.values():
        assert int(torch.linalg.matrix_rank((one.first[0] @ one.second).double(), rtol=1e-6)) <= 3
    values = torch.linalg.svdvals(stacked)
    assert values[3] < 1e-6 * values[0]


def test_frozen_means_frozen_and_disabled_means_untouched() -> None:
    llm = llama()
    before, ids = fingerprint(llm), prompts(4)
    plain = llm(ids).logits
    made = cora(llm)
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-2)
    for seed in range(3):
        with made.personalised(*pairs(4, seed)):
            loss = F.cross_entropy(llm(ids).logits[:, -1], ids[:, 0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert fingerprint(llm) == before and all(p.grad is None and not p.requires_grad for p in llm.parameters())
    assert not set(map(id, llm.parameters())) & set(map(id, made.parameters()))
    assert torch.equal(llm(ids).logits, plain)
    with made.personalised(*pairs(4)) as switch:
        assert not torch.equal(llm(ids).logits, plain)
        with made.disabled():
            assert torch.equal(llm(ids).logits, plain)
        switch.on = False
        assert torch.equal(llm(ids).logits, plain)


def test_the_number_of_parameters_is_the_paper_s() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=32_000, hidden_size=4096, num_hidden_layers=32, intermediate_size=11_008)
    with torch.device("meta"):
        made = CoRA(LlamaForCausalLM(config), 256, 256, rank=16)
    h, inner = 512, 3072
    attention, feed_forward = 4 * (h * h + h), 2 * h * inner + inner + h
    generator = 8 * (2 * attention + feed_forward + 3 * 2 * h) + 4 * h + 2 * h
    head, outputs = (h + 1) * 4096 * 16, 32 * 4 * 16 * 4096
    assert sum(p.numel() for p in made.parameters()) == generator + head + outputs == 84_040_704


def test_no_matrix_per_pair_is_made() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for one in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(one, torch.Tensor):
                    largest = max(largest, one.numel())
            return out

    llm = llama(width=128, inner=130)
    made, rows, length = cora(llm, modules=("q", "k", "v", "o", "gate")), 16, 5
    ids = prompts(rows, length)
    with Largest(), made.personalised(*pairs(rows)):
        hidden = llm.model(ids).last_hidden_state[:, -1]
        hidden.sum().backward()
    assert largest < rows * 128 * 128 / 4  # 16 matrices of 128 x 128 would be 262,144 numbers


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-2)])
def test_what_enters_the_first_adapted_block_can_be_kept(dtype: torch.dtype, tolerance: float) -> None:
    llm = llama(layers=4)
    made, given, ids = cora(llm, blocks=2), pairs(3), prompts(3)
    assert made.first_block == 2
    with made.personalised(*given):
        whole = llm(ids).logits
    hidden = block_input(llm, made.first_block, ids).to(dtype)
    with from_block(llm, made.first_block, hidden), made.personalised(*given):
        part = llm(ids).logits
    assert float((part - whole).abs().max()) < tolerance * max(1.0, float(whole.abs().max()))


def test_other_inputs_that_people_pass() -> None:
    llm = llama()
    made, ids = cora(llm), prompts(1)
    users, items = pairs(1)
    with made.personalised(users.double(), items.half().float()):
        once = llm(ids).logits
    with made.personalised(users.numpy(), items.numpy()):
        torch.testing.assert_close(llm(ids).logits, once, atol=1e-3, rtol=1e-3)
    with made.personalised(users[:0], items[:0]):
        pass
    with made.personalised(users, items):
        generated = llm.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0)
    expected = made.merged(users[0], items[0]).generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert torch.equal(generated, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank=0"),
        ({"user_dim": 0}, "user_dim=0"),
        ({"blocks": 3}, "blocks=3 must be from 1 to this model's 2"),
        ({"blocks": [5]}, "among this model's blocks 0 to 1"),
        ({"modules": ["query"]}, "has no query; choose q, k, v, o, gate, up, down"),
        ({"modules": []}, "at least one map"),
        ({"generator": "gru"}, "generator=gru is unknown; choose qformer, mlp, linear"),
        ({"generator": "linear", "queries": 4}, "has no option queries"),
        ({"heads": 5}, "no multiple of heads=5"),
        ({"dropout": 1.5}, "dropout=1.5"),
    ],
)
def test_bad_options_are_one_line(options: dict, message: str) -> None:
    with pytest.raises((ValueError, UserError), match=message) as caught:
        CoRA(llama(), **{"user_dim": USER, "item_dim": ITEM, "rank": 4, **options})
    assert "\n" not in str(caught.value)


def test_bad_inputs_are_one_line() -> None:
    llm = llama()
    made, (users, items), ids = cora(llm), pairs(3), prompts(3)
    with pytest.raises(ValueError, match=r"user_vectors of shape \(3, 7\) must be \(pairs, 8\)"):
        made.weights(users[:, :7], items)
    with pytest.raises(ValueError, match="3 user vectors but 2 item vectors"):
        made.weights(users, items[:2])
    with pytest.raises(ValueError, match="item_vectors: row 1 is not finite"):
        made.weights(users, items.index_fill(0, torch.tensor([1]), math.nan))
    with pytest.raises(ValueError, match="increments of 2 rows for a batch of 3"), made.personalised(*pairs(2)):
        llm(ids)
    with made.personalised(users, items), pytest.raises(ValueError, match="personalised already"):
        made.personalised(users, items).__enter__()
    with made.personalised(users, items), pytest.raises(ValueError, match="before merging"):
        made.merged(users[0], items[0])
    llm.config.model_type = "mamba"
    with pytest.raises(ValueError, match="model type 'mamba' is not supported"):
        CoRA(llm, USER, ITEM)
