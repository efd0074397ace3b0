"""Closed forms: what an update does to the edited matrix, against dense solutions; and that it is taken back."""

import inspect

import pytest
import torch

from decathlon.language import decoder_of, score
from decathlon.language.decoder import is_transposed, matrix
from decathlon.tasks.kele import AlphaEdit, Emmet, FineTune, FineTuneL, Kele, Memit, Moments, NoEdit, Pmet, Rome
from decathlon.tasks.kele.editors.alphaedit import projected
from decathlon.tasks.kele.editors.emmet import equality_constrained
from decathlon.tasks.kele.editors.memit import regularised, stream_norms
from decathlon.tasks.kele.editors.observe import at_subjects
from decathlon.tasks.kele.editors.recall import add_to_output
from decathlon.tasks.kele.editors.rome import rank_one, value_norms
from decathlon.tasks.kele.update import LowRank, changed, written
from tests.tasks.kele.common import CORPUS, EDITS, FAMILIES, FAST, model, tokenizer

LAYER = 1
F64 = torch.float64
EVERY = (Kele, Rome, Memit, Pmet, AlphaEdit, Emmet, FineTune, FineTuneL, NoEdit)


def rand(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def editor(cls, net, **options):
    takes = inspect.signature(cls).parameters
    kept = {name: value for name, value in (FAST | options).items() if name in takes}
    if cls is AlphaEdit:
        kept |= {"threshold": 1e6, "penalty": 1e-6}
    if cls in (Memit, Pmet):
        kept |= {"weight": 1e-3}
    if "layer" in takes:
        kept["layer"] = (0, 1, 2) if issubclass(cls, Memit) else LAYER
    return cls(net, tokenizer(), **kept)


def keys_of(ed, net, edit, layer=LAYER):
    """Keys of one edit behind every context, (contexts, inner), by whole forward passes."""
    (prompted,) = ed.tokenised([edit])
    name = decoder_of(net).name("down", layer)
    return torch.cat([at_subjects(net, [p], [s], [name])[0][name] for p, s in zip(prompted.prompts, prompted.subjects)])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-4)])
@pytest.mark.parametrize("mode", ["r_rome", "rome"])
def test_rank_one_update_maps_the_key_to_its_value(family, dtype, tolerance, mode):
    """Rank 1, row space C^-1 k, and W' k = v* for the key of the mode."""
    net = model(family, dtype)
    ed = Kele(net, tokenizer(), LAYER, key_mode=mode, depth=20, **FAST)
    (update,) = ed.plan(EDITS[:1])
    (name,) = update.deltas
    module = net.get_submodule(name)
    change = update.deltas[name].dense()
    assert torch.linalg.matrix_rank(change) == 1
    keys = keys_of(ed, net, EDITS[0]).double()
    direction = torch.linalg.solve(ed.moments.moment(LAYER), keys.mean(0))
    row = torch.linalg.svd(change.double()).Vh[0]
    assert abs(float(row @ direction / direction.norm())) > 1 - 1e-6
    found = ed.find(ed.tokenised(EDITS[:1]), LAYER, value_norms, add_to_output)
    key = keys[0] if mode == "rome" else keys.mean(0)
    bias = 0 if module.bias is None else module.bias.detach()
    target = matrix(module).detach().double() @ key + bias + found.recall.vectors[0, 0].double()
    with ed.applied(update):
        got = matrix(module).detach().double() @ key + bias
    assert float((got - target).norm() / target.norm()) < tolerance
    # Directions that are C-orthogonal to the key do not change.
    other = rand(len(key), seed=4)
    other -= direction * (other @ direction) / (direction @ direction)
    assert float((change.double() @ other).norm()) < 1e-6 * float(change.norm() * other.norm())


def test_update_is_the_constrained_least_squares_solution():
    """Min ||W'K - WK||_F subject to W' k = v, by the KKT system of each row; and it is the minimum."""
    d, m, n = 5, 8, 40
    w, old, key, value = rand(d, m), rand(m, n, seed=1), rand(m, seed=2), rand(d, seed=3)
    c = old @ old.T / n
    new = w + rank_one(value - w @ key, torch.linalg.solve(c, key), key).dense()
    kkt = torch.zeros(m + 1, m + 1, dtype=F64)
    kkt[:m, :m], kkt[:m, m], kkt[m, :m] = 2 * old @ old.T, key, key
    right = torch.cat([2 * old @ (w @ old).T, value[None]])
    torch.testing.assert_close(new, torch.linalg.solve(kkt, right)[:m].T, rtol=1e-8, atol=1e-8)
    best = float((new @ old - w @ old).norm())
    for seed in range(20):
        free = rand(d, m, seed=10 + seed) * 0.1
        free -= torch.outer(free @ key, key) / (key @ key)  # still feasible
        torch.testing.assert_close((new + free) @ key, value)
        assert float(((new + free) @ old - w @ old).norm()) > best


