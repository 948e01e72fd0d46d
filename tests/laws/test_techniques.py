"""This file holds every technique of the package to the technique laws: one class, one line."""

from __future__ import annotations

from dataclasses import replace

import dwindle as dw
from dwindle.testing import TechniqueLaws, small_context, small_network


class TestPruneWeights(TechniqueLaws):
    technique = dw.PruneWeights(sparsity=0.6)


class TestPruneWeightsGlobally(TechniqueLaws):
    technique = dw.PruneWeights(sparsity=0.6, scope="global")


class TestPruneWeightsByStd(TechniqueLaws):
    technique = dw.PruneWeights(std_multiplier=0.8)


class TestPruneWeightsToSparsityByStd(TechniqueLaws):
    technique = dw.PruneWeights(sparsity=0.6, criterion="std")


class TestPruneWeightsGradually(TechniqueLaws):
    technique = dw.PruneWeights(sparsity=0.7, schedule=dw.Polynomial(frequency=2), epochs=2)


class TestPruneWeightsConstantly(TechniqueLaws):
    technique = dw.PruneWeights(sparsity=0.7, schedule=dw.Constant(begin=0.3), epochs=1, scope="global")


class TestPruneWeightsByLamp(TechniqueLaws):
    technique = dw.PruneWeights(sparsity=0.7, scope="lamp")


class TestPruneWeightsByLampGradually(TechniqueLaws):
    technique = dw.PruneWeights(sparsity=0.7, scope="lamp", schedule=dw.Polynomial(frequency=2), epochs=1)


class TestPruneWeightsNOfM(TechniqueLaws):
    technique = dw.PruneWeights(pattern=dw.NOfM())


class TestPruneWeightsNOfMGradually(TechniqueLaws):
    technique = dw.PruneWeights(pattern=dw.NOfM(n=1, m=3), schedule=dw.Polynomial(frequency=1), epochs=1)


class TestPruneWeightsWithRewinding(TechniqueLaws):
    technique = dw.PruneWeights(sparsity=0.6, rewind=dw.Rewind(rounds=2), epochs=0.7)


class TestPruneWeightsWithLearningRateRewinding(TechniqueLaws):
    technique = dw.PruneWeights(sparsity=0.6, rewind=dw.Rewind(to="learning_rate", rounds=2), epochs=0.7)


class TestCluster(TechniqueLaws):
    technique = dw.Cluster(codebook_size=4)


class TestClusterAtRandom(TechniqueLaws):
    technique = dw.Cluster(codebook_size=4, init="kmeans++")


class TestClusterWithZeros(TechniqueLaws):
    technique = dw.Cluster(codebook_size=4, include_zeros=True)


class TestClusterDuringTraining(TechniqueLaws):
    technique = dw.Cluster(codebook_size=4, epochs=2, centroid_gradient="sum", learning_rate=0.001)


class TestClusterWithReassignment(TechniqueLaws):
    technique = dw.Cluster(codebook_size=4, epochs=2, reassign=dw.Reassign())


class TestQuantizeWeights(TechniqueLaws):
    technique = dw.QuantizeWeights(n_bits=4)


class TestQuantizeWeightsPerChannel(TechniqueLaws):
    technique = dw.QuantizeWeights(granularity=dw.PerChannel(0), symmetric=False)


class TestCastHalf(TechniqueLaws):
    technique = dw.CastHalf()


class TestQuantizeWeightsInFixedPoint(TechniqueLaws):
    technique = dw.QuantizeWeights(n_bits=6, scale="power_of_two")


class TestDensify(TechniqueLaws):
    technique = dw.Densify()


class TestFineTune(TechniqueLaws):
    technique = dw.FineTune(epochs=2)


class TestFoldBatchNorm(TechniqueLaws):
    technique = dw.FoldBatchNorm()


class TestPruneChannels(TechniqueLaws):
    technique = dw.PruneChannels(pruning_ratio=0.5, round_to=1)


class TestPruneChannelsInRounds(TechniqueLaws):
    technique = dw.PruneChannels(pruning_ratio=0.5, round_to=1, importance="taylor", n_batches=2, rounds=2, epochs=0.6)


class TestReestimateBatchNorm(TechniqueLaws):
    technique = dw.ReestimateBatchNorm()


class TestQuantizeStatic(TechniqueLaws):
    technique = dw.QuantizeStatic()


class TestQuantizeStaticWithSixteenBitActivations(TechniqueLaws):
    technique = dw.QuantizeStatic(weights=8, activations=16, scale="power_of_two", calibration=dw.Calibration(n=20))


class TestQuantizeAware(TechniqueLaws):
    technique = dw.QuantizeAware(epochs=0.4)


class TestQuantizeAwareWeightsAlone(TechniqueLaws):
    technique = dw.QuantizeAware(weights=4, activations=None, weight_scale="extremes")


class TestBinarize(TechniqueLaws):
    technique = dw.Binarize(epochs=0.4, keeps_ends=False)


class TestBinarizeWeightsAlone(TechniqueLaws):
    technique = dw.Binarize(n_bits=2, activations=False, granularity=dw.PerChannel(0), keeps_ends=False)


class TestMixedPrecision(TechniqueLaws):
    technique = dw.MixedPrecision(epochs=0.4, bits={"*": 2})


class TestMixedPrecisionBySignificance(TechniqueLaws):
    technique = dw.MixedPrecision(
        epochs=0.4, significance=dw.Significance(by=dw.WeightDeviation(), share=0.5, keeps_ends=False)
    )


class TestQuantizeDynamic(TechniqueLaws):
    technique = dw.QuantizeDynamic()


class TestCorrectBias(TechniqueLaws):
    technique = dw.CorrectBias()


class TestCorrectBiasByLearning(TechniqueLaws):
    technique = dw.CorrectBias(method="learned", n=16, steps=5)


class TestDistill(TechniqueLaws):
    technique = dw.Distill(student="small", epochs=1)
    context = replace(small_context(), networks={"small": small_network(1)})

    def test_training_mode_and_hooks_are_left_as_found(self) -> None:
        """Those of the student count, which takes the place of the network."""
        student = small_network(1).train()
        student.register_forward_hook(lambda *_: None)
        context = replace(small_context(), networks={"small": student})
        after = self.technique.apply(dw.CompressedModel.dense(small_network()), context)
        assert student.training
        assert len(student._forward_hooks) == len(after.network._forward_hooks) == 1
        assert all(module.training for module in after.network.modules())
