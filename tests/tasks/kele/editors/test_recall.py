"""Recall vectors: erasure loss and gradient, clamp, early stop, and equality of all ways to compute them."""

import pytest
import torch

from decathlon.language import decoder_of, tap
from decathlon.language.taps import first_tensor
from decathlon.tasks.kele import Edit, Kele, Pmet, Rome
from decathlon.tasks.kele.editors.observe import observe
from decathlon.tasks.kele.editors.pmet import add_to_branches, branch_norms
from decathlon.tasks.kele.editors.prompts import common_prefix
from decathlon.tasks.kele.editors.recall import Objective, Problem, add_to_output, erasure, optimise, places_of, rows_of
from decathlon.tasks.kele.editors.rome import value_norms
from tests.tasks.kele.common import EDITS, FAMILIES, FAST, model, tokenizer

LAYER = 1


def problem_of(net, edits, objective, norms=value_norms, inject=add_to_output):
    rows, subjects = [], []
    for edit in edits:
        more, where = rows_of(edit, objective.beta > 0)
        rows, subjects = rows + more, subjects + where
    observed = observe(net, LAYER, rows, subjects)
    places = places_of(edits, objective.beta > 0, torch.device("cpu"), torch.float64)
    width = len(rows) // len(edits)
    return Problem(net, LAYER, observed, places, objective, norms(observed)[::width].double(), inject), rows, subjects


def full_losses(net, edits, vectors, goal, before=None):
    """The objective with a whole forward pass for every row, no cache, no batch, no padding."""
    name = decoder_of(net).name("mlp", LAYER)
    totals, kept = [], []
    for index, edit in enumerate(edits):

        def logits(ids, place, index=index):
            def hook(module, args, output):
                moved = output.clone()
                moved[0, place] = moved[0, place] + vectors[index, 0]
                return moved

            handle = net.get_submodule(name).register_forward_hook(hook)
            try:
                return net(torch.tensor([ids])).logits[0]
            finally:
                handle.remove()

        injection, erased = 0.0, 0.0
        for prompt, subject in zip(edit.prompts, edit.subjects):
            out = logits([*prompt, *edit.new[:-1]], subject)[len(prompt) - 1 :]
            injection -= (
                sum(row.log_softmax(-1)[t] for row, t in zip(out, edit.new)) / len(edit.new) / len(edit.prompts)
            )
            if edit.shared is not None:
                row = out[edit.shared]
                excess = row[edit.old[edit.shared]] - row.sort(descending=True).values[goal.depth - 1]
                erased = erased + torch.clamp(excess, min=0) / len(edit.prompts)
        after = logits(edit.essence, edit.essence_subject)[edit.essence_subject].log_softmax(-1)
        kept.append(after.detach() if before is None else before[index])
        divergence = (kept[-1].exp() * (kept[-1] - after)).sum()
        with torch.no_grad(), tap(net, [name]) as taps:
            net(torch.tensor([edit.prompts[0]]))
        penalty = vectors[index, 0].norm() / taps.outputs[name][0, edit.subjects[0]].norm() ** 2
        totals.append(injection + goal.alpha * erased + goal.beta * divergence + goal.omega * penalty)
    return torch.stack(totals), kept


OTHERS = [("gpt_neox", None), ("mistral", 4), ("phi3", None), ("qwen2", 4), ("qwen3", None)]


@pytest.mark.parametrize(("family", "window"), [*((family, None) for family in FAMILIES), *OTHERS])
def test_losses_and_gradients_are_those_of_whole_forward_passes(family, window):
    """Also where rows are longer than a sliding window, in all layers (Mistral) or in the upper half (Qwen2)."""
    net = model(family, window=window)
    goal = Objective(alpha=0.7, depth=20, beta=0.3, omega=0.2)
    edits = Rome(net, tokenizer(), LAYER, **FAST).tokenised(EDITS)
    problem, _, _ = problem_of(net, edits, goal)
    zero = torch.zeros(len(edits), 1, 32, dtype=torch.float64)
    with torch.no_grad():
        problem.losses(zero)  # notes P_before
        _, before = full_losses(net, edits, zero, goal)
    vectors = torch.randn(zero.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.3
    results = []
    for losses in (lambda h: problem.losses(h).total, lambda h: full_losses(net, edits, h, goal, before)[0]):
        h = vectors.clone().requires_grad_(True)
        value = losses(h)
        (gradient,) = torch.autograd.grad(value.sum(), h)
        results.append((value.detach(), gradient))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5, atol=1e-7)
    assert float(problem.losses(vectors).erasure.max()) > 0 and float(problem.losses(vectors).divergence.min()) > 0