def test_scale_of_the_statistics_cancels_and_the_identity_is_plain_projection():
    net = model("gpt2")
    plain = Kele(net, tokenizer(), LAYER, depth=20, **FAST)
    scaled = Kele(net, tokenizer(), LAYER, depth=20, **FAST)
    scaled.moments.set(LAYER, plain.moments.moment(LAYER) * 7)
    (a,), (b,) = plain.plan(EDITS[:1]), scaled.plan(EDITS[:1])
    (name,) = a.deltas
    torch.testing.assert_close(a.deltas[name].dense(), b.deltas[name].dense(), rtol=1e-9, atol=1e-12)
    identity = Rome(net, tokenizer(), LAYER, identity=True, **FAST)
    (update,) = identity.plan(EDITS[:1])
    found = identity.find(identity.tokenised(EDITS[:1]), LAYER, value_norms, add_to_output)
    expected = found.recall.vectors[0, 0].norm() / found.key[0].norm()
    torch.testing.assert_close(update.deltas[name].dense().norm(), expected)


def test_memit_with_one_layer_and_one_fact():
    """The Sherman-Morrison form; with lambda -> 0 it is R-ROME's update for the same residual and key."""
    net = model("gptj")
    results = {}
    for weight in (0.7, 1e-9):
        ed = Memit(net, tokenizer(), (LAYER,), weight=weight, **FAST)
        (update,) = ed.plan(EDITS[:1])
        (name,) = update.deltas
        keys = keys_of(ed, net, EDITS[0])
        key = (keys[0] + keys[1:].mean(0)) / 2
        solved = torch.linalg.solve(ed.moments.moment(LAYER), key)
        found = ed.find(ed.tokenised(EDITS[:1]), LAYER, stream_norms, add_to_output)
        residual = found.recall.vectors[0, 0]
        expected = torch.outer(residual, solved) / (weight + key @ solved)
        torch.testing.assert_close(update.deltas[name].dense(), expected, rtol=1e-6, atol=1e-12)
        results[weight] = (update.deltas[name].dense(), rank_one(residual, solved, key).dense())
    torch.testing.assert_close(*results[1e-9], rtol=1e-6, atol=1e-12)


def test_memit_solution_is_the_dense_one():
    d, m, n, weight = 4, 9, 3, 0.3
    c = rand(m, m, seed=1)
    c = c @ c.T + torch.eye(m, dtype=F64)
    residual, keys = rand(n, d, seed=2), rand(n, m, seed=3)
    got = regularised(residual, keys, torch.linalg.solve(c, keys.T).T, weight).dense()
    expected = residual.T @ keys @ torch.linalg.inv(weight * c + keys.T @ keys)
    torch.testing.assert_close(got, expected)


def test_memit_reaches_its_targets_when_nothing_holds_it_back():
    """With a tiny lambda the stream after the last layer becomes h + delta at the subject of every edit."""
    net = model("gpt2")
    ed = Memit(net, tokenizer(), (0, 1, 2), weight=1e-9, **(FAST | {"contexts": []}))
    (update,) = ed.prepare([EDITS])
    prompted = ed.tokenised(EDITS)
    found = ed.find(prompted, 2, stream_norms, add_to_output)
    block = decoder_of(net).name("block", 2)
    with ed.applied(update):
        now = at_subjects(net, [p.prompts[0] for p in prompted], [p.subjects[0] for p in prompted], (), [block])[1][
            block
        ]
    torch.testing.assert_close(now, found.plain_output + found.recall.vectors[:, 0], rtol=1e-3, atol=1e-3)
    assert len(update.deltas) == 3


def test_emmet():
    """A batch of one is R-ROME; a batch of eight maps every key to its value."""
    net = model("llama")
    (one,), (rome,) = (cls(net, tokenizer(), LAYER, **FAST).plan(EDITS[:1]) for cls in (Emmet, Rome))
    (name,) = one.deltas
    torch.testing.assert_close(one.deltas[name].dense(), rome.deltas[name].dense(), rtol=1e-9, atol=1e-12)
    d, m = 6, 20
    w, keys, values = rand(d, m), rand(8, m, seed=1), rand(8, d, seed=2)
    c = rand(m, 50, seed=3)
    c = c @ c.T
    new = w + equality_constrained(values - keys @ w.T, keys, torch.linalg.solve(c, keys.T).T).dense()
    torch.testing.assert_close(new @ keys.T, values.T, rtol=1e-6, atol=1e-6)
    # the same request twice: values are averaged instead of failing
    twice = torch.cat([keys[:1], keys[:1]])
    new = equality_constrained(values[:2], twice, torch.linalg.solve(c, twice.T).T).dense()
    torch.testing.assert_close(new @ keys[0], values[:2].mean(0))


