"""Speed of AIR beside other implementations of it: ``python -m experiments.benchmarks.speed``.

Every system runs in a process of its own; the processes take turns in short rounds, so that what
else the machine does hits all alike. A step is forward, backward and Adam on one batch; no system
loads data in it. All have the same sizes, batch and number of threads.

| system | what it is |
|---|---|
| ``air`` | this library, float32, the exact sum over counts (its default) |
| ``air-reinforce`` | the same with REINFORCE and a baseline network, as the peers have |
| ``air-bf16``, ``air-compile``, ``air-bf16-compile`` | with these options of the experiment |
| ``pyro`` | examples/air of pyro-ppl: its own ``main.py`` with the flags that its tutorial gives |
| ``addtt`` | addtt/attend-infer-repeat-pytorch: its model, objective and optimiser |

Sizes, which both peers have as their defaults and so has ``air``: canvas 50x50, T = 3, LSTM 256,
glimpse 28x28, z_what 50, one hidden layer of 200 in encoder, decoder and step predictor. The
peers' baseline is a second LSTM of 256; that of ``air-reinforce`` is an MLP.
"""
