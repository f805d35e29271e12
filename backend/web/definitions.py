"""What every word and number on the pages means: one table, read by hover texts and by the page of definitions.

Owns the wording. A definition says how the number comes about, not only what it is called; where published dashboards
do it otherwise, it says so.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Definition:
    """One entry."""

    id: str
    """Fragment of the page's URL."""
    name: str
    short: str
    """One sentence, shown on hover."""
    more: tuple[str, ...] = ()
    """Further paragraphs, on the page only."""


THINGS = (
    Definition("model", "model", "A language model whose inside is looked at, such as gpt2-small."),
    Definition(
        "hook-point",
        "hook point",
        "The place in the model a source reads, by TransformerLens's name.",
        ("blocks.6.hook_resid_pre, for instance, is the residual stream before block 6.",),
    ),
    Definition(
        "source",
        "source",
        "One dictionary of features at one hook point: a sparse autoencoder, a transcoder, the model's own neurons, or "
        "a set of labelled vectors.",
        (
            "A neuron's value is the model's own number at the hook point; a vector's is its inner product with what "
            "stands there, plus its bias.",
            "Its id begins with the layer: 6-res-jb is layer 6 of the source set res-jb.",
        ),
    ),
    Definition("source-set", "source set", "The same recipe over several layers of a model."),
    Definition("architecture", "architecture", "How the source turns its input into activations."),
    Definition("d-sae", "features", "How many features the source has."),
    Definition(
        "feature",
        "feature",
        "One direction of a source, named by its index.",
        ("A feature is written gpt2-small/6-res-jb/12345: model, source, index.",),
    ),
    Definition(
        "explanation",
        "explanation",
        "What somebody, or some model, says a feature stands for.",
        (
            "The best comes first: by votes, then by the scores it was imported with, then the newest. It belongs to the "
            "source and stays when dashboards are computed again.",
        ),
    ),
    Definition(
        "corpus",
        "corpus",
        "The text the numbers were computed on, tokenised and cut into contexts of fixed length.",
        (
            "Documents are joined by the model's separator and packed. Exact duplicates of a context are dropped.",
            "Special tokens count in nothing, nor does the first position of a context unless the corpus says "
            "otherwise: it attracts attention whatever stands there and has an unusually large norm.",
        ),
    ),
    Definition("tokens", "tokens", "Tokens of the corpus that count: special tokens and first positions left out."),
    Definition(
        "attribution-graph",
        "attribution graph",
        "What led a model to its next token on one prompt: features, tokens and errors as nodes, and how much each adds "
        "to the others and to the logits as links.",
        (
            "A node is a feature at a token; a link is the direct effect of one on another with attention and norms held "
            "fixed. What the features leave unexplained stands in error nodes. Graphs are files that circuit-tracer "
            "computes; nothing in them is computed here.",
        ),
    ),
    Definition("revision", "computed", "When the numbers shown were computed; readers see one complete computation."),
)

