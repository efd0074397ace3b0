"""Metrics of scored test rows, and those of cheap baselines on the same rows."""

from collections.abc import Mapping

from torch import Tensor

from decathlon.recommendation.ctr import auc, uauc
from decathlon.tasks.cora.collaborative import Collaborative
from decathlon.tasks.cora.log import Log
from decathlon.tasks.cora.methods.alone import bias_scores, logistic_scores


def row_metrics(known: Log, rows: Tensor, scores: Tensor) -> dict[str, float]:
    """AUC and UAUC of all, of warm and of cold rows; not a number where a part has one class only.

    Args:
        rows: positions in the log, (m,). scores: of them, (m,).
    """
    labels, users, warm = known.labels[rows], known.users[rows], known.warm[rows]
    metrics = {"auc": auc(scores, labels)}
    metrics["uauc"], metrics["uauc_users"] = uauc(scores, labels, users)
    for name, some in (("warm", warm), ("cold", ~warm)):
        metrics[f"auc_{name}"] = auc(scores[some], labels[some])
        metrics[f"uauc_{name}"] = uauc(scores[some], labels[some], users[some]).mean
    metrics["rows"], metrics["warm_share"] = float(len(rows)), float(warm.double().mean())
    return metrics


def baselines(
    known: Log, train: Tensor, rows: Tensor, models: Mapping[str, Collaborative], collaborative: str,
    frozen: Tensor | None,
) -> dict[str, float]:  # fmt: skip
    """What AUC over exposed rows is largely about: AUC and UAUC of what costs nothing.

    Args:
        train: the training rows of the language model, on which the logistic regression is fitted.
        models: collaborative models by name, ``mf`` among them. collaborative: the one that the method reads, or "".
        frozen: scores of the frozen language model, (m,), where they are known.
    """
    model = models[collaborative if collaborative not in ("", "binary") else "mf"]
    others = {
        "bias": bias_scores(known, rows), "lr": logistic_scores(known, train, rows, model),
        "mf": models["mf"].scores(rows),
    }  # fmt: skip
    if frozen is not None:
        others["frozen"] = frozen
    found: dict[str, float] = {}
    for name, scores in others.items():
        found[f"{name}_auc"] = auc(scores, known.labels[rows])
        found[f"{name}_uauc"] = uauc(scores, known.labels[rows], known.users[rows]).mean
    return found
