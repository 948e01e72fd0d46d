"""This file holds the laws of a technique, as a base class for tests.

    class TestMine(TechniqueLaws):
        technique = MyTechnique(strength=2)

Every law runs from each start that the technique accepts: a dense model, a pruned one, a clustered one, both, and one
with integer codes. `context` and `network` may be replaced, too. For messages with values, say in your conftest.py
`pytest.register_assert_rewrite("dwindle.testing.technique_laws")`.
"""

# ruff: file-ignore[assert, undocumented-public-method]: laws are assertions, and their names say what holds.

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Final

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from dwindle.core.affine import quantize
from dwindle.core.codebook import kmeans_1d
from dwindle.core.encoding import Codebook, Dense, Encoding, codebook_of, decode, restrict, rewrite, support_of
from dwindle.core.sparsity import magnitude_support
from dwindle.errors import SelectionError
from dwindle.network.compressed import CompressedModel
from dwindle.network.select import Select, weight_names
from dwindle.recipe import Recipe
from dwindle.recipe.check import traits_of
from dwindle.recipe.pack import fingerprint, record_from_plain, record_to_plain
from dwindle.technique import Context, Technique, Trait
from dwindle.testing.small import small_context, small_network

Restructure = Callable[[Encoding], Encoding]


class TechniqueLaws:
    """What holds for every technique. Set `technique`, and `context` where it needs more than `small_context`."""

    technique: ClassVar[Technique]
    context: ClassVar[Context | None] = None

    def network(self) -> nn.Module:
        """Return the network to compress; the same one at every call."""
        return small_network()

    def test_input_is_untouched(self) -> None:
        for model in self._starts():
            fingerprint_before, network_before = fingerprint(model), _observed(model.network)
            self._apply(model)
            assert fingerprint(model) == fingerprint_before
            assert _observed(model.network) == network_before

    def test_weights_equal_their_decoded_encodings(self) -> None:
        for model in self._starts():
            after = self._apply(model)
            tensors = after.network.state_dict()
            assert set(tensors) == set(after.encodings) | set(after.aliases)
            for name, tensor in tensors.items():
                encoding = after.encodings[after.aliases.get(name, name)]
                assert decode(encoding).dtype == tensor.dtype, name
                assert torch.equal(decode(encoding), tensor), name

    def test_same_seed_same_outcome(self) -> None:
        for model in self._starts():
            assert fingerprint(self._apply(model)) == fingerprint(self._apply(model))

    def test_the_global_generator_is_neither_read_nor_moved(self) -> None:
        for model in self._starts():
            torch.manual_seed(1)
            first = self._apply(model)
            state = torch.random.get_rng_state()
            torch.manual_seed(2)
            moved = torch.random.get_rng_state()
            second = self._apply(model)
            assert first.digest() == second.digest()
            assert torch.equal(torch.random.get_rng_state(), moved)
            assert not torch.equal(state, moved)

    def test_earlier_zeros_stay_zero(self) -> None:
        if Trait.SPARSE in self.technique.effect.removes:
            pytest.skip("this technique forgets zeros on purpose")
        for model in self._starts():
            after = self._apply(model)
            for name, encoding in model.encodings.items():
                support = support_of(encoding)
                if support is None:
                    continue
                later = support_of(after.encodings[name])
                assert later is not None, name
                assert not bool((later & ~support).any()), name
                assert not bool(decode(after.encodings[name])[~support].any()), name

    def test_codebooks_do_not_grow(self) -> None:
        if Trait.CLUSTERED in self.technique.effect.removes:
            pytest.skip("this technique forgets codebooks on purpose")
        for model in self._starts():
            after = self._apply(model)
            for name, encoding in model.encodings.items():
                if (before := codebook_of(encoding)) is None:
                    continue
                later = codebook_of(after.encodings[name])
                assert later is not None, name
                assert later.codebook_size <= before.codebook_size, name

    def test_history_grows_by_one_and_survives_json(self) -> None:
        for model in self._starts():
            after = self._apply(model)
            assert after.history[:-1] == model.history
            record = after.history[-1]
            assert record.technique == type(self.technique).__name__
            assert record.digest == after.digest()
            assert record_from_plain(json.loads(json.dumps(record_to_plain(record), allow_nan=False))) == record

    def test_replay_gives_the_same_digest(self) -> None:
        techniques = {type(self.technique).__name__: type(self.technique)}
        for model in self._starts():
            after = self._apply(model)
            replayed = Recipe.replay(after.history[-1:], model, self._context(), techniques=techniques)
            assert fingerprint(replayed) == fingerprint(after)

    def test_recipe_in_toml_is_the_same_recipe(self) -> None:
        techniques = {type(self.technique).__name__: type(self.technique)}
        recipe = Recipe((self.technique,))
        assert Recipe.from_toml(recipe.to_toml(), techniques=techniques) == recipe

    @pytest.mark.parametrize("is_training", [True, False])
    def test_modes_types_and_hooks_are_left_as_found(self, *, is_training: bool) -> None:
        for model in self._starts():
            model.network.train(is_training)
            handle = model.network.register_forward_hook(_do_nothing)
            after = self._apply(model)
            handle.remove()
            kept = dict(after.network.named_modules())
            for path, module in model.network.named_modules():
                if type(kept[path]) is type(module):
                    assert kept[path].training is is_training, path
            assert len(vars(after.network)["_forward_hooks"]) == 1
            assert not any(parametrize.is_parametrized(module) for module in after.network.modules())
            types = {name: tensor.dtype for name, tensor in model.network.state_dict().items()}
            for name, tensor in after.network.state_dict().items():
                assert tensor.dtype == types.get(name, torch.float32), name
            trained = {name: parameter.requires_grad for name, parameter in model.network.named_parameters()}
            for name, parameter in after.network.named_parameters():
                assert parameter.requires_grad == trained.get(name, True), name

    def test_what_it_adds_is_what_it_declares(self) -> None:
        for model in self._starts():
            gained = traits_of(self._apply(model)) & ~traits_of(model)
            assert gained & ~self.technique.effect.adds == Trait.NOTHING

    def test_a_selection_that_matches_nothing_raises(self) -> None:
        technique: Any = self.technique
        if not hasattr(technique, "select"):
            pytest.skip("this technique works on the whole network")
        lost = dataclasses.replace(technique, select=Select(names=("no.such.weight*",)))
        with pytest.raises(SelectionError, match=r"no\.such\.weight"):
            lost.apply(CompressedModel.dense(self.network()), self._context())

    def _apply(self, model: CompressedModel) -> CompressedModel:
        return self.technique.apply(model, self._context())

    def _context(self) -> Context:
        return small_context() if self.context is None else self.context

    def _starts(self) -> Iterator[CompressedModel]:
        """Yield the models that the technique accepts, by its `effect`."""
        for traits, structures in STARTS.items():
            if traits & self.technique.effect.refuses:
                continue
            model = CompressedModel.dense(self.network())
            for structure in structures:
                names = weight_names(model.network)
                model = model.with_encodings({name: structure(model.encodings[name]) for name in names})
            yield model


