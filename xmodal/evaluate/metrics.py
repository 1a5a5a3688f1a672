"""Every task and every metric, each with its definition in one line. What the docs and the report show is read here.

Light on purpose: no torch, so that recipes can be checked against the names.
"""

from __future__ import annotations

RANKS = (1, 5, 10)
"""The k of every recall@k."""

MOST_OTHERS = 1000
"""With how many samples, evenly spaced over the split, each is compared for ``rank_agreement``."""

NEIGHBORS = 10
"""How many nearest samples make a neighbourhood in ``neighbor_agreement``."""

TASKS: dict[str, str] = {
    "retrieval": "Find pictures by a text, and texts by a picture.",
    "text-retrieval": "Find texts by another text of the same sample, such as a definition by its word.",
    "zero-shot": "Name each picture by the class whose description lies closest.",
    "knn": "Class each sample as the training samples nearest to it vote.",
    "probe": "Class each sample by a linear classifier on the training samples' embeddings.",
    "agreement": "How closely the student's embeddings, and who lies next to whom, follow the teacher's.",
    "mixed-index": "Search an index that one of the two models embedded with queries that the other embedded.",
}

_COUNTS = {
    "num_samples": "Samples of the split that were read.",
    "num_bad": "Samples left out because they do not decode.",
}

_RETRIEVAL = {
    **{
        f"text_to_image_recall@{k}": f"Share of the distinct texts with a picture of theirs among the {k} nearest."
        for k in RANKS
    },
    **{
        f"image_to_text_recall@{k}": f"Share of the pictures with their own text among the {k} nearest distinct texts."
        for k in RANKS
    },
    "chance_recall@10": "What text_to_image_recall@10 would be if the pictures came in random order.",
    "num_images": "Pictures that have a text: the pool of text_to_image, the queries of image_to_text.",
    "num_texts": "Distinct texts: the queries of text_to_image, the pool of image_to_text.",
}

_TEXT_RETRIEVAL = {
    **{
        f"query_to_text_recall@{k}": f"Share of the distinct queries with a text of theirs among the {k} nearest."
        for k in RANKS
    },
    **{
        f"text_to_query_recall@{k}": f"Share of the distinct texts with a query of theirs among the {k} nearest."
        for k in RANKS
    },
    "chance_query_recall@10": "What query_to_text_recall@10 would be if the texts came in random order.",
    "num_queries": "Distinct queries: the pool of text_to_query.",
    "num_query_texts": "Distinct texts of samples that have a query: the pool of query_to_text.",
}

_ZERO_SHOT = {
    **{
        f"zero_shot_top{k}": f"Share of the labelled pictures with their class among the {k} nearest classes."
        for k in (1, 5)
    },
    "zero_shot_mean_per_class_recall": "Mean over the classes of zero_shot_top1 of their pictures.",
    **{
        f"chance_zero_shot_top{k}": f"What zero_shot_top{k} would be if the classes came in random order."
        for k in (1, 5)
    },
    "num_labelled": "Samples that have a class: the queries of zero_shot, knn and probe.",
    "num_classes": "Classes: the pool of zero_shot.",
}

_TRAINED = {
    "majority_top1": "What naming the training set's largest class for every sample would score.",
    "num_labelled": _ZERO_SHOT["num_labelled"],
    "num_train": "Labelled training samples of knn and probe.",
    "num_train_classes": "Classes of the training set: the pool of knn and probe.",
}

_KNN = {
    **{
        f"knn_top{k}": f"Share of the labelled samples with their class among the {k} with the most votes."
        for k in (1, 5)
    },
    **_TRAINED,
}

_PROBE = {
    **{f"probe_top{k}": f"Share of the labelled samples with their class among the {k} most likely." for k in (1, 5)},
    "probe_mean_per_class_recall": "Mean over the classes of probe_top1 of their samples.",
    "probe_c": "The probe's C, the inverse strength of its regularisation, as the held-out part chose it.",
    **_TRAINED,
}

_AGREEMENT = {
    "teacher_agreement": "Mean cosine between the student's and the teacher's embedding of a sample.",
    f"neighbor_agreement@{NEIGHBORS}": (
        f"Mean share of a sample's {NEIGHBORS} nearest samples, as the student sees them, "
        f"that are among its {NEIGHBORS} nearest to the teacher."
    ),
    f"chance_neighbor_agreement@{NEIGHBORS}": (
        f"What neighbor_agreement@{NEIGHBORS} would be if the student's neighbours were random."
    ),
    "rank_agreement": (
        "Mean over the samples of Spearman's correlation between the student's and the teacher's similarities of a "
        f"sample to the others, {MOST_OTHERS} of them at most."
    ),
}

_MIXED_INDEX = {
    **{
        f"teacher_index_recall@{k}": f"Recall@{k} of the student's queries in a pool that the teacher embedded."
        for k in RANKS
    },
    **{
        f"student_index_recall@{k}": f"Recall@{k} of the teacher's queries in a pool that the student embedded."
        for k in RANKS
    },
}

METRICS_OF: dict[str, dict[str, str]] = {
    "every task": _COUNTS,
    "retrieval": _RETRIEVAL,
    "text-retrieval": _TEXT_RETRIEVAL,
    "zero-shot": _ZERO_SHOT,
    "knn": _KNN,
    "probe": _PROBE,
    "agreement": _AGREEMENT,
    "mixed-index": _MIXED_INDEX,
}
"""Task → metric → definition."""

METRICS: dict[str, str] = {metric: text for metrics in METRICS_OF.values() for metric, text in metrics.items()}
"""Metric → definition. All are shares between 0 and 1, save the cosine and the rank
correlation (−1 to 1), ``probe_c`` and the ``num_`` counts.

With bootstrap resamples, a metric that is a mean over samples has ``METRIC_low`` and ``METRIC_high`` beside it: the
95 % percentile interval over the split's samples.
"""