NUMBERS = (
    Definition(
        "activation",
        "activation",
        "How strongly the feature fires on a token, with its decoder direction scaled to length one.",
        (
            "Decoder directions are folded to unit length and activations multiplied by ‖W_dec‖, as SAEDashboard and "
            "Neuronpedia do, so that values compare across features. Divide by ‖W_dec‖ for what the source itself "
            "computes.",
            "Shades are ten equal steps from zero to the feature's largest activation.",
        ),
    ),
    Definition("firing", "firings", "Tokens on which the activation is above zero."),
    Definition("contexts", "contexts", "Contexts of the corpus in which the feature fires at least once."),
    Definition("density", "density", "The share of the corpus's tokens on which the feature fires."),
    Definition("max-activation", "max", "The largest activation on the corpus."),
    Definition("min-activation", "min", "The most negative activation on the corpus, where activations have a sign."),
    Definition(
        "positive",
        "above zero",
        "The share of the corpus's tokens on which a signed feature's value is above zero.",
        ("Signed are abs-top-k SAEs, neurons and vectors. Their bins are a power of two wide, with an edge at zero.",),
    ),
    Definition(
        "mean",
        "mean ± sd",
        "Mean and standard deviation of the activations of all firings.",
        (
            "Zeros are left out, but not of neurons and vectors, which have a value at every token. The standard deviation "
            "is the population's.",
        ),
    ),
    Definition(
        "skewness",
        "skewness",
        "How lopsided the activations of all firings are: 0 if even, positive with a tail of strong firings.",
    ),
    Definition(
        "kurtosis", "kurtosis", "How heavy the tails of the activations of all firings are: 3 for a normal curve."
    ),
    Definition(
        "decoder-norm",
        "‖W_dec‖",
        "Length of the feature's decoder direction before it is scaled to one.",
        ("An activation shown here is the source's own value times this number.",),
    ),
    Definition(
        "written-norm",
        "norm",
        "Length of what a neuron writes (its row of W_out or W_O), or of the vector.",
        ("Values are not scaled by it.",),
    ),
    Definition(
        "fires-on",
        "fires on",
        "The tokens this feature fires on most strongly, by the mean of their maxima over the top contexts.",
    ),
    Definition(
        "top",
        "top contexts",
        "The twenty contexts with the largest maxima, each shown once.",
        ("SAEDashboard ranks tokens instead, so one context may stand there several times.",),
    ),
    Definition(
        "bottom",
        "most negative contexts",
        "The twenty contexts with the most negative values of a signed feature, each shown once.",
        ("Below zero everything is as above it, times -1; a context may stand on both sides.",),
    ),
    Definition(
        "interval",
        "intervals",
        "Five equal parts of the range from zero to the maximum, each with five contexts whose maximum lies in it.",
        (
            "Contexts are drawn by a fixed hash, so every computation shows the same ones; none is among the top. "
            "The percentage is the share of the feature's firings in the interval; of neurons and vectors it is the share "
            "of contexts whose largest value lies there.",
            "Signed features have five parts more, from the most negative value to zero.",
        ),
    ),
    Definition(
        "logit-lens",
        "promotes and suppresses",
        "Tokens whose logit the feature's direction raises or lowers most when it is read out directly.",
        (
            "The decoder direction times the unembedding, with the final norm's gain folded in and centred over the "
            "vocabulary. It shows the direct path to the output only, not what later layers make of the feature.",
        ),
    ),
    Definition(
        "logit-kurtosis",
        "logit kurtosis",
        "How heavy the tails of the feature's logits are: 3 for a normal curve, higher if it singles out few tokens.",
    ),
    Definition("neighbours", "neighbours", "Features whose decoder directions are nearest, by cosine similarity."),
    Definition("cosine", "cosine", "Cosine of the angle between two decoder directions: 1 if they are the same."),
    Definition("l0", "L0", "Features that fire on a token, on average."),
    Definition(
        "l1",
        "L1",
        "Sum of a token's activations, on average.",
        ("Activations are scaled by ‖W_dec‖, as everywhere; SAELens leaves them as the source computes them.",),
    ),
    Definition(
        "kept-index",
        "activation index",
        "Every firing of every feature, kept beside the dashboards, so that any of them can be looked up.",
        (
            "Its values are rounded to 8 significant bits (bfloat16), so they are within 0.4% of the exact ones that a "
            "feature's examples show. It is kept if it is small enough or was asked for.",
        ),
    ),
    Definition(
        "quantile",
        "quantiles",
        "The smallest activation that at least so many of the feature's firings do not exceed; zeros are left out.",
    ),
    Definition(
        "together",
        "both",
        "Tokens on which both features fire.",
        (
            "Of a feature that fires on more than 8,192 tokens, so many are looked at, at equal distances, and counts "
            "are scaled up; the page says so.",
        ),
    ),
    Definition(
        "lift",
        "lift",
        "How many times as often the two fire on the same token as they would by chance: P(A and B) / (P(A) P(B)).",
    ),
    Definition(
        "correlation",
        "correlation",
        "Pearson's correlation of whether the two features fire (phi), over all tokens that count.",
        ("From -1 to 1; 0 where they are independent. Undefined for a feature that fires on every token.",),
    ),
    Definition(
        "value-correlation",
        "correlation of values",
        "Pearson's correlation of the two activations over all tokens that count, zero where a feature does not fire.",
    ),
    Definition("dead", "dead", "Features that never fired on the corpus."),
    Definition(
        "dense",
        "dense",
        "Features that fire on more than a tenth of the corpus's tokens.",
        ("The limit is SAEBench's (freq_over_10_percent).",),
    ),
    Definition(
        "quality",
        "quality",
        "How well the source's reconstruction stands in for what it reads, measured on a fixed sample of contexts.",
        (
            "Special tokens and first positions count in nothing and keep what the model had there. Definitions are "
            "SAELens's and SAEBench's; SAELens's zero ablation replaces special tokens too.",
            "Charts go beyond the contexts the source was trained on where the model and the corpus allow it; an upright "
            "marks where those end. Sources trained on short contexts often get worse beyond.",
        ),
    ),
    Definition(
        "quick-look",
        "quick look",
        "What a few contexts show of the source before anything is computed: as declared, and run in other ways.",
        (
            "Another way counts as better if it leaves a good deal less unexplained without firing many more features; "
            "then the source was probably declared at the wrong place, or its weights are run otherwise than they were "
            "trained. The figures are of a small sample, so they differ a little from those of the quality.",
        ),
    ),
    Definition(
        "explained-variance",
        "explained variance",
        "1 less the squared error over the squared distance from the mean activation: 1 is perfect, 0 no better than it.",
        ("Centred: distances are from the mean over the sample's tokens, one mean for all positions.",),
    ),
    Definition(
        "reconstruction-cosine",
        "cosine of reconstruction",
        "Cosine of the angle between a token's activation vector and its reconstruction, on average.",
    ),
    Definition(
        "mse",
        "MSE",
        "Squared distance between activation vector and reconstruction, summed over dimensions, on average.",
    ),
    Definition(
        "loss",
        "loss",
        "Cross-entropy of the next token in nats, with the activations at the hook point left alone or replaced.",
        (
            "Replaced by the source's reconstruction, by zero, or by the mean activation; the rest of the model then runs "
            "as usual.",
        ),
    ),
    Definition(
        "loss-recovered",
        "loss recovered",
        "Share of the loss an ablation costs that the reconstruction saves: 1 is as good as the model alone.",
        (
            "(loss ablated − loss with SAE) ÷ (loss ablated − loss of the model alone). From the mean is the stricter "
            "comparison at most places.",
        ),
    ),
    Definition(
        "kl",
        "KL",
        "Kullback-Leibler divergence of the predictions with replaced activations from the model's own, in nats.",
    ),
    Definition(
        "injection-scan",
        "injection scan",
        "Each component's part in one logit while more and more of the feature's direction is added to the residual stream.",
        (
            "The text is run once for each coefficient, with that many times the feature's decoder direction, at length "
            "one, added where the feature writes. At one token the residual stream is then a sum: the embedding, what "
            "each block's attention and MLP write, and what was added.",
            "The procedure is Joseph Bloom's.",
        ),
    ),
    Definition(
        "attribution",
        "attribution",
        "What a component's write to the residual stream adds to the logit, through the final norm as it is at that token.",
        (
            "(write · direction) ÷ scale: the direction is the token's column of W_U with the norm's gain folded in, less "
            "another token's or the mean over the vocabulary; the scale is what the norm divides by there. Attributions "
            "sum to the logit. What stands before the added vector writes the same at every coefficient, and its "
            "attribution changes with the scale alone. Logits are read before a soft cap.",
        ),
    ),
    Definition(
        "pruning",
        "pruning",
        "Nodes of an attribution graph whose influence is above this are left out; nodes that have none are always shown.",
        (
            "circuit-tracer orders nodes by how much of the logits goes through them, and gives each the share of all of "
            "that which it and the nodes before it have: at 0.8 the fewest nodes are left that carry 80 %.",
        ),
    ),
    Definition("swing", "swing", "A component's greatest attribution over all coefficients less its smallest."),
    Definition(
        "scan-cluster",
        "cluster",
        "Components whose curves have the same shape, whatever their size: average linkage on 1 − correlation.",
        ("A curve and its mirror image are of two clusters. What changes by less than rounding does is of none.",),
    ),
    Definition(
        "steering",
        "steering",
        "Changing the model's activations along features' directions while it writes, beside the same model left alone.",
        (
            "Both texts are drawn with the same seed, so they differ by the push alone. Every token is pushed, those of the "
            "prompt too.",
            "Add: strength × the direction is added. Orthogonal: what lies along the direction is taken out first. Cap: what "
            "lies along it is kept at or below the strength. Clamp: the feature's activation is held at a multiple of its "
            "largest. Ablate: what the feature writes is taken out.",
            "Through the SAE: every activation becomes the SAE's reconstruction of it.",
        ),
    ),
    Definition(
        "steering-strength",
        "strength",
        "How hard a feature is pushed, in the units of its activations; what it reaches by itself is at most its max.",
        ("The direction has length one. Three times the max shows with most features; far beyond, text falls apart.",),
    ),
)

_BY_ID = {d.id: d for d in (*THINGS, *NUMBERS)}


def get(term: str) -> Definition:
    """The definition with that id; a page that asks for another has a mistake in it."""
    return _BY_ID[term]
