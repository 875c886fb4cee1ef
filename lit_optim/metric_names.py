"""Whether a metric of a given name is best when low or when high."""

from __future__ import annotations

import re
from typing import Literal

Direction = Literal["min", "max"]

#: These decide wherever they stand: a `dice_loss` is a loss.
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
#: What says so only where nothing else does: a `brier_score` is a Brier score.
VAGUE = ("score", "scores")
#: Words that say something together; spelled with spaces.
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
#: After a metric these are about it: a `loss_weight` is no loss, but a `target_loss` is one.
NO_QUALITY = """weight weights scale scaler threshold thresholds target targets count temperature"""
#: A deviation of a metric is no quality wherever the word stands; but a `std_error` is an error.
SPREADS = ["std", "stdev", "var"]
#: Comparisons, and metrics of what is not wanted: whether high is good is not in the name.
UNCLEAR = """
    ratio rank ranks gap diff diffs difference delta change versus vs anomaly outlier
    novelty risk toxicity unlearning forget forgetting"""
#: A `loss_reduction` is best high, and an `accuracy_drop` low.
INVERSIONS = """
    neg negative minus inverse inverted inv reciprocal drop drops decrease reduction free"""
IMPROVEMENTS = ["improvement", "improvements", "gain", "gains"]
#: Beside these a loss is lost money or a lost game.
OF_GAMES = ["win", "wins", "winrate", "profit"]
#: Before a metric in one word, such as `valloss`.
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
#: Phrases of which a ratio is a metric: the signal to noise ratio.
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
    *NO_QUALITY.split(),
    *SPREADS,
    *UNCLEAR.split(),
    *INVERSIONS.split(),
    *IMPROVEMENTS,
}


def infer_direction(name: str) -> Direction | None:
    """Whether a metric is best when "min" or "max", by the words in its name.

    What is known is the field's vocabulary. Prefixes and suffixes do not matter: `val/loss`,
    `val_loss_epoch`, `test/loss/dataloader_idx_0` and `valLoss` are losses.

    Returns:
        None where the name does not tell.
    """
    words = _words(name)
    if any(word in UNCLEAR.split() for word in words) and not any(word in RATIOS for word in words):
        return None
    places = [k for k, word in enumerate(words) if word in KNOWN or word in LOSSES.split()]
    last = max(places, default=-1)
    if any(word in NO_QUALITY.split() for word in words[last + 1 :]):
        return None
    if any(word in SPREADS and words[k + 1 : k + 2] != ["error"] for k, word in enumerate(words)):
        return None
    way = _direction([words[k] for k in places], words)
    if any(word in IMPROVEMENTS for word in words):
        is_loss_gain = any(word in ("gain", "gains") for word in words) and way != "max"
        way = None if is_loss_gain else "max"  # of a loss it may be its weight
    inversions = sum(word in INVERSIONS.split() for word in words)
    inversions += bool(ONE_MINUS.search(name)) + bool(LEADING_MINUS.search(name))
    return OPPOSITE[way] if way is not None and inversions % 2 else way


def _direction(found: list[str], words: list[str]) -> Direction | None:
    """What the words that are metrics say together."""
    if not found:
        return "max" if any(word in VAGUE for word in words) else None
    ways: set[Direction] = {KNOWN.get(word, "min") for word in found}
    is_loss = found[-1] in LOSSES.split()  # the noun: a `dice_loss` is a loss
    if is_loss and not any(word in OF_GAMES for word in found):
        return "min"
    return ways.pop() if len(ways) == 1 else None


def _words(name: str) -> list[str]:
    """The words of a name in lower case; what is known as a phrase is one of them."""
    for mixed, plain in MIXED_CASE.items():
        name = name.replace(mixed, plain)
    name = name.replace("@", "_at_")
    words: list[str] = []
    for piece in PIECES.findall(name):
        whole = _without_number(piece.lower())
        split = JOINED.fullmatch(whole)
        if whole in VOCABULARY or split:
            words.append(split[1] if split else whole)
        else:
            words += map(_without_number, _parts(piece))
    text = f" {' '.join(words)} "
    for phrase in PHRASES:
        text = text.replace(f" {phrase} ", f" {phrase.replace(' ', '_')} ")
    return text.split()


def _parts(piece: str) -> list[str]:
    return [word.lower() for word in WORDS.findall(piece)]


def _without_number(word: str) -> str:
    """`recall10` is recall, and `f1` is what it is."""
    return word if word in VOCABULARY else word.rstrip("0123456789") or word
