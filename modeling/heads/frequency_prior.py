# SPDX-License-Identifier: Apache-2.0
"""What labels alone say of relations: how often two labels are related at all, and how."""

from collections import Counter
from collections.abc import Iterable

import torch
from torch import nn
from transformers import initialization as init

from ..configuration_butd import ButdConfig


PRIOR_STRENGTH = 2.0  # of what single labels say, in examples, beside what was counted of a pair of labels
FEWEST = 0.5  # examples that everything has been seen in, so that nothing is impossible


class ButdFrequencyPrior(nn.Module):
    """
    Logarithms of how often labels were related (the frequency baseline of Zellers et al. 2018, "Neural Motifs").

    What differs: a dense table over subject label, object label and predicate grows with the square of the number of
    labels. Here pairs of labels that were seen have a row of their own, and all others are composed: the frequencies
    given the subject's label, times those given the object's, over those of all. The last column of each table is not
    a predicate but the logarithm of the odds that such a pair is related at all.
    """

    def __init__(self, config: ButdConfig):
        super().__init__()
        self.num_labels = config.num_labels
        width = config.num_predicates + 1
        self.register_buffer("pair_keys", torch.zeros(config.num_frequent_pairs, dtype=torch.long))
        self.register_buffer("pair_table", torch.zeros(config.num_frequent_pairs, width))
        self.register_buffer("pair_counts", torch.zeros(config.num_frequent_pairs, 2))  # relations, times met
        self.register_buffer("subject_table", torch.zeros(config.num_labels, width))
        self.register_buffer("object_table", torch.zeros(config.num_labels, width))
        self.register_buffer("predicate_table", torch.zeros(width))

    def init_own_weights(self):
        for table in self.buffers():
            init.zeros_(table)

    def rows(
        self, subjects: torch.Tensor, objects: torch.Tensor, columns: slice, own: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The columns asked for of the rows of pairs of labels, of any shape: `(..., num_columns)`."""
        composed = self.subject_table[subjects, columns] + self.object_table[objects, columns]
        composed = composed - self.predicate_table[columns]
        if len(self.pair_keys) == 0:
            return composed
        keys = subjects * self.num_labels + objects
        place = torch.searchsorted(self.pair_keys, keys).clamp(max=len(self.pair_keys) - 1)
        seen = (self.pair_keys[place] == keys)[..., None]
        rows = self.pair_table[place, columns]
        if own is not None:
            rows = without(rows, self.pair_counts[place], own, columns)
        return torch.where(seen, rows, composed)

    def log_odds(self, subjects: torch.Tensor, objects: torch.Tensor, own: torch.Tensor | None = None) -> torch.Tensor:
        """
        Logarithm of the odds that pairs of labels are related at all, of the shape of the labels.

        `own`, see `own_counts`, is what to forget: an example that finds itself in the prior learns to trust it more
        than new examples can.
        """
        return self.rows(subjects, objects, slice(-1, None), own)[..., 0].float()

    def forward(self, subjects: torch.Tensor, objects: torch.Tensor, own: torch.Tensor | None = None) -> torch.Tensor:
        """
        Log frequencies of predicates given that pairs of labels are related: `(..., num_predicates)`.

        `own` is what to forget, see `log_odds`.
        """
        return self.rows(subjects, objects, slice(None, -1), own).float().log_softmax(dim=-1)

    def counted_triples(self) -> set[tuple[int, int, int]]:
        """Subject label, predicate and object label of all relations that were counted for a row of their own."""
        if len(self.pair_keys) == 0 or not self.pair_counts.any():  # of older checkpoints nobody knows
            return set()
        subjects = torch.div(self.pair_keys, self.num_labels, rounding_mode="floor")
        objects = self.pair_keys % self.num_labels
        composed = self.subject_table[subjects, :-1] + self.object_table[objects, :-1] - self.predicate_table[:-1]
        totals = self.pair_counts[:, :1].float()
        counts = self.pair_table[:, :-1].float().softmax(dim=-1) * (totals + PRIOR_STRENGTH)
        counts = counts - composed.float().softmax(dim=-1) * PRIOR_STRENGTH  # (num_frequent_pairs, num_predicates)
        rows, predicates = (counts > 0.5).nonzero().unbind(dim=1)
        triples = torch.stack([subjects[rows], predicates, objects[rows]], dim=1)
        return set(map(tuple, triples.tolist()))

    def log_frequencies(self) -> torch.Tensor:
        """Log frequencies of predicates whatever the labels: `(num_predicates,)`."""
        return self.predicate_table[:-1].float().log_softmax(dim=-1)

    @torch.no_grad()
    def fit(self, graphs: Iterable[dict[str, torch.Tensor]], min_count: int = 1) -> None:
        """
        Counts the relations of annotated images. Repeated relations count once, those of an object to itself not.

        Args:
            graphs: Of each image `class_labels` (n,) and `relations` (r, 3) as subject, object, predicate.
            min_count: Pairs of labels get a row of their own if they were seen together this often.
        """
        num_labels, num_predicates = self.num_labels, len(self.predicate_table) - 1
        triples, related, together = Counter(), Counter(), Counter()
        for graph in graphs:
            labels = torch.as_tensor(graph["class_labels"]).long().cpu()
            relations = torch.as_tensor(graph["relations"]).long().cpu().reshape(-1, 3)
            relations = relations[relations[:, 0] != relations[:, 1]].unique(dim=0)
            pairs = relations[:, :2].unique(dim=0)
            keys = labels[:, None] * num_labels + labels  # (n, n)
            together.update(keys[~torch.eye(len(labels), dtype=torch.bool)].tolist())
            related.update((labels[pairs[:, 0]] * num_labels + labels[pairs[:, 1]]).tolist())
            keys = labels[relations[:, 0]] * num_labels + labels[relations[:, 1]]
            triples.update(zip(keys.tolist(), relations[:, 2].tolist(), strict=True))

        keys = torch.tensor(sorted(together), dtype=torch.long)
        counts = torch.zeros(len(keys), num_predicates)
        if triples:
            place = torch.searchsorted(keys, torch.tensor([key for key, _ in triples]))
            counts[place, torch.tensor([predicate for _, predicate in triples])] = torch.tensor(
                list(triples.values()), dtype=torch.float32
            )
        met = torch.tensor([together[key] for key in keys.tolist()], dtype=torch.float32)
        held = torch.tensor([related[key] for key in keys.tolist()], dtype=torch.float32)

        overall = torch.cat([frequencies(counts.sum(dim=0)), odds(held.sum(), met.sum())[None]])
        tables = []
        for labels in (torch.div(keys, num_labels, rounding_mode="floor"), keys % num_labels):
            of_label = torch.zeros(num_labels, num_predicates).index_add_(0, labels, counts)
            of_all = overall[:-1].softmax(dim=-1) * PRIOR_STRENGTH
            share = overall[-1].sigmoid()
            held_of, met_of = (torch.zeros(num_labels).index_add_(0, labels, number) for number in (held, met))
            held_of, met_of = held_of + PRIOR_STRENGTH * share, met_of + PRIOR_STRENGTH
            tables.append(torch.cat([frequencies(of_label + of_all), odds(held_of, met_of)[:, None]], dim=1))
        device = self.pair_keys.device
        for name, table in zip(("subject_table", "object_table", "predicate_table"), (*tables, overall), strict=True):
            getattr(self, name).copy_(table)

        enough = met >= min_count
        keys, counts, met, held = keys[enough], counts[enough], met[enough], held[enough]
        self.pair_keys, self.pair_table = keys[:0].to(device), self.pair_table[:0]  # what follows is composed
        self.pair_counts = torch.stack([counts.sum(dim=-1), met], dim=-1).to(device, self.subject_table.dtype)
        subjects, objects = torch.div(keys, num_labels, rounding_mode="floor"), keys % num_labels
        expected = self(subjects.to(device), objects.to(device)).cpu().exp()  # (num_pairs, num_predicates)
        share = self.log_odds(subjects.to(device), objects.to(device)).cpu().sigmoid()
        rows = torch.cat(
            [
                frequencies(counts + PRIOR_STRENGTH * expected, fewest=0.0),
                odds(held + PRIOR_STRENGTH * share, met + PRIOR_STRENGTH)[:, None],
            ],
            dim=1,
        )
        self.pair_keys = keys.to(device)
        self.pair_table = rows.to(device, self.subject_table.dtype)


def frequencies(counts: torch.Tensor, fewest: float = FEWEST) -> torch.Tensor:
    """Logarithms of shares of counts `(..., num_predicates)`, everything counted at least `fewest` times."""
    counts = counts + fewest / max(counts.shape[-1], 1)
    return (counts / counts.sum(dim=-1, keepdim=True)).clamp(min=1e-9).log()


def odds(held: torch.Tensor, met: torch.Tensor) -> torch.Tensor:
    """Logarithms of the odds of what held so many times of those that it was met."""
    share = (held + FEWEST / 10) / (met + FEWEST)
    return torch.logit(share.clamp(1e-4, 1 - 1e-4))


def without(rows: torch.Tensor, counts: torch.Tensor, own: torch.Tensor, columns: slice) -> torch.Tensor:
    """
    Rows of pairs of labels as they would be if some examples had not been counted.

    Args:
        rows (`torch.FloatTensor` of shape `(..., num_columns)`): Of `pair_table`: predicates, or the odds alone.
        counts (`torch.FloatTensor` of shape `(..., 2)`): Of `pair_counts`.
        own (`torch.FloatTensor` of shape `(..., num_predicates + 2)`): What to forget, see `own_counts`.
        columns (`slice`): Which columns the rows are.
    """
    rows = rows.float()
    if columns.start is not None:  # the odds that a pair is related
        held, met = own[..., -2:-1], counts[..., 1:]
        related = rows.sigmoid() * (met + PRIOR_STRENGTH + FEWEST) - held
        rest = (met + PRIOR_STRENGTH + FEWEST - own[..., -1:]).clamp(min=PRIOR_STRENGTH)
        return torch.logit((related / rest).clamp(1e-4, 1 - 1e-4))
    left = rows.softmax(dim=-1) * (counts[..., :1] + PRIOR_STRENGTH) - own[..., :-2]
    return left.clamp(min=1e-6).log()  # (..., num_predicates), up to a constant


def own_counts(
    labels: torch.Tensor,
    mask: torch.Tensor,
    pairs: torch.Tensor,
    related: list[torch.Tensor | None],
    num_labels: int,
    num_predicates: int,
) -> torch.Tensor:
    """
    What each image itself adds to the counts of the labels of its pairs.

    Args:
        labels (`torch.LongTensor` of shape `(batch_size, num_regions)`): What the regions are.
        mask (`torch.BoolTensor` of shape `(batch_size, num_regions)`): True where there is a region.
        pairs (`torch.LongTensor` of shape `(batch_size, num_pairs, 2)`): Subjects and objects.
        related (`list[torch.LongTensor]`): Relations of each image `(num_relations, 3)`, or None.

    Returns:
        Shape `(batch_size, num_pairs, num_predicates + 2)`: how often each predicate, how many pairs are related and
        how many there are.
    """
    own = torch.zeros(*pairs.shape[:2], num_predicates + 2, device=labels.device)
    for row, relations in enumerate(related):
        if relations is None:
            continue
        there = torch.bincount(labels[row, mask[row]], minlength=num_labels)
        first, second = labels[row, pairs[row]].unbind(dim=-1)  # (num_pairs,)
        keys = (first * num_labels + second)[:, None]
        subjects, objects, predicates = relations.unbind(dim=1)
        same = (keys == labels[row, subjects] * num_labels + labels[row, objects]).float()
        own[row, :, :-2] = same @ torch.nn.functional.one_hot(predicates, num_predicates).float()
        subjects, objects = relations[:, :2].unique(dim=0).unbind(dim=1)
        own[row, :, -2] = (keys == labels[row, subjects] * num_labels + labels[row, objects]).float().sum(dim=-1)
        own[row, :, -1] = (there[first] * there[second] - there[first] * (first == second)).float()
    return own


__all__ = ["ButdFrequencyPrior", "own_counts"]