def test_kl_directions():
    net = model("gpt2")
    edits = Rome(net, tokenizer(), LAYER, **FAST).tokenised(EDITS[:1])
    vectors = torch.linspace(-1, 1, 32, dtype=torch.float64)[None, None] ** 3
    values = {}
    for kl in ("forward", "reverse"):
        problem, _, _ = problem_of(net, edits, Objective(beta=1.0, kl=kl))
        with torch.no_grad():
            problem.losses(torch.zeros_like(vectors))
            losses = problem.losses(vectors)
        values[kl] = float(losses.divergence)
    assert 0 < values["forward"] != values["reverse"] > 0


@pytest.mark.parametrize("depth", [1, 2, 5, 20])
def test_erasure_loss_and_gradient(depth):
    """Zero with zero gradient at rank >= k, else +1 and -1 (per row), and invariant to D -> D + const."""
    logits = torch.randn(200, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    old = torch.randint(0, 30, (200,), generator=torch.Generator().manual_seed(2))
    loss = erasure(logits, old, depth)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    rank = 1 + (logits > logits.gather(1, old[:, None])).sum(1)
    kth = logits.argsort(dim=1, descending=True)[:, depth - 1]
    expected = torch.zeros_like(gradient)
    above = rank < depth
    expected[above, old[above]] += 1
    expected[above, kth[above]] -= 1
    assert torch.equal(gradient, expected)
    assert torch.equal(loss > 0, above)
    torch.testing.assert_close(erasure(logits + 3.7, old, depth), loss)
    assert depth > 1 or float(loss.detach().sum()) == 0
    assert erasure(logits, old, 10**6).min() >= 0  # deeper than the vocabulary: the least logit


def test_erasure_is_averaged_over_contexts_and_read_where_objects_first_differ():
    net = model("gpt2")
    edits = Kele(net, tokenizer(), LAYER, **FAST).tokenised(EDITS)
    assert [edit.shared for edit in edits] == [0, 0, 0, 1]  # "Germany Europe" and "Germany Italy" share a token
    places = places_of(edits, False, torch.device("cpu"), torch.float64)
    assert places.erased.weight.tolist() == [1 / 3] * 12
    torch.testing.assert_close(places.new.weight.sum(), torch.tensor(4.0, dtype=torch.float64))
    last = edits[3]
    for entry in places.erased_at[-3:].tolist():
        # the entry that predicts the second token, with the first one teacher-forced
        assert int(places.new.token[entry]) == last.new[1] and int(places.erased.token[-1]) == last.old[1]
    assert common_prefix([1, 2], [1, 2, 3]) is None and common_prefix([1], [2]) == 0


def test_erasure_is_off_and_noted_when_one_object_begins_with_the_other(caplog):
    net = model("gpt2")
    edit = Edit("{} is the capital of", "Paris", "France", "France Italy")
    (update,) = Kele(net, tokenizer(), LAYER, **FAST).plan([edit])
    (rome,) = Rome(net, tokenizer(), LAYER, **FAST).plan([edit])
    assert update.notes[0]["erasure_off"] == "one begins with the other"
    assert "no erasure for 'Paris is the capital of'" in caplog.text
    (name,) = update.deltas
    assert torch.equal(update.deltas[name].dense(), rome.deltas[name].dense())


def test_kele_with_depth_one_or_alpha_zero_is_rome():
    """The same weights to the last bit."""
    for family in FAMILIES:
        net = model(family, dtype="float32")
        updates = [
            editor.plan(EDITS)
            for editor in (
                Rome(net, tokenizer(), LAYER, **FAST),
                Kele(net, tokenizer(), LAYER, depth=1, **FAST),
                Kele(net, tokenizer(), LAYER, alpha=0.0, **FAST),
                Kele(net, tokenizer(), LAYER, depth=20, **FAST),
            )
        ]
        for rome, one, zero, three in zip(*updates):
            (name,) = rome.deltas
            assert torch.equal(rome.deltas[name].dense(), one.deltas[name].dense())
            assert torch.equal(rome.deltas[name].dense(), zero.deltas[name].dense())
            assert three.notes[0]["erasure"] >= 0
        assert any(
            not torch.equal(a.deltas[name].dense(), b.deltas[name].dense()) for a, b in zip(updates[0], updates[3])
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_optimiser_is_adam_with_clamp_and_early_stop(family):
    """Against torch's Adam, one edit at a time: same path, same stop, and the last iteration does not step."""
    net = model(family)
    goal = Objective(lr=0.1, steps=12, stop=2.35, clamp=3.0, alpha=0.5, depth=20, beta=0.1, omega=0.01)
    edits = Rome(net, tokenizer(), LAYER, **FAST).tokenised(EDITS)
    problem, _, _ = problem_of(net, edits, goal)
    found = optimise(problem, edits)
    for index, edit in enumerate(edits):
        single, _, _ = problem_of(net, [edit], goal)
        h = torch.zeros(1, 1, 32, dtype=torch.float64, requires_grad=True)
        adam = torch.optim.Adam([h], lr=goal.lr)
        steps = 0
        for step in range(goal.steps):
            loss = single.losses(h).total[0]
            if loss < goal.stop or step + 1 == goal.steps:
                break
            adam.zero_grad()
            loss.backward()
            adam.step()
            steps += 1
            with torch.no_grad():
                limit = goal.clamp * single.norms[0, 0]
                if h.norm() > limit:
                    h.mul_(limit / h.norm())
        assert int(found.steps[index]) == steps
        torch.testing.assert_close(found.vectors[index], h[0].detach(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.losses.total[index], loss.detach(), rtol=1e-5, atol=1e-7)
    if family == "gpt2":
        assert len(set(found.steps.tolist())) > 1  # some stopped early and left the batch


def test_clamp_holds_after_every_step_and_one_step_is_none():
    net = model("llama")
    edits = Rome(net, tokenizer(), LAYER, **FAST).tokenised(EDITS)
    goal = Objective(lr=0.5, steps=10, stop=0.0, clamp=0.4, beta=0.0, omega=0.0)
    problem, _, _ = problem_of(net, edits, goal)
    limits, seen = problem.norms * goal.clamp, []
    optimise(problem, edits, watch=lambda h: seen.append(h.norm(dim=-1).clone()))
    assert len(seen) == 9
    for norms in seen:
        assert (norms <= limits * (1 + 1e-6)).all()
    assert (seen[-1] >= limits * 0.99).any()
    problem, _, _ = problem_of(net, edits, Objective(steps=1))
    assert float(optimise(problem, edits).vectors.abs().max()) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_batch_size_and_neighbours_do_not_change_an_edit(family):
    """All at once, in pairs, and one by one; rows of other lengths beside it mean other padding."""
    net = model(family)
    updates = [
        Kele(net, tokenizer(), LAYER, depth=20, max_tokens=tokens, **FAST).plan(EDITS) for tokens in (None, 40, 1)
    ]
    updates.append([Kele(net, tokenizer(), LAYER, depth=20, **FAST).plan([edit])[0] for edit in EDITS])
    for together, *others in zip(*updates):
        (name,) = together.deltas
        for other in others:
            torch.testing.assert_close(together.deltas[name].dense(), other.deltas[name].dense(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_pmet_adds_to_both_branches(family):
    """The block's output with both vectors equals a whole pass with hooks on the two branches."""
    net = model(family)
    edits = Pmet(net, tokenizer(), LAYER, **FAST).tokenised(EDITS[:1])
    goal = Objective(beta=0.0)
    problem, rows, subjects = problem_of(net, edits, goal, branch_norms, add_to_branches(net, LAYER))
    vectors = torch.randn(1, 2, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 0.2
    got = add_to_branches(net, LAYER)(problem.observed, vectors.expand(len(rows), -1, -1))
    decoder, saved = decoder_of(net), {}
    for row, (ids, place) in enumerate(zip(rows, subjects)):

        def bump(vector, place=place):
            def hook(module, args, output):
                moved = first_tensor(output).clone()
                moved[0, place] += vector
                return (moved, *output[1:]) if isinstance(output, tuple) else moved

            return hook

        handles = [
            net.get_submodule(decoder.name("mlp", LAYER)).register_forward_hook(bump(vectors[0, 0])),
            net.get_submodule(decoder.name("attention", LAYER)).register_forward_hook(bump(vectors[0, 1])),
            net.get_submodule(decoder.name("block", LAYER)).register_forward_hook(
                lambda m, a, out: saved.__setitem__("out", first_tensor(out))
            ),
        ]
        net(torch.tensor([ids]))
        for handle in handles:
            handle.remove()
        torch.testing.assert_close(got[row], saved["out"][0, place], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "change", [{"lr": 0}, {"steps": 0}, {"depth": 0}, {"alpha": -1}, {"kl": "both"}, {"clamp": -2}]
)
def test_impossible_objectives(change):
    ((name, _),) = change.items()
    with pytest.raises(ValueError, match=name):
        Objective(**change)
