"""Whether a metric should be low or high, inferred from its name in every spelling."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import warnings

import pytest
import torchmetrics
from hypothesis import given
from hypothesis import strategies as st

from lit_optim.metric_names import infer_direction

LOWER = """loss mse rmse mae mape smape nll bce cross_entropy perplexity ppl wer cer fid kid lpips
    ece brier bpb bpc bits_per_byte kl kl_divergence distance energy regret hausdorff crps fpr
    mean_loss total_loss dice_loss f1_loss loss_ce log_loss brier_score fid_score error error_rate
    top1_error mean_squared_error mean_absolute_error word_error_rate calibration_error
    hamming_distance neg_log_likelihood negative_log_likelihood false_positive_rate cost
    edit_distance epe aic pinball_loss"""
HIGHER = """acc accuracy balanced_accuracy acc1 acc5 top1 top5 top1_acc top_5_accuracy auc auroc
    roc_auc auprc average_precision precision precision_at_10 recall recall10 f1 f1_score f1_macro
    f2 fbeta iou miou mean_iou jaccard map map50 dice dice_score bleu bleu4 rouge rouge1 rougeL
    meteor psnr ssim ms_ssim r2 r2_score pearson spearman ndcg ndcg10 mrr hit_rate kappa mcc reward
    mean_reward return episode_return score success_rate win_rate log_likelihood specificity
    explained_variance exact_match true_positive_rate neg_mean_squared_error"""
UNKNOWN = """foo metric value x aux entropy acc_std loss_std kl_weight loss_scale best_threshold
    step epoch lr temperature"""
#: How a name is decorated by whoever logs it, and by Lightning.
DECORATIONS = (
    "{}", "val/{}", "val_{}", "valid/{}", "test/{}", "train_{}", "validation/{}_epoch", "{}_val",
    "val/{}_step", "val/{}_epoch", "val/{}/dataloader_idx_0", "val_{}_epoch/dataloader_idx_12",
    "eval-{}", "val/task2/{}", "best/{}", "metrics.{}",
)  # fmt: skip
DIRECTIONS = dict.fromkeys(LOWER.split(), "min") | dict.fromkeys(HIGHER.split(), "max")


@pytest.mark.parametrize("decoration", DECORATIONS)
def test_known_metrics_with_prefixes_and_suffixes(decoration):
    expected = DIRECTIONS | dict.fromkeys(UNKNOWN.split())
    found = {name: infer_direction(decoration.format(name)) for name in expected}
    assert found == expected


@pytest.mark.parametrize("name", [n for n in DIRECTIONS if "_" in n])
def test_names_in_camel_case(name):
    camel = "".join(word.capitalize() for word in name.split("_"))
    assert infer_direction(camel) == DIRECTIONS[name]
    assert infer_direction("val" + camel) == DIRECTIONS[name]


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("mAP", "max"), ("val/mAP@0.5", "max"), ("mIoU", "max"), ("MeanIoU", "max"),
        ("valloss", "min"), ("trainacc", "max"), ("valauroc", "max"), ("val/acc@5", "max"),
        ("1-ssim", "min"), ("val/1 - acc", "min"), ("-", None), ("", None), ("val/", None),
        ("é", None), ("loss", "min"), ("LOSS", "min"), ("AUROC", "max"), ("val/R2", "max"),
    ],
)  # fmt: skip
def test_names_of_real_metrics(name, direction):
    assert infer_direction(name) == direction


@given(st.text(max_size=30))
def test_any_text_is_accepted(name):
    assert infer_direction(name) in ("min", "max", None)


#: Of these the name, or the class, says the opposite of the other.
TORCHMETRICS_DISAGREES = {"DaviesBouldinScore"}  # low is good (Davies & Bouldin 1979)


def classes():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in pkgutil.walk_packages(torchmetrics.__path__, "torchmetrics."):
            if ".functional" in module.name or ".utilities" in module.name:
                continue
            try:
                found = vars(importlib.import_module(module.name))
            except ImportError:  # it wants a package that is not here
                continue
            for kind in found.values():
                if inspect.isclass(kind) and issubclass(kind, torchmetrics.Metric):
                    yield kind


def test_torchmetrics_classes_agree_with_their_names():
    """The independent source is what torchmetrics declares for each of its classes."""
    declared = {
        kind.__name__: "max" if kind.higher_is_better else "min"
        for kind in classes()
        if isinstance(kind.higher_is_better, bool)
    }
    for name in TORCHMETRICS_DISAGREES:
        declared.pop(name, None)
    found = {name: infer_direction(name) for name in declared}
    wrong = {name for name, direction in found.items() if direction not in (None, declared[name])}
    assert not wrong
    assert sum(direction is not None for direction in found.values()) > 0.75 * len(found) > 75


#: What each word of change makes of a metric that is best low, and of one that is best high.
CHANGES = {
    "{}_drop": ("max", "min"), "{}_reduction": ("max", "min"), "{}_decrease": ("max", "min"),
    "neg_{}": ("max", "min"), "negative_{}": ("max", "min"), "minus_{}": ("max", "min"),
    "inverse_{}": ("max", "min"), "inv_{}": ("max", "min"), "-{}": ("max", "min"),
    "val/-{}": ("max", "min"), "1 - {}": ("max", "min"), "neg_{}_drop": ("min", "max"),
    "{}_improvement": ("max", "max"), "{}_gain": (None, "max"), "{}_ratio": (None, None),
    "{}_rank": (None, None), "{}_gap": (None, None), "{}_diff": (None, None),
    "{}_delta": (None, None), "delta_{}": (None, None), "{}_change": (None, None),
    "std_of_{}": (None, None), "{}_std": (None, None), "unlearning_{}": (None, None),
    "anomaly_{}": (None, None), "target_{}": ("min", "max"), "{}_target": (None, None),
    "count_{}": ("min", "max"), "temperature_{}": ("min", "max"), "x{}": (None, None),
}  # fmt: skip
MEASURES = {
    "loss": "min", "mse": "min", "perplexity": "min", "wer": "min", "rmsd": "min", "huber": "min",
    "accuracy": "max", "iou": "max", "elbo": "max", "psnr": "max", "auroc": "max", "r2": "max",
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("decoration", ["{}", "val/{}", "{}_epoch"])
def test_words_of_change_invert_the_direction_or_are_ambiguous(change, measure, decoration):
    written = change.format(measure)
    if written.startswith("-") or "/-" in written or written.startswith("1"):
        decoration = "{}"
    low, high = CHANGES[change]
    expected = low if MEASURES[measure] == "min" else high
    assert infer_direction(decoration.format(written)) == expected


@pytest.mark.parametrize("low", ["loss", "mse", "perplexity", "wer"])
@pytest.mark.parametrize("high", ["acc", "accuracy", "iou", "mrr", "win"])
def test_words_of_both_directions_are_ambiguous_except_in_a_loss(low, high):
    assert infer_direction(f"{low}_{high}") is None
    is_loss = low == "loss" and high != "win"
    assert infer_direction(f"{high}_{low}") == ("min" if is_loss else None)


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("error_free", "max"), ("std_error", "min"), ("hinge", "min"), ("miss_rate", "min"),
        ("fail_rate", "min"), ("solve_rate", "max"), ("pass@1", "max"), ("val/pass@10", "max"),
        ("r_squared", "max"), ("top-1", "max"), ("top-5", "max"), ("top-1_error", "min"),
        ("gloss", None), ("emboss", None), ("macc", None), ("anomaly_score", None),
        ("mrr_rank", None), ("neg_elbo", "min"),
    ],
)  # fmt: skip
def test_names_that_were_misread_before(name, direction):
    assert infer_direction(name) == direction