def test_alphaedit_solution_is_the_dense_one_and_keeps_the_protected_directions():
    d, m, n, penalty = 4, 10, 3, 0.5
    basis = torch.linalg.qr(rand(m, m, seed=1)).Q
    p = basis[:, :6] @ basis[:, :6].T
    residual, keys = rand(n, d, seed=2), rand(n, m, seed=3)
    got = projected(residual, keys, p, penalty).dense()
    dense = residual.T @ keys @ p @ torch.linalg.inv(keys.T @ keys @ p + penalty * torch.eye(m, dtype=F64))
    torch.testing.assert_close(got, dense)
    assert float((got @ basis[:, 6:]).abs().max()) < 1e-12


def test_alphaedit_says_when_nothing_is_free():
    net = model("gpt2")
    ed = AlphaEdit(net, tokenizer(), (0, 1), threshold=1e-30, **FAST)
    with pytest.raises(ValueError, match="threshold=1e-30 leaves no direction free at layer 0"):
        ed.plan(EDITS[:1])


def test_alphaedit_needs_no_invertible_statistics():
    """One text spans few directions, so C is singular: MEMIT cannot solve for it, AlphaEdit has nothing to solve."""
    net = model("gpt2")
    options = {name: value for name, value in FAST.items() if name != "corpus"}
    options["moments"] = Moments(net, tokenizer(), CORPUS[:1], ridge=0.0)
    with pytest.raises(ValueError, match="singular"):
        Memit(net, tokenizer(), (0, 1), **options).plan(EDITS[:1])
    (update,) = AlphaEdit(net, tokenizer(), (0, 1), threshold=1e-9, **options).plan(EDITS[:1])
    assert all(torch.isfinite(delta.dense()).all() for delta in update.deltas.values())


def test_alphaedits_threshold_is_for_the_moment_without_its_ridge():
    net = model("gpt2")
    plain = Moments(net, tokenizer(), CORPUS, ridge=0.0).moment(0)
    values = torch.linalg.eigvalsh(plain)
    middle = len(values) // 2
    threshold = float(values[middle - 1] + values[middle]) / 2
    for ridge in (0.0, 10.0):
        moments = Moments(net, tokenizer(), CORPUS, ridge=ridge)
        ed = AlphaEdit(net, tokenizer(), 0, moments=moments, threshold=threshold)
        assert float(ed.projector(0).trace()) == pytest.approx(middle)
        assert moments.added(0) == pytest.approx(ridge * float(plain.diagonal().mean()))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cls", EVERY)
def test_weights_return_bit_for_bit(family, cls):
    """Also after an exception and when contexts are nested."""
    net = model(family, "float32")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    ed = editor(cls, net)
    with pytest.raises(RuntimeError, match="inside"), ed.apply(EDITS[:2]):
        changed_now = any(not torch.equal(t, before[n]) for n, t in net.state_dict().items())
        assert changed_now == (cls is not NoEdit)
        with ed.apply(EDITS[2:]):
            pass
        raise RuntimeError("inside")
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cls", EVERY)
def test_cases_in_a_batch_are_those_on_their_own(family, cls):
    """Cases with several edits too: a later edit of a case sees that case's earlier ones and no others."""
    net = model(family)
    requests = [EDITS[:2], [EDITS[2]], [EDITS[3], EDITS[0], EDITS[1]], []]
    together = editor(cls, net).prepare(requests)
    for request, update in zip(requests, together):
        (alone,) = editor(cls, net).prepare([request])
        assert set(alone.deltas) == set(update.deltas)
        for name, delta in alone.deltas.items():
            weight = net.get_submodule(name).weight
            flip = is_transposed(net.get_submodule(name))
            torch.testing.assert_close(
                changed(weight, delta, flip), changed(weight, update.deltas[name], flip), rtol=1e-4, atol=1e-7
            )
    assert together[3].deltas == {} or cls is NoEdit


