"""Metrics as tables call them."""

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
}


def metric_name(metric: str) -> str:
    """A metric as tables call it; `box_ap50_dog` is that of a class."""
    for prefix in ("box_ap50_", "mask_ap50_"):
        if metric.startswith(prefix) and metric not in METRIC_NAMES:
            return f"{METRIC_NAMES[prefix[:-1]]}, {metric.removeprefix(prefix)}"
    return METRIC_NAMES.get(metric, metric)
