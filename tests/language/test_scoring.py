"""Batched scoring and generation equal plain forward passes, whatever the batch, the padding and the sharing."""

import pytest
import torch

from decathlon.language import encode, generate, next_logits, sample, score, separator_id, tiny_model, word_tokenizer
from decathlon.language.generation import pick
from decathlon.language.tokens import batches, continuation_ids, frame, pad, start_ids
from decathlon.language.tree import collate, pack

WORDS = ["the", "capital", "of", "france", "italy", "is", "paris", "rome", "in", "europe", "a", "b", "c", "d", "e", "f"]
PROMPTS = [
    "the capital of france is",
    "the capital of france is",
    "the capital of italy is",
    "a",
    "the capital of",
    "a b c d a b c",
    "a b c d a b d",
]
CONTINUATIONS = ["paris", "rome in europe", "rome", "b c d", " is a", " paris", "e"]


@pytest.fixture(scope="module", params=["gpt2", "gptj", "llama"])
def model(request):
    return tiny_model(request.param, len(WORDS) + 2).double()


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer(WORDS)


def by_hand(model, tokenizer, prompt, continuation):
    ids, more = tokenizer(prompt).input_ids, tokenizer(continuation).input_ids
    logp = model(torch.tensor([ids + more])).logits.log_softmax(-1)[0]
    steps = [logp[len(ids) - 1 + i] for i in range(len(more))]
    return sum(float(row[t]) for row, t in zip(steps, more)), all(int(row.argmax()) == t for row, t in zip(steps, more))


def test_scores_are_those_of_one_pair_at_a_time(model, tokenizer):
    expected = [by_hand(model, tokenizer, p, c) for p, c in zip(PROMPTS, CONTINUATIONS)]
    for options in ({}, {"share": False}, {"max_tokens": 1}):
        got = score(model, tokenizer, PROMPTS, CONTINUATIONS, **options)
        torch.testing.assert_close(got.total, torch.tensor([t for t, _ in expected], dtype=torch.float64))
        assert got.greedy.tolist() == [g for _, g in expected]
        torch.testing.assert_close(got.mean * got.length, got.total)
    assert got.length.tolist() == [1, 3, 1, 3, 2, 1, 1]


def test_greedy_is_true_for_what_the_model_generates(model, tokenizer):
    made = generate(model, tokenizer, PROMPTS, 3)
    whole = [index for index, text in enumerate(made) if len(text.split()) == 3]  # special tokens are not in the text
    assert len(whole) > 2
    assert score(model, tokenizer, [PROMPTS[i] for i in whole], [made[i] for i in whole]).greedy.all()


def test_next_logits(model, tokenizer):
    got = next_logits(model, tokenizer, PROMPTS)
    for row, prompt in zip(got, PROMPTS):
        torch.testing.assert_close(row, model(torch.tensor([tokenizer(prompt).input_ids])).logits[0, -1])


def test_generation_is_that_of_one_prompt_at_a_time(model, tokenizer):
    got = generate(model, tokenizer, PROMPTS, 8)
    for prompt, text in zip(PROMPTS, got):
        ids = torch.tensor([tokenizer(prompt).input_ids])
        for _ in range(8):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
        assert text == tokenizer.decode(ids[0, len(tokenizer(prompt).input_ids) :], skip_special_tokens=True)
    assert generate(model, tokenizer, PROMPTS, 8, max_tokens=1) == got


def test_left_and_right_padding_give_the_same_logits(model, tokenizer):
    """What a caller with padded batches of their own relies on: position ids and mask, not the side, decide."""
    rows = encode(tokenizer, PROMPTS)
    out = []
    for side in ("left", "right"):
        ids, mask = pad(rows, side)
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
        last = torch.tensor([len(row) - 1 if side == "right" else ids.shape[1] - 1 for row in rows])
        out.append(logits[torch.arange(len(rows)), last])
    torch.testing.assert_close(*out)
    torch.testing.assert_close(out[0], next_logits(model, tokenizer, PROMPTS))


def test_stop_strings_cut_the_text(model, tokenizer):
    free = generate(model, tokenizer, PROMPTS, 6)
    for text, prompt in zip(free, PROMPTS):
        mark = text.split()[-1]
        (cut,) = generate(model, tokenizer, [prompt], 6, stop=[mark])
        assert cut == text[: text.find(mark)]
    assert generate(model, tokenizer, PROMPTS[:1], 0) == [""]


def test_end_token_ends_a_text_and_is_not_part_of_it(tokenizer):
    model = tiny_model("gpt2", len(WORDS) + 2).double()
    (text,) = generate(model, tokenizer, PROMPTS[:1], 6)
    words = text.split()
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(words[-1])
    (cut,) = generate(model, tokenizer, PROMPTS[:1], 6)
    assert cut.split() == words[: words.index(words[-1])]


def test_samples_depend_on_the_seed_only(model):
    a, b = sample(model, [[3], [4]], 6, seed=1), sample(model, [[3], [4]], 6, seed=1)
    assert a == b and a != sample(model, [[3], [4]], 6, seed=2)
    assert [len(row) for row in a] == [6, 6]
    assert sample(model, [[3]], 6, top_k=1) == [r for r in sample(model, [[3]], 6, top_k=1, seed=9)]


def test_sampling_follows_the_top_k_distribution():
    model = tiny_model("gpt2", 6, scale=1.0)
    drawn = torch.tensor([row[0] for row in sample(model, [[3]] * 4000, 1, top_k=3, seed=0)])
    values, tokens = model(torch.tensor([[3]])).logits[0, -1].topk(3)
    share = torch.stack([(drawn == token).float().mean() for token in tokens])
    torch.testing.assert_close(share, values.softmax(-1), atol=0.03, rtol=0)
    assert set(drawn.tolist()) == set(tokens.tolist())


