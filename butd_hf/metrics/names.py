# SPDX-License-Identifier: Apache-2.0
"""Metrics as tables call them."""

import re


METRIC_NAMES = {
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_3": "BLEU-3",
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "meteor": "METEOR",
    "cider": "CIDEr-D",  # what the literature calls CIDEr
    "cider_original": "CIDEr (original)",
    "box_ap": "box AP",
    "box_ap50": "box AP50",
    "box_ap75": "box AP75",
    "box_ap50_common": "box AP50, common classes",
    "mask_ap": "mask AP",
    "mask_ap50": "mask AP50",
    "mask_ap75": "mask AP75",
    "mask_ap50_common": "mask AP50, common classes",
    "recall36": "recall of the best 36 regions",
    "vqa_accuracy": "VQA accuracy",
    "vqa_accuracy_simplified": "VQA accuracy, simplified",
    "exact_match": "exact match",
    "exact_match_single": "exact match, questions with one answer",
    "wups_90": "WUPS@0.9",
    "wups_0": "WUPS@0.0",
}

# of scene graphs, as recall_50_triples
GRAPH_MEASURES = {"recall": "R", "mean_recall": "mR", "ng_recall": "ng-R", "zero_shot_recall": "zero-shot R", "f": "F"}


def is_overall(metric: str) -> bool:
    """Whether it measures a whole task: neither one class or predicate, nor a loss."""
    return (
        metric in METRIC_NAMES
        or re.fullmatch(rf"({'|'.join(GRAPH_MEASURES)})_\d+_(triples|images)", metric) is not None
    )


def metric_name(metric: str) -> str:
    """A metric as tables call it; `box_ap50_dog` is that of a class, and so on."""
    for prefix in ("box_ap50_", "mask_ap50_"):
        if metric.startswith(prefix) and metric not in METRIC_NAMES:
            return f"{METRIC_NAMES[prefix[:-1]]}, {metric.removeprefix(prefix)}"
    for prefix in ("accuracy_answer_type_", "accuracy_question_type_"):
        if metric.startswith(prefix):
            return f"accuracy, {prefix.split('_', 1)[1].replace('_', ' ').strip()} {metric.removeprefix(prefix)!r}"
    if metric.startswith("counting_"):
        return f"{metric_name(metric.removeprefix('counting_'))}, by counting alone"
    graph = re.fullmatch(rf"({'|'.join(GRAPH_MEASURES)})_(\d+)_(triples|images|predicate_.+)", metric)
    if graph is not None:
        measure, cutoff, average = graph.groups()
        of = f"of {average.removeprefix('predicate_')!r}" if average.startswith("predicate_") else f"over {average}"
        return f"{GRAPH_MEASURES[measure]}@{cutoff} {of}"
    return METRIC_NAMES.get(metric, metric)