@pytest.mark.parametrize("cls", [Rome, Kele])
def test_edits_of_a_request_follow_one_another(cls):
    """The batch's way (each row with its case's change) against really writing the first edit."""
    net = model("llama")
    ed = editor(cls, net)
    (both,) = ed.prepare([EDITS[:2]])
    (first,) = ed.plan(EDITS[:1])
    with ed.applied(first):
        (second,) = ed.plan(EDITS[1:2])
    (name,) = both.deltas
    total = first.deltas[name].dense() + second.deltas[name].dense()
    torch.testing.assert_close(both.deltas[name].dense(), total, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("cls", EVERY[:-1])
def test_every_editor_makes_the_new_object_likelier(cls):
    net = model("gpt2", dtype="float32")
    # The plain context alone: what is optimised is then what is asked.
    ed = editor(cls, net, lr=0.02 if issubclass(cls, FineTune) else 0.1, steps=30, epsilon=0.02, contexts=[])
    # AlphaEdit as set here moves every token, and with it the rest of a prompt: ask where the subject comes last.
    edits = EDITS[2:3] if cls is AlphaEdit else EDITS
    for edit, update in zip(edits, ed.plan(edits)):
        before = score(net, tokenizer(), [edit.text], [edit.new]).mean
        with ed.applied(update):
            after = score(net, tokenizer(), [edit.text], [edit.new]).mean
        assert float(after) > float(before)
        assert update.nbytes > 0 and update.seconds > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_fine_tuning_is_plain_adam_on_the_matrix(family):
    net, trained = model(family), model(family)
    request = EDITS[:2]
    (update,) = FineTune(net, tokenizer(), LAYER, lr=0.01, steps=5, stop=0.0).prepare([request])
    name = decoder_of(trained).name("down", LAYER)
    weight = trained.get_submodule(name).weight.requires_grad_(True)
    adam = torch.optim.Adam([weight], lr=0.01)
    tok = tokenizer()
    for _ in range(5):
        loss = 0.0
        for edit in request:
            ids, new = tok(edit.text).input_ids, tok(edit.new).input_ids
            logp = trained(torch.tensor([ids + new[:-1]])).logits[0, len(ids) - 1 :].log_softmax(-1)
            loss -= logp[torch.arange(len(new)), torch.tensor(new)].mean() / len(request)
        adam.zero_grad()
        loss.backward()
        adam.step()
    with written(net, update.deltas):
        torch.testing.assert_close(net.get_submodule(name).weight, weight.detach(), rtol=1e-4, atol=1e-5)


def test_ft_l_keeps_every_weight_close_and_last_scoring_differs():
    net = model("gpt2", dtype="float32")
    name = decoder_of(net).name("down", LAYER)
    old = matrix(net.get_submodule(name)).clone()
    (update,) = FineTuneL(net, tokenizer(), LAYER, lr=0.1, steps=5, epsilon=1e-3).plan(EDITS[:1])
    moved = (update.deltas[name].value - old).abs().max()
    assert 0.9e-3 < float(moved) <= 1e-3 * (1 + 1e-3)
    a, b = (
        FineTune(net, tokenizer(), LAYER, lr=0.1, steps=3, scoring=s).plan(EDITS[1:2])[0] for s in ("teacher", "last")
    )
    assert not torch.equal(a.deltas[name].value, b.deltas[name].value)


def test_low_precision_models_are_optimised_in_float32_and_restored():
    net = model("llama", dtype="float32").to(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    ed = Kele(net, tokenizer(), LAYER, depth=20, **FAST)
    (update,) = ed.plan(EDITS[:1])
    (name,) = update.deltas
    found = ed.find(ed.tokenised(EDITS[:1]), LAYER, value_norms, add_to_output)
    assert found.recall.vectors.dtype == torch.float32 and update.deltas[name].left.dtype == F64
    with ed.applied(update):
        assert net.get_submodule(name).weight.dtype == torch.bfloat16
        assert not torch.equal(net.get_submodule(name).weight, before[name + ".weight"])
    assert all(torch.equal(tensor, before[n]) for n, tensor in net.state_dict().items())


def test_low_rank_changes_add_up():
    a, b = LowRank(rand(4, 1), rand(6, 1, seed=1)), LowRank(rand(4, 2, seed=2), rand(6, 2, seed=3))
    torch.testing.assert_close(a.then(b).dense(), a.dense() + b.dense())
    assert a.nbytes == 10 * 8


def test_editors_may_share_statistics():
    net = model("gpt2")
    moments = Moments(net, tokenizer(), FAST["corpus"])
    a = Rome(net, tokenizer(), LAYER, moments=moments, **{k: v for k, v in FAST.items() if k != "corpus"})
    b = Rome(net, tokenizer(), LAYER, **FAST)
    (x,), (y,) = a.plan(EDITS[:1]), b.plan(EDITS[:1])
    (name,) = x.deltas
    assert torch.equal(x.deltas[name].dense(), y.deltas[name].dense())
