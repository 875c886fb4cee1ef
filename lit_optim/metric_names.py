"""Whether a metric of a given name is best when low or when high."""

from __future__ import annotations

import re
from typing import Literal

Direction = Literal["min", "max"]

#: These decide wherever they stand: a `dice_loss` is a loss.
LOSSES = """loss losses error errors err cost costs regret penalty incorrect mistakes failure
    failures"""
LOWER = """
    mse rmse nrmse msle rmsle mae nmae medae mape smape wmape wape mase mdape
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
    "log likelihood": "max",
    "log prob": "max",
}
#: A deviation, a weight or a threshold of a metric is no measure of quality.
NO_QUALITY = """std stdev var gap weight weights scale scaler threshold thresholds target targets
    count temperature"""
NEGATIONS = ("neg", "negative", "minus")
#: Endings of words written as one, such as `valloss`.
ENDINGS: dict[str, Direction] = {
    "loss": "min",
    "error": "min",
    "mse": "min",
    "mae": "min",
    "accuracy": "max",
    "acc": "max",
    "auc": "max",
    "auroc": "max",
    "iou": "max",
}
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
VOCABULARY = {*KNOWN, *LOSSES.split(), *VAGUE, *NO_QUALITY.split(), *NEGATIONS}


def direction_of(name: str) -> Direction | None:
    """Whether a metric is best when "min" or "max", by the words in its name.

    What is known is the field's vocabulary. Prefixes and suffixes do not matter: `val/loss`,
    `val_loss_epoch`, `test/loss/dataloader_idx_0` and `valLoss` are losses.

    Returns:
        None where the name does not tell.
    """
    words = _words(name)
    if any(word in NO_QUALITY.split() for word in words):
        return None
    found = [KNOWN[word] for word in words if word in KNOWN]
    if any(word in LOSSES.split() or word.endswith(("loss", "error")) for word in words):
        found = ["min"]
    elif not found:
        found = [way for word in words for end, way in ENDINGS.items() if word.endswith(end)]
    if not found and any(word in VAGUE for word in words):
        found = ["max"]
    if not found:
        return None
    # of several the last one is the noun: an `energy_accuracy` is an accuracy
    negated = any(word in NEGATIONS for word in words) or bool(ONE_MINUS.search(name))
    return OPPOSITE[found[-1]] if negated else found[-1]


def _words(name: str) -> list[str]:
    """The words of a name in lower case; what is known as a phrase is one of them."""
    for mixed, plain in MIXED_CASE.items():
        name = name.replace(mixed, plain)
    words: list[str] = []
    for piece in PIECES.findall(name):
        whole = _without_number(piece.lower())
        words += [whole] if whole in VOCABULARY else map(_without_number, _parts(piece))
    text = f" {' '.join(words)} "
    for phrase in PHRASES:
        text = text.replace(f" {phrase} ", f" {phrase.replace(' ', '_')} ")
    return text.split()


def _parts(piece: str) -> list[str]:
    return [word.lower() for word in WORDS.findall(piece)]


def _without_number(word: str) -> str:
    """`recall10` is recall, and `f1` is what it is."""
    return word if word in VOCABULARY else word.rstrip("0123456789") or word
