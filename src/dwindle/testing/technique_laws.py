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
from typing import Any, ClassVar, Final, NamedTuple

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


class Case(NamedTuple):
    """A start, how it looked before the technique was applied to it, and what came out."""

    before: CompressedModel
    fingerprint: str
    observed: list[tuple[Any, ...]]
    after: CompressedModel


class TechniqueLaws:
    """What holds for every technique. Set `technique`, and `context` where it needs more than `small_context`."""

    technique: ClassVar[Technique]
    context: ClassVar[Context | None] = None
    _computed: ClassVar[list[Case]]

    def network(self) -> nn.Module:
        """Return the network to compress; the same one at every call."""
        return small_network()

    def test_input_is_untouched(self) -> None:
        for case in self._cases():
            assert fingerprint(case.before) == case.fingerprint
            assert _observed(case.before.network) == case.observed

    def test_weights_equal_their_decoded_encodings(self) -> None:
        for case in self._cases():
            tensors = case.after.network.state_dict()
            assert set(tensors) == set(case.after.encodings) | set(case.after.aliases)
            for name, tensor in tensors.items():
                decoded = decode(case.after.encodings[case.after.aliases.get(name, name)])
                assert decoded.dtype == tensor.dtype, name
                assert torch.equal(decoded, tensor), name

    def test_same_seed_same_outcome_whatever_the_global_generator(self) -> None:
        for case in self._cases():
            torch.manual_seed(2)
            state = torch.random.get_rng_state()
            again = self._apply(case.before)
            assert fingerprint(again) == fingerprint(case.after)
            assert torch.equal(torch.random.get_rng_state(), state)

    def test_earlier_zeros_stay_zero(self) -> None:
        if Trait.SPARSE in self.technique.effect.removes:
            pytest.skip("this technique forgets zeros on purpose")
        for case in self._cases():
            for name, encoding in case.before.encodings.items():
                support = support_of(encoding)
                if support is None:
                    continue
                later = support_of(case.after.encodings[name])
                assert later is not None, name
                if later.shape != support.shape:  # channels were cut; tests/network/test_surgery.py looks at what stays
                    continue
                assert not bool((later & ~support).any()), name
                assert not bool(decode(case.after.encodings[name])[~support].any()), name

    def test_codebooks_do_not_grow(self) -> None:
        if Trait.CLUSTERED in self.technique.effect.removes:
            pytest.skip("this technique forgets codebooks on purpose")
        for case in self._cases():
            for name, encoding in case.before.encodings.items():
                if (before := codebook_of(encoding)) is None:
                    continue
                later = codebook_of(case.after.encodings[name])
                assert later is not None, name
                assert later.codebook_size <= before.codebook_size, name

    def test_history_grows_by_one_and_survives_json(self) -> None:
        for case in self._cases():
            assert case.after.history[:-1] == case.before.history
            record = case.after.history[-1]
            assert record.technique == type(self.technique).__name__
            assert record.digest == case.after.digest()
            assert record_from_plain(json.loads(json.dumps(record_to_plain(record), allow_nan=False))) == record

    def test_replay_gives_the_same_digest(self) -> None:
        techniques = {type(self.technique).__name__: type(self.technique)}
        for case in self._cases():
            replayed = Recipe.replay(case.after.history[-1:], case.before, self._context(), techniques=techniques)
            assert fingerprint(replayed) == fingerprint(case.after)

    def test_recipe_in_toml_is_the_same_recipe(self) -> None:
        techniques = {type(self.technique).__name__: type(self.technique)}
        recipe = Recipe((self.technique,))
        assert Recipe.from_toml(recipe.to_toml(), techniques=techniques) == recipe

    def test_modes_and_types_are_left_as_found(self) -> None:
        for case in self._cases():
            _require_same_conduct(case.before.network, case.after.network)

    def test_training_mode_and_hooks_are_left_as_found(self) -> None:
        model = next(self._starts())
        model.network.train()
        model.network.register_forward_hook(_do_nothing)
        after = self._apply(model)
        _require_same_conduct(model.network, after.network)
        assert len(vars(after.network)["_forward_hooks"]) == 1

    def test_it_adds_no_trait_that_it_does_not_declare(self) -> None:
        for case in self._cases():
            gained = traits_of(case.after) & ~traits_of(case.before)
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

    def _cases(self) -> list[Case]:
        """Return every start with its outcome; computed once for a class, because models are never changed."""
        cls = type(self)
        if "_computed" not in vars(cls):
            cls._computed = [
                Case(model, fingerprint(model), _observed(model.network), self._apply(model))
                for model in self._starts()
            ]
        return cls._computed

    def _starts(self) -> Iterator[CompressedModel]:
        """Yield the models that the technique accepts, by its `effect`."""
        for traits, structures in STARTS.items():
            if traits & self.technique.effect.refused:
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


def _require_same_conduct(before: nn.Module, after: nn.Module) -> None:
    """Require modes, types and what is trained as before in every module that stayed, and no parametrization left."""
    earlier = dict(before.named_modules())
    for path, module in after.named_modules():
        assert not parametrize.is_parametrized(module), path
        if path in earlier and type(earlier[path]) is type(module):
            assert module.training is earlier[path].training, path
    types = {name: tensor.dtype for name, tensor in before.state_dict().items()}
    for name, tensor in after.state_dict().items():
        assert tensor.dtype == types.get(name, torch.float32), name
    is_trained = {name: parameter.requires_grad for name, parameter in before.named_parameters()}
    for name, parameter in after.named_parameters():
        assert parameter.requires_grad == is_trained.get(name, True), name


def _do_nothing(*_: Any) -> None:
    return None
