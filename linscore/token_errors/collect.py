"""Two passes over a text: the moments of every block, then each token's error under the map that has not seen it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache, partial
from itertools import islice

import torch
from torch import Tensor

from linscore.decoder.find import Decoder, token_embedding
from linscore.decoder.run import run, watch
from linscore.decoder.states import BlockStates
from linscore.errors import LinscoreError
from linscore.machine.memory import Fitting
from linscore.machine.versions import versions
from linscore.options.score import ScoreOptions
from linscore.scoring.collect import Collector
from linscore.scoring.parts import Part, Reader
from linscore.scoring.score import score_decoder
from linscore.statistics.affine import AffineMap, fit_map
from linscore.statistics.centered import centered, splits
from linscore.statistics.figures import heldout
from linscore.statistics.moments import Moments
from linscore.text.batch import Batch, read_batch
from linscore.token_errors.result import BlockTokens, Sample, TokenErrors, TokenType, WorstToken
from linscore.token_errors.tally import WORST, Found, Tally
from linscore.token_errors.types import TypeMeans, Vocabulary

BEFORE, AFTER = 16, 6  # tokens of the context that is shown
SAMPLE = 512  # tokens of the text that are kept with all their shares
TYPES, OFTEN = 20, 10  # entries of the vocabulary that are named, which came so often at least
QUANTILES = (0.5, 0.9, 0.99, 0.999)

Decode = Callable[[list[int]], str]


def token_errors(
    decoder: Decoder,
    batches: Callable[[], Iterable[Batch]],
    decode: Decode,
    options: ScoreOptions | None = None,
    *,
    name: str | None = None,
    text: str = "",
) -> TokenErrors:
    """What the held-out map of each block misses of each token (paper: Figure 9).

    Every token is measured under the map that the other folds gave. The maps of all blocks are held: 8·d² bytes a block
    and fold, beside their moments.

    Args:
        decoder: from `find_decoder`.
        batches: gives the same batches at each call, as `score` takes them; read twice.
        decode: token ids to text.
        options: as `score` has them; two folds at least.
        name: what the result calls the model.
        text: what it calls the text.

    Raises:
        LinscoreError: as `score`, and with one fold, where nothing is held out.
    """
    options = replace(options or ScoreOptions(), sub_blocks=False, spans=())
    if options.folds < 2:
        raise LinscoreError(f"`folds={options.folds}` holds nothing out: give 2 or more")
    vocabulary = Vocabulary(token_embedding(decoder.backbone).num_embeddings)  # type: ignore[union-attr]
    report = score_decoder(decoder, vocabulary.watch(batches()), options, spectra=False, name=name)
    moments = {block.index: report.moments[f"block.{block.index}"] for block in report.blocks}
    second = _SecondPass(decoder, options, moments, vocabulary.rows())
    for batch in batches():
        second.add(batch)
    return TokenErrors(
        model=report.model,
        text=text,
        tokens=report.tokens,
        folds=options.folds,
        depth=report.depth,
        width=report.width,
        blocks=[second.block(block.index, decode, block.linearity_no_residual_heldout) for block in report.blocks],
        sample=second.sample(decode),
        versions=versions(),
    )


def fold_maps(moments: Moments) -> dict[int, AffineMap]:
    """For each fold that has rows the map that the others give."""
    filled = [fold for fold in range(moments.folds) if moments.rows(fold)]
    maps = (fit_map(training, precision=moments.precision) for training, _ in splits(moments))
    return dict(zip(filled, maps, strict=True))


class _SecondPass:
    """Every token under the maps of the first pass."""

    def __init__(self, decoder: Decoder, options: ScoreOptions, moments: Mapping[int, Moments], rows: Tensor) -> None:
        self._decoder, self._reader = decoder, Collector(decoder, options)
        self._parts, self._fitting = Reader(options), Fitting()
        self._precision = options.precision
        self._maps = {index: fold_maps(one) for index, one in moments.items()}
        whole = {index: centered(one, range(one.folds)) for index, one in moments.items()}
        self._scale = {index: one.n / one.t_delta if one.t_delta > 0 else 0.0 for index, one in whole.items()}
        self._tallies = {index: Tally(len(rows)) for index in moments}
        self._tokenwise = {
            index: Moments(one.d, folds=one.folds, precision=one.precision, device=one.device)
            for index, one in moments.items()
        }
        self._by_type = {index: TypeMeans(rows, one.folds, one.d, one.device) for index, one in moments.items()}
        self._sample_ids: list[int] = []
        self._sample: dict[int, list[float]] = {index: [] for index in moments}
        self._sequences = 0

    def add(self, batch: Batch) -> None:
        """Run a batch, and measure its tokens; where there is no memory for all its rows, in parts."""
        for part in self._reader.parts(batch):
            taken = dict.fromkeys(self._tallies, 0)  # of each block, so many rows of the part
            list(self._fitting.run(len(part.folds), partial(self._run, part, taken)))
            kept = len(self._sample_ids)
            self._sample_ids += part.tokens.input_ids[part.counting].tolist()[: SAMPLE - kept]
        self._sequences += len(read_batch(batch).input_ids)

    def _run(self, part: Part, taken: dict[int, int], first: int, stop: int) -> None:
        """Run some rows of a part. Rows that could not be run to their end come again: a block takes each once."""
        entering: list[Tensor] = []
        cut = cache(lambda begin: self._cut(part, begin, stop))

        def take(index: int, states: BlockStates) -> None:
            if index == 0:
                entering.append(states.x)
            if (begin := max(first, taken.get(index, stop))) < stop:
                some = BlockStates(states.x[begin - first :], states.y[begin - first :])
                self._take(index, some, cut(begin), entering[0][begin - first :].flatten(0, 1))
                taken[index] = stop

        tokens = part.tokens.rows(first, stop)
        with watch(self._decoder, take, {0, *self._tallies}):
            run(self._decoder, tokens.input_ids, tokens.mask, tokens.position_ids)

    def _cut(self, part: Part, begin: int, stop: int) -> Part:
        """Some rows of a part."""
        rows = slice(begin, stop)
        return self._parts.part(part.tokens.rows(begin, stop), part.folds[rows], part.places[rows])

    def _take(self, index: int, states: BlockStates, part: Part, entering: Tensor) -> None:
        """The tokens of one block: their shares, and what the first state and the token itself know of δ."""
        x, y = states.x.flatten(0, 1), states.y.flatten(0, 1)
        ids = part.tokens.input_ids.flatten().long()
        shares = torch.full((len(x),), torch.nan, dtype=torch.float64)
        for fold, positions in part.rows.items():
            rows = positions.on(x.device)
            own, other, first = (t if rows is None else t[rows] for t in (x, y, entering))
            norms = self._maps[index][fold].residual_norms(own, other, precision=self._precision)
            found = norms.double().cpu().square() * self._scale[index]
            shares[slice(None) if rows is None else rows.cpu()] = found
            delta = other.float() - own.float()
            self._tokenwise[index].update(first, delta=delta, fold=fold)
            self._by_type[index].add(delta, ids if rows is None else ids[rows.cpu()], fold)
        self._count(index, shares, part)

    def _count(self, index: int, shares: Tensor, part: Part) -> None:
        ids, counting = part.tokens.input_ids.flatten(), part.counting.flatten()
        if len(self._sample[index]) < SAMPLE:
            self._sample[index] += shares[counting].tolist()[: SAMPLE - len(self._sample[index])]
        finite = counting & shares.isfinite()
        tally = self._tallies[index]
        tally.add(shares[finite], ids[finite].long())
        above = torch.where(finite & (shares > tally.bar), shares, -1.0)
        best = above.topk(min(WORST, len(above)))
        tally.keep(
            [
                self._found(part, int(at), share)
                for share, at in zip(*map(Tensor.tolist, best), strict=True)
                if share >= 0
            ]
        )

    def _found(self, part: Part, at: int, share: float) -> Found:
        row, column = divmod(at, part.tokens.input_ids.shape[1])
        real = part.tokens.real[row]
        ids, position = part.tokens.input_ids[row][real].tolist(), int(real[:column].sum())
        first = max(0, position - BEFORE)
        sequence = self._sequences + int(part.places[row])
        return Found(share, sequence, position, ids[first : position + AFTER + 1], position - first)

    def block(self, index: int, decode: Decode, linear: float | None) -> BlockTokens:
        """The figures of one block."""
        tally, scale = self._tallies[index], self._scale[index]
        worst = [
            WorstToken(
                one.share,
                decode(one.ids[: one.place]),
                decode([one.ids[one.place]]),
                decode(one.ids[one.place + 1 :]),
                one.sequence,
                one.position,
            )
            for one in tally.worst
        ]
        return BlockTokens(
            index=index,
            unexplained=tally.total / tally.tokens if tally.tokens and scale else None,
            rss=tally.total / scale if scale else 0.0,
            quantiles={f"{part:g}": tally.quantile(part) for part in QUANTILES},
            tail_index=tally.tail_index,
            histogram=tally.histogram(),
            explained_by_token=self._by_type[index].explained(),
            tokenwise=heldout(self._tokenwise[index]).linearity_no_residual_heldout,
            linear=linear,
            worst=worst,
            types=_types(tally, decode),
        )

    def sample(self, decode: Decode) -> Sample:
        """The first tokens of the text."""
        return Sample([decode([one]) for one in self._sample_ids], [[*shares] for shares in self._sample.values()])


def _types(tally: Tally, decode: Decode) -> list[TokenType]:
    """Those entries of the vocabulary, of the frequent ones, whose tokens are missed the most."""
    means = torch.where(tally.counts >= OFTEN, tally.by_id / tally.counts.clamp_min(1), 0.0)
    order = means.argsort(descending=True).tolist()
    named = islice((one for one in order if means[one] > 0), TYPES)
    counts, sums = tally.counts.tolist(), tally.by_id.tolist()
    return [TokenType(decode([one]), counts[one], sums[one] / counts[one], sums[one] / tally.total) for one in named]
