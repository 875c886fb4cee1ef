"""Whether lower or higher values of a metric are better, and what follows of it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any, Literal

Direction = Literal["min", "max"]

#: Words that decide wherever they are: a `dice_loss` is a loss.
LOSSES = """loss losses error errors err cost costs regret penalty incorrect mistakes failure
    failures"""
LOWER = """
    huber hinge rmsd mse rmse nrmse msle rmsle mae nmae medae mape smape wmape wape mase mdape
    nll ce bce xent crossentropy logloss perplexity ppl bits bpb bpc bpd bpp bpw
    wer cer mer ter per wil eer der slr mcd
    fid kid fvd fad lpips dists niqe brisque
    ece mce ace brier crps pinball
    kl kld js jsd mmd emd divergence discrepancy wasserstein deviance disparity
    distance hausdorff hd95 assd chamfer epe ade fde absrel sqrel
    energy residual residuals l1 l2 mpjpe
    fpr fnr fdr aic bic collisions violations infeasibility bouldin lost
    latency runtime"""
HIGHER = """
    acc accuracy accuracies correct auc auroc roc auprc aupr
    f1 f2 f05 fbeta fmeasure precision recall sensitivity specificity tpr tnr ppv npv
    iou miou giou diou ciou fwiou jaccard union dice map ap ar top1 top5
    bleu sacrebleu rouge meteor cider spice chrf comet bertscore bleurt em
    psnr ssim snr sdr sisnr sisdr pesq stoi mos vmaf uqi vif clipscore
    r2 corr correlation pearson spearman kendall concordance mcc kappa qwk
    ndcg dcg mrr hit hits similarity likelihood logprob elbo
    reward rewards return returns success successes win wins winrate sharpe profit
    nmi ami ari silhouette purity throughput fps"""
#: Words that decide only if no other word does: a `brier_score` is a Brier score.
VAGUE = ("score", "scores")
#: Phrases that have a direction; written with spaces.
PHRASES: dict[str, Direction] = {
    "cross entropy": "min",
    "false positive": "min",
    "false negative": "min",
    "false alarm": "min",
    "false discovery": "min",
    "fall out": "min",
    "ranked probability score": "min",
    "patch similarity": "min",
    "texture similarity": "min",
    "total variation": "min",
    "true positive": "max",
    "true negative": "max",
    "negative predictive": "max",
    "signal noise": "max",
    "signal distortion": "max",
    "energy ratio": "max",
    "explained variance": "max",
    "exact match": "max",
    "r squared": "max",
    "pass at": "max",
    "pass rate": "max",
    "solve rate": "max",
    "top 1": "max",
    "top 3": "max",
    "top 5": "max",
    "top 10": "max",
    "miss rate": "min",
    "fail rate": "min",
    "signal to noise": "max",
    "signal to distortion": "max",
    "log likelihood": "max",
    "log prob": "max",
}
#: Words after a metric that name something else: a `loss_weight` is not a loss, but a
#: `target_loss` is one.
NOT_A_METRIC = (
    """weight weights scale scaler threshold thresholds target targets count temperature"""
)
#: A deviation has no direction, wherever the word is; but a `std_error` is an error.
SPREADS = ["std", "stdev", "var"]
#: Comparisons, and metrics of undesired properties: their names do not say whether high is good.
AMBIGUOUS = """
    ratio rank ranks gap diff diffs difference delta change versus vs anomaly outlier
    novelty risk toxicity unlearning forget forgetting"""
#: Words that reverse the direction: a high `loss_reduction` is good, a high `accuracy_drop` is not.
INVERSIONS = """
    neg negative minus inverse inverted inv reciprocal drop drops decrease reduction free"""
IMPROVEMENTS = ["improvement", "improvements", "gain", "gains"]
#: Next to these words a loss is lost money or a lost game.
GAME_WORDS = ["win", "wins", "winrate", "profit"]
#: Prefixes that are joined with a metric in one word, such as `valloss`.
SPLITS = "val valid validation train test eval dev"
KNOWN: dict[str, Direction] = {
    **dict.fromkeys(LOWER.split(), "min"),
    **dict.fromkeys(HIGHER.split(), "max"),
    **{phrase.replace(" ", "_"): direction for phrase, direction in PHRASES.items()},
}
MIXED_CASE = {"IoU": "Iou", "mAP": "Map"}
PIECES = re.compile(r"[A-Za-z0-9]+")
WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+\d*|[A-Z]+\d*|\d+")
OPPOSITE: dict[Direction, Direction] = {"min": "max", "max": "min"}
ONE_MINUS = re.compile(r"(^|[/_ ])1 ?- ?[A-Za-z]")
JOINED = re.compile(
    f"(?:{'|'.join(SPLITS.split())})({'|'.join(sorted([*KNOWN, *LOSSES.split()], key=len)[::-1])})"
)
#: Phrases whose ratio is a metric, such as the signal to noise ratio.
RATIOS = (
    "signal_noise",
    "signal_to_noise",
    "signal_distortion",
    "signal_to_distortion",
    "energy_ratio",
)
LEADING_MINUS = re.compile(r"(^|/) *- ?[A-Za-z]")
VOCABULARY = {
    *KNOWN,
    *LOSSES.split(),
    *VAGUE,
    *NOT_A_METRIC.split(),
    *SPREADS,
    *AMBIGUOUS.split(),
    *INVERSIONS.split(),
    *IMPROVEMENTS,
}


def pick(mode: str) -> Callable[..., Any]:
    """`min` or `max`: what picks the best of several values."""
    return max if mode == "max" else min


def best_value(values: Iterable[float], mode: str) -> float:
    """The best of values, of which those that are NaN are left out; NaN of none."""
    known = [value for value in values if not math.isnan(value)]
    return max(known, default=math.nan) if mode == "max" else min(known, default=math.nan)


def worst_value(values: Iterable[float], mode: str) -> float:
    """The worst of the finite values; NaN of none."""
    finite = [value for value in values if math.isfinite(value)]
    return min(finite, default=math.nan) if mode == "max" else max(finite, default=math.nan)


def infer_direction(name: str) -> Direction | None:
    """Infer whether a metric should be minimized or maximized from the words in its name.

    Knows the usual names of metrics. Prefixes and suffixes do not matter: `val/loss`,
    `val_loss_epoch`, `test/loss/dataloader_idx_0` and `valLoss` are losses.

    Returns:
        "min" or "max", or None if the name does not say.
    """
    words = _split_words(name)
    if any(word in AMBIGUOUS.split() for word in words) and not any(
        word in RATIOS for word in words
    ):
        return None
    positions = [k for k, word in enumerate(words) if word in KNOWN or word in LOSSES.split()]
    last = max(positions, default=-1)
    if any(word in NOT_A_METRIC.split() for word in words[last + 1 :]):
        return None
    if any(word in SPREADS and words[k + 1 : k + 2] != ["error"] for k, word in enumerate(words)):
        return None
    direction = _combine_directions([words[k] for k in positions], words)
    if any(word in IMPROVEMENTS for word in words):
        is_loss_gain = any(word in ("gain", "gains") for word in words) and direction != "max"
        direction = None if is_loss_gain else "max"  # the gain of a loss may be its weight
    inversions = sum(word in INVERSIONS.split() for word in words)
    inversions += bool(ONE_MINUS.search(name)) + bool(LEADING_MINUS.search(name))
    return OPPOSITE[direction] if direction is not None and inversions % 2 else direction


def _combine_directions(metrics: list[str], words: list[str]) -> Direction | None:
    """Return the direction on which all words that are metrics agree."""
    if not metrics:
        return "max" if any(word in VAGUE for word in words) else None
    directions: set[Direction] = {KNOWN.get(word, "min") for word in metrics}
    is_loss = metrics[-1] in LOSSES.split()  # the noun: a `dice_loss` is a loss
    if is_loss and not any(word in GAME_WORDS for word in metrics):
        return "min"
    return directions.pop() if len(directions) == 1 else None


def _split_words(name: str) -> list[str]:
    """Split a name into words in lower case; a known phrase becomes one word."""
    for mixed, plain in MIXED_CASE.items():
        name = name.replace(mixed, plain)
    name = name.replace("@", "_at_")
    words: list[str] = []
    for piece in PIECES.findall(name):
        word = _without_number(piece.lower())
        split = JOINED.fullmatch(word)
        if word in VOCABULARY or split:
            words.append(split[1] if split else word)
        else:
            words += map(_without_number, _split_case(piece))
    text = f" {' '.join(words)} "
    for phrase in PHRASES:
        text = text.replace(f" {phrase} ", f" {phrase.replace(' ', '_')} ")
    return text.split()


def _split_case(piece: str) -> list[str]:
    return [word.lower() for word in WORDS.findall(piece)]


def _without_number(word: str) -> str:
    """Remove a trailing number: `recall10` is recall, but `f1` is a metric of its own."""
    return word if word in VOCABULARY else word.rstrip("0123456789") or word
