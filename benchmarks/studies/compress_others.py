"""The ways of others to a smaller decoder, of whole blocks: made of one decoder and its training text."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cached_property

from transformers import PreTrainedModel

import linscore
from benchmarks.studies.surgery import Bench, distilled
from linscore.compression.build import built
from linscore.compression.choices import Form
from linscore.compression.heal import heal
from linscore.decoder.mlp_output import find_projection
from linscore.decoder.sub_blocks import find_sub_blocks
from linscore.spans import Span, Unit, after, indices, runs
from linscore.statistics.maps import FittedMap
from linscore.surgery.choose import choose, choose_from
from linscore.surgery.fuse import fit_fusion, fuse

MEASURED = 5  # batches of the training text that tell which blocks to drop
Cut = tuple[PreTrainedModel, list[int]]  # a model, and which blocks of the original it is without
Makes = Callable[[int], Cut]  # of so many blocks


class Others:
    """Whole blocks dropped, linearized, fused, by the paper's recipe and by ReplaceMe's: each healed and not."""

    def __init__(self, bench: Bench, most: int) -> None:
        self.bench, self.model, self.most = bench, bench.loaded.model, most

    def ways(self) -> dict[str, Makes]:
        """What some blocks can become, by name; what takes longest comes last."""
        return {
            "dropped": lambda count: (linscore.drop(self.model, self.gone(count)), self.gone(count)),
            "dropped, healed": lambda count: self.healed(self.gone(count), Form("drop")),
            "linearized": lambda count: self.linear(self.gone(count)),
            "linearized, healed": lambda count: self.healed(self.gone(count), Form("affine")),
            "fused": lambda count: self.fused(runs(self.gone(count)), "auto", "auto"),
            "recipe": lambda count: self.linear(self.most_linear(count)),
            "span": lambda count: self.fused(self.span(count), "output", None),
            "recipe, distilled": lambda count: self.distilled(self.linear(self.most_linear(count))),
            "fused, distilled": lambda count: self.distilled(self.fused(runs(self.gone(count)), "auto", "auto")),
            "span, distilled": lambda count: self.distilled(self.fused(self.span(count), "output", None)),
        }

    @cached_property
    def report(self) -> linscore.Report:
        return linscore.score(self.model, self.bench.batches(), spectra=False)

    @cached_property
    def order(self) -> list[int]:
        """Blocks in the order in which measuring drops them."""
        small = list(itertools.islice(self.bench.batches(), MEASURED))
        return choose(self.model, lambda: small, self.most, by="perplexity", sequential=True).blocks

    def gone(self, count: int) -> list[int]:
        return sorted(self.order[:count])

    def most_linear(self, count: int) -> list[int]:
        """The paper's choice: by linearity in-sample."""
        return sorted(choose_from(self.report, count, by="linearity").blocks)

    def span(self, count: int) -> list[Span]:
        """ReplaceMe's choice: the span over which states turn least."""
        return choose(self.model, self.bench.batches, count, by="angular_distance", span=count).spans

    def linear(self, blocks: list[int]) -> Cut:
        """Each of the blocks as its affine map."""
        return linscore.linearize(self.model, {index: self._map(index) for index in blocks}), blocks

    def _map(self, index: int) -> FittedMap:
        return linscore.fit_block_map(self.report.moments[f"block.{index}"], ridge="auto")

    def fused(self, spans: list[Span], on: str, ridge: str | None) -> Cut:
        """Each span folded into the MLP before it."""
        outputs = {"fuse_output" if on == "output" else "fuse": spans}
        moments = linscore.score(self.model, self.bench.batches(), spectra=False, **outputs).moments
        fusions = {span: fit_fusion(self.model, span, moments, on=on, ridge=ridge) for span in spans}  # type: ignore[arg-type]
        return fuse(self.model, fusions), indices(spans)

    def healed(self, blocks: list[int], form: Form) -> Cut:
        """Blocks in a form, and what is left of the decoder refitted in closed form."""
        decoder, choice = self.bench.loaded.decoder, {Unit(Span(index, index)): form for index in blocks}
        return built(self.model, heal(decoder, find_sub_blocks(decoder), choice, self.bench.batches())), blocks

    def distilled(self, cut: Cut) -> Cut:
        """Linear blocks, or the projections that were fused into, trained towards the original; the rest is frozen."""
        student, blocks = cut
        decoder, spans = linscore.find_decoder(student), runs(blocks)
        if len(decoder.blocks) == len(self.bench.loaded.decoder.blocks):
            pairs, trained = {index: index for index in blocks}, [decoder.blocks[index] for index in blocks]
        else:  # the block before a span is to give what the span gave
            pairs = {after(span.first, blocks) - 1: span.last for span in spans}
            trained = [decoder.blocks[index].get_submodule(find_projection(decoder)) for index in pairs]
        distilled(self.bench, student, pairs, trained)
        return cut