def _pruned(encoding: Encoding) -> Encoding:
    return restrict(encoding, magnitude_support(decode(encoding), 0.5))


def _clustered(encoding: Encoding) -> Encoding:
    def fit(values: torch.Tensor, support: torch.Tensor, *, is_codebook: bool) -> Codebook:
        del is_codebook
        clustering = kmeans_1d(values[support], 5)
        indices = torch.zeros(values.shape, dtype=clustering.indices.dtype)
        indices[support] = clustering.indices
        return Codebook(indices, Dense(clustering.centroids))

    return rewrite(encoding, fit)


def _quantized(encoding: Encoding) -> Encoding:
    return rewrite(encoding, lambda values, support, is_codebook: quantize(values, n_bits=8, support=support))


STARTS: Final[Mapping[Trait, tuple[Restructure, ...]]] = {
    Trait.NOTHING: (),
    Trait.SPARSE: (_pruned,),
    Trait.CLUSTERED: (_clustered,),
    Trait.SPARSE | Trait.CLUSTERED: (_pruned, _clustered),
    Trait.INTEGER: (_quantized,),
    Trait.SPARSE | Trait.CLUSTERED | Trait.INTEGER: (_pruned, _clustered, _quantized),
}


def _observed(network: nn.Module) -> list[tuple[Any, ...]]:
    """Return what a technique might disturb without changing a weight."""
    return [
        (
            path,
            type(module).__name__,
            module.training,
            len(vars(module)["_forward_hooks"]),
            len(vars(module)["_forward_pre_hooks"]),
            tuple((name, p.requires_grad, p.grad is None) for name, p in module.named_parameters(recurse=False)),
        )
        for path, module in network.named_modules()
    ]


def _do_nothing(*_: Any) -> None:
    return None
