"""Every estimator measured against the others: ``python -m experiments.benchmarks.estimators``.

Three parts, each of which can be killed and started again; what is finished is kept as JSON:

    variance   variance, bias and cost of the gradients, at the same weights
    curves     count accuracy and ELBO over training, several seeds, the same budget for all
    report     the README's tables and pictures, from the JSON of the other two
"""