def test_a_draw_does_not_depend_on_how_many_tokens_are_put_in_order():
    """From the whole vocabulary: the token at which the probabilities, likeliest first, add up to u."""
    logits = torch.randn(40, 300, generator=torch.Generator().manual_seed(0)) * 3
    u = torch.rand(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values, tokens = logits.double().sort(dim=-1, descending=True)
    places = (values.softmax(-1).cumsum(-1) < u[:, None]).sum(-1)
    expected = tokens.gather(1, places[:, None])[:, 0]
    assert int(places.max()) > 8  # some lie beyond the first eight
    for likeliest in (1, 8, 300, 512):
        assert torch.equal(pick(logits, u, 300, likeliest), expected)
    few = pick(logits, u, 5, likeliest=2)
    assert all(int(token) in row[:5].tolist() for token, row in zip(few, tokens))


def test_tree_shares_prefixes_and_keeps_every_sequence():
    sequences = [[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3, 4], [9], [1, 2, 3, 4, 6, 7]]
    rows = pack(sequences)
    assert sum(len(row.tokens) for row in rows) == 8  # 1 2 3 4 (6 7) (5) and 9
    ids, positions, allowed = collate(rows)
    seen = {}
    for r, row in enumerate(rows):
        for path, member in zip(row.paths, row.members):
            seen[member] = [int(ids[r, node]) for node in path]
            assert [int(positions[r, node]) for node in path] == list(range(len(path)))
            for place, node in enumerate(path):
                assert torch.nonzero(allowed[r, node])[:, 0].tolist() == sorted(path[: place + 1])
    assert [seen[index] for index in range(len(sequences))] == sequences


def test_batches_hold_every_index_once_and_keep_the_limit():
    lengths = [3, 9, 1, 1, 4, 20, 2, 2]
    parts = batches(lengths, 12)
    assert sorted(index for part in parts for index in part) == list(range(len(lengths)))
    assert all(len(part) == 1 or len(part) * max(lengths[i] for i in part) <= 12 for part in parts)


def test_bad_requests(model, tokenizer):
    with pytest.raises(ValueError, match="2 prompts but 1 continuations"):
        score(model, tokenizer, ["a", "b"], ["c"])
    with pytest.raises(ValueError, match="has no tokens"):
        score(model, tokenizer, ["a"], [""])
    with pytest.raises(ValueError, match="no prompts"):
        next_logits(model, tokenizer, [])
    with pytest.raises(ValueError, match="choose auto or off"):
        encode(tokenizer, ["a"], bos="always")


def byte_tokenizer():
    """GPT-2's kind: byte-level, nothing put in front, <|endoftext|> between documents."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = {token: index for index, token in enumerate(["<|endoftext|>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=tokens, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>")


def sentencepiece_tokenizer():
    """LLaMA's kind: a BOS and a space mark are put before every text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = ["<unk>", "<s>", "▁", *":abcdefghijklmnopqrstuvwxyzPR"]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(letters)}, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")


def test_separator_stands_before_texts_of_byte_level_tokenizers():
    tokenizer = byte_tokenizer()
    assert separator_id(tokenizer) == 0
    assert encode(tokenizer, ["ab"])[0][0] == 0 and len(encode(tokenizer, ["ab"])[0]) == 3
    assert len(encode(tokenizer, ["ab"], bos="off")[0]) == 2
    assert encode(tokenizer, ["<|endoftext|>ab"])[0].count(0) == 1


def test_continuations_of_sentencepiece_tokenizers_lose_bos_and_added_space():
    tokenizer = sentencepiece_tokenizer()
    assert separator_id(tokenizer) is None
    prompt, joint = tokenizer("ab").input_ids, tokenizer("ab Paris").input_ids
    assert joint == prompt + continuation_ids(tokenizer, " Paris")
    assert tokenizer("abParis").input_ids == prompt + continuation_ids(tokenizer, "Paris")


def framing_tokenizer(template):
    """A word tokenizer that puts [CLS] or [SEP] around texts."""
    from tokenizers import processors

    tokenizer = word_tokenizer(["[CLS]", "[SEP]", *WORDS])
    ids = [(token, tokenizer.get_vocab()[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return tokenizer


@pytest.mark.parametrize(("template", "before"), [("$A [SEP]", []), ("[CLS] $A [SEP]", ["[CLS]"]), ("$A", [])])
def test_what_a_tokenizer_appends_is_not_part_of_a_text_that_goes_on(template, before):
    """Logits are read after the last word, not after a separator behind it."""
    tokenizer, plain = framing_tokenizer(template), word_tokenizer(["[CLS]", "[SEP]", *WORDS])
    first = plain.convert_tokens_to_ids(before)
    assert frame(tokenizer)[0] == first == start_ids(tokenizer)
    assert separator_id(tokenizer) is None
    assert encode(tokenizer, PROMPTS) == [first + row for row in encode(plain, PROMPTS)]
    assert encode(tokenizer, ["a [SEP]"]) == [first + encode(plain, ["a [SEP]"])[0]]  # the text's own one stays
    model = tiny_model("llama", len(plain)).double()
    logits = next_logits(model, tokenizer, PROMPTS[:1])[0]
    torch.testing.assert_close(logits, model(torch.tensor([first + plain(PROMPTS[0]).input_ids])).logits[0, -1])


def test_a_tokenizer_that_only_appends_still_gets_its_separator():
    tokenizer = framing_tokenizer("$A [SEP]")
    tokenizer.add_special_tokens({"bos_token": "[CLS]"})
    assert separator_id(tokenizer) == tokenizer.bos_token_id
    assert encode(tokenizer, ["a"])[0] == [tokenizer.bos_token_id, tokenizer.convert_tokens_to_ids("a")]
