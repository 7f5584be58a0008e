"""What are the latents good for? Tasks about two digits, learned from few labels.

    python -m experiments.benchmarks.downstream --load RUN

Section 4.1 of Eslami et al. (2016): from the latents of a trained model that stays as it is, (a)
the *sum* of the two digits, one of 19 classes, and (b) whether they are in *order*: the left
digit's class below the right one's. Beside it, a convolutional network on the pixels.

Rules, the same for all:

- Scenes of exactly two digits (``multi-mnist-2``, whose halves share no digit with each other). The
  first L scenes of a random order of the training half, drawn from the seed, are labelled: the same
  for every task and every input. All held-out scenes are judged.
- Left is the digit whose true box has its centre further left. Two digits of one class are not in
  order, so "never in order" is right in about 55 %.
- Latents: as :meth:`air.AIR.infer` reads them, once; the inference network sees no label. z_where
  (in units of its prior), z_what and presence of all T steps, in the order in which the model found
  them; those of absent objects are zero. A scene whose count is read wrong stays in.
- Probe on the latents: an MLP of two hidden layers of 256. On the pixels: two convolutions (32 of
  5x5, 64 of 3x3, each with ReLU and max-pooling by 2) and a hidden layer of 256.
- Both: dropout of 0.5 before the last layer, Adam (1e-3), batches of 128, cross entropy, the same
  number of steps. A fifth of the labels is kept back to choose among the weights of ten moments of
  the training; nothing is chosen by held-out scenes.
"""
